"""The stages of a plan: reuse what is finished, launch the rest, several at once where `workers` allows.

One that fails ends no other but those that need it; Ctrl-C or SIGTERM asks all that run to save and stop. Side by side, a
stage's output is in its log.txt alone, and the terminal shows a line for each.
"""

import os
import selectors
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from omegaconf import OmegaConf
from tqdm import tqdm

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.stage import forecast, launch, preflight, summary
from qwen_align.stage.fork_server import ForkServer
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
    stage: Stage
    child: Child
    began: float  # as if earlier launches had ended just before this one
    held: ExitStack  # the folder's lock


def prepare(stage: Stage, afresh: bool, command: str = "") -> None:
    """Write what a worker starts from; afresh empties the folder first."""
    if afresh:
        for path in sorted(stage.folder.rglob("*"), reverse=True):
            if path.name != ".lock":
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    run_folder.write_text(stage.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(stage.config)))
    parents, expected = stage.parents, forecast.of(stage)
    both = {"rewards": parents.rewards, "policies": parents.policies}
    named = {kind: {name: str(parent.folder) for name, parent in of_kind.items()} for kind, of_kind in both.items()}
    run_folder.update(
        stage.folder,
        format=run_folder.FORMAT,
        state="planned",
        method=stage.method,
        choices=stage.choices,
        fingerprint=stage.fingerprint,
        command=command,
        operations=expected.operations if expected else None,
        parents={"init": str(parents.init.folder) if parents.init else None} | named,
        **run_folder.provenance(),
    )


def _failure(stage: Stage, label: str, code: int) -> StageFailed:
    manifest = run_folder.read_json(stage.folder / "run.json")
    log = short_path(stage.folder / "log.txt")
    if code == USER_ERROR:
        return StageFailed(manifest.get("error") or f"{label} stopped, see {log}", code)
    saved = run_folder.checkpoints(stage.folder)
    drawn = any((stage.folder / name).is_file() for name in ("completions.jsonl", "answers.jsonl", "reference.jsonl"))
    again = "goes on with what is there" if drawn else "begins this stage again"
    again = f"goes on from step {saved[-1].name.rpartition('-')[2]}" if saved else again
    if code == INTERRUPTED:
        return StageFailed(f"{label} was interrupted; the same command {again}", code)
    if code < 0:
        run_folder.update(stage.folder, state="interrupted", error=f"ended by signal {-code}")
        return StageFailed(f"{label} was ended by signal {-code}; the same command {again}", 1)
    return StageFailed(f"{label} failed: {manifest.get('error', f'exit code {code}')}; see {log}", 1)


def _fork_server(stages: Sequence[Stage]) -> ForkServer | None:
    """For the environment of the first of these stages that may come from one; None without such a stage."""
    of_server = [stage for stage in stages if launch.forkable(stage.job.hardware)]
    if not of_server:
        return None
    methods = [stage.config["method"]["_target_"].rpartition(".")[0] for stage in of_server]
    ours = dict.fromkeys(name for name in methods if name.startswith("qwen_align."))  # a user's module may start threads
    return ForkServer(launch.environment(of_server[0].job.hardware), ours)


