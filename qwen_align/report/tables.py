"""The table of a comparison whose policies are rows trained with several seeds, and the claims that stand or fall with it.

One value a problem and seed is read from the comparison's per_problem.json. An interval carries both the training seed and the
choice of problems (metric/interval.py, crossed); a row of one seed knows of problems alone.
"""

from dataclasses import dataclass

from qwen_align import run_folder
from qwen_align.errors import ConfigError, nearest
from qwen_align.metric import interval
from qwen_align.metric.claim import Contrast, Finding, check_claims, contrast, judge
from qwen_align.metric.interval import Interval
from qwen_align.report.render import Row, Section, formatted
from qwen_align.stage import text
from qwen_align.stage.plan import Stage

PLOT = "table.png"
INTERVAL = (
    "In brackets 95 % intervals: over seeds (Student's t) and problems (bootstrap) together where a row has several seeds, "
    "over problems alone where it has one. Differences are paired, problem by problem and seed by seed."
)
_CONFIRMED = "Confirmed: every interval is above 0"


@dataclass(frozen=True)
class TableRow:
    """A row's metrics, and what it has over the first row."""

    seeds: list[int]
    metrics: dict[str, Interval]
    over_first: dict[str, Contrast]


@dataclass(frozen=True)
class Table:
    """What a comparison says about its rows."""

    title: str
    problems: int
    metrics: list[str]
    rows: dict[str, TableRow]
    findings: list[Finding]


def of(stage: Stage) -> Table | None:
    """The table of a finished comparison; None where its policies are no rows, or nothing is measured yet."""
    method = stage.config.get("method", {})
    kept = run_folder.read_json(stage.folder / "per_problem.json")
    if not method.get("rows") or not kept:
        return None
    measured, metrics = next(iter(kept.values())), list(method["metrics"])
    if wrong := next((metric for metric in metrics if metric not in measured), None):
        known = ", ".join(measured)
        raise ConfigError(f"method.metrics: {wrong}: was not measured{nearest(wrong, list(measured))}; it has {known}")
    policies = {name: dict(zip(row["seeds"], row["policies"], strict=True)) for name, row in method["rows"].items()}
    values, rows = {}, {}
    for name, own in policies.items():
        values[name] = {metric: {seed: kept[policy][metric] for seed, policy in own.items()} for metric in metrics}
        first = next(iter(values))
        shared = name != first and own.keys() & policies[first].keys()
        over_first = {metric: contrast(values[name][metric], values[first][metric]) for metric in metrics if shared}
        crossed = {metric: interval.crossed(list(seeds.values())) for metric, seeds in values[name].items()}
        rows[name] = TableRow(list(own), crossed, over_first)
    findings = [judge(claim, values) for claim in check_claims(method)]
    return Table(method["title"], len(measured[metrics[0]]), metrics, rows, findings)


def sections(table: Table) -> list[Section]:
    """The table, its claims and a plot of its first metric, for a page."""
    first, metric = next(iter(table.rows)), table.metrics[0]
    rows: list[Row] = [["row", "seeds", *table.metrics, f"{metric}, minus {first}"]]
    for name, row in table.rows.items():
        over = formatted(row.over_first[metric].whole, "+") if row.over_first else ""
        rows.append([name, ", ".join(map(str, row.seeds)), *(formatted(row.metrics[m]) for m in table.metrics), over])
    claims: list[Row] = [["claim", "", "compared", "difference", "of each seed"]]
    for found in table.findings:
        claim = found.claim
        about = [claim.says, "confirmed" if found.confirmed else "not confirmed"]
        factor = f"{claim.times:g} x " if claim.times != 1 else ""
        for other, one in zip(claim.than, found.contrasts, strict=True):
            own = ", ".join(formatted(seed.mean, "+") for seed in one.seeds.values())
            claims.append([*about, f"{claim.better} minus {factor}{other}", formatted(one.whole, "+"), own])
            about = ["", ""]
    steady = "; for 'steady' that of each seed too." if any(f.claim.each_seed for f in table.findings) else "."
    return [
        Section(table.title, f"{table.problems} held-out problems. {INTERVAL}", rows),
        Section(f"{table.title}: claims", _CONFIRMED + steady, claims),
        Section(f"{table.title}: {metric}", plot=PLOT),
    ]


def summary(table: Table) -> str:
    return f"{sum(f.confirmed for f in table.findings)} of {len(table.findings)} claims are confirmed."


def print_table(table: Table) -> None:
    for section in sections(table):
        if section.table:
            cells = [tuple(map(str, row)) for row in section.table]
            print(f"\n{section.title}. {section.note}\n\n{text.table(cells)}")
    print(f"\n{summary(table)}", flush=True)
