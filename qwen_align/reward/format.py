"""The format reward: whether a completion is the wanted sections between tags, in order, and nothing else.

`tags: [think, answer]` wants <think>...</think><answer>...</answer>, the format reward of DeepSeek-R1 (arXiv 2501.12948). Tags
and not a regular expression: a pattern of the user's could take exponential time on a hostile completion and hang a run, tags
are found in linear time. Left out: nested tags, attributes, several sections of one name.
"""

import re
from collections.abc import Sequence
from typing import Any

from qwen_align.errors import ConfigError
from qwen_align.reward import Conversation, text_of


class FormatReward:
    """1.0 for a completion of the sections `tags`, each once, in this order, with only white space around them; else 0.0."""

    def __init__(self, tags: Sequence[str] = ("think", "answer")) -> None:
        named = all(isinstance(tag, str) and re.fullmatch(r"[A-Za-z][\w-]*", tag) for tag in tags)
        if not named or not tags or len(set(tags)) < len(tags):
            raise ConfigError(f"reward.tags={list(tags)}: expected different names such as [think, answer]")
        self._tag = re.compile(f"</?(?:{'|'.join(tags)})>")
        self._wanted = [text for tag in tags for text in (f"<{tag}>", f"</{tag}>")]

    def __call__(self, completions: Sequence[Conversation], **_: Any) -> list[float]:
        """One value a completion."""
        found = []
        for text in map(text_of, completions):
            around = self._tag.split(text)[::2]  # before, between and after the sections
            found.append(float(self._tag.findall(text) == self._wanted and not any(map(str.strip, around))))
        return found
