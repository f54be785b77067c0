"""Anthropic's HH-RLHF (arXiv 2204.05862): which of two answers people found more helpful, or less harmful.

The transcripts are plain text with turns that begin with "Human:" and "Assistant:" after an empty line; they become messages,
and everything before the last answer is the prompt. Empty and equal answers, pairs whose prompts differ, and training rows that
ask a prompt of the evaluation view, the test split, are counted and left out. There is nothing to verify an answer with, and no
demonstrations: chosen answers are only the better of two. Left out: red-team-attempts, which holds no pairs.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qwen_align.data import settings
from qwen_align.data.conversation import BadRow, preference, prompt_key, unique_prompts, usable_rows
from qwen_align.errors import ConfigError, nearest
from qwen_align.hub.rows import Source, load

if TYPE_CHECKING:
    from datasets import Dataset

SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse(transcript: Any, column: str) -> list[dict[str, str]]:
    """The messages of a transcript; an empty one in the middle stays out. Raises BadRow."""
    if not isinstance(transcript, str):
        raise BadRow(f"{column} is no text")
    before, *parts = _TURN.split("\n\n" + transcript.lstrip())
    if not parts or before.strip():
        raise BadRow(f"{column} does not begin with a turn of Human: or Assistant:")
    turns = zip(parts[::2], parts[1::2], strict=True)
    found = [{"role": _ROLES[name], "content": text.strip()} for name, text in turns]
    return [message for message in found[:-1] if message["content"]] + found[-1:]


def _pair(held_out: set[str], record: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = parse(record["chosen"], "chosen"), parse(record["rejected"], "rejected")
    found = preference(None, chosen, rejected, ("prompt", "chosen", "rejected"))
    if found["prompt"][-1]["role"] != "user":
        raise BadRow("the last answer follows another answer")
    if prompt_key(found["prompt"]) in held_out:
        raise BadRow("the evaluation view asks the same")
    return found


@dataclass
class HHRLHF:
    """Preferences between two answers, and their prompts."""

    dataset_name: str  # Hub name, or a folder with a train and a test split; columns chosen, rejected
    subset: str | None  # one of its folders; None: all of them, or a folder without such
    problems: int | None  # at most so many records in each training view; None: all
    evaluation_problems: int | None  # likewise in the evaluation view
    dataset_revision: str | None = None  # a commit of the Hub's; None: the newest

    def __post_init__(self) -> None:
        settings.check_limits(problems=self.problems, evaluation_problems=self.evaluation_problems)
        if self.subset is not None and self.subset not in SUBSETS:
            expected = f"{', '.join(SUBSETS)}{nearest(self.subset, SUBSETS)}"
            raise ConfigError(f"data.subset={self.subset}: expected null or one of {expected}")

    def _source(self, *splits: str) -> Source:
        return Source("data.dataset_name", self.dataset_name, self.dataset_revision, splits=splits, data_dir=self.subset)

    def sources(self, view: str) -> list[Source]:
        """The rows that a view reads; what is held out of all others is the test split."""
        return [self._source("test") if view == "evaluation" else self._source("train", "test")]

    def _rows(self, split: str, limit: int | None, *columns: str) -> "Dataset":
        """The pairs of a split, of train those whose prompts the test split does not have."""
        tested = self._rows("test", None, "prompt")["prompt"] if split == "train" else []
        records = load(self._source(split), split, ("chosen", "rejected"), limit)
        row = partial(_pair, set(map(prompt_key, tested)))
        return usable_rows(f"data.dataset_name={self.dataset_name} ({split})", records, row, columns)

    def _prompts(self, split: str, limit: int | None) -> "Dataset":
        return unique_prompts(f"data.dataset_name={self.dataset_name} ({split})", self._rows(split, limit, "prompt"))

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected."""
        return self._rows("train", self.problems, "prompt", "chosen", "rejected")

    def prompts(self) -> "Dataset":
        """prompt, each once."""
        return self._prompts("train", self.problems)

    def evaluation(self) -> "Dataset":
        """prompt of the test split, each once."""
        return self._prompts("test", self.evaluation_problems)
