"""How much of an instruction a completion follows, where the instruction is made of constraints that can be checked exactly.

In the manner of IFEval (arXiv 2311.07911), with a share beside the all-or-nothing verdict: the true score, which a reward model
only estimates. Constraints travel as JSON in a column of the data: a list of objects with a `kind` and its FIELDS, such as
{"kind": "count", "of": ["dog", "cat"], "least": 1}.

A word is a run of letters and digits, with single hyphens and apostrophes inside; words are compared whatever their case. A
completion without a word follows nothing. Time is linear in its length. Left out: sentences, paragraphs, JSON, languages.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from qwen_align.verifier import Verdict

Constraint = dict[str, Any]
FIELDS: dict[str, dict[str, type]] = {
    "words": {"least": int, "most": int},  # how many words; a missing bound is none
    "count": {"of": list, "least": int, "most": int},  # how many of them are among these
    "only": {"of": list},  # all of them are
    "starts": {"with": str},  # the first word
    "ends": {"with": str},  # the last word
    "order": {"first": str, "then": str},  # both occur, and the first of one before the first of the other
    "case": {"letters": str},  # every letter is "upper" or "lower"
    "distinct": {},  # no word twice
}
_BOUNDS = {"least", "most"}
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*+")


def words_of(text: str) -> list[str]:
    """The words of a text as they are written."""
    return _WORD.findall(text)


@lru_cache(maxsize=65_536)
def read(constraints: str) -> tuple[Constraint, ...]:
    """The constraints of a row; ValueError for what is no JSON list of them."""
    try:
        found = json.loads(constraints)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"is {constraints!r:.80}; expected JSON, a list of constraints") from error
    if not isinstance(found, list) or not found:
        raise ValueError(f"is {constraints!r:.80}; expected a list of at least one constraint")
    return tuple(_checked(constraint) for constraint in found)


def _column(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text with a JSON list of constraints")
    read(value)
    return value


COLUMNS = {"constraints": _column}


def _checked(constraint: Any) -> Constraint:
    kind = constraint.get("kind") if isinstance(constraint, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError(f"holds {json.dumps(constraint):.80}; expected a kind, one of {', '.join(FIELDS)}")
    given, fields = {k: v for k, v in constraint.items() if k != "kind"}, FIELDS[kind]
    needed = fields.keys() - _BOUNDS
    bounded = "least" not in fields or bool(given.keys() & _BOUNDS)
    typed = all(type(value) is fields.get(key) for key, value in given.items())
    if not typed or not bounded or not needed <= given.keys() or given.get("letters", "upper") not in ("upper", "lower"):
        raise ValueError(f"holds {json.dumps(constraint):.80}; expected {kind} with {', '.join(fields)}")
    texts = {k: v.casefold() for k, v in given.items() if isinstance(v, str)}
    return {"kind": kind} | given | texts | ({"of": {str(w).casefold() for w in given["of"]}} if "of" in given else {})


def _follows(constraint: Constraint, text: str, words: Sequence[str]) -> bool:
    """Whether a text with these words, at least one, in lower case, follows one constraint."""
    match constraint["kind"]:
        case "words" | "count":
            number = sum(word in constraint["of"] for word in words) if "of" in constraint else len(words)
            return constraint.get("least", 0) <= number <= constraint.get("most", number)
        case "only":
            return all(word in constraint["of"] for word in words)
        case "starts":
            return words[0] == constraint["with"]
        case "ends":
            return words[-1] == constraint["with"]
        case "order":
            first, then = constraint["first"], constraint["then"]
            return first in words and then in words and words.index(first) < words.index(then)
        case "case":
            return text == (text.upper() if constraint["letters"] == "upper" else text.lower())
        case _:
            return len(set(words)) == len(words)


def followed(completion: str | None, constraints: Sequence[Constraint]) -> float:
    """The share of the constraints, as `read` gives them, that a completion follows."""
    words = [word.casefold() for word in words_of(completion or "")]
    if completion is None or not words:
        return 0.0
    return sum(_follows(constraint, completion, words) for constraint in constraints) / len(constraints)


def score(completion: str | None, constraints: str) -> float:
    """The share of the constraints that a completion follows, in [0, 1]; `constraints` is a row's JSON."""
    return followed(completion, read(constraints))


def verify(completion: str | None, constraints: str) -> Verdict:
    """correct where every constraint is followed; malformed without a word in it."""
    if not words_of(completion or ""):
        return Verdict.MALFORMED
    return Verdict.CORRECT if score(completion, constraints) == 1.0 else Verdict.WELLFORMED_WRONG
