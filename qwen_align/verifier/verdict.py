"""The three things a verifier can say about a completion.

Three and not two, because the format reward of TinyZero (and of DeepSeek-R1, arXiv 2501.12948) tells an answer that
can be read but is wrong from one that can't be read at all. Left out: why an answer is wrong.
"""

from enum import StrEnum


class Verdict(StrEnum):
    """What a verifier found; a plain string, so that it goes into JSON and compares as text."""

    CORRECT = "correct"
    WELLFORMED_WRONG = "wellformed_wrong"
    MALFORMED = "malformed"
