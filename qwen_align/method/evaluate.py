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

from omegaconf import DictConfig

from qwen_align import generator, model, run_folder
from qwen_align.config import component
from qwen_align.config.job import Job, plain
from qwen_align.data import Data
from qwen_align.generator import Generator, Sampling, recorded
from qwen_align.method import agreement, audit, policy
from qwen_align.method.draw import CompletionLog
from qwen_align.method.fit import free_memory
from qwen_align.method.judge import Judged, Pools, Row, judged, rehearse, timeouts
from qwen_align.metric import interval
from qwen_align.metric.confusion import by_label
from qwen_align.verifier import Verdict, Verifier

Metrics = dict[str, Any]  # name -> Interval, number, or what belongs together


@dataclass
class Measured:
    """What is known of a policy on some problems, in their order.

    Args:
        greedy: the greedy completion of each problem, or of none.
        pools: the sampled completions of each, equally many.
        details: further metrics.
        scores: (problems, samples) numbers by what they are called.
        chosen: for each N whether the completion chosen from the first N samples is correct.
    """

    greedy: Sequence[Judged]
    pools: Pools
    details: Metrics
    scores: dict[str, list[list[float]]] = field(default_factory=dict)
    chosen: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def correct(self) -> list[list[bool]]:
        """(problems, samples); empty where nothing could be verified."""
        return [] if self.pools[0][0].verdict is None else [[c.correct for c in pool] for pool in self.pools]

    @property
    def correct_greedy(self) -> list[bool]:
        """(problems,); empty where nothing could be verified, or nothing was greedy."""
        return [c.correct for c in self.greedy if c.verdict is not None]

    def per_problem(self) -> dict[str, list[float]]:
        """One value a problem for each metric that two policies are compared on."""
        from qwen_align.metric.pass_at_k import estimate  # evaluate and requests, which training can do without

        found = {"greedy": [float(right) for right in self.correct_greedy]} if self.correct_greedy else {}
        if self.correct:
            size = len(self.pools[0])
            found["pass@1"] = [estimate(size, sum(row), 1) for row in self.correct]
            found[f"best_of_{size}"] = [float(any(row)) for row in self.correct]
        found |= {name: [fmean(row) for row in rows] for name, rows in self.scores.items()}
        return found | {name: [float(right) for right in self.chosen[name]] for name in list(self.chosen)[-1:]}

    def summary(self) -> Metrics:
        """Every metric with its interval."""
        from qwen_align.metric.pass_at_k import PassAtK

        found: Metrics = {"n": len(self.pools), "samples": len(self.pools[0])}
        found |= {name: interval.mean([fmean(row) for row in rows]) for name, rows in self.scores.items()}
        if self.correct_greedy:
            found["greedy"] = interval.share(self.correct_greedy)
        if self.correct:
            found |= PassAtK(keep_in_memory=True).compute(predictions=self.correct) or {}
        return found | self.details | {name: interval.share(right) for name, right in self.chosen.items()}


