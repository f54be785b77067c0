"""Take a reasoning model's thinking out of its completion: an answer inside `<think>...</think>` was never given.

The tags are DeepSeek-R1's (arXiv 2501.12948), literal and lower case. Templates that open the thinking in the prompt
leave a completion that starts inside it. Left out: nesting; the first closing tag ends the thinking, as in every
parser that models were trained against.
"""

import re

_STRETCH = re.compile(r"<think>.*?(?:(</think>)|\Z)", re.DOTALL)
THOUGHT = "\0"  # stands where a stretch of thinking was, so that nothing can be read across it


def without_thinking(completion: str | None) -> str:
    """The completion with THOUGHT for each stretch of thinking, "" for None; an unclosed `<think>` swallows the rest."""
    if not isinstance(completion, str):
        return ""
    if "think>" not in completion:
        return completion
    before, closing, after = completion.partition("</think>")
    if closing and "<think>" not in before:
        completion = after  # the prompt opened the thinking
    return _STRETCH.sub(lambda found: THOUGHT if found[1] else "", completion)
