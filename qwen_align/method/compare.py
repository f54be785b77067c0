"""Several policies on the same held-out prompts: true score, judge reward, win rate over the first, length.

The study's first table (arXiv 2506.21560).

`policies` are plans of their own, trained or reused before this stage. Differences are paired over prompts; each policy was
trained once, so what another training seed would change is in no interval. The judges' rewards are loaded once and asked about
two trial answers before anything is sampled.
"""

from collections.abc import Mapping
from math import inf
from pathlib import Path

from qwen_align import model, run_folder
from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.generator import recorded
from qwen_align.method import evaluate, policy, select
from qwen_align.method.evaluate import Measured, Metrics
from qwen_align.metric.difference import differences
from qwen_align.metric.win_rate import WinRate
from qwen_align.reward import Reward


def check_scores(judge: Reward, scores: list[list[float]]) -> list[list[float]]:
    """The scores; ConfigError where the judge says nothing about a completion."""
    if any(value == -inf for pool in scores for value in pool):
        raise ConfigError(f"method.reward={judge.name}: gives some completions no score; a judge has to score all")
    return scores


def win_rates(policies: Mapping[str, Measured], baseline: str) -> dict[str, Metrics]:
    """Each policy's win rates over the baseline, one for each kind of score."""
    found: dict[str, Metrics] = {name: {} for name in policies}
    for name, measured in policies.items():
        for kind, values in measured.scores.items() if name != baseline else ():
            references = policies[baseline].scores[kind]
            result = WinRate(keep_in_memory=True).compute(predictions=values, references=references)
            assert result is not None
            found[name][f"win_rate_over_{baseline}/{kind}"] = result["win_rate"]
    return found


def pass_marks(policies: Mapping[str, Metrics], marks: Mapping[str, float]) -> None:
    """Put a policy's pass mark among its metrics, and print on which side of it the interval of pass@1 lies."""
    for name, summary in policies.items():
        if name not in marks or "pass@1" not in summary:
            continue
        found, mark = summary["pass@1"], marks[name]
        summary["pass_mark"] = mark
        side = "above" if found.low > mark else "below" if found.high < mark else "within noise of"
        numbers = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
        print(f"{name}: pass@1 {numbers} is {side} its pass mark {mark:g}", flush=True)


def compare(job: Job, data: Data, folder: Path) -> Metrics:
    """Sample every policy on the same prompts, score, and set them side by side."""
    settings = job.method
    if not settings.reward:
        data.judged("method=compare without a reward")
    rows = evaluate.rows_of(data, settings, folder)
    judges = select.rewards(settings.reward, rows)
    problems = evaluate.Problems(rows, data.verifier, folder)
    log = evaluate.completion_log(job, problems, folder / "completions.jsonl")
    drawn = evaluate.sampling(job, settings)
    measured: dict[str, Measured] = {}
    tokenizers = {}
    for name, run in settings.policies.items():
        loaded = model.from_run(Path(run))
        policy.to_device(loaded[0], job)
        tokenizers[name] = loaded[1]
        measured[name] = evaluate.measure(problems, log, loaded, name, drawn, recorded.name_of(name))
    for judge in judges:
        for name, found in measured.items():
            scores = select.weighted([judge], rows, found.pools, tokenizers[name])
            found.scores[judge.name] = check_scores(judge, scores)
    baseline = next(iter(measured))
    wins = win_rates(measured, baseline)
    policies = {name: found.summary() | wins[name] for name, found in measured.items()}
    pass_marks(policies, settings.pass_marks)
    per_problem = {name: found.per_problem() for name, found in measured.items()}
    run_folder.write_json(folder / "per_problem.json", per_problem)
    metric = next(iter(measured[baseline].scores), "pass@1")
    best = max(policies, key=lambda name: policies[name][metric].mean)
    return {
        "policies": policies,
        "baseline": baseline,
        "differences": differences(per_problem),
        "headline": evaluate.headline(policies[best], metric, best),
    }
