"""Anthropic's HH-RLHF (arXiv 2204.05862): which of two answers people found more helpful, or less harmful.

The transcripts are plain text with turns that begin with "Human:" and "Assistant:" after an empty line; they become messages,
and everything before the last answer is the prompt. Empty and equal answers, and the few pairs whose prompts differ, are
counted and left out. The evaluation view is the test split; training rows that ask one of its prompts are left out, too. There
is nothing to verify an answer with, and no demonstrations: chosen answers are only the better of two. Left out:
red-team-attempts, which holds no pairs.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_align.data.conversation import BadRow, Messages, mark, message_type, once, pair, usable
from qwen_align.errors import ConfigError, nearest
from qwen_align.hub.rows import Source

if TYPE_CHECKING:
    from datasets import Dataset

SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse(transcript: Any, column: str) -> Messages:
    """The messages of a transcript; an empty one in the middle stays out.

    Raises:
        BadRow: no turns in it, something before them, or an end that is no answer.
    """
    if not isinstance(transcript, str):
        raise BadRow(f"{column} is no text")
    before, *parts = _TURN.split("\n\n" + transcript.lstrip())
    if not parts or before.strip():
        raise BadRow(f"{column} does not begin with a turn of Human: or Assistant:")
    talk = [{"role": _ROLES[name], "content": text.strip()} for name, text in zip(parts[::2], parts[1::2], strict=True)]
    return [message for message in talk[:-1] if message["content"]] + talk[-1:]


@dataclass
class _Pair:
    """A record's two transcripts as a pair; picklable, for the processes that read rows."""

    held_out: set[str]

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        chosen, rejected = parse(record["chosen"], "chosen"), parse(record["rejected"], "rejected")
        found = pair(None, chosen, rejected, ("prompt", "chosen", "rejected"))
        if found["prompt"][-1]["role"] != "user":
            raise BadRow("the last answer follows another answer")
        if mark(found["prompt"]) in self.held_out:
            raise BadRow("the evaluation view asks the same")
        return found


class HHRLHF:
    """Preferences between two answers, and their prompts.

    Args:
        dataset_name: Hub name, or a folder with a train and a test split; columns chosen, rejected.
        subset: one of its folders; null: all of them, or a folder without such.
        problems: at most so many records in each training view; null: all.
        evaluation_problems: likewise in the evaluation view.
        dataset_revision: a commit of the Hub's; null: the newest.
    """

    def __init__(
        self,
        dataset_name: str,
        subset: str | None,
        problems: int | None,
        evaluation_problems: int | None,
        dataset_revision: str | None = None,
    ) -> None:
        self.dataset_name, self.subset, self.revision = dataset_name, subset, dataset_revision
        self.problems, self.evaluation_problems = problems, evaluation_problems
        if subset is not None and subset not in SUBSETS:
            raise ConfigError(
                f"data.subset={subset}: expected null or one of {', '.join(SUBSETS)}{nearest(subset, SUBSETS)}"
            )
        for key in ("problems", "evaluation_problems"):
            limit = getattr(self, key)
            if limit is not None and limit < 1:
                raise ConfigError(f"data.{key}={limit}: expected a whole number from 1 on, or null for all")

    def sources(self, view: str) -> list[Source]:
        """The rows that a view reads; what is held out of all others is the test split."""
        splits = ("test",) if view == "evaluation" else ("train", "test")
        return [Source("data.dataset_name", self.dataset_name, self.revision, splits=splits, data_dir=self.subset)]

    def _rows(self, split: str, limit: int | None, held_out: set[str], columns: tuple[str, ...]) -> "Dataset":
        """The pairs of a split whose prompts are not held out."""
        from qwen_align.data import hub

        said = f"data.dataset_name={self.dataset_name} ({split})"
        where = {"data_dir": self.subset, "revision": self.revision}
        records = hub.load("data.dataset_name", self.dataset_name, split, ("chosen", "rejected"), **where)
        records = records.select(range(min(limit or len(records), len(records)))).select_columns(["chosen", "rejected"])
        types = {name: message_type() for name in columns}
        return usable(said, records, _Pair(held_out), types, [sorted(held_out), columns])

    def _held_out(self) -> set[str]:
        return {mark(prompt) for prompt in self._rows("test", None, set(), ("prompt",))["prompt"]}

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected."""
        return self._rows("train", self.problems, self._held_out(), ("prompt", "chosen", "rejected"))

    def prompts(self) -> "Dataset":
        """prompt, each once."""
        rows = self._rows("train", self.problems, self._held_out(), ("prompt",))
        return once(f"data.dataset_name={self.dataset_name} (train)", rows)

    def evaluation(self) -> "Dataset":
        """prompt of the test split, each once."""
        rows = self._rows("test", self.evaluation_problems, set(), ("prompt",))
        return once(f"data.dataset_name={self.dataset_name} (test)", rows)
