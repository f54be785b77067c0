"""What a suite's rows become: tables on the terminal and in <suite>.md, <suite>.json, <suite>.png, and one line of JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwen_align import run_folder
from qwen_align.bench import drawing
from qwen_align.bench.row import PARTS, Row


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(rows: Sequence[Row], before: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The rows as a Markdown table; `before` are those of an earlier run by name: a column says ours now over ours then."""
    known = before or {}
    more = " of the baseline |" if any(row.name in known for row in rows) else ""
    lines = [
        f"| case | ours | the usual way | ratio | range | rounds |{more} |",
        f"|---|---|---|---|---|---|{'---|' if more else ''}---|",
    ]
    for r in rows:
        rates = f"{_rate(r.ours)} {r.unit}/s | {_rate(r.theirs)} {r.unit}/s"
        then = known.get(r.name)
        share = "" if not more else f" {r.ours / then['ours']:.2f} x |" if then else " |"
        lines.append(f"| {r.name} | {rates} | {r.ratio:.2f} | {r.low:.2f} .. {r.high:.2f} | {r.rounds} |{share} {r.note} |")
    return "\n".join(lines) + "\n"


def budgets(rows: Sequence[Row]) -> str:
    """A table of where the steps went, in ms, of the rows that know it."""
    known = [(f"{row.name}: {side}", of_side) for row in rows for side, of_side in row.details.items()]
    if not known:
        return ""
    names = [part for part in PARTS if any(of_side["budget_ms"].get(part) for _, of_side in known)]
    lines = [
        f"| ms a step | all | {' | '.join(names)} | tokens/s | memory MB | FLOP utilisation |",
        "|---" * (len(names) + 5) + "|",
    ]
    for title, of_side in known:
        spent = " | ".join(f"{of_side['budget_ms'].get(part, 0.0):,.1f}" for part in names)
        more = f"{of_side['tokens_per_s']:,.0f} | {of_side['peak_memory_mb']:,.0f} | {of_side['model_flop_utilisation']:.0%}"
        lines.append(f"| {title} | {of_side['ms_per_step']:,.0f} | {spent} | {more} |")
    return "\n" + "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write(suite: str, rows: list[Row], folder: Path, machine: dict[str, Any], before: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the tables, write them and the rows, and end with the rows as one line of JSON."""
    text = f"{table(rows, before)}{budgets(rows)}"
    print(f"\n{machine['device']}\n\n{text}")
    known = {"suite": suite, **machine, "rows": [asdict(row) for row in rows]}
    run_folder.write_text(folder / f"{suite}.md", f"# {suite}\n\n{machine['device']}, {machine['date']}\n\n{text}")
    run_folder.write_json(folder / f"{suite}.json", known)
    drawing.draw(folder, suite, rows)
    print(f"written to {folder / suite}.json, .md and .png")
    print(json.dumps(_rounded({**known, "rows": [_rounded(asdict(row)) for row in rows]})), flush=True)
