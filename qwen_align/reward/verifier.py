"""The reward of a verifier: a number for each of its verdicts, or its score where it gives one.

One class for every verifier: `verifier: ${data.verifier}` reads the data's own, a name or FILE.py:NAME any other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen_align.config import component
from qwen_align.errors import ConfigError
from qwen_align.reward import GIVEN, Conversation, LogMetric, text_of


class VerifierReward:
    """correct, wellformed_wrong or malformed for a verdict; a verifier's score, where it gives scores, as it is.

    The metric NAME/timeouts counts the verdicts that were given up in a call. ConfigError for none, or values out of order.
    """

    def __init__(
        self,
        verifier: str | Mapping[str, Any] | None,
        correct: float = 1.0,
        wellformed_wrong: float = 0.0,
        malformed: float = 0.0,
        name: str = "verifier",
    ) -> None:
        found = component.verifier(verifier, "reward.verifier")
        if found is None:
            expected = "expected data.verifier=NAME or FILE.py:NAME, or another reward"
            raise ConfigError(f"reward.verifier=null: the data has no verifier; {expected}")
        if not correct > wellformed_wrong >= malformed:
            below = f"wellformed_wrong={wellformed_wrong} >= malformed={malformed}"
            raise ConfigError(f"reward.correct={correct}: expected more than {below}")
        self.verifier, self.name, self.needs = found, name, found.needs
        self.values = {"correct": correct, "wellformed_wrong": wellformed_wrong, "malformed": malformed}

    def __call__(
        self, completions: Sequence[Conversation], prompts: Sequence[Conversation], log_metric: LogMetric = None, **columns: Any
    ) -> list[float | None]:
        """One value a completion; `columns` hold what the verifier reads."""
        timeouts = self.verifier.timeouts
        before = timeouts() if timeouts else 0
        rows = {key: values for key, values in columns.items() if key not in GIVEN} | {"prompt": prompts}
        found: list[float | None] = []
        for i, completion in enumerate(completions):
            verdict, score = self.verifier.judge(text_of(completion), {key: values[i] for key, values in rows.items()})
            found.append(self.values[verdict] if score is None else score)
        if timeouts and log_metric:
            log_metric(f"{self.name}/timeouts", float(timeouts() - before))
        return found
