"""The stages of a plan, one after the other: reuse what is finished, launch the rest, end with a table and a report."""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from qwen_align.config import check
from qwen_align.errors import ConfigError
from qwen_align.report import pages
from qwen_align.stage import forecast, launch, preflight, run_folder
from qwen_align.stage.plan import Stage

_NEXT = {"sft": "rloo", "reward": "rloo", "dpo": "evaluate", "rloo": "best_of_n", "evaluate": "sft"}


class StageFailed(Exception):
    """A stage that did not finish; `code` is what the program exits with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as aligned text; the first is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def print_plan(stages: list[Stage]) -> None:
    """The stages in order, what each will do, and where."""
    rows = [("stage", "will", "starts from", "run folder")]
    for stage in stages:
        done = {"finished": "be reused", "missing": "run", "planned": "run"}.get(stage.state, "resume")
        parent = stage.parents.get("init")
        compared = sum(key.startswith("policy ") for key in stage.parents)
        start = parent.method if parent else f"{compared} policies" if compared else stage.config["init"]
        rows.append((stage.label, done, start, shown(stage.folder)))
    print(table(rows))
    if lines := _forecast([stage for stage in stages if stage.state != "finished"]):
        print("\n" + "\n".join(lines))


def _forecast(stages: list[Stage]) -> list[str]:
    """What stages will take, and whether it is there."""
    notes: list[str] = []
    rows = [("stage", "updates", "epochs", "an update", "tokens", "memory", "disk", "time")]
    rates: dict[str, list[str]] = {}
    for stage in stages:
        found = forecast.of(stage)
        if found is None:
            continue
        known = lambda value, form: "" if value is None else format(value, form)  # noqa: E731
        tokens = "" if found.tokens is None else f"{found.tokens / 1e6:,.1f} M"
        hours = (found.seconds or 0.0) / 3600
        spent = f"{hours / 24:,.0f} days" if hours > 48 else pages.duration(3600 * hours) if hours else ""
        rows.append((
            stage.label, known(found.updates, ",d"), known(found.epochs, ".2g"), found.update, tokens,
            forecast.size(found.memory), forecast.size(found.disk) if found.disk else "", spent,
        ))  # fmt: skip
        rates.setdefault(found.rate, []).append(stage.label)
        notes += forecast.shortage(stage, found)
    notes = [
        f"time {rate}{': ' + ', '.join(labels) if len(rates) > 1 else ''}" for rate, labels in rates.items() if rate
    ] + notes
    return [table(rows), *notes] if len(rows) > 1 else []


def headline(folder: Path) -> str:
    """The number a stage is known by, with its interval."""
    metric = run_folder.read_json(folder / "metrics.json").get("headline")
    if not metric:
        return ""
    return f"{metric['name']} {metric['mean']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}] (n={metric['n']})"


def prepare(stage: Stage, afresh: bool, command: str = "") -> None:
    """Write what a worker starts from; afresh empties the folder first."""
    if afresh:
        for path in sorted(stage.folder.rglob("*"), reverse=True):
            if path.name != ".lock":
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    run_folder.write_text(stage.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(stage.config)))
    run_folder.update(
        stage.folder, state="planned", method=stage.method, choices=stage.choices, fingerprint=stage.fingerprint,
        command=command, operations=expected.operations if (expected := forecast.of(stage)) else None,
        parents={key: str(parent.folder) for key, parent in stage.parents.items()}, **run_folder.provenance(),
    )  # fmt: skip


def _failure(stage: Stage, code: int) -> StageFailed:
    manifest = run_folder.read_json(stage.folder / "run.json")
    log = shown(stage.folder / "log.txt")
    if code == launch.USER_ERROR:
        return StageFailed(manifest.get("error") or f"{stage.method} stopped, see {log}", code)
    saved = run_folder.checkpoints(stage.folder)
    drawn = any((stage.folder / name).is_file() for name in ("completions.jsonl", "answers.jsonl", "reference.jsonl"))
    again = "goes on with what is there" if drawn else "begins this stage again"
    again = f"goes on from step {saved[-1].name.rpartition('-')[2]}" if saved else again
    if code == launch.INTERRUPTED:
        return StageFailed(f"{stage.method} was interrupted; the same command {again}", code)
    if code < 0:
        run_folder.update(stage.folder, state="interrupted", error=f"ended by signal {-code}")
        return StageFailed(f"{stage.method} was ended by signal {-code}; the same command {again}", 1)
    return StageFailed(
        f"{stage.method} failed: {manifest.get('error', f'exit code {code}')}; the whole story is in {log}", 1
    )


def run_stage(stage: Stage, afresh: bool, command: str = "") -> str:
    """Run or reuse one stage; returns what was done."""
    try:
        return _run_locked(stage, afresh, command)
    except OSError as error:  # a full disk, a folder that can no longer be written
        saved = run_folder.checkpoints(stage.folder)
        kept = f"{saved[-1].name} stays" if saved else "nothing of this stage is saved yet"
        why = f"{error.strerror or error} ({error.filename or shown(stage.folder)})"
        raise StageFailed(f"{stage.method} stopped: {why}; {kept}, finished stages too", 1) from error


def _run_locked(stage: Stage, afresh: bool, command: str) -> str:
    waiting = f"{shown(stage.folder)} is in use by process {{owner}}; waiting for it"
    with run_folder.locked(stage.folder, waiting) as lock:
        if stage.state == "finished" and not afresh:
            return "reused"
        began, before = time.time(), run_folder.read_json(stage.folder / "run.json").get("seconds", 0.0)
        prepare(stage, afresh, command)
        print(f"== {stage.method} -> {shown(stage.folder)}", flush=True)
        code = launch.run(stage.folder, check.construct(stage.config["hardware"]), lock)
        run_folder.update(stage.folder, seconds=round((0.0 if afresh else before) + time.time() - began, 1))
        if code:
            raise _failure(stage, code)
        if stage.state == "finished" and not stage.config["checkpoints"]["after"]:
            shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
        if stage.state != "finished":
            raise ConfigError(f"{stage.method} ended without a result; see {shown(stage.folder / 'log.txt')}")
        return "finished"


def _print_results(stages: list[Stage], done: dict[str, str]) -> None:
    rows = [("stage", "state", "time", "result", "run folder")]
    for stage in stages:
        seconds = run_folder.read_json(stage.folder / "run.json").get("seconds", 0.0)
        what = done.get(stage.fingerprint, stage.state)
        rows.append((stage.label, what, pages.duration(seconds), headline(stage.folder), shown(stage.folder)))
    print("\n" + table(rows), flush=True)


def _next_command(last: Stage, words: list[str]) -> str:
    kept = [word for word in words if word.partition("=")[0] not in ("method", "init", "plan", "force")]
    if last.choices.get("generator") == "recorded":  # a stage that trains measures its own policy
        kept = [word for word in kept if not word.startswith("generator")]
    if last.method in _NEXT:
        return shlex.join(["python", "-m", "qwen_align", *kept, f"method={_NEXT[last.method]}"])
    if last.method == "synthesize":
        extra = f"data.extra={shown(last.folder / 'demonstrations.jsonl')}"
        return shlex.join(["python", "-m", "qwen_align", *kept, "method=sft", extra])
    best = run_folder.read_json(last.folder / "metrics.json").get("headline", {}).get("name", "").rpartition(" of ")[2]
    start = last.parents.get(f"policy {best}") or last.parents.get("init", last)
    return shlex.join(["python", "-m", "qwen_align", *kept, "method=evaluate", f"init={shown(start.folder)}"])


def execute(stages: list[Stage], name: str | None, force: bool, words: list[str]) -> None:
    """Run what is missing, in order; then the table, the report, and a next command.

    Args:
        stages: the plan; with `force` its last one runs again even if it is finished.
        name: of the folder for the report, else it goes into the last stage's own.
        words: the command line, for run.json and for the next command.

    Raises:
        StageFailed: the first stage that did not finish; everything before it stays and is reused.
    """
    done: dict[str, str] = {}
    command = shlex.join(["python", "-m", "qwen_align", *words])
    preflight.require([s for s in stages if s.state != "finished" or (force and s is stages[-1])])
    forecast.check_disk(stages, stages[-1].folder.parent)
    for line in _forecast([stage for stage in stages if stage.state != "finished"]):
        print(line, flush=True)
    try:
        for stage in stages:
            done[stage.fingerprint] = run_stage(stage, force and stage is stages[-1], command)
    finally:
        _print_results(stages, done)
    last = stages[-1]
    where = last.folder.parent / name if name else last.folder
    pages.write(where, stages)
    print(f"\nreport: {shown(where / 'report.html')}\nnext:   {_next_command(last, words)}")
