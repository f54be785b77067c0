"""The length reward: a penalty for answers that are too long, the cure for reward models that like length.

0 up to `most`, then down in a straight line to -1 at `most + falloff`, and -1 beyond: the soft punishment of DAPO (arXiv
2503.14476). Put it beside a reward model, with a weight. Left out: tokens (max_completion_length bounds those), and a reward
for long answers.
"""

from collections.abc import Sequence
from typing import Any

from qwen_align.errors import ConfigError, nearest
from qwen_align.reward import clipping

_UNITS = ("words", "characters")


class LengthReward:
    """0.0 for an answer that is short enough, down to -1.0 for one that is too long.

    Args:
        most: the length that costs nothing.
        falloff: how much longer costs 1.
        unit: words, as white space separates them, or characters.
    """

    name = "length"
    needs = ()

    def __init__(
        self, most: int = 200, falloff: int = 100, unit: str = "words", weight: float = 1.0,
        clip: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        for key, value in {"most": most, "falloff": falloff}.items():
            if value < 1:
                raise ConfigError(f"reward.{key}={value}: expected a whole number from 1 on")
        if unit not in _UNITS:
            raise ConfigError(f"reward.unit={unit}: expected {' or '.join(_UNITS)}{nearest(unit, _UNITS)}")
        self.most, self.falloff, self.unit = most, falloff, unit
        self.weight, self.clip = weight, clipping(clip)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        """One value in [-1, 0] a completion."""
        lengths = [len(text.split() if self.unit == "words" else text) for text in completions]
        return [-min(max(length - self.most, 0) / self.falloff, 1.0) for length in lengths]
