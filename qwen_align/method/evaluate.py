"""Measure one policy on held-out problems: greedy, sampled pass@k and best-of-N, each with its 95 % interval.

Every training stage ends with this, so the numbers of all stages mean the same. Completions go to samples.jsonl.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.utils import instantiate

from qwen_align import model, run_folder
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Generator, sample
from qwen_align.method import policy
from qwen_align.metric import interval
from qwen_align.metric.pass_at_k import PassAtK, estimate


@dataclass
class Measured:
    """What is known of a policy on some problems, in their order.

    greedy (problems,) and samples (problems, n) are verdicts, or None where nothing was or could be verified; scores are
    numbers for the same samples, by what they are called.
    """

    greedy: list[bool] | None
    samples: list[list[bool]] | None
    details: dict[str, Any]
    scores: dict[str, list[list[float]]] = field(default_factory=dict, kw_only=True)

    def per_problem(self) -> dict[str, list[float]]:
        """One value a problem for each metric that two policies are compared on."""
        found = {} if self.greedy is None else {"greedy": [float(v) for v in self.greedy]}
        if self.samples is not None:
            pool = len(self.samples[0])
            found["pass@1"] = [estimate(pool, sum(row), 1) for row in self.samples]
            found[f"best_of_{pool}"] = [float(any(row)) for row in self.samples]
        return found | {kind: [fmean(row) for row in rows] for kind, rows in self.scores.items()}

    def summary(self) -> dict[str, Any]:
        """Every metric with its interval."""
        pools: Sequence[Sequence[Any]] = self.samples or next(iter(self.scores.values()))
        found: dict[str, Any] = {"n": len(pools), "samples": len(pools[0])}
        found |= {kind: interval.mean([fmean(row) for row in rows]) for kind, rows in self.scores.items()}
        if self.greedy is not None:
            found["greedy"] = interval.share(self.greedy)
        if self.samples is not None:
            found |= PassAtK(keep_in_memory=True).compute(predictions=self.samples) or {}
        return found | self.details


def problems(data: Any, settings: dict[str, Any], folder: Path, scored: bool = False) -> list[dict[str, Any]]:
    """The first `problems` rows of the settings' view, of the evaluation view where they name none.

    Raises:
        ConfigError: the data has no verifier and no reward scores either, so nothing could be said about a completion.
    """
    if getattr(data, "verify", None) is None and not scored:
        raise ConfigError(
            f"data: {type(data).__name__} has no verifier; expected a data set with exact answers such as countdown, or "
            "method=compare with a reward that judges"
        )
    view = settings.get("view", "evaluation")
    rows = getattr(data, view)()
    if len(rows) < settings["problems"]:
        print(f"the {view} view has {len(rows)} problems, fewer than the {settings['problems']} asked for", flush=True)
    chosen: list[dict[str, Any]] = rows.select(range(min(settings["problems"], len(rows)))).to_list()
    run_folder.record_view(folder, view, chosen)
    return chosen


def source_of(config: dict[str, Any]) -> Generator:
    """The generator that measures a policy."""
    source: Generator = instantiate(config["generator"], _convert_="object")
    if not source.needs_policy:
        raise ConfigError(
            "generator: a policy is measured with its own weights; expected generator=transformers or vllm"
        )
    return source


def timeouts(data: Any) -> int | None:
    """How many verdicts this process gave up so far; None where the data's verifier can't be late."""
    count = getattr(data, "timeouts", None)
    return count() if count else None


def details(
    data: Any, pools: list[list[Completion]], verdicts: list[list[str]] | None, since: int | None = None
) -> dict[str, Any]:
    """What else there is to say about the completions of each problem; `since` is what `timeouts` said before them."""
    formed = (
        {}
        if verdicts is None
        else {"wellformed": interval.mean([fmean([v != "malformed" for v in row]) for row in verdicts], shares=True)}
    )
    return formed | {
        "mean_tokens": interval.mean([fmean([c.tokens for c in pool]) for pool in pools]),
        "truncated": interval.mean([fmean([not c.finished for c in pool]) for pool in pools], shares=True),
        **({} if (count := timeouts(data)) is None else {"verifier_timeouts": count - (since or 0)}),
    }


def true_scores(data: Any, rows: list[dict[str, Any]], pools: list[list[Completion]]) -> dict[str, list[list[float]]]:
    """{"true_score": ...} by the data's exact judge, (problems, n) in [0, 1]; {} for data that has none."""
    if getattr(data, "judge", None) is None:
        return {}
    return {"true_score": [[data.judge(c.text, row) for c in pool] for row, pool in zip(rows, pools, strict=True)]}


