"""Exact answers to "is this completion right?": Countdown, maths, constraints and labels, without `eval`, in bounded time.

A verifier is a function `verify(completion, **row) -> Verdict | bool | float`: a completion's text, and the columns of its row
by name. A float in [0, 1] is a score, of which 1 alone is correct. Those that are here are modules with more to say (`answer`,
`answers`, `expected`, `timeouts`, and in COLUMNS how each column is read). What a verdict is worth is the reward's business.
This room imports nothing else of the package.
"""

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from inspect import Parameter
from typing import Any

Reader = Callable[[Any], Any]  # a column's value as the verifier wants it; raises ValueError


class Verdict(StrEnum):
    """Three and not two: TinyZero's format reward tells a wrong answer that can be read from one that can't."""

    CORRECT = "correct"
    WELLFORMED_WRONG = "wellformed_wrong"
    MALFORMED = "malformed"


class Verifier:
    """A module, an object with `verify`, or a plain function, under the name that messages use; ValueError for others."""

    def __init__(self, judge: Any, name: str) -> None:
        self.name = name
        self._function: Callable[..., Any] = getattr(judge, "verify", judge)
        parameters = list(inspect.signature(self._function).parameters.values()) if callable(self._function) else []
        if not parameters or parameters[0].kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            raise ValueError(f"{name}: expected a function verify(completion, **row)")
        named = [p for p in parameters[1:] if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        self.reads_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._named, self._first = tuple(p.name for p in named), parameters[0].name
        self.columns: Mapping[str, Reader] = getattr(judge, "COLUMNS", {})
        self.needs = tuple(p.name for p in named if p.default is p.empty)
        self._score: Callable[..., float] | None = getattr(judge, "score", None)
        # What a completion votes for; all answers in it; a row's class; verdicts given up. None where there is no such notion.
        self.answer: Callable[[str], str | None] | None = getattr(judge, "answer", None)
        self.answers: Callable[[str], list[str]] | None = getattr(judge, "answers", None)
        self.expected: Callable[[Mapping[str, Any]], str] | None = getattr(judge, "expected", None)
        self.timeouts: Callable[[], int] | None = getattr(judge, "timeouts", None)

    def missing(self, columns: Any) -> list[str]:
        """The columns that it reads and that are not among these."""
        return [name for name in self.needs if name not in columns]

    def read(self, name: str, value: Any) -> Any:
        """A column's value in the type that it reads; raises ValueError."""
        return self.columns[name](value) if name in self.columns else value

    def judge(self, completion: str | None, row: Mapping[str, Any]) -> tuple[Verdict, float | None]:
        """(verdict, score in [0, 1], or None) of one completion; RuntimeError where the verifier raises or returns neither."""
        arguments = {k: v for k, v in row.items() if k in self._named or (self.reads_all and k != self._first)}
        try:
            found = self._function(completion, **arguments)
            score = None if self._score is None else self._score(completion, **arguments)
        except Exception as error:
            raise RuntimeError(f"the verifier {self.name} raised {type(error).__name__}: {error}") from error
        found = found.item() if hasattr(found, "item") else found  # NumPy's and torch's numbers
        if isinstance(found, str) and found in tuple(Verdict):
            return Verdict(found), score
        if isinstance(found, bool):
            return (Verdict.CORRECT if found else Verdict.WELLFORMED_WRONG), score
        if isinstance(found, (int, float)) and 0 <= found <= 1:
            return (Verdict.CORRECT if found == 1 else Verdict.WELLFORMED_WRONG), float(found)
        expected = "expected a Verdict, true or false, or a number from 0 to 1"
        raise RuntimeError(f"the verifier {self.name} returned {found!r:.80}; {expected}")

    def verify(self, completion: str | None, row: Mapping[str, Any]) -> Verdict:
        """The verdict on one completion of a row."""
        return self.judge(completion, row)[0]
