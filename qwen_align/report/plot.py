"""The report's plots as PNG: best-of-N, reward and loss, each only where there is something to draw.

Drawn on matplotlib's Figure, not on pyplot: no display, no global state, a shorter import. The background is white on any page.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_align.metric.interval import Interval
from qwen_align.metric.name import best_of
from qwen_align.report.evidence import Evidence

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: told apart by everybody
_SMOOTHED_FROM = 40  # points; below that a running mean hides more than it shows
_REWARD = {"reward": "reward", "reward_std": "its standard deviation over a step"}
_CURVES = {  # file -> panels of what trainers log: title -> key -> label
    "reward.png": {"reward": _REWARD, "kl": {"kl": "kl"}, "held-out prompts": {"held_out": "exact judge"}},
    "loss.png": {"loss": {"loss": "loss"}},
}


@dataclass(frozen=True)
class Line:
    """y over x; `band` is (low, high) along it, `level` one more value that is drawn dotted across the panel."""

    label: str
    x: list[float]
    y: list[float]
    band: tuple[list[float], list[float]] | None = None
    level: float | None = None


@dataclass(frozen=True)
class Panel:
    """One set of axes; `powers` puts x on a log2 axis with a tick at each point, `noisy` adds a running mean."""

    title: str
    x: str
    y: str
    lines: list[Line]
    powers: bool = False
    noisy: bool = False


def panels(evidence: Evidence) -> dict[str, list[Panel]]:
    """File -> its panels, one for each training stage and kind of curve; none where nothing was measured or logged."""
    policies = []
    for policy, summary in evidence.policies.items():
        metrics = summary.metrics
        points = {n: p for n, name in best_of(metrics).items() if isinstance(p := metrics[name], Interval)}
        if len(points) > 1:
            band = [p.low for p in points.values()], [p.high for p in points.values()]
            greedy = level.mean if isinstance(level := metrics.get("greedy"), Interval) else None
            policies.append(Line(policy, [float(n) for n in points], [p.mean for p in points.values()], band, greedy))
    best = [Panel("N samples and a verifier", "N", "problems solved", policies, powers=True)] if policies else []
    found = {"best_of_n.png": best}
    for name, kinds in _CURVES.items():
        found[name] = [
            Panel(f"{one.stage.label}: {title}", "step", title, lines, noisy=title != "loss")
            for one in evidence.stages
            for title, keys in kinds.items()
            if (lines := _logged(one.log, keys))
            # RLOO's loss is about 0 by construction: where a reward is logged, that is the curve to read
            and not (title == "loss" and any("reward" in line for line in one.log))
        ]
    return found


def _logged(log: list[dict[str, Any]], keys: dict[str, str]) -> list[Line]:
    kept = {key: [line for line in log if line.get(key) is not None] for key in keys}
    return [Line(keys[k], [at["step"] for at in own], [float(at[k]) for at in own]) for k, own in kept.items() if own]


def draw(path: Path, panels: list[Panel]) -> None:
    """Write the panels, two in a row."""
    from matplotlib.figure import Figure

    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(8.0 if columns == 1 else 5.2 * columns, 3.7 * rows), layout="constrained")
    for i, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, i + 1), panel)
    _save(figure, path)


def intervals(path: Path, title: str, rows: dict[str, Interval]) -> None:
    """Write one dot a row with its interval, the first row on top and its interval as a band behind the others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.0 + 0.34 * len(rows)), layout="constrained")
    axes, first = figure.add_subplot(), next(iter(rows.values()))
    axes.axvspan(first.low, first.high, color=_COLOURS[0], alpha=0.12, linewidth=0)
    for y, row in enumerate(rows.values()):
        sides = [[row.mean - row.low], [row.high - row.mean]]
        axes.errorbar([row.mean], [y], xerr=sides, fmt="o", color=_COLOURS[0], markersize=5, capsize=3)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.invert_yaxis()
    axes.set_title(title)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    temporary.replace(path)


def _draw_panel(axes: Any, panel: Panel) -> None:
    import numpy as np
    from matplotlib import ticker

    for i, line in enumerate(panel.lines):
        colour = _COLOURS[i % len(_COLOURS)]
        window = len(line.y) // 12 if panel.noisy and len(line.y) >= _SMOOTHED_FROM else 0
        if window:
            axes.plot(line.x, line.y, color=colour, alpha=0.3, linewidth=1)
            x, y = (np.convolve(values, np.ones(window) / window, "valid") for values in (line.x, line.y))
            axes.plot(x, y, color=colour, linewidth=1.8, label=f"{line.label}, mean of {window} points")
        else:
            style = {"marker": "o", "markersize": 4} if panel.powers or len(line.y) == 1 else {}
            axes.plot(line.x, line.y, color=colour, linewidth=1.8, label=line.label, **style)
        if line.band:
            axes.fill_between(line.x, *line.band, color=colour, alpha=0.15, linewidth=0)
        if line.level is not None:
            axes.axhline(line.level, color=colour, linestyle=":", linewidth=1.5, label=f"{line.label}, greedy")
    if panel.powers:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for line in panel.lines for x in line.x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(bottom=0)
    values = [y for line in panel.lines for y in line.y]
    if not panel.powers and min(values) > 0 and max(values) > 8 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False, fontsize="small")