class _Schedule:
    """Which stages wait, run and have ended: how, by fingerprint, and why."""

    def __init__(self, stages: Sequence[Stage], afresh: Stage | None, workers: int, command: str) -> None:
        self.waiting, self.labels = list(stages), summary.labels(stages)
        self.server = _fork_server([stage for stage in stages if stage.state != "finished" or stage is afresh])
        self.afresh, self.workers, self.command = afresh, workers, command
        self.running: dict[int, _Running] = {}
        self.ended: dict[str, str] = {}
        self.failures: list[StageFailed] = []
        self.locked_out: set[Stage] = set()  # another process holds their folders
        self.selector, self.signals = selectors.DefaultSelector(), launch.Signals()
        missing = sum(stage.state != "finished" or stage is afresh for stage in stages)
        self.bar = tqdm(total=missing, unit="stage", disable=workers == 1 or not missing)

    def run(self) -> None:
        """Run all that can run; KeyboardInterrupt if a signal came while no stage ran."""
        with self.signals, self.bar:
            while self.waiting or self.running:
                open_ = {*self.waiting, *(running.stage for running in self.running.values())}
                ready = [stage for stage in self.waiting if not open_.intersection(stage.parents.all())]
                for stage in ready[: self.workers - len(self.running)]:
                    with self._failures_of(stage):
                        self._start(stage)
                for key, _ in self.selector.select(timeout=1.0 if self.locked_out else None) if self.running else ():
                    if not self.running[key.fd].child.copy_output():
                        self._end(self.running.pop(key.fd))
                if self.signals.asked:
                    self.waiting.clear()
                if self.server and not self.waiting:
                    self.server.close()
        if self.signals.asked and not self.failures:
            raise KeyboardInterrupt

    @contextmanager
    def _failures_of(self, stage: Stage) -> Iterator[None]:
        """Keep what is raised as the failure of a stage; what needs that stage can't run."""
        try:
            yield
        except StageFailed as failure:
            self.failures.append(failure)
        except ConfigError as error:
            self.failures.append(StageFailed(str(error), USER_ERROR))
        except OSError as error:  # a full disk, or a folder that can no longer be written
            saved = run_folder.checkpoints(stage.folder)
            kept = f"{saved[-1].name} stays" if saved else "nothing of this stage is saved yet"
            why = f"{error.strerror or error} ({error.filename or short_path(stage.folder)})"
            self.failures.append(StageFailed(f"{self.labels[stage]} stopped: {why}; {kept}, finished stages too", 1))
        else:
            return
        self.ended[stage.fingerprint] = stage.state
        self.waiting = [other for other in self.waiting if other is not stage and stage not in other.needed()]

    def _start(self, stage: Stage) -> None:
        """Begin a stage, or reuse it; later, where another process holds its folder and others of ours run."""
        lock = run_folder.lock(stage.folder, wait=False)
        if lock is None and stage not in self.locked_out:
            run_folder.print_owner(stage.folder)
            self.locked_out.add(stage)
        if lock is None and self.running:
            return
        lock = run_folder.lock(stage.folder) if lock is None else lock
        assert lock is not None
        self.locked_out.discard(stage)
        self.waiting.remove(stage)
        with ExitStack() as held:
            held.callback(os.close, lock)
            if stage.state == "finished" and stage is not self.afresh:
                self.ended[stage.fingerprint] = "reused"
            else:
                afresh, began = stage is self.afresh, time.time()
                before = 0.0 if afresh else run_folder.read_json(stage.folder / "run.json").get("seconds", 0.0)
                prepare(stage, afresh, self.command)
                if self.workers == 1:
                    print(f"== {stage.method} -> {short_path(stage.folder)}", flush=True)
                child = Child(stage.folder, stage.job.hardware, lock, shown=self.workers == 1, server=self.server)
                self.signals.children.append(child)
                if self.signals.asked:  # while it started, and others ran
                    child.ask_to_stop()
                self.selector.register(child, selectors.EVENT_READ)
                self.running[child.fileno()] = _Running(stage, child, began - before, held.pop_all())

    def _end(self, running: _Running) -> None:
        stage, child = running.stage, running.child
        self.selector.unregister(child)
        code, seconds = child.wait(), time.time() - running.began
        self.signals.children.remove(child)
        with running.held, self._failures_of(stage):
            manifest = run_folder.update(stage.folder, seconds=round(seconds, 1))
            if code:
                raise _failure(stage, self.labels[stage], code)
            if manifest["state"] != "finished":
                raise ConfigError(f"{self.labels[stage]} ended without a result; see {short_path(stage.folder / 'log.txt')}")
            self.ended[stage.fingerprint] = "finished"
            self.bar.update()
            if not stage.config["checkpoints"]["after"]:
                shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
        if self.workers > 1:
            line = f"{self.labels[stage]}: {self.ended[stage.fingerprint]} after {duration(seconds)}"
            self.bar.write(f"{line}, {short_path(stage.folder)}", file=sys.stdout)


def execute(stages: list[Stage], force: bool, overrides: list[str], workers: int = 1) -> None:
    """Run what is missing, `workers` stages at once, and print a table of how it went; `force` runs the last one again.

    Raises:
        ConfigError: something that a stage loads is missing, or the disk is too small.
        StageFailed: stages did not finish; everything else is kept and reused.
    """
    afresh = stages[-1] if force else None
    missing = [stage for stage in stages if stage.state != "finished"]
    starting = [*missing, *([afresh] if afresh and afresh not in missing else [])]
    read = preflight.local_files(starting)
    preflight.require(starting)
    forecast.check_disk(stages, stages[-1].folder.parent)
    for line in [*read, *summary.forecast_lines(missing)]:
        print(line, flush=True)
    schedule = _Schedule(stages, afresh, workers, shlex.join(["python", "-m", "qwen_align", *overrides]))
    try:
        schedule.run()
    finally:
        if schedule.server:
            schedule.server.close()
        print("\n" + summary.results(stages, schedule.ended), flush=True)
    if failures := schedule.failures:
        code = next((f.code for f in failures if f.code == INTERRUPTED), failures[0].code)
        raise StageFailed("\n       ".join(map(str, failures)), code)
