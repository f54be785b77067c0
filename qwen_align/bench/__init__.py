"""Speed: ours and the usual way take turns in one run, and a ratio comes with its spread.

python -m qwen_align.bench suite=verifier      (or: make bench SUITE=verifier)

A suite is a YAML in conf/bench/ whose `_target_` is the `run` of a module here, which gives rows.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_align import run_folder


@dataclass(frozen=True)
class Row:
    """One comparison. Ratios are theirs' time over ours: 2 means twice as fast as the usual way."""

    name: str
    unit: str  # of the rates, a second
    ours: float
    theirs: float
    ratio: float
    low: float  # 5th and 95th percentile of the rounds' ratios
    high: float
    rounds: int
    note: str = ""


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


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| case | ours | the usual way | ratio | 5 % .. 95 % | rounds | |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        rates = f"{_rate(r.ours)} {r.unit}/s | {_rate(r.theirs)} {r.unit}/s"
        lines.append(f"| {r.name} | {rates} | {r.ratio:.2f} | {r.low:.2f} .. {r.high:.2f} | {r.rounds} | {r.note} |")
    return "\n".join(lines) + "\n"


def write(suite: str, rows: list[Row], folder: Path, machine: dict[str, Any]) -> None:
    """Print the table and write it as <suite>.md and <suite>.json."""
    print("\n" + table(rows))
    run_folder.write_text(folder / f"{suite}.md", f"# {suite}\n\n{table(rows)}")
    run_folder.write_json(folder / f"{suite}.json", {"suite": suite, **machine, "rows": [asdict(r) for r in rows]})
    print(f"written to {folder / suite}.json and .md")
