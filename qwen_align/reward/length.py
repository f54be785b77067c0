"""The length reward: a penalty for answers that are too long, the cure for reward models that like length.

0 up to `most`, then down in a straight line to -1 at `most + falloff`, and -1 beyond: the soft punishment of DAPO (arXiv
2503.14476). Put it beside a reward model, with a weight. Left out: tokens, which trl.rewards.get_soft_overlong_punishment
counts, and a reward for long answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen_align.errors import ConfigError, nearest
from qwen_align.reward import Conversation, text_of

_UNITS = ("words", "characters")


@dataclass(frozen=True)
class LengthReward:
    """0.0 for an answer that is short enough, down to -1.0 for one that is too long."""

    most: int = 200  # the length that costs nothing
    falloff: int = 100  # how much longer costs 1
    unit: str = "words"  # as white space separates them, or characters

    def __post_init__(self) -> None:
        for key, value in {"most": self.most, "falloff": self.falloff}.items():
            if type(value) is not int or value < 1:
                raise ConfigError(f"reward.{key}={value}: expected a whole number from 1 on")
        if self.unit not in _UNITS:
            raise ConfigError(f"reward.unit={self.unit}: expected {' or '.join(_UNITS)}{nearest(self.unit, _UNITS)}")

    def __call__(self, completions: Sequence[Conversation], **_: Any) -> list[float]:
        """One value in [-1, 0] a completion."""
        texts = [text_of(completion) for completion in completions]
        lengths = [len(text.split() if self.unit == "words" else text) for text in texts]
        return [-min(max(length - self.most, 0) / self.falloff, 1.0) for length in lengths]
