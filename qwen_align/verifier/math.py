"""Judge a solution of a maths problem by its final answer, GSM8K or MATH style.

Plain numbers and fractions are compared as exact rationals, without a tolerance: 0.75 is 3/4 and 0.333 is not 1/3. Text is
compared as text. What is left (roots, variables, tuples, intervals, sets) goes to Math-Verify
(github.com/huggingface/Math-Verify) in worker processes that are killed when they are late. Powers of powers, factorials, sums
and integrals are never computed unless the gold answer has one too. Left out: the reasoning.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from qwen_align.verifier import Verdict, columns, math_pool
from qwen_align.verifier.extraction import final_answer, marked, without_thinking
from qwen_align.verifier.math_pool import timeouts
from qwen_align.verifier.rational import MAX_LENGTH, read

__all__ = ["COLUMNS", "answer", "answers", "timeouts", "verify"]

COLUMNS = {"answer": columns.text}

_EXPENSIVE = re.compile(
    r"!|\\(?:sum|prod|i*int|oint|lim|limits|bigcup|bigcap|gamma|Gamma|zeta)(?![A-Za-z])"
    r"|\^\s*(?:\{[^{}]*\^|\\?\w+\s*\^|\{?\s*-?[0-9,.]{4,}|\{?\s*\\[dt]?frac\{[0-9]{4,})|[0-9]{60,}"
)
_ALTERNATIVES = re.compile(r"[,;]|\bor\b|\band\b|\\(?:pm|mp|lor|vee|cup)(?![A-Za-z])|±")
_ALGEBRA = re.compile(r"\\[A-Za-z]|[(\^√|]|\bsqrt")
_LATEX_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|log|ln|exp|pi)\b)[A-Za-z]{2,}")
_NO_LOOKS = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:! ]|\\\$|\\?[()\[\]](?<=\\.)|[$\s~]|\*\*")
_NAMED = re.compile(r"[^\\\w]*[^\W\d_]")
_CHOICE = re.compile(r"\(?([A-J])\)?(?:[.:)](?:\s.*)?|\))?")


class _Gold(NamedTuple):
    text: str
    value: Fraction | None  # None if the answer is not one rational number
    percent: bool
    words: str  # the answer casefolded if it is a word or a name, else ""


def verify(completion: str | None, answer: str) -> Verdict:
    """Judge the completion alone against the reference final answer; malformed if it gives no answer at all."""
    gold = _gold(str(answer))
    candidate = final_answer(without_thinking(completion), numeric=gold.value is not None)
    if not candidate:
        return Verdict.MALFORMED
    return Verdict.CORRECT if _equals(candidate, gold) else Verdict.WELLFORMED_WRONG


def answer(completion: str) -> str | None:
    """The final answer that a completion votes for, equal numbers written the same; None if it gives none."""
    found = final_answer(without_thinking(completion), numeric=True)
    value = read(found) if found else None
    return found or None if value is None else str(value)


def answers(completion: str | None) -> list[str]:
    """Every answer outside thinking that a marker announces, in order, each a completion of its own."""
    found = marked(without_thinking(completion), numeric=True)
    # Alone, what stands before a stray tag would be read as thinking.
    return [f"</think>{text}" if "</think>" in text else text for text in found]


@lru_cache(maxsize=8192)
def _gold(answer: str) -> _Gold:
    """A reference answer, or a whole reference solution with a marker, read once for its many completions."""
    text = (final_answer(answer, numeric=True) or "") if "####" in answer or "\\boxed" in answer else answer
    text = text.strip()
    # `June 20` is no number, while a candidate may well say `Total: 20`.
    value = None if "=" in text or _NAMED.match(_LATEX_TEXT.sub(r"\1", text)) else read(text)
    plain = _LATEX_TEXT.sub(r"\1", text).strip(" $.")
    parts = re.split(r"[\s'’.,-]+", plain.strip("()"))
    named = all(part.isalpha() for part in parts) and (len(plain.strip("()")) == 1 or any(len(part) > 2 for part in parts))
    words = plain.casefold() if named else ""
    return _Gold(text, value, "%" in text, words)


def _equals(candidate: str, gold: _Gold) -> bool:
    value = read(candidate)
    if gold.value is not None:
        if value is not None:
            return value == gold.value or (gold.percent and "%" not in candidate and value * 100 == gold.value)
        # A text that was not read as a number may still be an expression for one: no prose, no alternatives.
        bare = _LATEX_TEXT.sub(" ", candidate)
        single = _ALGEBRA.search(bare) and not (_ALTERNATIVES.search(candidate) or _PROSE.search(bare))
        return bool(single) and _asks_math_verify(candidate, gold)
    if _canonical(candidate) == _canonical(gold.text):
        return True
    if gold.words:
        spoken = _LATEX_TEXT.sub(r"\1", candidate).strip(" $.*_\"'").casefold()
        choice = _CHOICE.fullmatch(_LATEX_TEXT.sub(r"\1", candidate).strip(" $*"))
        return spoken == gold.words or (choice is not None and choice[1].casefold() == gold.words.strip("()"))
    return _asks_math_verify(candidate, gold)


def _asks_math_verify(candidate: str, gold: _Gold) -> bool:
    if len(candidate) > MAX_LENGTH or len(gold.text) > MAX_LENGTH:
        return False
    if any(ord(char) > 127 and char.isnumeric() for char in candidate):
        return False
    if _EXPENSIVE.search(candidate) and not _EXPENSIVE.search(gold.text):
        return False
    return math_pool.equal(_formula(gold.text), _formula(candidate)) is True


def _formula(text: str) -> str:
    """The text without the delimiters of formulas, which Math-Verify would read as several answers."""
    return re.sub(r"(?<!\\)\$|\\[()\[\]]|\s+", " ", text).strip(" .")


def _canonical(text: str) -> str:
    """The text without what concerns only the looks, for texts that are equal as written."""
    text = _NO_LOOKS.sub("", _LATEX_TEXT.sub(r"\1", text)).rstrip(".")
    return re.sub(r"\\[dt]frac", r"\\frac", text).replace("−", "-")
