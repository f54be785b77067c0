"""The names of metrics that a number of samples belongs to: pass@k, best_of_N, and what chose one of N.

Who reads numbers back (report, sweep) asks here what a name says; any other name is a metric of its own.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

CHOSEN = ("majority@", "reward@")  # one sample was chosen, without the verifier
_NAME = re.compile(rf"(pass@|best_of_|{'|'.join(CHOSEN)})(\d+)")


class OfSamples(NamedTuple):
    """A metric of `n` samples."""

    kind: str
    n: int


def of_samples(metric: str) -> OfSamples | None:
    """Kind and number of samples of a name such as best_of_16; None for any other metric."""
    found = _NAME.fullmatch(metric)
    return OfSamples(found[1], int(found[2])) if found else None


def best_of(metrics: Iterable[str]) -> dict[int, str]:
    """N -> the name of its best-of-N metric, in order."""
    named = ((name, of_samples(name)) for name in metrics)
    return dict(sorted((found.n, name) for name, found in named if found and found.kind == "best_of_"))
