"""The Countdown reward: a number for each verdict of the exact verifier, TinyZero's 1 / 0.1 / 0 unless configured."""

from collections.abc import Sequence
from typing import Any

from qwen_align.reward import clipping, verdict_values
from qwen_align.verifier.countdown import verify


class CountdownReward:
    """1.0 for a correct expression, 0.1 for a well-formed wrong one, 0.0 for anything else."""

    name = "countdown"
    needs = ("nums", "target")

    def __init__(
        self, correct: float = 1.0, wellformed_wrong: float = 0.1, malformed: float = 0.0, weight: float = 1.0,
        clip: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.values = verdict_values(correct, wellformed_wrong, malformed)
        self.weight, self.clip = weight, clipping(clip)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        """One value a completion; `nums` and `target` are the problem's."""
        problems = zip(completions, columns["nums"], columns["target"], strict=True)
        return [self.values[verify(text, nums, target)] for text, nums, target in problems]
