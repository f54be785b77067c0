"""What the terminal says about a plan: what it will do and take, how its stages ended, and the command that comes next."""

import shlex
from collections import Counter
from collections.abc import Sequence

from qwen_align import run_folder
from qwen_align.stage import forecast, preflight
from qwen_align.stage.plan import Stage
from qwen_align.stage.text import duration, short_path, table


def labels(stages: Sequence[Stage]) -> dict[Stage, str]:
    """What each stage of a plan is called: its label, and where several have the same one the policy that it makes."""
    counted = Counter(stage.label for stage in stages)
    named = {stage: name for name, stage in stages[-1].parents.policies.items() if counted[stage.label] > 1}
    return {stage: f"{stage.label} of {named[stage]}" if stage in named else stage.label for stage in stages}


def print_plan(stages: list[Stage]) -> None:
    """The stages in order, what each will do, and where; of a table its rows. ConfigError where a file can't be used."""
    read = preflight.local_files([stage for stage in stages if stage.state != "finished"])
    if stages[-1].config["method"].get("rows"):
        print(_rows(stages[-1]))
    else:
        rows = [("stage", "will", "starts from", "run folder")]
        for stage, label in labels(stages).items():
            done = {"finished": "be reused", "missing": "run", "planned": "run"}.get(stage.state, "resume")
            init, compared = stage.parents.init, len(stage.parents.policies)
            start = init.method if init else f"{compared} policies" if compared else stage.config["init"]
            rows.append((label, done, start, short_path(stage.folder)))
        print(table(rows))
    if lines := forecast_lines([stage for stage in stages if stage.state != "finished"]):
        print("\n" + "\n".join(lines))
    if read:
        print("\n" + "\n".join(read))


def _rows(comparison: Stage) -> str:
    """The rows of a table: seeds, overrides, and what is still to run; what several rows share counts with the first."""
    method = comparison.config["method"]
    lines = [("row", "seeds", "overrides", "to run")]
    counted: set[Stage] = set()
    for name, row in method["rows"].items():
        policies = [comparison.parents.policies[policy] for policy in row["policies"]]
        needed = [stage for policy in policies for stage in (*policy.needed(), policy) if stage.state != "finished"]
        missing = [stage for stage in dict.fromkeys(needed) if stage not in counted]
        counted.update(missing)
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append((name, seeds, shlex.join(row["overrides"]), _counted(missing) or "nothing"))
    each = f"every row: {shlex.join(method['each'])}\n" if method["each"] else ""
    named = "".join(f"{name}: {shlex.join(overrides)}\n" for name, overrides in method["named"].items())
    return f"{method['title']}\n{named}{each}\n{table(lines)}"


def _counted(stages: Sequence[Stage]) -> str:
    counted = Counter(stage.label for stage in stages)
    return ", ".join(label if n == 1 else f"{n} x {label}" for label, n in counted.items())


def forecast_lines(stages: Sequence[Stage]) -> list[str]:
    """What stages will take, and whether it is there; stages that take the same are one line."""
    notes: list[str] = []
    lines: dict[tuple[str, ...], list[Stage]] = {}
    rates: dict[str, list[str]] = {}
    for stage in stages:
        if (found := forecast.of(stage)) is None:
            continue
        lines.setdefault(_figures(found), []).append(stage)
        rates.setdefault(found.rate, []).append(stage.label)
        notes += forecast.shortage(stage, found)
    each = " each" if len(lines) < sum(map(len, lines.values())) else ""
    rows: list[tuple[str, ...]] = [("stage", "updates", "epochs", "an update", "tokens", "memory", "disk", f"time{each}")]
    rows += [(_counted(same), *figures) for figures, same in lines.items()]
    of = {rate: f": {', '.join(dict.fromkeys(labels))}" if len(rates) > 1 else "" for rate, labels in rates.items()}
    times = [f"time {rate}{of[rate]}" for rate in rates if rate]
    return [table(rows), *times, *dict.fromkeys(notes)] if len(rows) > 1 else []


def _figures(found: forecast.Forecast) -> tuple[str, ...]:
    hours = (found.seconds or 0.0) / 3600
    return (
        "" if found.updates is None else f"{found.updates:,}",
        "" if found.epochs is None else f"{found.epochs:.2g}",
        found.update,
        "" if found.tokens is None else f"{found.tokens / 1e6:,.1f} M",
        forecast.size(found.memory),
        forecast.size(found.disk) if found.disk else "",
        f"{hours / 24:,.0f} days" if hours > 48 else duration(3600 * hours) if hours else "",
    )


def headline(stage: Stage) -> str:
    """The number a stage is known by, with its interval."""
    if not (metric := run_folder.read_json(stage.folder / "metrics.json").get("headline")):
        return ""
    policy = f" of {metric['policy']}" if metric.get("policy") else ""
    return f"{metric['name']}{policy} {metric['mean']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}] (n={metric['n']})"


def results(stages: Sequence[Stage], ended: dict[str, str]) -> str:
    """How each stage ended: by fingerprint what was done, else what its folder says."""
    rows = [("stage", "state", "time", "result", "run folder")]
    for stage, label in labels(stages).items():
        seconds = run_folder.read_json(stage.folder / "run.json").get("seconds", 0.0)
        state = ended.get(stage.fingerprint, stage.state)
        rows.append((label, state, duration(seconds), headline(stage), short_path(stage.folder)))
    return table(rows)


def next_command(last: Stage, overrides: Sequence[str]) -> str:
    """The command that people go on with: the method's `next`, with {folder} and {best} in place of run folders."""
    kept, dropped = [], {"method", "plan", "force"}
    dropped |= set() if preflight.loads_a_policy(last.job) else {"generator"}  # a stage that trains measures its own policy
    for text in overrides:
        group = text.partition("=")[0].partition(".")[0]
        if group == "init" or text.startswith("method."):  # of a stage on the way from now on
            kept.append(f"stages.{last.method}.{text.removeprefix('method.')}")
        elif group not in dropped:
            kept.append(text)
    policy = run_folder.read_json(last.folder / "metrics.json").get("headline", {}).get("policy")
    best = last.parents.policies.get(policy) or last.parents.init or last
    places = {"folder": short_path(last.folder), "best": short_path(best.folder)}
    following = [text.format_map(places) for text in last.config["method"].get("next") or []]
    return shlex.join(["python", "-m", "qwen_align", *kept, *following])