def record(
    folder: Path, label: str, rows: list[dict[str, Any]], judged: Sequence[Sequence[tuple[str, str] | None]]
) -> None:
    """Append a policy's completions to samples.jsonl: for each problem the greedy one, or None, and then the sampled ones."""
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        for row, answers in zip(rows, judged, strict=True):
            line = {"policy": label, **row, "greedy": answers[0], "samples": answers[1:]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def measured_of(
    data: Any, rows: list[dict[str, Any]], firsts: list[list[Completion]], pools: list[list[Completion]], folder: Path,
    label: str, since: int | None,
) -> Measured:  # fmt: skip
    """Verify and judge each row's greedy completion, the only one of its list, and its samples; all go to samples.jsonl."""
    verify = getattr(data, "verify", None) or (lambda text, row: "")
    judged = [
        [(c.text, verify(c.text, row)) for c in [*first, *pool]]
        for row, first, pool in zip(rows, firsts, pools, strict=True)
    ]
    record(folder, label, rows, judged)
    scores = true_scores(data, rows, pools)
    if getattr(data, "verify", None) is None:
        return Measured(None, None, details(data, pools, None, since), scores=scores)
    found = details(data, pools, [[verdict for _, verdict in answers[1:]] for answers in judged], since)
    correct = [[verdict == "correct" for _, verdict in answers] for answers in judged]
    return Measured([row[0] for row in correct], [row[1:] for row in correct], found, scores=scores)


def measure(
    loaded: model.Policy, data: Any, settings: dict[str, Any], config: dict[str, Any], folder: Path, label: str
) -> Measured:
    """Sample a policy on the first `problems` rows of the evaluation view and verify every completion."""
    rows = problems(data, settings, folder)
    policy.to_device(loaded[0], config)
    source, since = source_of(config), timeouts(data)
    prompts = [row["prompt"] for row in rows]
    shared: dict[str, Any] = {
        "max_completion_length": config["max_completion_length"], "seed": config["seed"], "policy": loaded,
    }  # fmt: skip
    first = sample(source, prompts, n=1, temperature=0.0, title=f"{label} greedy", **shared)
    drawn = {"n": settings["samples"], "temperature": settings["temperature"]}
    pools = sample(source, prompts, title=f"{label} samples", **drawn, **shared)
    return measured_of(data, rows, first, pools, folder, label, since)


def views(data: Any) -> tuple[str, ...]:
    """The views that a data set offers; one whose views depend on its settings says so itself."""
    known = ("demonstrations", "preferences", "prompts", "evaluation")
    return data.views() if hasattr(data, "views") else tuple(view for view in known if hasattr(data, view))


def headline(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """The one number a run is known by."""
    return {"name": name, "n": summary["n"], **summary[name]}


def after_training(config: dict[str, Any], data: Any, folder: Path, train: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a training stage: what the trainer said, and the saved model measured as any other policy."""
    if run_folder.read_only:
        return {"train": train}  # rank 0 measures
    lacking = "evaluation view" if "evaluation" not in views(data) else "verifier"
    if lacking == "evaluation view" or getattr(data, "verify", None) is None:
        print(f"the data has no {lacking}, so the trained policy is not measured here; method=evaluate can", flush=True)
        return {"train": train}
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
