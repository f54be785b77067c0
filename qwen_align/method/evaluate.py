"""Measure one policy on held-out problems: greedy, sampled pass@k and best-of-N, each with its 95 % interval.

Every training stage ends with this, so the numbers of all stages mean the same. Completions go to samples.jsonl.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.utils import instantiate

from qwen_align import model, run_folder
from qwen_align.errors import ConfigError
from qwen_align.generator import sample
from qwen_align.method import policy
from qwen_align.metric import interval
from qwen_align.metric.pass_at_k import PassAtK, estimate


@dataclass
class Measured:
    """Verdicts on the same problems in the same order: greedy (problems,), samples (problems, n)."""

    greedy: list[bool]
    samples: list[list[bool]]
    details: dict[str, Any]

    def per_problem(self) -> dict[str, list[float]]:
        """One value a problem for each metric that two policies are compared on."""
        pool = len(self.samples[0])
        return {
            "greedy": [float(v) for v in self.greedy],
            "pass@1": [estimate(pool, sum(row), 1) for row in self.samples],
            f"best_of_{pool}": [float(any(row)) for row in self.samples],
        }

    def summary(self) -> dict[str, Any]:
        """Every metric with its interval."""
        curve = PassAtK(keep_in_memory=True).compute(predictions=self.samples)
        assert curve is not None
        return {
            "n": len(self.greedy),
            "samples": len(self.samples[0]),
            "greedy": interval.share(self.greedy),
            **curve,
            **self.details,
        }


def measure(
    loaded: model.Policy, data: Any, settings: dict[str, Any], config: dict[str, Any], folder: Path, label: str
) -> Measured:
    """Sample a policy on the first `problems` rows of the evaluation view and verify every completion."""
    if not hasattr(data, "verify"):
        raise ConfigError(
            f"data: {type(data).__name__} has no verifier; expected a data set with exact answers such as countdown"
        )
    rows = data.evaluation()
    if len(rows) < settings["problems"]:
        print(
            f"the evaluation view has {len(rows)} problems, fewer than the {settings['problems']} asked for", flush=True
        )
    rows = rows.select(range(min(settings["problems"], len(rows)))).to_list()
    run_folder.record_view(folder, "evaluation", rows)
    policy.to_device(loaded[0], config)
    source = instantiate(config["generator"], _convert_="object")
    if not source.needs_policy:
        raise ConfigError(
            "generator: a policy is measured with its own weights; expected generator=transformers or vllm"
        )
    prompts = [row["prompt"] for row in rows]
    shared: dict[str, Any] = {
        "max_completion_length": config["max_completion_length"], "seed": config["seed"], "policy": loaded,
    }  # fmt: skip
    first = sample(source, prompts, n=1, temperature=0.0, title=f"{label} greedy", **shared)
    drawn = {"n": settings["samples"], "temperature": settings["temperature"]}
    pools = sample(source, prompts, title=f"{label} samples", **drawn, **shared)
    judged = [
        [(c.text, data.verify(c.text, row)) for c in [*greedy, *pool]]
        for row, greedy, pool in zip(rows, first, pools, strict=True)
    ]
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        for row, answers in zip(rows, judged, strict=True):
            line = {"policy": label, **row, "greedy": answers[0], "samples": answers[1:]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    details = {
        "wellformed": interval.mean([fmean([v != "malformed" for _, v in answers[1:]]) for answers in judged]),
        "mean_tokens": interval.mean([fmean([c.tokens for c in pool]) for pool in pools]),
        "truncated": interval.mean([fmean([not c.finished for c in pool]) for pool in pools]),
    }
    correct = [[verdict == "correct" for _, verdict in answers] for answers in judged]
    return Measured([row[0] for row in correct], [row[1:] for row in correct], details)


def headline(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """The one number a run is known by."""
    return {"name": name, "n": summary["n"], **summary[name]}


def after_training(config: dict[str, Any], data: Any, folder: Path, train: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a training stage: what the trainer said, and the saved model measured as any other policy."""
    run_folder.write_text(folder / "samples.jsonl", "")
    measured = measure(
        model.from_run(folder), data, config["evaluation"], config, folder, config["method_name"]
    ).summary()
    return {"train": train, "evaluation": measured, "headline": headline(measured, "pass@1")}


def evaluate(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Measure the policy that `init` names."""
    label = (config.get("ancestors") or [{"method": "policy"}])[-1]["method"]
    run_folder.write_text(folder / "samples.jsonl", "")
    measured = measure(policy.load(config), data, config["method"], config, folder, label).summary()
    return {"evaluation": measured, "headline": headline(measured, "pass@1")}
