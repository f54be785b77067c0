"""The stages of a plan: reuse what is finished, launch the rest, several at once where `workers` allows.

A stage runs when its parents are finished. One that fails ends no other but those that need it; Ctrl-C or SIGTERM asks all that
run to save and stop. Side by side, a stage's output is in its log.txt alone, and the terminal shows a line for each.
"""

import os
import selectors
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import OmegaConf
from tqdm import tqdm

from qwen_align.errors import ConfigError
from qwen_align.stage import forecast, launch, preflight, run_folder, summary
from qwen_align.stage.launch import INTERRUPTED, USER_ERROR, Child
from qwen_align.stage.plan import Stage
from qwen_align.stage.text import duration, short_path


class StageFailed(Exception):
    """Stages that did not finish; `code` is what the program exits with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _Running:
    """A stage whose processes run, under its lock."""

    stage: Stage
    child: Child
    lock: int
    began: float  # as if earlier launches had ended just before this one


def prepare(stage: Stage, afresh: bool, command: str = "") -> None:
    """Write what a worker starts from; afresh empties the folder first."""
    if afresh:
        for path in sorted(stage.folder.rglob("*"), reverse=True):
            if path.name != ".lock":
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    run_folder.write_text(stage.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(stage.config)))
    parents, expected = stage.parents, forecast.of(stage)
    run_folder.update(
        stage.folder,
        format=run_folder.FORMAT,
        state="planned",
        method=stage.method,
        choices=stage.choices,
        fingerprint=stage.fingerprint,
        command=command,
        operations=expected.operations if expected else None,
        parents={
            "init": str(parents.init.folder) if parents.init else None,
            "rewards": {name: str(parent.folder) for name, parent in parents.rewards.items()},
            "policies": {name: str(parent.folder) for name, parent in parents.policies.items()},
        },
        **run_folder.provenance(),
    )


def _failure(stage: Stage, code: int) -> StageFailed:
    """What to say of a stage that ended with this exit code."""
    manifest = run_folder.read_json(stage.folder / "run.json")
    log = short_path(stage.folder / "log.txt")
    if code == USER_ERROR:
        return StageFailed(manifest.get("error") or f"{stage.method} stopped, see {log}", code)
    saved = run_folder.checkpoints(stage.folder)
    drawn = any((stage.folder / name).is_file() for name in ("completions.jsonl", "answers.jsonl", "reference.jsonl"))
    again = "goes on with what is there" if drawn else "begins this stage again"
    again = f"goes on from step {saved[-1].name.rpartition('-')[2]}" if saved else again
    if code == INTERRUPTED:
        return StageFailed(f"{stage.method} was interrupted; the same command {again}", code)
    if code < 0:
        run_folder.update(stage.folder, state="interrupted", error=f"ended by signal {-code}")
        return StageFailed(f"{stage.method} was ended by signal {-code}; the same command {again}", 1)
    return StageFailed(
        f"{stage.method} failed: {manifest.get('error', f'exit code {code}')}; the whole story is in {log}", 1
    )


def _no_room(stage: Stage, error: OSError) -> StageFailed:
    """A full disk, or a folder that can no longer be written."""
    saved = run_folder.checkpoints(stage.folder)
    kept = f"{saved[-1].name} stays" if saved else "nothing of this stage is saved yet"
    why = f"{error.strerror or error} ({error.filename or short_path(stage.folder)})"
    return StageFailed(f"{stage.method} stopped: {why}; {kept}, finished stages too", 1)


class _Schedule:
    """Which stages wait, run and have ended; `ended` says how, by fingerprint, and `failures` why."""

    def __init__(self, stages: Sequence[Stage], afresh: Stage | None, workers: int, command: str) -> None:
        self.waiting = list(stages)
        self.afresh, self.workers, self.command = afresh, workers, command
        self.running: dict[int, _Running] = {}
        self.ended: dict[str, str] = {}
        self.failures: list[StageFailed] = []
        self.locked_out: set[str] = set()  # stages whose folder another process holds
        self.selector = selectors.DefaultSelector()
        self.signals = launch.Signals()
        missing = sum(stage.state != "finished" or stage is afresh for stage in stages)
        self.bar = tqdm(total=missing, unit="stage", disable=workers == 1 or not missing)

    def run(self) -> None:
        """Run all that can run.

        Raises:
            KeyboardInterrupt: a signal came while no stage ran.
        """
        with self.signals, self.bar:
            while self.waiting or self.running:
                for stage in self._ready():
                    self._start(stage)
                for key, _ in self.selector.select(timeout=1.0 if self.locked_out else None) if self.running else ():
                    if not self.running[key.fd].child.copy_output():
                        self._end(key.fd)
                if self.signals.asked:
                    self.waiting.clear()
        if self.signals.asked and not self.failures:
            raise KeyboardInterrupt

    def _ready(self) -> list[Stage]:
        """The stages that can begin now, as many as there are workers free."""
        open_ = {*self.waiting, *(running.stage for running in self.running.values())}
        ready = [stage for stage in self.waiting if not open_.intersection(stage.parents.all())]
        return ready[: self.workers - len(self.running)]

    def _start(self, stage: Stage) -> None:
        """Begin a stage, or reuse it; later, where another process holds its folder and others of ours run."""
        try:
            lock = run_folder.lock(stage.folder, wait=False)
            if lock is None and stage.fingerprint not in self.locked_out:
                run_folder.say_who_holds(stage.folder)
                self.locked_out.add(stage.fingerprint)
            if lock is None and self.running:
                return
            lock = run_folder.lock(stage.folder) if lock is None else lock
            assert lock is not None
            self.locked_out.discard(stage.fingerprint)
            self.waiting.remove(stage)
            if stage.state == "finished" and stage is not self.afresh:
                self.ended[stage.fingerprint] = "reused"
                os.close(lock)
            else:
                self._launch(stage, lock)
        except ConfigError as error:
            self._fail(stage, StageFailed(str(error), USER_ERROR))
        except OSError as error:
            self._fail(stage, _no_room(stage, error))

    def _launch(self, stage: Stage, lock: int) -> None:
        afresh = stage is self.afresh
        before = 0.0 if afresh else run_folder.read_json(stage.folder / "run.json").get("seconds", 0.0)
        began = time.time()
        try:
            prepare(stage, afresh, self.command)
            if self.workers == 1:
                print(f"== {stage.method} -> {short_path(stage.folder)}", flush=True)
            child = Child(stage.folder, stage.job.hardware, lock, shown=self.workers == 1)
        except BaseException:
            os.close(lock)
            raise
        self.signals.children.append(child)
        self.running[child.fileno()] = _Running(stage, child, lock, began - before)
        self.selector.register(child, selectors.EVENT_READ)

    def _end(self, descriptor: int) -> None:
        """Take in how a stage ended."""
        running = self.running.pop(descriptor)
        stage, child = running.stage, running.child
        self.selector.unregister(child)
        code = child.wait()
        self.signals.children.remove(child)
        try:
            manifest = run_folder.update(stage.folder, seconds=round(time.time() - running.began, 1))
            if not code and manifest["state"] != "finished":
                log = short_path(stage.folder / "log.txt")
                raise ConfigError(f"{stage.method} ended without a result; see {log}")
            if not code and not stage.config["checkpoints"]["after"]:
                shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
            self.ended[stage.fingerprint] = "finished"
            if code:
                self._fail(stage, _failure(stage, code))
        except ConfigError as error:
            self._fail(stage, StageFailed(str(error), USER_ERROR))
        except OSError as error:
            self._fail(stage, _no_room(stage, error))
        finally:
            os.close(running.lock)
        self.bar.update(not code)
        if self.workers > 1:
            took = duration(time.time() - running.began)
            state = self.ended[stage.fingerprint]
            self.bar.write(f"{stage.label}: {state} after {took}, {short_path(stage.folder)}", file=sys.stdout)

    def _fail(self, stage: Stage, failure: StageFailed) -> None:
        """Remember a failure; what needs that stage can't run."""
        self.failures.append(failure)
        self.ended[stage.fingerprint] = stage.state
        self.waiting = [s for s in self.waiting if s is not stage and stage not in s.needed()]


def execute(stages: list[Stage], force: bool, overrides: list[str], workers: int = 1) -> None:
    """Run what is missing, then say in a table how it went.

    Args:
        stages: the plan; with `force` its last one runs again even if it is finished.
        overrides: the command line, for run.json.
        workers: stages that run at once.

    Raises:
        ConfigError: something that a stage loads is missing, or the disk is too small.
        StageFailed: stages did not finish; everything else is kept and reused.
    """
    afresh = stages[-1] if force else None
    missing = [stage for stage in stages if stage.state != "finished"]
    preflight.require([*missing, *([afresh] if afresh and afresh not in missing else [])])
    forecast.check_disk(stages, stages[-1].folder.parent)
    for line in summary.forecast_lines(missing):
        print(line, flush=True)
    schedule = _Schedule(stages, afresh, workers, shlex.join(["python", "-m", "qwen_align", *overrides]))
    try:
        schedule.run()
    finally:
        print("\n" + summary.results(stages, schedule.ended), flush=True)
    if failures := schedule.failures:
        code = next((f.code for f in failures if f.code == INTERRUPTED), failures[0].code)
        raise StageFailed("\n       ".join(map(str, failures)), code)
