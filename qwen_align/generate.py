"""Many completions for many prompts, with transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from qwen_align.model import prompt_ids


@dataclass(frozen=True)
class Completion:
    """What a policy answered."""

    text: str
    tokens: int  # generated, the stop token included
    finished: bool  # False: cut at max_completion_length


@torch.inference_mode()
def sample(
    policy: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[dict[str, str]]], *,
    n: int, temperature: float, max_completion_length: int, batch_size: int, seed: int, title: str,
) -> list[list[Completion]]:  # fmt: skip
    """n completions for each prompt, in the prompts' order; temperature 0 is greedy.

    Prompts are batched by length; `batch_size` counts completions. The seed fixes the draws for a given order and batch size.
    """
    device = next(policy.parameters()).device
    encoded = prompt_ids(tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
    ends = policy.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=device)
    drawing: dict[str, Any] = {"do_sample": False}
    if temperature:
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    results: list[list[Completion]] = [[] for _ in prompts]
    per_batch = max(batch_size // n, 1)
    torch.manual_seed(seed)
    policy.eval()
    for begin in tqdm(range(0, len(order), per_batch), desc=title, mininterval=1.0):
        chosen = order[begin : begin + per_batch]
        rows = {"input_ids": [encoded[i] for i in chosen]}
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(device)
        output = policy.generate(
            **batch, num_return_sequences=n, max_new_tokens=max_completion_length, use_cache=True,
            pad_token_id=tokenizer.pad_token_id, **drawing,
        )[:, batch["input_ids"].shape[1] :]  # fmt: skip
        is_end = torch.isin(output, ends)
        finished = is_end.any(dim=1)
        lengths = torch.where(finished, is_end.int().argmax(dim=1) + 1, output.shape[1])
        texts = tokenizer.batch_decode(
            [row[:length] for row, length in zip(output.tolist(), lengths, strict=True)], skip_special_tokens=True
        )
        answers = [Completion(*a) for a in zip(texts, lengths.tolist(), finished.tolist(), strict=True)]
        for position, i in enumerate(chosen):
            results[i] = answers[position * n : (position + 1) * n]
    return results
