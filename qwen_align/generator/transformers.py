"""Completions of a local policy with transformers' generate: batches of prompts of like length, one KV cache each."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Conversation
from qwen_align.model import Policy, prompt_ids


class Transformers:
    """Samples from the policy that a stage loads; `batch_size` counts completions.

    The seed fixes the draws for given prompts and batch size.
    """

    needs_policy = True

    def __init__(self, batch_size: int = 256) -> None:
        if batch_size < 1:
            raise ConfigError(f"generator.batch_size={batch_size}: expected a whole number from 1 on")
        self.batch_size = batch_size

    @torch.inference_mode()
    def stream(
        self, prompts: Sequence[Conversation], *, n: int, temperature: float, max_completion_length: int, seed: int,
        title: str, policy: Policy | None = None,
    ) -> Iterator[tuple[int, list[Completion]]]:  # fmt: skip
        """(index of the prompt, its n completions), the longest prompts first."""
        assert policy is not None, "a local policy has to be loaded"
        weights: Any = policy[0]
        tokenizer = policy[1]
        device = next(weights.parameters()).device
        encoded = prompt_ids(tokenizer, prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
        ends = weights.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=device)
        drawing: dict[str, Any] = {"do_sample": False}
        if temperature:
            drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        per_batch = max(self.batch_size // n, 1)
        torch.manual_seed(seed)
        weights.eval()
        for begin in tqdm(range(0, len(order), per_batch), desc=title, mininterval=1.0):
            chosen = order[begin : begin + per_batch]
            rows = {"input_ids": [encoded[i] for i in chosen]}
            batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(device)
            output = weights.generate(
                **batch, num_return_sequences=n, max_new_tokens=max_completion_length, use_cache=True,
                pad_token_id=tokenizer.pad_token_id, **drawing,
            )[:, batch["input_ids"].shape[1] :]  # fmt: skip
            is_end = torch.isin(output, ends)
            finished = is_end.any(dim=1)
            lengths = torch.where(finished, is_end.int().argmax(dim=1) + 1, output.shape[1])
            kept = [row[:length] for row, length in zip(output.tolist(), lengths, strict=True)]
            texts = tokenizer.batch_decode(kept, skip_special_tokens=True)
            answers = [Completion(*a) for a in zip(texts, lengths.tolist(), finished.tolist(), strict=True)]
            for position, index in enumerate(chosen):
                yield index, answers[position * n : (position + 1) * n]
