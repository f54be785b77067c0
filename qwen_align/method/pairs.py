"""Preference pairs for a reward model: which are held out, their token ids, and a batch of them."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, List, Value

from qwen_align import chat
from qwen_align.data import cached
from qwen_align.errors import ConfigError
from qwen_align.reward import encode, text_of
from qwen_align.reward.encode import Encoded, PairEncoder, flatten


def question(prompt: Any) -> str:
    """What two pairs share if they share a prompt: the words of the first user message."""
    first = prompt if isinstance(prompt, str) else next((m["content"] for m in prompt if m["role"] == "user"), "")
    return " ".join(re.findall(r"\w+", first.casefold())) or flatten(prompt)


def split(rows: Dataset, held_out: float) -> tuple[Dataset, Dataset]:
    """(training pairs, held-out pairs): a share below 1 or a number of pairs, whole questions at a time, chosen by hash.

    Raises:
        ConfigError: a number that leaves nothing on one side.
    """
    wanted = round(held_out * len(rows)) if held_out < 1 else int(held_out)
    by_question: dict[str, list[int]] = {}
    for i, prompt in enumerate(rows["prompt"]):
        by_question.setdefault(question(prompt), []).append(i)
    held: list[int] = []
    for key in sorted(by_question, key=lambda key: (zlib.crc32(key.encode()), key)):
        if len(held) >= wanted:
            break
        held += by_question[key]
    if wanted < 1 or not 0 < len(held) < len(rows):
        raise ConfigError(
            f"method.held_out={held_out}: {len(held)} of {len(rows)} pairs ({len(by_question)} questions) would be held out; "
            "expected a share such as 0.1 or a number of pairs that leaves some on both sides"
        )
    rest = sorted(set(range(len(rows))) - set(held))
    return rows.select(rest), rows.select(sorted(held))


def has_margins(rows: Dataset, column: str | None) -> bool:
    """Whether the pairs say by how much each chosen answer should win.

    Raises:
        ConfigError: a margin that is no number.
    """
    if column is None or column not in rows.column_names:
        return False
    for number, value in enumerate(rows[column], 1):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"method.margin={column}: pair {number} has {value!r}; expected a number in every pair, or null")
    return True


@dataclass
class _Tokenised:
    """Columns of pairs -> the columns that the trainer reads, and what happened to each pair."""

    pairs: PairEncoder
    margin: str | None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sides = {
            side: self.pairs.encode(batch["prompt"], [text_of(answer) for answer in batch[side]])
            for side in ("chosen", "rejected")
        }
        columns: dict[str, list[Any]] = {} if self.margin is None else {"margin": batch[self.margin]}
        for side, encoded in sides.items():
            columns |= {f"{side}_ids": [row.ids for row in encoded], f"{side}_split": [row.split for row in encoded]}
        both = list(zip(*sides.values(), strict=True))
        columns["truncated"] = [chosen.truncated or rejected.truncated for chosen, rejected in both]
        columns["same_tokens"] = [chosen.ids == rejected.ids for chosen, rejected in both]
        return columns


def tokenise(rows: Dataset, pairs: PairEncoder, margin: str | None, label: str) -> tuple[Dataset, dict[str, int]]:
    """The columns that the trainer reads, and how many pairs are over-long, or the same once they are cut."""
    margin = margin if has_margins(rows, margin) else None
    rows = rows.select_columns(["prompt", "chosen", "rejected", *([margin] if margin else [])])
    types: dict[str, Any] = {"margin": Value("float32")} if margin else {}
    for side in ("chosen", "rejected"):
        types |= {f"{side}_ids": List(Value("int32")), f"{side}_split": Value("int32")}
    types |= {"truncated": Value("bool"), "same_tokens": Value("bool")}
    settings = [chat.identity(pairs.tokenizer), pairs.architecture, pairs.max_length, margin, cached.code_of(encode)]
    found = cached.mapped(rows, _Tokenised(pairs, margin), settings, types, f"tokenising {label} pairs")
    counts = {"pairs": len(rows)} | {name: sum(found[name][:]) for name in ("truncated", "same_tokens")}
    if counts["truncated"] or counts["same_tokens"]:
        print(
            f"{counts['truncated']} of {len(rows)} {label} pairs are longer than max_length={pairs.max_length} and are "
            f"truncated; in {counts['same_tokens']} both answers read the same, so nothing can be learned from them",
            flush=True,
        )
    return found.remove_columns(["truncated", "same_tokens"]), counts


def collate(pairs: PairEncoder, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch as RewardTrainer takes it: the chosen answers, then the rejected ones."""
    rows = [Encoded(e[f"{side}_ids"], e[f"{side}_split"], False) for side in ("chosen", "rejected") for e in examples]
    batch = pairs.collate(rows)
    if "margin" in examples[0]:
        batch["margin"] = torch.tensor([example["margin"] for example in examples], dtype=torch.float)
    return batch
