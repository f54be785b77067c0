"""What the run folders of a job say, read without torch: the numbers behind a report, and what their intervals carry.

Policies and metrics are taken as they come: a policy is any name, a metric a number or {mean, low, high}. Nothing is tested
here: a difference is what the stage that saw every problem computed, and stages that were measured apart stay uncompared.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_align import run_folder

if TYPE_CHECKING:
    from qwen_align.plan import Stage

Summary = dict[str, Any]  # metric -> a number or {mean, low, high}


@dataclass(frozen=True)
class Evidence:
    """The stages of a job, the asked-for one last, each with its run.json, metrics.json and metrics.jsonl."""

    stages: "list[Stage]"
    runs: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    logs: list[list[dict[str, Any]]]
    policies: dict[str, Summary]
    differences: dict[str, dict[str, dict[str, float]]]

    @property
    def seconds(self) -> float:
        """What all stages took, whenever they ran."""
        return round(sum(run.get("seconds", 0.0) for run in self.runs), 1)


def gather(stages: "list[Stage]") -> Evidence:
    """Read the run folders. Policies are those that the last stage compared, or else each stage's own evaluation."""
    runs = [run_folder.read_json(stage.folder / "run.json") for stage in stages]
    metrics = [run_folder.read_json(stage.folder / "metrics.json") for stage in stages]
    logs = [run_folder.read_jsonl(stage.folder / "metrics.jsonl") for stage in stages]
    own = {stage.method: m["evaluation"] for stage, m in zip(stages, metrics, strict=True) if m.get("evaluation")}
    last = metrics[-1]
    return Evidence(stages, runs, metrics, logs, last.get("policies") or own, last.get("differences") or {})


def best_of(summary: Summary) -> dict[int, str]:
    """N -> the name of its metric, in order."""
    return dict(sorted((int(m[1]), key) for key in summary if (m := re.fullmatch(r"best_of_(\d+)", key))))


def main_metrics(summary: Summary) -> dict[str, dict[str, float]]:
    """The metrics with an interval that a policy is known by: of pass@k the first, of best-of-N the largest."""
    chosen = [key for key in summary if re.fullmatch(r"(majority|reward)@\d+", key)]
    kept = ["pass@1", *list(best_of(summary).values())[-1:], *chosen[-1:]]
    ladder = re.compile(r"(pass@|best_of_|majority@|reward@)\d+")
    return {
        key: value
        for key, value in summary.items()
        if isinstance(value, dict) and "low" in value and (key in kept or not ladder.fullmatch(key))
    }


def verdict(difference: dict[str, float]) -> str:
    """What the interval of a difference carries: higher, lower or within noise."""
    return "higher" if difference["low"] > 0 else "lower" if difference["high"] < 0 else "within noise"


def numbers(evidence: Evidence) -> dict[str, Any]:
    """What metrics.json of a job holds: plain means by policy, the paired differences of pass@1, and every interval."""
    found: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for policy, summary in evidence.policies.items():
        main = main_metrics(summary)
        found[policy] = {key: value["mean"] for key, value in main.items()}
        found[policy] |= {"n": summary["n"]} if "n" in summary else {}
        intervals[policy] = {key: {"low": value["low"], "high": value["high"]} for key, value in main.items()}
    found |= {pair: metrics["pass@1"] for pair, metrics in evidence.differences.items() if "pass@1" in metrics}
    return found | {"seconds": evidence.seconds, "intervals": intervals, "differences": evidence.differences}
