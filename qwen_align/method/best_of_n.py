"""Best-of-N: N completions a problem, one of them chosen, side by side with the stages that the policy came from.

On the evaluation view it measures (the study's section on Countdown): whatever chooses, the data's verifier judges the chosen
one, and all policies answer the same problems, so their differences are paired. With `early_stop` a problem leaves as soon as
the verifier accepts: best-of-k stays exact for every k, since nothing that was left undrawn could change it, while pass@k would
be biased and is left out. On the prompts view it makes data: winners and pairs for `data=local`. Nothing is exported from the
evaluation view, so that nobody trains on what they measure with.
"""

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from qwen_align import model
from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.generator import Sampling, recorded
from qwen_align.method import audit, evaluate, policy, select
from qwen_align.method.draw import CompletionLog, waves
from qwen_align.method.evaluate import Measured, Metrics, Problems
from qwen_align.method.judge import Judged, Pools, judged, timeouts
from qwen_align.metric import interval
from qwen_align.metric.difference import differences
from qwen_align.metric.pass_at_k import ks
from qwen_align.reward import Reward


@dataclass
class EarlyStopped(Measured):
    """Pools that end where the verifier accepted; `samples` is what each could have held."""

    samples: int = 1

    def solved(self, n: int) -> list[bool]:
        """Whether one of the first n samples is correct, the undrawn ones included: they come after a correct one."""
        return [any(row[:n]) for row in self.correct]

    def per_problem(self) -> dict[str, list[float]]:
        """One value a problem for each metric that two policies are compared on."""
        found = {"greedy": [float(right) for right in self.correct_greedy]} if self.correct_greedy else {}
        return found | {f"best_of_{self.samples}": [float(right) for right in self.solved(self.samples)]}

    def summary(self) -> Metrics:
        """Every metric with its interval; the details are of each problem's first sample, which all problems have."""
        found: Metrics = {"n": len(self.pools), "samples": self.samples}
        if self.correct_greedy:
            found["greedy"] = interval.share(self.correct_greedy)
        return found | {f"best_of_{n}": interval.share(self.solved(n)) for n in ks(self.samples)} | self.details


def token_costs(pools: Pools, samples: int) -> Metrics:
    """Tokens of these pools beside what full ones would have taken.

    The latter is N times the tokens of all problems' first samples: those were drawn before anything could stop, so they are a
    fair sample, while the mean over what was drawn would count hard problems more often. The ratio's interval (delta method,
    bootstrap over problems) carries the chance in both.
    """
    spent = [float(sum(c.tokens for c in pool)) for pool in pools]
    full = [float(samples * pool[0].tokens) for pool in pools]
    ratio = sum(spent) / sum(full)
    spread = [ratio + (s - ratio * f) / fmean(full) for s, f in zip(spent, full, strict=True)]
    return {"tokens": int(sum(spent)), "tokens_without_stop": int(sum(full)), "token_ratio": interval.mean(spread)}


def stopped_pools(
    problems: Problems, log: CompletionLog, loaded: model.Policy, label: str, drawn: Sampling
) -> list[list[Judged]]:
    """Each problem's samples in waves, until the verifier accepts one."""
    pools: list[list[Judged]] = [[] for _ in problems.rows]
    left = list(range(len(pools)))
    for number, size in enumerate(waves(drawn.n)):
        seed = zlib.crc32(f"{drawn.seed} {label} {number}".encode()) if number else drawn.seed
        wave = log.sample(loaded, label, f"samples {number + 1}", replace(drawn, n=size, seed=seed), left)
        for i, found in zip(left, wave, strict=True):
            pools[i] += judged(problems.verifier, problems.rows[i], found)
        left = [i for i in left if not any(c.correct for c in pools[i])]
    return pools


def measure(
    job: Job, problems: Problems, log: CompletionLog, loaded: model.Policy, label: str, rewards: Sequence[Reward]
) -> Measured:
    """Let a policy answer all problems, judge what is chosen, and export winners of training problems."""
    settings, drawn = job.method, evaluate.sampling(job, job.method)
    policy.to_device(loaded[0], job)
    before, exports = timeouts(problems.verifier), settings.view == "prompts"
    greedy: list[Judged] = []
    if not exports:
        greedy = [first for (first,) in problems.judged(log.sample(loaded, label, "greedy", drawn.greedy()))]
    began, resumed = time.monotonic(), log.resumed
    if settings.early_stop:
        pools = stopped_pools(problems, log, loaded, label, drawn)
    else:
        pools = problems.judged(log.sample(loaded, label, "samples", drawn))
    # Time is only reported where all of it was spent here.
    clock = {"sampling_seconds": round(time.monotonic() - began, 1)} if log.resumed == resumed else {}
    stop = audit.stop_criteria(label, loaded, drawn.max_completion_length)
    chosen_by = select.criteria(settings.select, problems.verifier, rewards, problems.rows, pools, loaded[1])
    if exports:
        winners, pairs = select.export(problems.folder, problems.rows, pools, chosen_by, settings.select)
        print(
            f"{winners} winners in demonstrations.jsonl, {pairs} pairs in preferences.jsonl, of {len(pools)} problems",
            flush=True,
        )
    if settings.early_stop:
        problems.record(label, greedy, pools)
        details = problems.details(greedy, [pool[:1] for pool in pools], stop, before)
        return EarlyStopped(greedy, pools, details | token_costs(pools, drawn.n) | clock, samples=drawn.n)
    found = problems.measured(greedy, pools, stop, before, None if exports else recorded.name_of(label))
    found.details |= {"tokens": sum(c.tokens for pool in pools for c in pool)} | clock
    if settings.select != "verifier":
        pick = select.PICK[settings.select]
        for n in ks(drawn.n):
            picked = [pool[pick(by[:n])] for pool, by in zip(pools, chosen_by, strict=True)]
            found.chosen[f"{settings.select}@{n}"] = [completion.correct for completion in picked]
    return found


def unique(names: Sequence[str]) -> list[str]:
    """Names told apart: sft, sft_2 for two SFT stages in one line of descent."""
    return [name if (n := names[: i + 1].count(name)) == 1 else f"{name}_{n}" for i, name in enumerate(names)]


def best_of_n(job: Job, data: Data, folder: Path) -> Metrics:
    """Measure the policy, and with `ancestors` the stages it came from, on the same problems; or export its winners."""
    settings = job.method
    verifier = data.judged("method=best_of_n")
    rows = evaluate.rows_of(data, settings, folder)
    rewards = select.rewards(settings.reward, rows)
    problems = Problems(rows, verifier, folder)
    log = evaluate.completion_log(job, problems, folder / "completions.jsonl")
    *earlier, label = unique([ancestor.method for ancestor in job.ancestors] or ["policy"])
    folders = {name: ancestor.folder for name, ancestor in zip(earlier, job.ancestors, strict=False)}
    if not settings.ancestors or settings.view == "prompts":
        folders = {}
    measured: dict[str, Measured] = {}
    for name in (*folders, label):
        loaded = model.from_run(folders[name]) if name in folders else policy.load(job)
        measured[name] = measure(job, problems, log, loaded, name, rewards)
    policies = {name: found.summary() for name, found in measured.items()}
    metric = f"{'best_of_' if settings.select == 'verifier' else f'{settings.select}@'}{ks(settings.samples)[-1]}"
    return {
        "policies": policies,
        "differences": differences({name: found.per_problem() for name, found in measured.items()}),
        "headline": evaluate.headline(policies[label], metric),
    }
