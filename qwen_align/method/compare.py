"""Several policies on the same held-out prompts: true score, judge reward, win rate over the first, length.

The study's first table (arXiv 2506.21560).

`policies` are plans of their own, trained or reused before this stage. Differences are paired over prompts; each policy was
trained once, so what another training seed would change is in no interval. A reward model is loaded once, after all sampling.
"""

from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

from qwen_align import model
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, sampling
from qwen_align.method import audit, policy
from qwen_align.method.draw import Draws
from qwen_align.method.evaluate import Measured, headline, measured_of, problems, source_of, timeouts
from qwen_align.method.rloo import build_rewards
from qwen_align.method.select import weighted
from qwen_align.metric import interval
from qwen_align.metric.win_rate import WinRate
from qwen_align.reward import Reward
from qwen_align.stage import run_folder


def judged(judge: Reward, rows: list[dict[str, Any]], pools: list[list[Completion]]) -> list[list[float]]:
    """A reward's score of every completion, weighted and clipped as everywhere.

    Raises:
        ConfigError: a column that the rows lack, or a completion that the reward says nothing about.
    """
    found = weighted([judge], rows, pools)
    if any(value == -inf for pool in found for value in pool):
        raise ConfigError(f"method.reward={judge.name}: gives some completions no score; a judge has to score all")
    return found


def against(policies: dict[str, Measured], baseline: str) -> dict[str, dict[str, Any]]:
    """Each policy's win rates over the baseline, one for each kind of score."""
    found: dict[str, dict[str, Any]] = {name: {} for name in policies}
    for name, measured in policies.items():
        for kind, values in measured.scores.items() if name != baseline else ():
            result = WinRate(keep_in_memory=True).compute(
                predictions=values, references=policies[baseline].scores[kind]
            )
            assert result is not None
            found[name][f"win_rate_over_{baseline}/{kind}"] = result["win_rate"]
    return found


def mark(policies: dict[str, dict[str, Any]], marks: dict[str, float]) -> None:
    """Put a policy's pass mark among its metrics, and say on which side of it the interval of pass@1 lies."""
    for name, summary in policies.items():
        if name not in marks or "pass@1" not in summary:
            continue
        found, wanted = summary["pass@1"], marks[name]
        summary["pass_mark"] = wanted
        side = "above" if found["low"] > wanted else "below" if found["high"] < wanted else "within noise of"
        numbers = "{mean:.3f} [{low:.3f}, {high:.3f}]".format_map(found)
        print(f"{name}: pass@1 {numbers} is {side} its pass mark {wanted:g}", flush=True)


def compare(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Sample every policy on the same prompts, score, and set them side by side."""
    settings = config["method"]
    judges = build_rewards(settings["reward"]) if settings["reward"] else []
    rows = problems(data, settings, folder, scored=bool(judges))
    draws = Draws(folder / "completions.jsonl")
    run_folder.write_text(folder / "samples.jsonl", "")
    source, prompts = source_of(config), [row["prompt"] for row in rows]
    drawing = {"max_completion_length": config["max_completion_length"], "seed": config["seed"]}
    measured: dict[str, Measured] = {}
    drawn: dict[str, list[list[Completion]]] = {}
    for name, run in settings["policies"].items():
        loaded, since, everyone = model.from_run(Path(run)), timeouts(data), range(len(rows))
        policy.to_device(loaded[0], config)
        shared: dict[str, Any] = {"label": name, "policy": loaded, **drawing}
        first = draws.sample(source, prompts, everyone, wave="greedy", n=1, temperature=0.0, **shared)
        wave = {"wave": "samples", "n": settings["samples"], **sampling(settings)}
        pools = draws.sample(source, prompts, everyone, **wave, **shared)
        drawn[name] = [pools[i] for i in everyone]
        stops = audit.stops(name, loaded, config["max_completion_length"])
        measured[name] = measured_of(data, rows, [first[i] for i in everyone], drawn[name], folder, stops, since)
    for judge in judges:
        for name, pools_of in drawn.items():
            measured[name].scores[judge.name] = judged(judge, rows, pools_of)
    baseline = next(iter(measured))
    wins = against(measured, baseline)
    policies = {name: found.summary() | wins[name] for name, found in measured.items()}
    mark(policies, settings["pass_marks"])
    per_problem = {name: found.per_problem() for name, found in measured.items()}
    run_folder.write_json(folder / "per_problem.json", per_problem)
    pairs = {
        f"{after}_minus_{before}": {
            key: interval.paired(per_problem[after][key], per_problem[before][key]) for key in per_problem[before]
        }
        for before, after in combinations(measured, 2)
    }
    kind = next(iter(measured[baseline].scores), "pass@1")
    best = max(policies, key=lambda name: policies[name][kind]["mean"])
    return {
        "policies": policies,
        "differences": {pair: value for pair, value in pairs.items() if pair.endswith(f"_minus_{baseline}")},
        "other_differences": {pair: value for pair, value in pairs.items() if not pair.endswith(f"_minus_{baseline}")},
        "headline": headline(policies[best], kind) | {"name": f"{kind} of {best}"},
    }
