"""Hand-made run folders, as stages leave them, for what is made of them afterwards."""

import json
from pathlib import Path
from typing import Any

from qwen_align import run_folder
from qwen_align.stage.plan import Parents, Stage

CHOICES = {"data": "countdown", "model": "countdown_tiny", "adapter": "none", "reward": "countdown"}


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def around(mean: float, half: float = 0.02) -> dict[str, float]:
    return interval(mean, mean - half, mean + half)


def summary(greedy: float, first: float, best: float) -> dict[str, Any]:
    steps = {n: around(first + (best - first) * i / 4) for i, n in enumerate((1, 2, 4, 8, 16))}
    curves = {f"{name}{n}": value for name in ("pass@", "best_of_") for n, value in steps.items()}
    return {"n": 1000, "samples": 16, "greedy": around(greedy), **curves, "wellformed": 0.98}


def stage(
    root: Path,
    method: str,
    metrics: dict[str, Any],
    parent: Stage | None = None,
    *,
    config: dict[str, Any] | None = None,
    choices: dict[str, str] = CHOICES,
    **run: Any,
) -> Stage:
    """A finished stage; `run` is what its run.json says beside that."""
    folder = root / f"{method}-countdown-countdown_tiny-00000000"
    facts = {"state": "finished", "seconds": 60.5, "started": 1_700_000_000, "versions": {"trl": "1.16.0"}}
    run_folder.write_json(folder / "run.json", facts | run)
    run_folder.write_json(folder / "metrics.json", metrics)
    known = {"seed": 0, "init": "base", "method": {"reward": {}}, "hardware": {"device": "cpu"}} | (config or {})
    return Stage(method, known, folder, "0123456789abcdef", choices, Parents(init=parent))


def lines(made: Stage, file: str, rows: list[dict[str, Any]]) -> Stage:
    """The stage with a JSONL file of these rows."""
    run_folder.write_text(made.folder / file, "".join(json.dumps(row) + "\n" for row in rows))
    return made


def trained(root: Path, method: str, log: list[dict[str, float]], parent: Stage | None = None) -> Stage:
    evaluated = summary(0.3, 0.2, 0.5)
    train = {"steps": len(log), "trainable_parameters": 509_184}
    headline = {"name": "pass@1", "policy": None, "n": 1000, **evaluated["pass@1"]}
    made = stage(root, method, {"train": train, "evaluation": evaluated, "headline": headline}, parent)
    return lines(made, "metrics.jsonl", log)


def answered(policy: str, prompt: str, text: str, verdict: str = "correct") -> dict[str, Any]:
    """A line of samples.jsonl: two samples, the greedy one among them."""
    messages = [{"role": "user", "content": prompt}]
    pool = [[text, verdict], ["", "malformed"]]
    return {"policy": policy, "prompt": messages, "greedy": pool[0], "samples": pool}


def chain(
    root: Path, metrics: dict[str, dict[str, float]] | None = None, samples: list[dict[str, Any]] | None = None
) -> list[Stage]:
    """The quickstart in miniature; `metrics` are those of the one difference."""
    found = {"greedy": interval(0.02, -0.02, 0.06), "pass@1": around(0.1), "best_of_16": around(-0.1)}
    sft = trained(root, "sft", [{"step": 10, "loss": 4.5}, {"step": 20, "loss": 0.3}])
    steps = [{"step": i, "loss": 0.0, "reward": 0.3 + i / 1000, "reward_std": 0.4, "kl": 0.01} for i in range(1, 61)]
    rloo = trained(root, "rloo", steps, sft)
    measured = {
        "policies": {"sft": summary(0.39, 0.24, 0.89), "rloo": summary(0.43, 0.34, 0.79)},
        "differences": [{"after": "rloo", "before": "sft", "metrics": metrics or found}],
        "headline": {"name": "best_of_16", "policy": "rloo", "n": 1000, **around(0.79)},
    }
    samples = samples or [answered(p, f"target {i}", "<answer>1</answer>") for p in ("sft", "rloo") for i in range(40)]
    return [sft, rloo, lines(stage(root, "best_of_n", measured, rloo), "samples.jsonl", samples)]


def page(folder: Path, name: str = "report.md") -> str:
    return (folder / name).read_text(encoding="utf-8")


def section(folder: Path, title: str) -> str:
    """What report.md says under a heading."""
    return page(folder).partition(f"## {title}\n")[2].partition("\n## ")[0]


def headings(folder: Path) -> list[str]:
    return [line.removeprefix("## ") for line in page(folder).splitlines() if line.startswith("## ")]


def paragraph(folder: Path) -> str:
    """The summary on top of report.md."""
    return page(folder).split("\n")[2]
