"""Claims about the rows of a table: which row is better than others in which metric, by how much, over seeds and problems.

An interval carries both the training seed and the choice of problems (metric/interval.py, crossed); of one seed it knows of
problems alone. A claim is confirmed if the interval of every difference it speaks of is above 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from qwen_align.errors import ConfigError, nearest
from qwen_align.metric import interval
from qwen_align.metric.interval import Interval

Values = Mapping[int, Sequence[float]]  # seed -> one value a problem


@dataclass(frozen=True)
class Cell:
    """A row and a metric, ROW/METRIC in a config."""

    row: str
    metric: str

    def __str__(self) -> str:
        return f"{self.row}/{self.metric}"


@dataclass(frozen=True)
class Claim:
    """That a cell is better than others, `times` as good, and with `each_seed` that every seed shows it alone."""

    says: str
    better: Cell
    than: tuple[Cell, ...]
    times: float = 1
    each_seed: bool = False


@dataclass(frozen=True)
class Contrast:
    """after - times x before on the seeds that both have: the whole with its interval, and each seed's own."""

    whole: Interval
    seeds: dict[int, Interval]


@dataclass(frozen=True)
class Finding:
    """A claim with its differences, in the order of `than`."""

    claim: Claim
    contrasts: list[Contrast]
    confirmed: bool


def check_claims(method: Mapping[str, Any]) -> list[Claim]:
    """The claims of a comparison's settings: `claims` about its `rows` ({ROW: {seeds, ...}}) and `metrics`.

    ConfigError without a metric or a seed, for a claim of wrong keys, or about cells that are not there or share no seed.
    """
    if method["rows"] and not method["metrics"]:
        raise ConfigError("method.metrics=[]: expected what the rows are compared by, for example [pass@1]")
    for name, row in method["rows"].items():
        if not row["seeds"]:
            raise ConfigError(f"method.rows.{name}.seeds=[]: expected one seed or more")
    cells = {f"{row}/{metric}": Cell(row, metric) for row in method["rows"] for metric in method["metrics"]}
    found = []
    for node in method["claims"]:
        if not {"says", "better", "than"} <= set(node) <= {field.name for field in fields(Claim)}:
            raise ConfigError(f"method.claims: {node}: expected says, better and than, and maybe times and each_seed")
        for text in (node["better"], *node["than"]):
            if text not in cells:
                raise ConfigError(f"method.claims: {text}: no such row and metric{nearest(text, list(cells))}")
        better, than = cells[node["better"]], tuple(cells[text] for text in node["than"])
        for other in than:
            if not set(method["rows"][better.row]["seeds"]) & set(method["rows"][other.row]["seeds"]):
                raise ConfigError(f"method.claims: {better.row} and {other.row} have no seed in common")
        found.append(Claim(node["says"], better, than, node.get("times", 1), node.get("each_seed", False)))
    return found


def contrast(after: Values, before: Values, times: float = 1) -> Contrast:
    """after - times x before, problem by problem and seed by seed."""
    shared = [seed for seed in after if seed in before]
    own = {s: [a - times * b for a, b in zip(after[s], before[s], strict=True)] for s in shared}
    return Contrast(interval.crossed(list(own.values())), {seed: interval.mean(values) for seed, values in own.items()})


def judge(claim: Claim, values: Mapping[str, Mapping[str, Values]]) -> Finding:
    """What the values of each row and metric say about a claim."""
    better = values[claim.better.row][claim.better.metric]
    contrasts = [contrast(better, values[other.row][other.metric], claim.times) for other in claim.than]
    needed = [one.whole for one in contrasts]
    needed += [own for one in contrasts for own in one.seeds.values()] if claim.each_seed else []
    return Finding(claim, contrasts, all(one.low > 0 for one in needed))
