"""Instruction following as in the study (arXiv 2506.21560): SmolTalk's demonstrations and UltraFeedback's preferences.

HuggingFaceTB/smoltalk (column messages; arXiv 2502.02737) and HuggingFaceH4/ultrafeedback_binarized (chosen and rejected as
whole conversations, rated by GPT-4; arXiv 2310.16944), from the Hub or local folders of that shape. The evaluation view is the
test split of the preferences; a training row that asks one of its prompts is left out, like ties and empty answers, and all of
them are counted aloud. Nobody can say exactly whether an answer follows its prompt, so there is no `verify`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.data.conversation import BadRow, Messages, mark, message_type, messages, once, pair, talk, usable
from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source

if TYPE_CHECKING:
    from datasets import Dataset

_DEMONSTRATIONS, _PREFERENCES = "data.demonstrations_name", "data.preferences_name"
_NAMES = ("prompt", "chosen", "rejected")


@dataclass
class _Unasked:
    """Refuses what the evaluation view asks; picklable, for the processes that read rows."""

    held_out: set[str]

    def check(self, prompt: Messages) -> None:
        if any(mark([message]) in self.held_out for message in prompt):
            raise BadRow("the evaluation view asks the same")


class _Conversation(_Unasked):
    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        found = talk(record["messages"], "messages")
        self.check(found["messages"])
        return found


@dataclass
class _Pair(_Unasked):
    margin: bool

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        found = pair(None, record["chosen"], record["rejected"], _NAMES)
        self.check(found["prompt"])
        margin = float(record["score_chosen"]) - float(record["score_rejected"])
        if margin <= 0:
            raise BadRow("chosen is rated no higher than rejected")
        return found | ({"margin": margin} if self.margin else {})


class _Prompt(_Unasked):
    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        found = messages(record["prompt"], "prompt", "user")
        self.check(found)
        return {"prompt": found}


class Instruct:
    """Demonstrations, preferences, and the prompts of the preferences for training and, held out, for evaluation.

    Args:
        demonstrations_name: Hub name or folder; column messages, system messages and several turns stay.
        demonstrations_config: the Hub's configuration of it; not read for a folder.
        preferences_name: Hub name or folder with data/train_prefs-00000-of-00001.parquet and the like for test_prefs.
        problems: at most so many records in each training view, demonstrations a random sample; null: all.
        evaluation_problems: likewise in the evaluation view.
        margin: add a column margin to preferences, how many points chosen is rated above rejected.
        seed: of the sample.
        demonstrations_revision: a commit of the Hub's; null: the newest.
        preferences_revision: likewise.
    """

    def __init__(
        self, demonstrations_name: str, demonstrations_config: str, preferences_name: str, problems: int | None,
        evaluation_problems: int | None, margin: bool, seed: int, demonstrations_revision: str | None = None,
        preferences_revision: str | None = None,
    ) -> None:  # fmt: skip
        self.demonstrations_name, self.demonstrations_config = demonstrations_name, demonstrations_config
        self.preferences_name, self.margin, self.seed = preferences_name, margin, seed
        self.revisions = {"demonstrations": demonstrations_revision, "preferences": preferences_revision}
        self.problems, self.evaluation_problems = problems, evaluation_problems
        for key in ("problems", "evaluation_problems"):
            limit = getattr(self, key)
            if limit is not None and limit < 1:
                raise ConfigError(f"data.{key}={limit}: expected a whole number from 1 on, or null for all")

    def sources(self, view: str) -> Iterator[Source]:
        """The rows that a view reads; what is held out of all others is the test split."""
        if view == "demonstrations":
            name, revision = self.demonstrations_name, self.revisions["demonstrations"]
            yield Source(_DEMONSTRATIONS, name, revision, splits=("train",), config=self.demonstrations_config)
        trained = ("train_prefs",) if view in ("preferences", "prompts") else ()
        revision = self.revisions["preferences"]
        yield Source(_PREFERENCES, self.preferences_name, revision, splits=(*trained, "test_prefs"))

    def _pairs(self, split: str, limit: int | None) -> "Dataset":
        from qwen_align.data import hub

        columns = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
        revision = self.revisions["preferences"]
        rows = hub.load(_PREFERENCES, self.preferences_name, split, columns, revision=revision)
        return rows.select(range(min(limit or len(rows), len(rows)))).select_columns(list(columns))

    def _held_out(self) -> set[str]:
        """The prompts of the test split, all of them, whatever the evaluation view takes."""
        return {mark([{"role": "user", "content": prompt}]) for prompt in self._pairs("test_prefs", None)["prompt"]}

    def demonstrations(self) -> "Dataset":
        """messages: conversations, of which every answer is a demonstration."""
        from qwen_align.data import hub

        folder = Path(self.demonstrations_name).expanduser().is_dir()
        variant = {} if folder else {"config": self.demonstrations_config, "revision": self.revisions["demonstrations"]}
        rows = hub.load(_DEMONSTRATIONS, self.demonstrations_name, "train", ("messages",), **variant)
        if self.problems is not None and self.problems < len(rows):
            rows = rows.shuffle(seed=self.seed).select(range(self.problems))
        held_out, said = self._held_out(), f"{_DEMONSTRATIONS}={self.demonstrations_name}"
        columns = {"messages": message_type()}
        return usable(said, rows.select_columns(["messages"]), _Conversation(held_out), columns, sorted(held_out))

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected and, if wanted, margin."""
        from datasets import Value

        held_out, said = self._held_out(), f"{_PREFERENCES}={self.preferences_name}"
        columns = {name: message_type() for name in _NAMES} | ({"margin": Value("float64")} if self.margin else {})
        rows = self._pairs("train_prefs", self.problems)
        return usable(said, rows, _Pair(held_out, self.margin), columns, [sorted(held_out), self.margin])

    def _asked(self, split: str, limit: int | None, held_out: set[str]) -> "Dataset":
        """The prompts of a split, each once and none that is held out."""
        said, rows = f"{_PREFERENCES}={self.preferences_name}", self._pairs(split, limit).select_columns(["prompt"])
        return once(said, usable(said, rows, _Prompt(held_out), {"prompt": message_type()}, sorted(held_out)))

    def prompts(self) -> "Dataset":
        """prompt, of training preferences, each once."""
        return self._asked("train_prefs", self.problems, self._held_out())

    def evaluation(self) -> "Dataset":
        """prompt, of the test preferences, each once."""
        return self._asked("test_prefs", self.evaluation_problems, set())
