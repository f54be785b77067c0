"""GSM8K (arXiv 2110.14168): grade-school word problems with worked solutions that end in `#### N`.

The Hub's openai/gsm8k or a local folder of that shape. Training views are its train split and the evaluation view is its test
split, so numbers compare with published ones. The solutions' <<48/2=24>> notes were made for a calculator that no model here
has; they are taken out unless kept on purpose. Left out: the `socratic` variant.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from qwen_align.data import settings
from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source

if TYPE_CHECKING:
    from datasets import Dataset

_NOTE = re.compile(r"<<[^<>\n]*>>")


class GSM8K:
    """Questions, worked solutions and final answers.

    Args:
        dataset_name: Hub name, or a folder with a train and a test split; columns question, answer.
        problems: at most so many rows in each training view; null: all.
        evaluation_problems: at most so many in the evaluation view; null: all.
        calculator: keep the <<a+b=c>> notes in demonstrations.
        prompt: text with {question}.
        dataset_revision: a commit of the Hub's; null: the newest.
    """

    def __init__(
        self,
        dataset_name: str,
        problems: int | None,
        evaluation_problems: int | None,
        calculator: bool,
        prompt: str,
        dataset_revision: str | None = None,
    ) -> None:
        self.source = Source("data.dataset_name", dataset_name, dataset_revision, config="main")
        self.calculator, self.prompt = calculator, prompt
        self.limits = {"train": problems, "test": evaluation_problems}
        settings.check_limits(problems=problems, evaluation_problems=evaluation_problems)
        settings.check_template(prompt, "question")

    def sources(self, view: str) -> list[Source]:
        """The rows that a view reads."""
        return [replace(self.source, splits=("test",) if view == "evaluation" else ("train",))]

    def _rows(self, split: str) -> "Dataset":
        """prompt, completion (the worked solution, ending in #### N), answer (N); a row without #### N is an error."""
        from datasets import Dataset

        from qwen_align.data import hub

        found = []
        for number, row in enumerate(hub.load(self.source, split, ("question", "answer"), self.limits[split])):
            solution, hashes, answer = str(row["answer"]).rpartition("####")
            if not hashes or not answer.strip():
                raise ConfigError(
                    f"{self.source.key}={self.source.name}: row {number} of {split} has no final answer; "
                    "expected one after ####"
                )
            text = solution if self.calculator else _NOTE.sub("", solution)
            completion = f"{text.rstrip()}\n#### {answer.strip()}"
            found.append(
                {
                    "prompt": [{"role": "user", "content": self.prompt.format(question=row["question"])}],
                    "completion": [{"role": "assistant", "content": completion}],
                    "answer": answer.strip(),
                }
            )
        return Dataset.from_list(found)

    def demonstrations(self) -> "Dataset":
        """prompt, completion, answer of training problems."""
        return self._rows("train")

    def prompts(self) -> "Dataset":
        """prompt, answer of training problems."""
        return self._rows("train").remove_columns("completion")

    def evaluation(self) -> "Dataset":
        """prompt, answer of the test split."""
        return self._rows("test").remove_columns("completion")