@dataclass(frozen=True)
class Problems:
    """The problems that a stage's policies answer, and who judges the answers; the folder's samples.jsonl begins anew."""

    rows: list[Row]
    verifier: Verifier | None
    folder: Path

    def __post_init__(self) -> None:
        run_folder.write_text(self.folder / "samples.jsonl", "")

    def judged(self, completions: Sequence[Sequence[generator.Completion]]) -> list[list[Judged]]:
        """Each problem's completions with their verdicts."""
        return [judged(self.verifier, row, pool) for row, pool in zip(self.rows, completions, strict=True)]

    def record(self, label: str, greedy: Sequence[Judged], pools: Pools) -> None:
        """Append a policy's completions to samples.jsonl."""
        with (self.folder / "samples.jsonl").open("a", encoding="utf-8") as file:
            for i, (row, pool) in enumerate(zip(self.rows, pools, strict=True)):
                first, samples = ([(c.text, c.verdict or "") for c in some] for some in (greedy[i : i + 1], pool))
                line = {"policy": label, **row, "greedy": first[0] if first else None, "samples": samples}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def details(self, greedy: Sequence[Judged], pools: Pools, stop: audit.StopCriteria, before: int | None) -> Metrics:
        """What else there is to say about the completions; `before` is what `timeouts` was before they were judged."""
        found: Metrics = {}
        if self.verifier is not None:
            found["wellformed"] = audit.shares([[c.verdict != Verdict.MALFORMED for c in pool] for pool in pools])
        if any(c.tokens for pool in pools for c in pool):
            found["mean_tokens"] = interval.mean([fmean([c.tokens for c in pool]) for pool in pools])
            found["truncated"] = audit.shares([[not c.finished for c in pool] for pool in pools])
        else:  # recorded elsewhere: nobody counted
            found["mean_characters"] = interval.mean([fmean([len(c.text) for c in pool]) for pool in pools])
        if (count := timeouts(self.verifier)) is not None:
            found["verifier_timeouts"] = count - (before or 0)
        if self.verifier and self.verifier.expected and self.verifier.answer:
            answer, expected = self.verifier.answer, [self.verifier.expected(row) for row in self.rows]
            samples = [[answer(c.text) for c in pool] for pool in pools]
            found["labels"] = by_label(expected, [answer(c.text) for c in greedy], samples)
        return found | {"audit": audit.audit(self.verifier, self.rows, pools, stop)}

    def measured(
        self, greedy: Sequence[Judged], pools: Pools, stop: audit.StopCriteria, before: int | None, file: str | None
    ) -> Measured:
        """All that can be said of full pools; they go to samples.jsonl, and to `file` as generator=recorded reads it."""
        self.record(stop.label, greedy, pools)
        if file is not None and self.verifier is not None:
            firsts = [greedy[i : i + 1] for i in range(len(pools))]
            verdicts = [[c.verdict or "" for c in pool] for pool in pools]
            recorded.write(self.folder / file, self.rows, firsts, pools, verdicts)
        scores = [[c.score for c in pool if c.score is not None] for pool in pools]
        whole = all(len(row) == len(pool) for row, pool in zip(scores, pools, strict=True))
        details = self.details(greedy, pools, stop, before)
        return Measured(greedy, pools, details, {"true_score": scores} if whole else {})


def rows_of(data: Data, settings: DictConfig, folder: Path) -> list[Row]:
    """The first `problems` rows of the settings' view, of the evaluation view where they name none.

    Raises:
        ConfigError: no such view, or a verifier that fails on a trial answer.
    """
    view = settings.get("view", "evaluation")
    rows = data.rows(view)
    if len(rows) < settings.problems:
        print(f"the {view} view has {len(rows)} problems, fewer than the {settings.problems} asked for", flush=True)
    chosen: list[Row] = rows.select(range(min(settings.problems, len(rows)))).to_list()
    rehearse(data.verifier, chosen)
    run_folder.record_view(folder, view, chosen)
    return chosen


def completion_log(job: Job, found: Problems, path: Path | None) -> CompletionLog:
    """What a policy answers problems with, itself; ConfigError for a source that would answer in its place."""
    source: Generator = component.construct(plain(job.generator), "generator")
    generator.check_measures(source.needs_policy, job.name, job.generator["_target_"])
    return CompletionLog(path, source, [row["prompt"] for row in found.rows])


def sampling(job: Job, settings: DictConfig) -> Sampling:
    """How a stage's settings say that completions are drawn."""
    chances = {key: settings[key] for key in ("temperature", "top_p", "top_k")}
    return Sampling(settings.samples, max_completion_length=job.max_completion_length, seed=job.seed, **chances)


