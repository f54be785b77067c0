"""GSM8K (arXiv 2110.14168): grade-school word problems with worked solutions that end in `#### N`.

The Hub's openai/gsm8k or a local folder of that shape. Training views are its train split and the evaluation view is its test
split, so numbers compare with published ones. The solutions' <<48/2=24>> notes were made for a calculator that no model here
has; they are taken out unless kept on purpose. Left out: the `socratic` variant.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen_align.data import settings
from qwen_align.data.conversation import dataset
from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source, load

if TYPE_CHECKING:
    from datasets import Dataset

_NOTE = re.compile(r"<<[^<>\n]*>>")


@dataclass
class GSM8K:
    """Questions, worked solutions and final answers."""

    dataset_name: str  # Hub name, or a folder with a train and a test split; columns question, answer
    problems: int | None  # at most so many rows in each training view; None: all
    evaluation_problems: int | None  # at most so many in the evaluation view; None: all
    calculator: bool  # keep the <<a+b=c>> notes in demonstrations
    prompt: str  # with {question}
    dataset_revision: str | None = None  # a commit of the Hub's; None: the newest

    def __post_init__(self) -> None:
        settings.check_limits(problems=self.problems, evaluation_problems=self.evaluation_problems)
        settings.check_template(self.prompt, "question")

    def _source(self, split: str) -> Source:
        return Source("data.dataset_name", self.dataset_name, self.dataset_revision, splits=(split,), config="main")

    def sources(self, view: str) -> list[Source]:
        """The rows that a view reads."""
        return [self._source("test" if view == "evaluation" else "train")]

    def _rows(self, split: str, limit: int | None) -> "Dataset":
        """prompt, completion (the worked solution, ending in #### N), answer (N); a row without #### N is an error."""
        found = []
        for number, row in enumerate(load(self._source(split), split, ("question", "answer"), limit)):
            solution, hashes, answer = str(row["answer"]).rpartition("####")
            if not hashes or not answer.strip():
                name = f"data.dataset_name={self.dataset_name}"
                raise ConfigError(f"{name}: row {number} of {split} has no final answer; expected one after ####")
            text = solution if self.calculator else _NOTE.sub("", solution)
            prompt = [{"role": "user", "content": self.prompt.format(question=row["question"])}]
            completion = [{"role": "assistant", "content": f"{text.rstrip()}\n#### {answer.strip()}"}]
            found.append({"prompt": prompt, "completion": completion, "answer": answer.strip()})
        return dataset(found)

    def demonstrations(self) -> "Dataset":
        """prompt, completion, answer of training problems."""
        return self._rows("train", self.problems)

    def prompts(self) -> "Dataset":
        """prompt, answer of training problems."""
        return self._rows("train", self.problems).remove_columns("completion")

    def evaluation(self) -> "Dataset":
        """prompt, answer of the test split."""
        return self._rows("test", self.evaluation_problems).remove_columns("completion")
