"""Completions of a local policy: transformers' models and caches, with a decode loop of our own.

`model.generate` computes a prompt once for each of its samples, and goes on with finished rows until the last one ends. Here
batches hold prompts of like length up to a token budget, a prompt is computed once and its KV cache repeated for its samples,
and finished rows leave the batch. Greedy answers are those of `generate`, sampled ones have the same distribution. Left out:
penalties and min-p, models without a DynamicCache, and filling the places of finished rows with new prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from qwen_align.chat import prompt_ids
from qwen_align.errors import ConfigError
from qwen_align.generator import Answers, Completion, Conversation, Sampling

_COMPACT_AT = 0.8  # the share of rows still going at which finished ones are dropped: each time copies the cache


class PreallocatedLayer(DynamicLayer):
    """Keys and values in buffers with room for `room` more tokens; a DynamicLayer copies all of them for each one."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def _view(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[:, :, :length] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; the prompt comes first and whole, as in any cache."""
        if not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = new
        return self._view(end)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each prompt for its completions, and make room for them."""
        length = self.get_seq_length()
        self.buffers = []
        for part in (self.keys, self.values):
            assert part is not None, "the prompt is computed first"
            prompts, heads, _, width = part.shape
            buffer = part.new_empty(prompts * repeats, heads, length + self.room, width)
            buffer.unflatten(0, (prompts, repeats))[..., :length, :] = part[:, None]
            self.buffers.append(buffer)
        self._view(length)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        length = self.get_seq_length()
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self._view(length)


def batches(lengths: Sequence[int], n: int, longest: int, batch_size: int, batch_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts by length, the longest first: at most so many completions, and tokens if all get `longest`."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        rows = n * (len(batch) + 1)
        if batch and (rows > batch_size or rows * (lengths[batch[0]] + longest) > batch_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def truncated(scores: Tensor, top_p: float, top_k: int) -> Tensor:
    """Logits over the temperature, (rows, vocabulary), with -inf for all but top-k and then top-p of these, as `generate`."""
    left = scores.shape[-1]
    if top_k:
        last = scores.topk(min(top_k, left)).values[:, -1:]
        scores = scores.masked_fill(scores < last, -torch.inf)
        left = int((scores >= last).sum(dim=-1).max())
    if top_p < 1:
        values, tokens = scores.topk(left)
        rising = values.flip(-1).softmax(dim=-1).cumsum(dim=-1)
        unlikely = (rising <= 1 - top_p).flip(-1)
        unlikely[:, 0] = False
        scores = scores.scatter(-1, tokens, values.masked_fill(unlikely, -torch.inf))
    return scores


def draw_tokens(logits: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """One token a row, (rows, vocabulary) -> (rows,); temperature 0 takes the most likely one."""
    if not temperature:
        return logits.argmax(dim=-1)
    if top_k or top_p < 1:
        logits, temperature = truncated(logits / temperature, top_p, top_k), 1.0
    # The smallest of exponential variables with rates p is i with probability p_i: no sum over the vocabulary to search.
    noise = torch.empty_like(logits).exponential_().log_()
    return torch.sub(logits, noise, alpha=temperature, out=noise).argmax(dim=-1)


def decode(
    weights: PreTrainedModel,
    prompts: Tensor,
    mask: Tensor,
    n: int,
    choose: Callable[[Tensor], Tensor],
    longest: int,
    ends: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Answers to left-padded prompts: tokens (rows, longest), counts (rows,), finished (rows,); rows = prompts x n.

    `choose` picks a token a row from logits (rows, vocabulary).
    """
    cache = DynamicCache(config=weights.config)
    cache.layers = [PreallocatedLayer(longest) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    padded = not bool(mask.all())
    result: Any = weights(
        prompts, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    cache.batch_repeat_interleave(n)
    logits = result.logits[:, -1].repeat_interleave(n, dim=0)
    mask, position = mask.repeat_interleave(n, dim=0), positions[:, -1:].repeat_interleave(n, dim=0)
    tokens = prompts.new_zeros(len(logits), longest)
    counts = prompts.new_full((len(logits),), longest)
    finished = torch.zeros(len(logits), dtype=torch.bool, device=prompts.device)
    rows = torch.arange(len(logits), device=prompts.device)  # the row of `tokens` that each row of the batch is
    for step in range(longest):
        token = choose(logits.float())
        tokens[rows, step] = token
        ended = torch.isin(token, ends) & ~finished[rows]
        counts[rows[ended]], finished[rows[ended]] = step + 1, True
        left = (~finished[rows]).nonzero()[:, 0]
        if len(left) <= _COMPACT_AT * len(rows):
            cache.batch_select_indices(left)
            rows, token, mask, position = rows[left], token[left], mask[left], position[left]
        if step + 1 == longest or not len(left):
            break
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        seen = mask if padded else None
        result = weights(token[:, None], attention_mask=seen, position_ids=position, past_key_values=cache, use_cache=True)
        logits = result.logits[:, -1]
    return tokens, counts, finished


@torch.inference_mode()
def token_ids(
    policy: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    prompts: Sequence[list[int]],
    n: int,
    choose: Callable[[Tensor], Tensor],
    longest: int,
    ends: Sequence[int],
    limits: "Transformers",
) -> Iterator[tuple[int, list[list[int]], list[bool]]]:
    """(index of a prompt, its n completions, whether each has ended), the longest prompts first."""
    weights, tokenizer = policy
    device = next(weights.parameters()).device
    stops = torch.tensor(ends, device=device)
    for chosen in batches([len(ids) for ids in prompts], n, longest, limits.batch_size, limits.batch_tokens):
        rows = {"input_ids": [prompts[i] for i in chosen]}
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(device)
        tokens, counts, ended = decode(weights, batch["input_ids"], batch["attention_mask"], n, choose, longest, stops)
        kept = [row[:count] for row, count in zip(tokens.tolist(), counts.tolist(), strict=True)]
        finished = ended.tolist()
        for position, index in enumerate(chosen):
            own = slice(position * n, (position + 1) * n)
            yield index, kept[own], finished[own]


@dataclass
class Transformers:
    """Samples from the policy that a stage loads; the seed fixes the draws for given prompts and batch settings."""

    batch_size: int = 512  # completions in a batch at most; a prompt's own completions are never split
    batch_tokens: int = 131072  # prompts and completions of full length in a batch at most: what the KV cache holds

    needs_policy = True

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"generator.{key}={value}: expected a whole number from 1 on")

    def stream(self, prompts: Sequence[Conversation], sampling: Sampling, title: str, policy: Any = None) -> Answers:
        """(index of the prompt, its n completions), the longest prompts first."""
        assert policy is not None, "a local policy has to be loaded"
        weights, tokenizer = policy
        stops: Any = weights.generation_config.eos_token_id
        ends = stops if isinstance(stops, list) else [stops]
        choose = partial(draw_tokens, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)
        torch.manual_seed(sampling.seed)
        weights.eval()
        longest, encoded = sampling.max_completion_length, prompt_ids(tokenizer, prompts)
        with tqdm(total=len(prompts), desc=title, mininterval=1.0) as bar:
            for index, kept, finished in token_ids(policy, encoded, sampling.n, choose, longest, ends, self):
                texts = tokenizer.batch_decode(kept, skip_special_tokens=True)
                bar.update()
                yield index, [Completion(t, len(ids), f) for t, ids, f in zip(texts, kept, finished, strict=True)]
