"""The study's tables (arXiv 2506.21560): rows trained through the entrypoint, measured on the same problems, claims checked.

A row is a list of words, trained once a seed; what is finished is reused, so a killed bench goes on. One method=compare a table
then answers the same held-out problems with all its policies. Rows run side by side as processes of their own, each with its
output in a file. A claim is confirmed if the interval of every difference it speaks of is above 0. Left out: the study's judge,
a model behind an endpoint.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_align.bench import claims
from qwen_align.errors import ConfigError
from qwen_align.report.pages import duration
from qwen_align.stage.launch import INTERRUPTED
from qwen_align.stage.plan import Stage
from qwen_align.stage.run import StageFailed, shown, table


@dataclass(frozen=True)
class Job:
    """One command: `words` of the entrypoint."""

    name: str
    words: list[str]


@dataclass
class Table:
    """Rows that one comparison measures; `made` is what {name} in their words stands for."""

    name: str
    title: str
    words: list[str]
    rows: dict[str, dict[str, Any]]
    metrics: list[str]
    claims: list[dict[str, Any]]
    first: dict[str, list[str]] = field(default_factory=dict)
    each: list[str] = field(default_factory=list)
    compare: list[str] = field(default_factory=list)
    made: dict[str, Path] = field(default_factory=dict)

    def before(self, added: list[str]) -> list[Job]:
        """The jobs under `first`."""
        return [Job(f"{self.name}/{k}", [*self.words, *words, "name=null", *added]) for k, words in self.first.items()]

    def own(self, row: str, seed: int) -> list[str]:
        """What a row's words say beside the table's."""
        words = [*self.each, *self.rows[row]["words"], f"seed={seed}"]
        for name, folder in self.made.items():
            words = [word.replace(f"{{{name}}}", str(folder)) for word in words]
        return words

    def jobs(self, added: list[str]) -> dict[str, Job]:
        """policy -> the job that makes it."""
        return {
            f"{row}_{seed}": Job(f"{self.name}/{row}, seed {seed}", [*self.words, *self.own(row, seed), "name=null", *added])
            for row, node in self.rows.items()
            for seed in node["seeds"]
        }  # fmt: skip

    def comparison(self, added: list[str]) -> Job:
        """The job that measures all policies."""
        policies = {
            f"{row}_{seed}": [*self.own(row, seed), *added] for row, node in self.rows.items() for seed in node["seeds"]
        }
        text = ",".join(f"{name}: {json.dumps(words, ensure_ascii=False)}" for name, words in policies.items())
        words = [*self.words, "method=compare", "name=null", *self.compare, f"method.policies={{{text}}}", *added]
        return Job(f"{self.name}, all rows on the same problems", words)


def planned(job: Job) -> list[Stage]:
    """The stages of a job.

    Raises:
        ConfigError: as the entrypoint would; the message names the row.
    """
    try:
        found: list[Stage] = import_module("qwen_align.__main__").planned(job.words)
    except ConfigError as error:
        raise ConfigError(f"{job.name}: {error}") from error
    return found


def _last_error(log: Path) -> str:
    lines = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("error: ")
    ]
    return f"{lines[-1].removeprefix('error: ') if lines else 'ended without a word'}; see {shown(log)}"


def _side_by_side(jobs: Sequence[Job], workers: int, logs: Path, title: str) -> None:
    """Run jobs as processes; one that fails ends no other.

    Raises:
        StageFailed: which failed, and why, after all have ended.
        KeyboardInterrupt: after those that run were told to save and stop.
    """
    running: list[subprocess.Popen[bytes]] = []
    lost: list[str] = []
    logs.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(jobs), desc=title, unit="job", disable=not jobs)

    def work(job: Job) -> None:
        log, began = logs / f"{job.name.replace('/', '-').replace(', ', '-').replace(' ', '_')}.txt", time.time()
        with log.open("wb") as out:
            # A session of its own: Ctrl-C reaches it once, through us.
            process = subprocess.Popen(
                [sys.executable, "-m", "qwen_align", *job.words], stdout=out, stderr=out, start_new_session=True
            )
            running.append(process)
            code = process.wait()
        took = duration(time.time() - began)
        ended = {0: "finished in", INTERRUPTED: "interrupted after"}.get(code, "failed after")
        bar.write(f"{job.name}: {ended} {took}", file=sys.stdout)
        bar.update(code == 0)
        if code:
            lost.append(f"{job.name}: {_last_error(log)}")

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        try:
            for future in waiting:
                future.result()
        except KeyboardInterrupt:
            for future in waiting:
                future.cancel()
            for process in running:
                if process.poll() is None:
                    process.terminate()
            raise
        finally:
            bar.close()
            signal.signal(signal.SIGTERM, before)
    if lost:
        raise StageFailed("\n       ".join([*lost, "the same command runs only what is missing"]), 1)


@dataclass
class Suite:
    """Tables whose rows share `words`; `workers` jobs run at once."""

    workers: int
    words: list[str]
    tables: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers={self.workers}: expected 1 or more")
        self.known = {name: Table(name, **node) for name, node in self.tables.items()}
        for found in self.known.values():
            claims.check(found)

    def plan(self, added: list[str]) -> None:
        """Print the rows and what each would run; nothing starts."""
        added = [*self.words, *added]
        for found in self.known.values():
            lines = [("row", "seeds", "words", "to run")]
            for name, job in zip(found.first, found.before(added), strict=True):
                lines.append((name, "", shlex.join(found.first[name]), _missing([job], found, name)))
            jobs = found.jobs(added)
            for row, node in found.rows.items():
                mine = [jobs[f"{row}_{seed}"] for seed in node["seeds"]]
                after = [name for name in found.first if any(f"{{{name}}}" in word for word in mine[0].words)]
                missing = f"after {', '.join(after)}" if after else _missing(mine, found)
                lines.append((row, ", ".join(map(str, node["seeds"])), shlex.join(node["words"]), missing))
            every = shlex.join([*found.words, *added])
            print(f"{found.title}\nevery job: {every}; every row: {shlex.join(found.each)}\n\n{table(lines)}\n")

    def _check_rows(self, added: list[str]) -> None:
        """Raise ConfigError for a mistake in a row, but for what only the stages under `first` can make true."""
        known = self.known.values()
        to_come = {str(folder) for found in known for folder in found.made.values()}
        jobs = [job for found in known for job in found.jobs(added).values()]
        for job in tqdm(jobs, desc="checking", unit="row", leave=False):
            try:
                planned(job)
            except ConfigError as error:
                if not any(folder in str(error) for folder in to_come):
                    raise

    def run(self, added: list[str], folder: Path) -> dict[str, Any]:
        """Train what is missing, measure, and return what the tables say; `added` are words for every job."""
        added, logs = [*self.words, *added], folder / "logs"
        first = [(t, *pair) for t in self.known.values() for pair in zip(t.first, t.before(added), strict=True)]
        ends = [planned(job)[-1] for _, _, job in first]
        for (found, name, _), end in zip(first, ends, strict=True):
            found.made[name] = end.folder
        if missing := [job for (_, _, job), end in zip(first, ends, strict=True) if _open(end)]:
            self._check_rows(added)
        _side_by_side(missing, self.workers, logs, "first")
        comparisons = {name: found.comparison(added) for name, found in self.known.items()}
        measured = {name: planned(job)[-1] for name, job in comparisons.items()}
        missing = [
            job
            for name, found in self.known.items()
            for policy, job in found.jobs(added).items()
            if _open(measured[name].parents[f"policy {policy}"])
        ]
        _side_by_side(missing, self.workers, logs, "rows")
        _side_by_side([comparisons[n] for n, end in measured.items() if _open(end)], self.workers, logs, "comparisons")
        return {name: claims.read(found, measured[name].folder) for name, found in self.known.items()}


def _open(stage: Stage) -> bool:
    return stage.state != "finished"


def _missing(jobs: list[Job], found: Table, name: str = "") -> str:
    """The stages of jobs that are not finished, counted; of one under `first` that is, the folder is remembered."""
    stages: list[Stage] = []
    for job in jobs:
        try:
            stages += planned(job)
        except ConfigError as error:
            return f"error: {error}"
    if name and not _open(stages[-1]):
        found.made[name] = stages[-1].folder
    labels = [stage.label for stage in {stage.folder: stage for stage in stages}.values() if _open(stage)]
    counted = {label: labels.count(label) for label in labels}
    return ", ".join(label if n == 1 else f"{n} x {label}" for label, n in counted.items()) or "nothing"
