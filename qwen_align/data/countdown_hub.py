"""The public Countdown sets of the study, with the columns of `data=countdown`.

Prompts come from Jiayi-Pan/Countdown-Tasks-3to4 (nums, target), demonstrations from Asap7772/cog_behav_all_strategies (query,
completion). A demonstration is asked with our prompt, its numbers and target read from its query, so all views share one
wording; where a query opened the thinking, the completion gets the tag back. Held-out multisets are left out of training.
"""

import re
from typing import TYPE_CHECKING, Any

from qwen_align.data import extra as extra_rows
from qwen_align.data.countdown import ask, check_prompt, extra_demonstrations, is_held_out
from qwen_align.errors import ConfigError
from qwen_align.verifier.countdown import Verdict, answer, verify

if TYPE_CHECKING:
    from datasets import Dataset

_PROBLEM = re.compile(r"numbers\s*\[([\d,\s]+)\].*?equals\s+(\d+)", re.DOTALL)


class CountdownHub:
    """Public problems and demonstrations; the split by number multiset is ours.

    Args:
        prompts_name: Hub name or folder of the problems.
        demonstrations_name: Hub name or folder of the demonstrations.
        problems: at most so many rows in each training view.
        evaluation_problems: at most so many in the evaluation view.
        held_out: share of number multisets kept for the evaluation view.
        prompt: text with {numbers} and {target}.
        extra: a file of more demonstrations.
    """

    def __init__(
        self, prompts_name: str, demonstrations_name: str, problems: int, evaluation_problems: int, held_out: float,
        prompt: str, extra: str | None = None,
    ) -> None:  # fmt: skip
        self.prompts_name, self.demonstrations_name = prompts_name, demonstrations_name
        self.problems, self.evaluation_problems = problems, evaluation_problems
        self.held_out, self.prompt, self.extra = held_out, prompt, extra
        check_prompt(prompt)
        extra_rows.check(extra)

    def _problems(self, held_out: bool, wanted: int) -> "Dataset":
        from qwen_align.data import hub

        rows = hub.load("data.prompts_name", self.prompts_name, "train", ("nums", "target"))
        rows = rows.filter(lambda row: is_held_out(row["nums"], self.held_out) == held_out)
        rows = rows.select(range(min(wanted, len(rows)))).select_columns(["nums", "target"])
        return rows.map(lambda row: {"prompt": ask(self.prompt, row["nums"], row["target"])})

    def prompts(self) -> "Dataset":
        """prompt, nums, target of training problems."""
        return self._problems(held_out=False, wanted=self.problems)

    def evaluation(self) -> "Dataset":
        """prompt, nums, target of held-out problems."""
        return self._problems(held_out=True, wanted=self.evaluation_problems)

    def _demonstration(self, row: dict[str, Any]) -> dict[str, Any] | None:
        found = _PROBLEM.search(row["query"])
        if not found:
            return None
        nums, target = [int(n) for n in re.findall(r"\d+", found[1])], int(found[2])
        if is_held_out(nums, self.held_out):
            return None
        closed = row["completion"].lstrip().startswith("<think>")
        opened = row["query"].rstrip().endswith("<think>") and not closed
        answer = ("<think>" if opened else "") + row["completion"]
        completion = [{"role": "assistant", "content": answer}]
        return {"prompt": ask(self.prompt, nums, target), "completion": completion, "nums": nums, "target": target}

    def demonstrations(self) -> "Dataset":
        """prompt, completion, nums, target; rows whose query names no problem are left out and counted aloud; then `extra`."""
        from datasets import Dataset

        from qwen_align.data import hub

        rows = hub.load("data.demonstrations_name", self.demonstrations_name, "train", ("query", "completion"))
        found = [d for row in rows if (d := self._demonstration(row))]
        if not found:
            raise ConfigError(
                f"data.demonstrations_name={self.demonstrations_name}: no query reads like 'numbers [1, 2, 3] ... equals 6'"
            )
        print(
            f"{len(found)} of {len(rows)} demonstrations are used; the others are held out or name no problem",
            flush=True,
        )
        return Dataset.from_list(found[: self.problems] + extra_demonstrations(self.extra, self.held_out))

    def verify(self, completion: str | None, row: dict[str, Any]) -> Verdict:
        """The exact verdict on one completion of a row."""
        return verify(completion, row["nums"], row["target"])

    def answer(self, completion: str) -> str | None:
        """What a completion votes for: its expression."""
        return answer(completion)
