"""A comparison's row, and two ways that take turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

PARTS = (  # of a training step's budget
    "generation", "old log-probs", "reference", "reward", "forward", "backward", "optimizer", "logging", "saving", "rest",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison. Ratios are theirs' time over ours: 2 means twice as fast as the usual way."""

    name: str
    unit: str  # of the rates, a second
    ours: float
    theirs: float
    ratio: float
    low: float  # of the rounds' ratios: 5th percentile, or the lowest where rounds are few
    high: float
    rounds: int
    note: str = ""
    details: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a training step: ours and theirs
    series: str = ""  # the name of the first row of the series that it belongs to
    point: float | None = None  # where the row stands in it
    units: float = 0.0  # of the work that one point is


def interleaved(
    name: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int, note: str = ""
) -> Row:
    """Let two ways take turns for some rounds, each first in every second one; each call returns how many units it did."""
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in tqdm(range(rounds), desc=name, mininterval=1.0):
        pair = [("ours", ours), ("theirs", theirs)]
        for label, work in pair if turn % 2 else reversed(pair):
            began = time.perf_counter()
            units = work()
            rates[label].append(units / (time.perf_counter() - began))
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True))
    at = lambda share: ratios[min(round(share * (len(ratios) - 1)), len(ratios) - 1)]  # noqa: E731
    one, other, ratio = (statistics.median(values) for values in (rates["ours"], rates["theirs"], ratios))
    return Row(name, unit, one, other, ratio, at(0.05), at(0.95), rounds, note)
