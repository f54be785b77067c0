"""Best-of-N: N completions a problem, one of them chosen, side by side with the stages that the policy came from.

On the evaluation view it measures (the study's section on Countdown): whatever chooses, the data's verifier judges the chosen
one, and all policies answer the same problems, so their differences are paired. With `early_stop` a problem leaves as soon as
the verifier accepts: best-of-k stays exact for every k, since nothing that was left undrawn could change it, while pass@k would
be biased and is left out. On the prompts view it makes data: winners and pairs for `data=local`. Nothing is exported from the
evaluation view, so that nobody trains on what they measure with.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from qwen_align import model
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, recorded, sampling
from qwen_align.method import audit, policy, select
from qwen_align.method.draw import Draws, waves
from qwen_align.method.evaluate import Measured, details, headline, problems, record, source_of, timeouts, true_scores
from qwen_align.metric import interval
from qwen_align.metric.pass_at_k import ks
from qwen_align.reward import Reward
from qwen_align.stage import run_folder


@dataclass
class Chosen(Measured):
    """Verdicts of whole pools, and for each N whether the completion chosen from the first N is correct."""

    chosen: dict[str, list[bool]] = field(default_factory=dict)

    def per_problem(self) -> dict[str, list[float]]:
        """As Measured, with the choice from the whole pool."""
        last = list(self.chosen)[-1:]
        return super().per_problem() | {key: [float(v) for v in self.chosen[key]] for key in last}

    def summary(self) -> dict[str, Any]:
        """As Measured, with the choice for each N."""
        return super().summary() | {key: interval.share(right) for key, right in self.chosen.items()}


@dataclass
class Stopped(Measured):
    """Verdicts of pools that end where the verifier accepted; `asked` is what a pool could have held."""

    asked: int = 1

    def solved(self, n: int) -> list[bool]:
        """Whether one of the first n samples is correct, the undrawn ones included: they come after a correct one."""
        assert self.samples is not None
        return [any(row[:n]) for row in self.samples]

    def per_problem(self) -> dict[str, list[float]]:
        """One value a problem for each metric that two policies are compared on."""
        found = {} if self.greedy is None else {"greedy": [float(v) for v in self.greedy]}
        return found | {f"best_of_{self.asked}": [float(v) for v in self.solved(self.asked)]}

    def summary(self) -> dict[str, Any]:
        """Every metric with its interval; the details are of each problem's first sample, which all problems have."""
        found: dict[str, Any] = {"n": len(self.solved(1)), "samples": self.asked}
        if self.greedy is not None:
            found["greedy"] = interval.share(self.greedy)
        return found | {f"best_of_{n}": interval.share(self.solved(n)) for n in ks(self.asked)} | self.details


def costs(pools: list[list[Completion]], samples: int) -> dict[str, Any]:
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


def pools_of(
    draw: Callable[..., dict[int, list[Completion]]], data: Any, rows: list[dict[str, Any]], settings: dict[str, Any],
    seed: int, label: str,
) -> tuple[list[list[Completion]], list[list[str]]]:  # fmt: skip
    """Each problem's sampled completions and their verdicts, in one wave or in several."""
    pools: list[list[Completion]] = [[] for _ in rows]
    verdicts: list[list[str]] = [[] for _ in rows]
    left = list(range(len(rows)))
    sizes = waves(settings["samples"]) if settings["early_stop"] else [settings["samples"]]
    for number, size in enumerate(sizes):
        own = zlib.crc32(f"{seed} {label} {number}".encode()) if number else seed
        name = f"samples {number + 1}" if settings["early_stop"] else "samples"
        found = draw(left, wave=name, n=size, seed=own, **sampling(settings))
        for i in left:
            pools[i] += found[i]
            verdicts[i] += [data.verify(c.text, rows[i]) for c in found[i]]
        if settings["early_stop"]:
            left = [i for i in left if select.CORRECT not in verdicts[i]]
    return pools, verdicts


