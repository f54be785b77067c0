"""The maths reward: a number for each verdict of the maths verifier, 1 for a right final answer and 0 else unless configured.

A comparison that runs out of time counts as wrong, since RLOO needs a number; `metrics` says how many those were.
"""

from collections.abc import Sequence
from typing import Any

from qwen_align.reward import clipping, verdict_values
from qwen_align.verifier.math import timeouts, verify


class MathReward:
    """1.0 for a right final answer, 0.0 for a wrong one and for none."""

    name = "math"
    needs = ("answer",)

    def __init__(
        self, correct: float = 1.0, wellformed_wrong: float = 0.0, malformed: float = 0.0, weight: float = 1.0,
        clip: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.values = verdict_values(correct, wellformed_wrong, malformed)
        self.weight, self.clip = weight, clipping(clip)
        self._undecided = 0

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        """One value a completion; `answer` is the problem's final answer, or a solution that ends with it."""
        before = timeouts()
        judged = zip(completions, columns["answer"], strict=True)
        values: list[float | None] = [self.values[verify(text, answer)] for text, answer in judged]
        self._undecided = timeouts() - before
        return values

    def metrics(self) -> dict[str, float]:
        """Of the last call of score: timeouts, the comparisons that were given up."""
        return {"timeouts": float(self._undecided)}
