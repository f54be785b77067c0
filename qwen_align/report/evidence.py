"""What the run folders of a job say, read without torch: the numbers behind a report, and what their intervals carry.

Policies and metrics are taken as they come: a policy is any name, a metric a number or {mean, low, high}. Nothing is tested
here: a difference is what the stage that saw every problem computed, and stages that were measured apart stay uncompared.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_align.stage import run_folder

if TYPE_CHECKING:
    from qwen_align.stage.plan import Stage

Summary = dict[str, Any]  # metric -> a number or {mean, low, high}
GLOSSARY = {
    "greedy": "the share of problems whose most likely completion is right: one answer, no chance in it.",
    "pass@1": "the chance that one sampled completion is right, averaged over the problems.",
    "pass@k": "the chance that at least one of k sampled completions is right, estimated without bias from all samples.",
    "best-of-N": "the share of problems where one of the first N samples is right, so that a verifier can pick it.",
    "wellformed, truncated": "the shares of samples that the verifier could read, and that were cut at the token limit.",
    "mean characters": "the length of recorded samples, whose tokens nobody counted.",
    "interval": "[low, high]: drawn again from other problems of this kind, 95 % of such intervals hold the true value. "
    "Each stage was trained once, so what another training seed would change is not in it.",
    "paired": "both policies answered the same problems; the interval is that of their difference, problem by problem.",
    "beyond noise": "the interval of a paired difference excludes 0. Otherwise the data doesn't tell which policy is better.",
}
AUDIT_TERMS = {
    "ended by stop": "the share of samples that ended by the policy's stop token; the others were cut at the token limit.",
    "answers per completion": "how many answers the data's verifier finds in a sample (for maths: marked ones), the mean.",
    "several answers, no answer": "the shares of samples that hold more than one, and none. Where there are several the policy "
    "did not stop when its answer was complete.",
    "last answer correct": "as judged everywhere else in this report: pass@1.",
    "first answer correct": "what pass@1 would be if the first answer of each sample were judged instead of the last.",
    "first changes verdict": "the share of samples whose verdict would be another one then; verdicts changed is their number.",
    "last rollouts": "what RLOO sampled while it trained, the mean of its last logged steps.",
}


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


def audits(evidence: Evidence) -> dict[str, Summary]:
    """How completions ended and what answers they held: of each policy that was measured, and of RLOO's own rollouts."""
    found = {
        policy: {key: summary[key] for key in ("truncated",) if key in summary} | summary["audit"]
        for policy, summary in evidence.policies.items()
        if len(summary.get("audit", {})) > 1  # warnings are always there
    }
    for stage, metrics in zip(evidence.stages, evidence.metrics, strict=True):
        if rollouts := metrics.get("train", {}).get("rollouts"):
            found[f"{stage.label}, last rollouts"] = rollouts
    return found


def warnings(evidence: Evidence) -> list[tuple[str, str, str]]:
    """(stage, when, text) of what trainers' logs and audits said."""
    found = []
    for stage, metrics in zip(evidence.stages, evidence.metrics, strict=True):
        for warning in metrics.get("train", {}).get("warnings", []):
            found.append((stage.label, str(warning["step"]), warning["text"]))
        summaries = {"": metrics.get("evaluation") or {}} | (metrics.get("policies") or {})
        for policy, summary in summaries.items():
            for text in summary.get("audit", {}).get("warnings", []):
                found.append((stage.label, f"evaluation{f' of {policy}' if policy else ''}", text))
    return found


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
        found[policy] |= {key: summary[key] for key in ("n", "audit") if key in summary}
        intervals[policy] = {key: {"low": value["low"], "high": value["high"]} for key, value in main.items()}
    found |= {pair: metrics["pass@1"] for pair, metrics in evidence.differences.items() if "pass@1" in metrics}
    return found | {"seconds": evidence.seconds, "intervals": intervals, "differences": evidence.differences}
