"""What a table's numbers say: each row with its interval, and each claim with the differences that it stands or falls with.

One value a problem and seed is read from the comparison's per_problem.json. An interval carries both the training seed and the
choice of problems (metric/interval.py, crossed); a row of one seed knows of problems alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.errors import ConfigError, nearest
from qwen_align.report import pages
from qwen_align.stage import run_folder

if TYPE_CHECKING:
    from qwen_align.bench.tables import Table

INTERVAL = (
    "In brackets 95 % intervals: over seeds (Student's t) and problems (bootstrap) together where a row has several seeds, "
    "over problems alone where it has one. Differences are paired, problem by problem and seed by seed."
)


def check(table: "Table") -> None:
    """Raise ConfigError for a claim about a row or a metric that the table doesn't have."""
    for claim in table.claims:
        for said in (claim["better"], *claim["than"]):
            row, _, metric = said.partition("/")
            if row not in table.rows or metric not in table.metrics:
                known = [f"{r}/{m}" for r in table.rows for m in table.metrics]
                raise ConfigError(f"tables.{table.name}.claims: {said}: no such row and metric{nearest(said, known)}")


def _difference(after: dict[int, list[float]], before: dict[int, list[float]], times: float) -> dict[str, Any]:
    """after - times x before, by seeds that both have: the whole with its interval, and each seed's own."""
    from qwen_align.metric import interval

    own = {
        seed: [a - times * b for a, b in zip(after[seed], before[seed], strict=True)]
        for seed in after
        if seed in before
    }
    return {
        **interval.crossed(list(own.values())),
        "seeds": {seed: interval.mean(values) for seed, values in own.items()},
    }


def read(table: "Table", folder: Path) -> dict[str, Any]:
    """{title, n, rows: {row: {seeds, metrics, over_first}}, claims: [...]} of a finished comparison."""
    from qwen_align.metric import interval

    kept = run_folder.read_json(folder / "per_problem.json")
    values: dict[str, dict[str, dict[int, list[float]]]] = {
        row: {m: {seed: kept[f"{row}_{seed}"][m] for seed in node["seeds"]} for m in table.metrics}
        for row, node in table.rows.items()
    }
    first = next(iter(values))
    rows = {
        row: {
            "seeds": table.rows[row]["seeds"],
            "metrics": {m: interval.crossed(list(by_seed.values())) for m, by_seed in mine.items()},
            "over_first": {
                m: _difference(by_seed, values[first][m], 1.0) for m, by_seed in mine.items() if row != first
            },
        }
        for row, mine in values.items()
    }
    found = []
    for claim in table.claims:
        times = claim.get("times", 1)
        row, _, metric = claim["better"].partition("/")
        against = {}
        for other in claim["than"]:
            its_row, _, its_metric = other.partition("/")
            against[other] = _difference(values[row][metric], values[its_row][its_metric], times)
        needed = [
            d
            for whole in against.values()
            for d in (whole, *(whole["seeds"].values() if claim.get("each_seed") else ()))
        ]
        found.append({**claim, "times": times, "against": against, "confirmed": all(d["low"] > 0 for d in needed)})
    n = len(next(iter(values[first][table.metrics[0]].values())))
    return {"title": table.title, "n": n, "folder": str(folder), "rows": rows, "claims": found}


def sections(tables: dict[str, Any]) -> list[pages.Section]:
    """Each table and its claims, for a page."""
    found = []
    for table in tables.values():
        metrics = list(next(iter(table["rows"].values()))["metrics"])
        first = next(iter(table["rows"]))
        head: pages.Row = ["row", "seeds", *metrics, f"{metrics[0]}, minus {first}"]
        rows = [head, *(_row(name, row, metrics) for name, row in table["rows"].items())]
        found.append(pages.Section(table["title"], f"{table['n']} held-out problems. {INTERVAL}", rows))
        lines: list[pages.Row] = [["claim", "", "compared", "difference", "of each seed"]]
        for claim in table["claims"]:
            lines += _claim(claim)
        words = "Confirmed: every interval is above 0" + ("; for 'steady' that of each seed too." if any(
            claim.get("each_seed") for claim in table["claims"]) else ".")  # fmt: skip
        found.append(pages.Section(f"{table['title']}: claims", words, lines))
    return found


def _row(name: str, row: dict[str, Any], metrics: list[str]) -> pages.Row:
    over = pages.shown(row["over_first"][metrics[0]], "+") if row["over_first"] else ""
    return [name, ", ".join(map(str, row["seeds"])), *(pages.shown(row["metrics"][m]) for m in metrics), over]


def _claim(claim: dict[str, Any]) -> list[pages.Row]:
    verdict = "confirmed" if claim["confirmed"] else "not confirmed"
    lines: list[pages.Row] = []
    for other, difference in claim["against"].items():
        factor = f"{claim['times']:g} x " if claim["times"] != 1 else ""
        own = ", ".join(pages.shown(d["mean"], "+") for d in difference["seeds"].values())
        compared = f"{claim['better']} minus {factor}{other}"
        lines.append(
            [
                claim["says"] if not lines else "",
                verdict if not lines else "",
                compared,
                pages.shown(difference, "+"),
                own,
            ]
        )
    return lines
