"""Measure one policy on held-out problems: greedy, sampled pass@k and best-of-N, each with its 95 % interval.

Every training stage ends with this, so the numbers of all stages mean the same. Completions go to samples.jsonl.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.utils import instantiate

from qwen_align import model
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Generator, recorded, sample, sampling
from qwen_align.method import audit, differences, policy
from qwen_align.method.fit import free_memory
from qwen_align.metric import interval
from qwen_align.metric.pass_at_k import PassAtK, estimate
from qwen_align.stage import run_folder


@dataclass
class Measured:
    """What is known of a policy on some problems, in their order.

    greedy (problems,) and samples (problems, n) say what is correct, or are None where nothing was or could be verified;
    scores are numbers for the same samples, by what they are called, and verdicts what the verifier said of each.
    """

    greedy: list[bool] | None
    samples: list[list[bool]] | None
    details: dict[str, Any]
    scores: dict[str, list[list[float]]] = field(default_factory=dict, kw_only=True)
    verdicts: list[list[str]] | None = field(default=None, kw_only=True)

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
    data: Any, rows: list[dict[str, Any]], pools: list[list[Completion]], verdicts: list[list[str]] | None,
    since: int | None, stops: audit.Stops,
) -> dict[str, Any]:  # fmt: skip
    """What else there is to say about the completions of each problem; `since` is what `timeouts` said before them."""
    found: dict[str, Any] = {}
    if verdicts is not None:
        found["wellformed"] = audit.shares([[verdict != "malformed" for verdict in row] for row in verdicts])
    if any(c.tokens for pool in pools for c in pool):
        found["mean_tokens"] = interval.mean([fmean([c.tokens for c in pool]) for pool in pools])
        found["truncated"] = audit.shares([[not c.finished for c in pool] for pool in pools])
    else:  # recorded elsewhere: nobody counted
        found["mean_characters"] = interval.mean([fmean([len(c.text) for c in pool]) for pool in pools])
    if (count := timeouts(data)) is not None:
        found["verifier_timeouts"] = count - (since or 0)
    return found | {"audit": audit.audit(data, rows, pools, verdicts, stops)}


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
    stops: audit.Stops, since: int | None, file: str | None = None,
) -> Measured:  # fmt: skip
    """Verify and judge each row's greedy completion, if its list holds one, and its samples.

    All go to samples.jsonl, and verdicts to `file` (eval-LABEL.json) in the format that generator=recorded reads.
    """
    verify = getattr(data, "verify", None) or (lambda text, row: "")
    greedy, samples = (
        [[(c.text, verify(c.text, row)) for c in some] for row, some in zip(rows, found, strict=True)]
        for found in (firsts, pools)
    )
    both = zip(greedy, samples, strict=True)
    record(folder, stops.label, rows, [[next(iter(first), None), *pool] for first, pool in both])
    scores = true_scores(data, rows, pools)
    if getattr(data, "verify", None) is None:
        return Measured(None, None, details(data, rows, pools, None, since, stops), scores=scores)
    verdicts = [[verdict for _, verdict in pool] for pool in samples]
    recorded.write(folder / (file or recorded.name_of(stops.label)), rows, firsts, pools, verdicts)
    first = [verdict == "correct" for found in greedy for _, verdict in found] or None
    correct = [[verdict == "correct" for verdict in pool] for pool in verdicts]
    found = details(data, rows, pools, verdicts, since, stops)
    return Measured(first, correct, found, scores=scores, verdicts=verdicts)


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
    drawn = {"n": settings["samples"], **sampling(settings)}
    pools = sample(source, prompts, title=f"{label} samples", **drawn, **shared)
    stops = audit.stops(label, loaded, config["max_completion_length"])
    return measured_of(data, rows, first, pools, folder, stops, since, "eval.json")


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
    rollouts = audit.of_log(run_folder.read_jsonl(folder / "metrics.jsonl"))
    train = train | ({"rollouts": rollouts} if rollouts else {})
    return {"train": train, "evaluation": measured, "headline": headline(measured, "pass@1")}


def then_measured(train: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A training method that ends with this measurement, once its own function has returned.

    Until then its variables hold the trainer: weights, gradients, optimizer, reference and reward models, beside which a second
    policy, or vLLM, may not fit.
    """

    @wraps(train)
    def both(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
        metrics = train(config, data, folder)
        free_memory()
        return after_training(config, data, folder, metrics)

    return both


def score(source: recorded.Recorded, data: Any, folder: Path) -> dict[str, Any]:
    """Measure the completions of a file, the problems its own, and set its scores beside the verifier's verdicts."""
    found = source.problems()
    differences.check_columns(source.path, found, data)
    rows = [problem.row for problem in found]
    run_folder.record_view(folder, "recorded", rows)
    firsts, pools = [problem.greedy for problem in found], [problem.pool for problem in found]
    print(f"{len(found)} problems x {len(pools[0])} completions of {source.path}: all are measured", flush=True)
    measured = measured_of(
        data, rows, firsts, pools, folder, audit.Stops("recorded", None), timeouts(data), "eval.json"
    )
    assert measured.verdicts is not None, "the columns were checked with the verifier"
    beside = differences.compared(found, measured.verdicts, data)
    for line in differences.lines(beside):
        print(line, flush=True)
    summary = measured.summary()
    return {"evaluation": summary, "recorded": beside, "headline": headline(summary, "pass@1")}


def evaluate(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Measure the policy that `init` names, or what generator=recorded holds."""
    source = instantiate(config["generator"], _convert_="object")
    if isinstance(source, recorded.Recorded):
        run_folder.write_text(folder / "samples.jsonl", "")
        return score(source, data, folder)
    label = (config.get("ancestors") or [{"method": "policy"}])[-1]["method"]
    run_folder.write_text(folder / "samples.jsonl", "")
    measured = measure(policy.load(config), data, config["method"], config, folder, label).summary()
    return {"evaluation": measured, "headline": headline(measured, "pass@1")}
