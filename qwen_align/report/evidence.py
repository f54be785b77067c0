"""What the run folders of a job say, read without torch: the numbers behind a report, and what their intervals carry.

A policy is any name, a metric any name with an interval or a plain number. A difference is what the stage that saw all problems
computed; stages measured apart stay uncompared.
"""

from dataclasses import dataclass, field
from typing import Any

from qwen_align import run_folder
from qwen_align.metric.difference import Difference
from qwen_align.metric.interval import Interval
from qwen_align.metric.name import CHOSEN, best_of, of_samples
from qwen_align.stage.plan import Stage

Metrics = dict[str, Interval | float]


@dataclass(frozen=True)
class Summary:
    """What was measured of one policy; `audit` holds warnings too, `labels` a classifier's confusions."""

    metrics: Metrics = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> int | None:
        return int(n) if isinstance(n := self.metrics.get("n"), int) else None

    def main(self) -> dict[str, Interval]:
        """The metrics with an interval that a policy is known by: of pass@k the first, of best-of-N the largest."""
        named = {key: name for key in self.metrics if (name := of_samples(key))}
        chosen = [key for key, name in named.items() if name.kind in CHOSEN]
        kept = {"pass@1", *list(best_of(self.metrics).values())[-1:], *chosen[-1:]}
        intervals = {key: value for key, value in self.metrics.items() if isinstance(value, Interval)}
        return {key: value for key, value in intervals.items() if key not in named or key in kept}


@dataclass(frozen=True)
class Headline:
    """The number that a stage is known by; `policy` where it measured several."""

    name: str
    policy: str | None
    n: int
    value: Interval


@dataclass(frozen=True)
class Outcome:
    """One stage with its run.json, its metrics.json and the lines of its metrics.jsonl."""

    stage: Stage
    run: dict[str, Any]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]
    headline: Headline | None
    evaluation: Summary | None  # of the policy that the stage trained or measured
    policies: dict[str, Summary]
    differences: list[Difference]

    @property
    def train(self) -> dict[str, Any]:
        """What the trainer reported; empty for a stage that samples."""
        return self.metrics.get("train") or {}

    @property
    def recorded(self) -> dict[str, Any]:
        """A file's own scores beside our verdicts; empty for completions that were sampled here."""
        return dict(typed(self.metrics.get("recorded") or {}))

    @property
    def has_rows(self) -> bool:
        """Whether its policies are the rows of a table, so that it is read over seeds, not policy by policy."""
        return bool(self.stage.config.get("method", {}).get("rows"))

    @property
    def shown_differences(self) -> list[Difference]:
        """The differences on a page: of many pairs those over the baseline, of a table none."""
        baseline = self.metrics.get("baseline")
        return [d for d in self.differences if baseline in (None, d.before) and not self.has_rows]


@dataclass(frozen=True)
class Evidence:
    """The stages of a job, the asked-for one last; its policies, or else each stage's own evaluation."""

    stages: list[Outcome]

    @property
    def last(self) -> Outcome:
        return self.stages[-1]

    @property
    def policies(self) -> dict[str, Summary]:
        return self.last.policies or {one.stage.method: one.evaluation for one in self.stages if one.evaluation}

    @property
    def seconds(self) -> float:
        """What all stages took, whenever they ran."""
        return round(sum(one.run.get("seconds", 0.0) for one in self.stages), 1)


def typed(value: Any) -> Any:
    """JSON with every {mean, low, high} as an Interval."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"mean", "low", "high"}:
        return Interval(**value)
    return {key: typed(one) for key, one in value.items()}


def numeric(found: dict[str, Any]) -> Metrics:
    """The intervals and plain numbers among what was found."""
    return {key: value for key, value in found.items() if isinstance(value, Interval | int | float)}


def summary_of(found: dict[str, Any]) -> Summary:
    """A policy's part of metrics.json; what is neither number nor interval is no metric."""
    read = typed(found)
    return Summary(numeric(read), read.get("audit", {}), read.get("labels", {}))


def headline_of(metrics: dict[str, Any]) -> Headline | None:
    if not (found := metrics.get("headline")):
        return None
    return Headline(found["name"], found.get("policy"), found["n"], Interval(found["mean"], found["low"], found["high"]))


def outcome_of(stage: Stage) -> Outcome:
    """Read one run folder; whatever is missing there is empty."""
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    return Outcome(
        stage,
        run_folder.read_json(stage.folder / "run.json"),
        metrics,
        run_folder.read_jsonl(stage.folder / "metrics.jsonl"),
        headline_of(metrics),
        summary_of(metrics["evaluation"]) if metrics.get("evaluation") else None,
        {name: summary_of(found) for name, found in metrics.get("policies", {}).items()},
        [Difference(d["after"], d["before"], typed(d["metrics"])) for d in metrics.get("differences", [])],
    )


def gather(stages: list[Stage]) -> Evidence:
    return Evidence([outcome_of(stage) for stage in stages])


def audits(evidence: Evidence) -> dict[str, Metrics]:
    """How completions ended and what answers they held: of each policy that was measured, and of RLOO's own rollouts."""
    found = {}
    for name, summary in evidence.policies.items():
        if audit := numeric(summary.audit):
            found[name] = {key: value for key, value in summary.metrics.items() if key == "truncated"} | audit
    rollouts = {f"{one.stage.label}, last rollouts": one.train.get("rollouts") for one in evidence.stages}
    return found | {name: value for name, value in rollouts.items() if value}


def warnings(evidence: Evidence) -> list[tuple[str, str, str]]:
    """(stage, when, text) of what trainers' logs and audits warned of."""
    found = []
    for one in evidence.stages:
        found += [(one.stage.label, str(w["step"]), w["text"]) for w in one.train.get("warnings", [])]
        measured = [("evaluation", one.evaluation)] if one.evaluation else []
        measured += [(f"evaluation of {name}", summary) for name, summary in one.policies.items()]
        for when, summary in measured:
            found += [(one.stage.label, when, text) for text in summary.audit.get("warnings", [])]
    return found


def verdict(difference: Interval) -> str:
    """What the interval of a difference carries: higher, lower or within noise."""
    return "higher" if difference.low > 0 else "lower" if difference.high < 0 else "within noise"


def numbers(evidence: Evidence) -> dict[str, Any]:
    """What metrics.json of a job holds: plain means by policy, every interval, and the paired differences."""
    found, intervals = {}, {}
    for policy, summary in evidence.policies.items():
        main, counted = summary.main(), {"n": summary.problems, "audit": summary.audit or None}
        found[policy] = {k: v.mean for k, v in main.items()} | {k: v for k, v in counted.items() if v is not None}
        intervals[policy] = {key: {"low": value.low, "high": value.high} for key, value in main.items()}
    return found | {"seconds": evidence.seconds, "intervals": intervals, "differences": evidence.last.differences}