def measure(found: Problems, log: CompletionLog, loaded: model.Policy, label: str, drawn: Sampling, file: str) -> Measured:
    """Let a policy that is on its device answer all problems, greedily and in samples, and verify every completion."""
    before = timeouts(found.verifier)
    greedy = found.judged(log.sample(loaded, label, "greedy", drawn.greedy()))
    pools = found.judged(log.sample(loaded, label, "samples", drawn))
    stop = audit.stop_criteria(label, loaded, drawn.max_completion_length)
    return found.measured([first for (first,) in greedy], pools, stop, before, file)


def headline(summary: Metrics, name: str, policy: str | None = None) -> Metrics:
    """The one number a run is known by, and of which policy where it measured several."""
    return {"name": name, "policy": policy, "n": summary["n"], **vars(summary[name])}


def of_policy(
    job: Job, data: Data, folder: Path, load: Callable[[], model.Policy], settings: DictConfig, label: str
) -> Metrics:
    """The metrics of one policy, which is loaded once the data are known to be right."""
    found = Problems(rows_of(data, settings, folder), data.verifier, folder)
    log = completion_log(job, found, None)
    loaded = load()
    policy.to_device(loaded[0], job)
    summary = measure(found, log, loaded, label, sampling(job, settings), "eval.json").summary()
    return {"evaluation": summary, "headline": headline(summary, "pass@1")}


def after_training(job: Job, data: Data, folder: Path, train: Metrics) -> Metrics:
    """The metrics of a training stage: what the trainer reported, and the saved model measured as any other policy."""
    if run_folder.read_only:
        return {"train": train}  # rank 0 measures
    lacking = "evaluation view" if "evaluation" not in data.views else "verifier" if data.verifier is None else None
    if lacking:
        print(f"the data has no {lacking}, so the trained policy is not measured here; method=evaluate can", flush=True)
        return {"train": train}
    metrics = of_policy(job, data, folder, lambda: model.from_run(folder), job.evaluation, job.name)
    rollouts = audit.of_log(run_folder.read_jsonl(folder / "metrics.jsonl"))
    return {"train": train | ({"rollouts": rollouts} if rollouts else {}), **metrics}


def then_measured(train: Callable[[Job, Data, Path], Metrics]) -> Callable[[Job, Data, Path], Metrics]:
    """A training method that ends with this measurement, once its own function has returned.

    Until then its variables hold the trainer: weights, gradients, optimizer, reference and reward models, beside which a second
    policy, or vLLM, may not fit.
    """

    @wraps(train)
    def both(job: Job, data: Data, folder: Path) -> Metrics:
        metrics = train(job, data, folder)
        free_memory()
        return after_training(job, data, folder, metrics)

    return both


def of_file(source: recorded.Recorded, data: Data, folder: Path) -> Metrics:
    """Measure the completions of a file, the problems its own, and set its scores beside the verifier's verdicts."""
    verifier = data.judged("generator=recorded")
    entries = source.problems(verifier)
    rows = [entry.row for entry in entries]
    rehearse(verifier, rows)
    run_folder.record_view(folder, "recorded", rows)
    found, before = Problems(rows, verifier, folder), timeouts(verifier)
    greedy = [first for pool in found.judged([entry.greedy for entry in entries]) for first in pool]
    pools = found.judged([entry.pool for entry in entries])
    print(f"{len(rows)} problems x {len(pools[0])} completions of {source.path}: all are measured", flush=True)
    summary = found.measured(greedy, pools, audit.StopCriteria("recorded", None), before, "eval.json").summary()
    beside = agreement.compared(entries, pools, verifier)
    for line in agreement.lines(beside):
        print(line, flush=True)
    return {"evaluation": summary, "recorded": beside, "headline": headline(summary, "pass@1")}


def evaluate(job: Job, data: Data, folder: Path) -> Metrics:
    """Measure the policy that `init` names, or what generator=recorded holds."""
    source = component.construct(plain(job.generator), "generator")
    if isinstance(source, recorded.Recorded):
        return of_file(source, data, folder)
    data.judged("method=evaluate")
    label = job.ancestors[-1].method if job.ancestors else "policy"
    return of_policy(job, data, folder, lambda: policy.load(job), job.method, label)
