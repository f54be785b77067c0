"""Reward-model scoring against the usual loop: texts in the order they come, in batches of one size, padded to the longest.

Both score the same pairs with the same random network of MiniLM's shape (6 layers, 384 wide; weights do not change the time),
in float32 on the CPU or bfloat16 on a GPU, and their scores are compared before anything is timed. The usual loop gets the
tokenizer's own pair call; padding to max_length, which is common too, is a row of its own. Lengths are log-normal like those of
real answers (median 60 words, a tenth of them over 200), or those of your own pairs (pairs=FILE, JSONL with prompt and chosen).
"""

import json
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qwen_align.bench.row import Row, interleaved
from qwen_align.errors import ConfigError
from qwen_align.reward import text_of
from qwen_align.reward.encode import flatten
from qwen_align.reward.model import RewardModel, save
from qwen_align.reward.network import fresh

MAX_LENGTH = 512


def made(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts and answers of made-up words with the lengths of real ones."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(5000)]

    def text(median: float, spread: float) -> str:
        return " ".join(rng.choices(words, k=max(1, min(600, round(median * rng.lognormvariate(0, spread))))))

    return [(text(15, 0.8), text(60, 1.0)) for _ in range(count)]


def read(path: str, count: int) -> list[tuple[str, str]]:
    """Prompts and chosen answers of a file of pairs."""
    if not Path(path).is_file():
        raise ConfigError(f"pairs={path}: no such file")
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(count), file, strict=False)]
    return [(flatten(row["prompt"]), text_of(row["chosen"])) for row in rows]


def scorer(texts: list[tuple[str, str]], layers: int, folder: Path) -> RewardModel:
    """A reward model of MiniLM's shape with random weights, loaded from a folder as any other."""
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": layers}
    torch.manual_seed(0)
    network, tokenizer = fresh({"model_type": "bert", **shape}, "pair", None, [side for pair in texts for side in pair])
    network.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(folder / "model")
    save(RewardModel(base="random", max_length=MAX_LENGTH), folder / "model")
    return RewardModel.from_run(folder)


def usual(model: RewardModel, texts: list[tuple[str, str]], batch: int, padding: Any) -> list[float]:
    """The loop that reward-model cards and tutorials show."""
    loaded, found = model.loaded(), list[float]()
    with torch.no_grad():
        for i in range(0, len(texts), batch):
            prompts, answers = zip(*texts[i : i + batch], strict=True)
            how = {"padding": padding, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
            inputs = loaded.pairs.tokenizer(list(prompts), list(answers), return_token_type_ids=True, **how)
            found += loaded.network(**inputs.to(loaded.network.device)).logits[:, 0].float().tolist()
    return found


def run(rounds: int, texts: int, layers: int, batch: int, pairs: str | None) -> list[Row]:
    """Texts scored a second."""
    rows = read(pairs, texts) if pairs else made(texts)
    with tempfile.TemporaryDirectory() as folder:
        model = scorer(rows, layers, Path(folder))
        model.loaded()  # before its folder is gone
    prompts, answers = [list(side) for side in zip(*rows, strict=True)]

    def ours() -> float:
        model.score(prompts, answers)
        return len(rows)

    def theirs(padding: bool | str) -> float:
        return len(usual(model, rows, batch, padding))

    encoded = model.loaded().pairs.encode(prompts, answers)
    scored = zip(model.score(prompts, answers), usual(model, rows, batch, True), encoded, strict=True)
    differ = max(abs(a - b) for a, b, row in scored if not row.truncated)  # the usual way truncates whatever is longest
    lengths = sorted(len(row.ids) for row in encoded)
    mean = sum(lengths) / len(lengths)
    tokens = f"tokens: median {lengths[len(lengths) // 2]}, mean {mean:.0f}, {lengths[-1]} at most"
    note = f"{len(rows)} texts; {tokens}; scores differ by {differ:.0e} at most"
    name = f"scoring, batches of {batch} padded to "
    return [
        interleaved(name + "their longest", "texts", ours, partial(theirs, True), rounds, note),
        interleaved(name + f"{MAX_LENGTH} tokens", "texts", ours, partial(theirs, "max_length"), max(rounds // 3, 1), note),
    ]
