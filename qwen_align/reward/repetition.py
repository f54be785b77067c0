"""The repetition reward: minus the share of an answer's n-grams that it has said before.

The measure is seq-rep-n (arXiv 1908.04319); as a penalty it keeps a policy from the loops that reward models forgive. White
space separates the words, whose case does not count. Left out: languages without spaces, and repeating the prompt.
"""

from collections.abc import Sequence
from typing import Any

from qwen_align.errors import ConfigError
from qwen_align.reward import clipping


class RepetitionReward:
    """0.0 for an answer whose n-grams are all different, down to nearly -1.0 for one that says the same all over.

    Args:
        n: words in a row that count as one; an answer of fewer repeats nothing.
    """

    name = "repetition"
    needs = ()

    def __init__(self, n: int = 3, weight: float = 1.0, clip: Sequence[float] | None = None) -> None:
        if n < 1:
            raise ConfigError(f"reward.n={n}: expected a whole number from 1 on")
        self.n, self.weight, self.clip = n, weight, clipping(clip)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        """One value in (-1, 0] a completion."""
        return [-self._repeated(text.casefold().split()) for text in completions]

    def _repeated(self, words: list[str]) -> float:
        grams = list(zip(*(words[i:] for i in range(self.n)), strict=False))
        return 1 - len(set(grams)) / len(grams) if grams else 0.0
