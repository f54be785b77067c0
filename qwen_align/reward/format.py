"""The format reward: whether a completion is the wanted sections between tags, in order, and nothing else.

`tags: [think, answer]` wants <think>...</think><answer>...</answer>, the format reward of DeepSeek-R1 (arXiv 2501.12948). Tags
and not a regular expression: a pattern of the user's could take exponential time on a hostile completion and hang a run, tags
are found in linear time. Left out: nested tags, attributes, several sections of one name.
"""

import re
from collections.abc import Sequence
from typing import Any

from qwen_align.errors import ConfigError
from qwen_align.reward import clipping


class FormatReward:
    """1.0 for a completion of these sections, each once, in this order, with only white space around them; else 0.0.

    Args:
        tags: the names of the sections.
    """

    name = "format"
    needs = ()

    def __init__(
        self, tags: Sequence[str] = ("think", "answer"), weight: float = 1.0, clip: Sequence[float] | None = None
    ) -> None:
        self.tags, self.weight, self.clip = tuple(tags), weight, clipping(clip)
        named = all(isinstance(tag, str) and re.fullmatch(r"[A-Za-z][\w-]*", tag) for tag in self.tags)
        if not named or not self.tags or len(set(self.tags)) < len(self.tags):
            raise ConfigError(f"reward.tags={list(self.tags)}: expected different names such as [think, answer]")
        self._mark = re.compile(f"</?(?:{'|'.join(self.tags)})>")
        self._wanted = [mark for tag in self.tags for mark in (f"<{tag}>", f"</{tag}>")]

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        """One value a completion."""
        return [float(self._has_format(text)) for text in completions]

    def _has_format(self, text: str) -> bool:
        around = self._mark.split(text)[::2]  # before, between and after the sections
        return self._mark.findall(text) == self._wanted and not any(part.strip() for part in around)
