"""The constraints reward: the share of the instruction's constraints that a completion follows, exactly.

On data=constraints this is the true score, so it shows how far RLOO gets without a reward model's errors.
"""

from collections.abc import Sequence
from typing import Any

from qwen_align.reward import clipping
from qwen_align.verifier.constraints import share


class ConstraintsReward:
    """1.0 where every constraint is followed, 0.0 where none is or there is no word."""

    name = "constraints"
    needs = ("constraints",)

    def __init__(self, weight: float = 1.0, clip: Sequence[float] | None = None) -> None:
        self.weight, self.clip = weight, clipping(clip)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        """One value a completion; `constraints` is the row's JSON."""
        return [share(text, wanted) for text, wanted in zip(completions, columns["constraints"], strict=True)]
