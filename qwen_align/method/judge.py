"""Completions with what the data's verifier says of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.verifier import Verdict, Verifier

Row = dict[str, Any]  # a problem: its prompt, and the columns that a verifier or a reward reads


@dataclass(frozen=True)
class Judged(Completion):
    """A completion with its verdict, None where the data has no verifier, and its score where the verifier gives one."""

    verdict: Verdict | None = None
    score: float | None = None

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


Pools = Sequence[Sequence[Judged]]  # (problems, samples)


def judged(verifier: Verifier | None, row: Row, completions: Iterable[Completion]) -> list[Judged]:
    """One problem's completions with their verdicts."""
    found = []
    for completion in completions:
        verdict, score = verifier.judge(completion.text, row) if verifier else (None, None)
        found.append(Judged(**vars(completion), verdict=verdict, score=score))
    return found


def rehearse(verifier: Verifier | None, rows: Sequence[Row]) -> None:
    """Ask the verifier about two made-up answers to the first rows, so that a wrong one is found before anything is sampled.

    Raises:
        ConfigError: it raised, or gave something that is no verdict.
    """
    if verifier is None:
        return
    for row, text in zip(rows, ("", "A trial answer."), strict=False):
        try:
            verifier.judge(text, row)
        except RuntimeError as error:
            raise ConfigError(f"data.verifier={verifier.name}: {error} (asked about a trial answer)") from error


def timeouts(verifier: Verifier | None) -> int | None:
    """How many verdicts this process gave up so far; None where the verifier can't be late."""
    return verifier.timeouts() if verifier and verifier.timeouts else None
