"""Instruction following as in the study (arXiv 2506.21560): SmolTalk's demonstrations and UltraFeedback's preferences.

HuggingFaceTB/smoltalk (column messages; arXiv 2502.02737) and HuggingFaceH4/ultrafeedback_binarized (chosen and rejected as
whole conversations, rated by GPT-4; arXiv 2310.16944), from the Hub or local folders of that shape. The evaluation view is the
test split of the preferences; a training row that asks one of its prompts is left out, like ties and empty answers, and all of
them are counted. Nobody can say exactly whether an answer follows its prompt, so there is no verifier.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qwen_align.data import settings
from qwen_align.data.conversation import BadRow, dialogue, messages, preference, prompt_key, unique_prompts, usable_rows
from qwen_align.hub.rows import Source, load

if TYPE_CHECKING:
    from datasets import Dataset

_NAMES = ("prompt", "chosen", "rejected")


def _row(held_out: set[str], record: dict[str, Any]) -> dict[str, Any]:
    """A conversation, a pair or a prompt, unless the evaluation view asks the same."""
    if "messages" in record:
        found: dict[str, Any] = dict(dialogue(record["messages"], "messages"))
    elif "chosen" in record:
        found = dict(preference(None, record["chosen"], record["rejected"], _NAMES))
    else:
        found = {"prompt": messages(record["prompt"], "prompt", "user")}
    if any(prompt_key([message]) in held_out for message in found.get("prompt") or found["messages"]):
        raise BadRow("the evaluation view asks the same")
    if "chosen" in record:
        found["margin"] = float(record["score_chosen"]) - float(record["score_rejected"])
        if found["margin"] <= 0:
            raise BadRow("chosen is rated no higher than rejected")
    return found


@dataclass
class Instruct:
    """Demonstrations, preferences, and the prompts of the preferences for training and, held out, for evaluation."""

    demonstrations_name: str  # Hub name or folder; column messages, system messages and several turns stay
    demonstrations_config: str  # the Hub's configuration of it; not read for a folder
    preferences_name: str  # Hub name or folder with data/train_prefs-00000-of-00001.parquet and the like for test_prefs
    problems: int | None  # at most so many records in each training view, demonstrations a random sample; None: all
    evaluation_problems: int | None  # likewise in the evaluation view
    margin: bool  # add a column margin to preferences, how many points chosen is rated above rejected
    seed: int  # of the sample
    demonstrations_revision: str | None = None  # a commit of the Hub's; None: the newest
    preferences_revision: str | None = None  # likewise

    def __post_init__(self) -> None:
        settings.check_limits(problems=self.problems, evaluation_problems=self.evaluation_problems)

    def _talks(self) -> Source:
        name, revision = self.demonstrations_name, self.demonstrations_revision
        return Source("data.demonstrations_name", name, revision, splits=("train",), config=self.demonstrations_config)

    def _preferences(self, *splits: str) -> Source:
        return Source("data.preferences_name", self.preferences_name, self.preferences_revision, splits=splits)

    def sources(self, view: str) -> Iterator[Source]:
        """The rows that a view reads; what is held out of all others is the test split."""
        if view == "demonstrations":
            yield self._talks()
        trained = ("train_prefs",) if view in ("preferences", "prompts") else ()
        yield self._preferences(*trained, "test_prefs")

    def _pairs(self, split: str, limit: int | None) -> "Dataset":
        return load(self._preferences(split), split, (*_NAMES, "score_chosen", "score_rejected"), limit)

    def _held_out(self) -> set[str]:
        """The prompts of the test split, all of them, whatever the evaluation view takes."""
        prompts = self._pairs("test_prefs", None)["prompt"]
        return {prompt_key([{"role": "user", "content": prompt}]) for prompt in prompts}

    def demonstrations(self) -> "Dataset":
        """messages: conversations, of which every answer is a demonstration."""
        rows = load(self._talks(), "train", ("messages",))
        if self.problems is not None and self.problems < len(rows):
            rows = rows.shuffle(seed=self.seed).select(range(self.problems))
        return usable_rows(self._talks().setting, rows, partial(_row, self._held_out()), ["messages"])

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected and, if wanted, margin."""
        from datasets import Value

        others = {"margin": Value("float64")} if self.margin else {}
        rows, row = self._pairs("train_prefs", self.problems), partial(_row, self._held_out())
        return usable_rows(self._preferences().setting, rows, row, _NAMES, **others)

    def _prompts(self, split: str, limit: int | None, held_out: set[str]) -> "Dataset":
        """The prompts of a split, each once and none that is held out."""
        records, name = self._pairs(split, limit).select_columns(["prompt"]), self._preferences().setting
        return unique_prompts(name, usable_rows(name, records, partial(_row, held_out), ["prompt"]))

    def prompts(self) -> "Dataset":
        """prompt, of training preferences, each once."""
        return self._prompts("train_prefs", self.problems, self._held_out())

    def evaluation(self) -> "Dataset":
        """prompt, of the test preferences, each once."""
        return self._prompts("test_prefs", self.evaluation_problems, set())
