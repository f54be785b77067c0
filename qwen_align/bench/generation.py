"""Tokens a second of generator=transformers against a plain `model.generate` loop over the same prompts.

The usual way takes prompts in the data set's order, pads each batch to its longest, repeats every prompt for its samples, and
goes on until the last row ends. Both have the same number of completions in a batch. Without `policy=` the weights are random
and the stop token comes by chance, so lengths vary as geometric variables do.
"""

import random
from functools import partial
from pathlib import Path

import torch

from qwen_align import chat, model
from qwen_align.bench.row import Row, interleaved
from qwen_align.config import component, groups
from qwen_align.errors import ConfigError
from qwen_align.generator import Conversation, Sampling, sample
from qwen_align.generator.transformers import Transformers

SAMPLES, ROWS, LONGEST = 16, 256, 64
PROMPTS = {"short prompts, 8 words": (8, 8), "mixed prompts, 5 to 120 words": (5, 120)}


def prompts(shortest: int, longest: int, count: int = 64) -> list[Conversation]:
    """Prompts of numbers; lengths are uniform between the two."""
    rng = random.Random(0)
    numbers = [" ".join(str(rng.randint(0, 100)) for _ in range(rng.randint(shortest, longest))) for _ in range(count)]
    return [[{"role": "user", "content": f"Numbers {text}"}] for text in numbers]


@torch.inference_mode()
def plain(policy: model.Policy, asked: list[Conversation], n: int, rows: int, longest: int) -> float:
    """The usual loop; returns how many tokens it gave, the stop tokens included."""
    weights, tokenizer = policy
    weights.eval()
    given = 0
    for begin in range(0, len(asked), rows // n):
        ids = chat.prompt_ids(tokenizer, asked[begin : begin + rows // n])
        batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        result = weights.generate(**batch, do_sample=True, num_return_sequences=n, max_new_tokens=longest)  # type: ignore[operator]
        new = result[:, batch["input_ids"].shape[1] :]
        given += int((new != tokenizer.pad_token_id).sum())
    return float(given)


def ours(policy: model.Policy, asked: list[Conversation], n: int, rows: int, longest: int) -> float:
    """The generator; returns how many tokens it gave."""
    sampling = Sampling(n=n, temperature=1.0, max_completion_length=longest, seed=0)
    found = sample(Transformers(batch_size=rows), asked, sampling, "ours", policy)
    return float(sum(completion.tokens for pool in found for completion in pool))


def run(rounds: int, policy: str | None) -> list[Row]:
    """One row for each kind of prompt."""
    if policy and not (Path(policy) / "model").is_dir():
        raise ConfigError(f"policy={policy}: expected a finished run folder of a training method")
    torch.manual_seed(0)
    settings = component.settings(groups.read("model", "countdown_tiny")) | {"max_position_embeddings": 512}
    measured = model.from_run(Path(policy)) if policy else model.from_scratch(**settings)
    found = []
    for name, lengths in PROMPTS.items():
        asked = prompts(*lengths)
        note = f"{len(asked)} prompts x {SAMPLES}, {ROWS} completions a batch, {torch.get_num_threads()} threads"
        one, other = (partial(way, measured, asked, SAMPLES, ROWS, LONGEST) for way in (ours, plain))
        found.append(interleaved(name, "tokens", one, other, rounds, note))
    return found
