"""GSM8K (arXiv 2110.14168): grade-school word problems with worked solutions that end in `#### N`.

The Hub's openai/gsm8k or a local folder of that shape. Training views are its train split and the evaluation view is its test
split, so numbers compare with published ones. The solutions' <<48/2=24>> notes were made for a calculator that no model here
has; they are taken out unless kept on purpose. Left out: the `socratic` variant.
"""

import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source
from qwen_align.verifier import math
from qwen_align.verifier.extraction import final_answer
from qwen_align.verifier.rational import read
from qwen_align.verifier.thinking import without_thinking
from qwen_align.verifier.verdict import Verdict

if TYPE_CHECKING:
    from datasets import Dataset

_NOTE = re.compile(r"<<[^<>\n]*>>")
_KEY = "data.dataset_name"


def voted(completion: str) -> str | None:
    """The final answer that a completion gives, equal numbers written alike; None if it gives none."""
    answer = final_answer(without_thinking(completion), numeric=True)
    value = read(answer) if answer else None
    return answer or None if value is None else str(value)


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
        self.dataset_name, self.calculator, self.prompt = dataset_name, calculator, prompt
        self.revision = dataset_revision
        self.limits = {"train": problems, "test": evaluation_problems}
        for key, limit in (("problems", problems), ("evaluation_problems", evaluation_problems)):
            if limit is not None and limit < 1:
                raise ConfigError(f"data.{key}={limit}: expected a whole number from 1 on, or null for all")
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
        except ValueError as error:
            raise ConfigError(f"data.prompt={prompt!r}: {error}; a brace that is text is written twice") from error
        if fields != {"question"}:
            raise ConfigError(f"data.prompt={prompt!r}: has the fields {sorted(fields)}; expected {{question}}")

    def sources(self, view: str) -> list[Source]:
        """The rows that a view reads."""
        splits = ("test",) if view == "evaluation" else ("train",)
        return [Source(_KEY, self.dataset_name, self.revision, splits=splits, config="main")]

    def _rows(self, split: str) -> list[dict[str, Any]]:
        """prompt, answer (the final one) and the solution; a row whose solution ends without #### N is an error."""
        from qwen_align.data import hub

        folder = Path(self.dataset_name).expanduser().is_dir()
        variant = {} if folder else {"config": "main", "revision": self.revision}
        rows = hub.load(_KEY, self.dataset_name, split, ("question", "answer"), **variant)
        limit = self.limits[split]
        found = []
        for number, row in enumerate(rows.select(range(min(limit or len(rows), len(rows))))):
            solution, hashes, answer = str(row["answer"]).rpartition("####")
            if not hashes or not answer.strip():
                raise ConfigError(
                    f"{_KEY}={self.dataset_name}: row {number} of {split} has no final answer; expected one after ####"
                )
            text = solution if self.calculator else _NOTE.sub("", solution)
            question = [{"role": "user", "content": self.prompt.format(question=row["question"])}]
            found.append({
                "prompt": question, "answer": answer.strip(), "solution": f"{text.rstrip()}\n#### {answer.strip()}",
            })  # fmt: skip
        return found

    def demonstrations(self) -> "Dataset":
        """prompt, completion (the worked solution, ending in #### N), answer."""
        from datasets import Dataset

        return Dataset.from_list([
            {
                "prompt": row["prompt"], "completion": [{"role": "assistant", "content": row["solution"]}],
                "answer": row["answer"],
            }
            for row in self._rows("train")
        ])  # fmt: skip

    def prompts(self) -> "Dataset":
        """prompt, answer of training problems."""
        from datasets import Dataset

        return Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in self._rows("train")])

    def evaluation(self) -> "Dataset":
        """prompt, answer of the test split."""
        from datasets import Dataset

        return Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in self._rows("test")])

    def verify(self, completion: str | None, row: dict[str, Any]) -> Verdict:
        """The verdict on one completion's final answer."""
        return math.verify(completion, row["answer"])

    def answer(self, completion: str) -> str | None:
        """What a completion votes for."""
        return voted(completion)

    def answers(self, completion: str) -> list[str]:
        """Every answer that a completion holds, in order, each a completion that `verify` judges."""
        return math.answers(completion)

    def timeouts(self) -> int:
        """How often no verdict was found in time."""
        return math.timeouts()
