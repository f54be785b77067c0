"""Where steps went, as bars, and how seconds grow, as lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen_align.bench.row import PARTS, Row

_COLOURS = ("#0072B2", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#E69F00", "#999999", "#444444", "#DDDDDD")


def series(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each series, in their order."""
    return [[row for row in rows if row.series == name] for name in dict.fromkeys(row.series for row in rows if row.series)]


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    known = [(f"{row.name}: {side}", of_side["budget_ms"]) for row in rows for side, of_side in row.details.items()]
    for y, (_, budget) in enumerate(known):
        left, whole = 0.0, sum(budget.values())
        for part, colour in zip(PARTS, _COLOURS, strict=True):
            width = budget.get(part, 0.0) / whole
            axes.barh(y, width, left=left, color=colour, label=part if y == 0 else None)
            left += width
    axes.set_yticks(range(len(known)), [title for title, _ in known], fontsize="small")
    axes.set(title="Where a step goes", xlabel="share of the step", xlim=(0, 1))
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="upper center", bbox_to_anchor=(0.4, -0.12))


def _growth(axes: Any, rows: Sequence[Row]) -> None:
    x = [row.point for row in rows]
    for side, colour in (("ours", "#0072B2"), ("theirs", "#D55E00")):
        seconds = [row.details[side]["ms_per_step"] / 1e3 if row.details else row.units / getattr(row, side) for row in rows]
        axes.loglog(x, seconds, "o-", color=colour, label=side)
    axes.set_title(f"{rows[0].name} .. {rows[-1].name}", fontsize="small")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")


def draw(folder: Path, suite: str, rows: Sequence[Row]) -> None:
    """Write <suite>-budget.png of the rows outside a series, and <suite>-growth.png of the series."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if alone := [row for row in rows if row.details and row.point is None]:
        figure = Figure(figsize=(10.4, 1.5 + 0.6 * len(alone)), layout="constrained")
        _bars(figure.add_subplot(), alone)
        FigureCanvasAgg(figure).print_png(folder / f"{suite}-budget.png", metadata={"Software": None})
    if curves := series(rows):
        lines = -(-len(curves) // 2)
        figure = Figure(figsize=(10.4, 3.4 * lines), layout="constrained")
        for i, curve in enumerate(curves):
            _growth(figure.add_subplot(lines, 2, i + 1), curve)
        FigureCanvasAgg(figure).print_png(folder / f"{suite}-growth.png", metadata={"Software": None})