def measure(
    draws: Draws, loaded: model.Policy, data: Any, rewards: list[Reward], config: dict[str, Any], label: str, last: bool
) -> Measured:
    """Sample one policy and judge what is chosen; of the `last` policy winners are exported if they may be."""
    settings, folder = config["method"], draws.path.parent
    rows = problems(data, settings, folder)
    source, seed, since = source_of(config), config["seed"], timeouts(data)
    policy.to_device(loaded[0], config)
    draw = partial(
        draws.sample, source, [row["prompt"] for row in rows], label=label, policy=loaded,
        max_completion_length=config["max_completion_length"],
    )  # fmt: skip
    firsts: list[tuple[str, str] | None] = [None] * len(rows)
    greedy: dict[int, list[Completion]] = {}
    if settings["view"] == "evaluation":
        greedy = draw(range(len(rows)), wave="greedy", n=1, temperature=0.0, seed=seed)
        firsts = [(greedy[i][0].text, data.verify(greedy[i][0].text, row)) for i, row in enumerate(rows)]
    began, before = time.monotonic(), draws.resumed
    pools, verdicts = pools_of(draw, data, rows, settings, seed, label)
    # Time is only told where all of it was spent here.
    clock = {"sampling_seconds": round(time.monotonic() - began, 1)} if draws.resumed == before else {}
    judged = [
        [first, *((c.text, verdict) for c, verdict in zip(pool, row, strict=True))]
        for first, pool, row in zip(firsts, pools, verdicts, strict=True)
    ]
    record(folder, label, rows, judged)
    stops = audit.stops(label, loaded, config["max_completion_length"])
    right = [first[1] == select.CORRECT for first in firsts if first] or None
    correct = [[verdict == select.CORRECT for verdict in row] for row in verdicts]
    by = select.values(settings["select"], data, rewards, rows, pools, verdicts)
    if settings["view"] == "prompts" and last:
        won, pairs = select.export(folder, rows, pools, verdicts, by, settings["select"])
        print(
            f"{won} winners in demonstrations.jsonl, {pairs} pairs in preferences.jsonl, of {len(rows)} problems",
            flush=True,
        )
    if settings["early_stop"]:
        found = details(data, rows, [pool[:1] for pool in pools], [row[:1] for row in verdicts], since, stops)
        return Stopped(right, correct, found | costs(pools, settings["samples"]) | clock, settings["samples"])
    if greedy:
        recorded.write(folder / recorded.name_of(label), rows, [greedy[i] for i in range(len(rows))], pools, verdicts)
    found = (
        details(data, rows, pools, verdicts, since, stops)
        | {"tokens": sum(c.tokens for pool in pools for c in pool)}
        | clock
    )
    marks = true_scores(data, rows, pools)
    if settings["select"] == "verifier":
        return Measured(right, correct, found, scores=marks)
    pick = select.PICK[settings["select"]]
    chosen = {
        f"{settings['select']}@{n}": [row[pick(b[:n])] for row, b in zip(correct, by, strict=True)]
        for n in ks(settings["samples"])
    }
    return Chosen(right, correct, found, chosen, scores=marks)


def differences(measured: dict[str, Measured]) -> dict[str, Any]:
    """after_minus_before for every pair of policies, earlier stages first; each metric with its paired interval."""
    labels = list(measured)
    found: dict[str, Any] = {}
    for i, before in enumerate(labels):
        for after in labels[i + 1 :]:
            old, new = measured[before].per_problem(), measured[after].per_problem()
            found[f"{after}_minus_{before}"] = {key: interval.paired(new[key], old[key]) for key in old}
    return found


def unique(names: list[str]) -> list[str]:
    """Names told apart: sft, sft_2 for two SFT stages in one line of descent."""
    return [name if (n := names[: i + 1].count(name)) == 1 else f"{name}_{n}" for i, name in enumerate(names)]


def judges(settings: dict[str, Any], data: Any) -> list[Reward]:
    """The rewards that choose; raises ConfigError for settings that the data or each other rule out."""
    select.check(settings)
    if settings["select"] == "majority" and getattr(data, "answer", None) is None:
        raise ConfigError(
            f"method.select=majority: {type(data).__name__} gives no answer to vote on; expected verifier or reward"
        )
    if settings["select"] != "reward":
        return []
    from qwen_align.method.rloo import build_rewards

    return build_rewards(settings["reward"])


def compare(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Measure the policy, and with `ancestors` the stages it came from, on the same problems; or export its winners."""
    settings = config["method"]
    rewards = judges(settings, data)
    draws = Draws(folder / "completions.jsonl")
    run_folder.write_text(folder / "samples.jsonl", "")
    measured: dict[str, Measured] = {}
    ancestors = config.get("ancestors", [])
    *labels, label = unique([a["method"] for a in ancestors] or ["policy"])
    if settings["ancestors"] and settings["view"] == "evaluation":
        for earlier, ancestor in zip(labels, ancestors[:-1], strict=True):
            loaded = model.from_run(Path(ancestor["folder"]))
            measured[earlier] = measure(draws, loaded, data, rewards, config, earlier, last=False)
    measured[label] = measure(draws, policy.load(config), data, rewards, config, label, last=True)
    policies = {name: value.summary() for name, value in measured.items()}
    known = "best_of_" if settings["select"] == "verifier" else f"{settings['select']}@"
    best = max((k for k in policies[label] if k.startswith(known)), key=lambda k: int(k.removeprefix(known)))
    return {"policies": policies, "differences": differences(measured), "headline": headline(policies[label], best)}
