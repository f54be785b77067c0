"""Several jobs of one command: each leaves a record, and one table over all of them comes out, whatever the launcher was.

A job writes job.json into its folder below runs_dir/sweeps/NAME, so jobs in other processes or on other machines need no way
back, and what a kill left behind can still be read. The same command has the same NAME: it reuses the run folders that are
finished. Jobs that differ in their seed alone are one row, with Student's t interval over the seeds. Left out: tests of
differences between rows; methods of one seed are compared problem by problem with method=compare.
"""

import hashlib
import math
import os
import shlex
import statistics
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from qwen_align.config import groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.metric.interval import Interval
from qwen_align.report import evidence
from qwen_align.report.render import Link, Row, Section, formatted, write_pages
from qwen_align.report.sections import titled
from qwen_align.stage import run_folder
from qwen_align.stage.launch import INTERRUPTED
from qwen_align.stage.run import StageFailed
from qwen_align.stage.text import short_path, table

DEFAULT_OBJECTIVE = "headline.mean"
INTERVAL = (
    "In brackets the 95 % interval over seeds (Student's t): it covers the training seed, not the choice of problems."
)
_PLUGINS = {  # what Hydra needs beside itself
    "hydra/launcher=joblib": ("joblib", "hydra-joblib-launcher"),
    "hydra/launcher=submitit_local": ("submitit", "hydra-submitit-launcher"),
    "hydra/launcher=submitit_slurm": ("submitit", "hydra-submitit-launcher"),
    "hydra/launcher=ray": ("ray", "hydra-ray-launcher"),
    "hydra/sweeper=optuna": ("optuna", "hydra-optuna-sweeper"),
}


@dataclass
class Job:
    """One job of a sweep, as job.json has it."""

    number: int
    words: list[str]
    state: str = "running"
    error: str | None = None
    code: int = 0
    folder: str | None = None  # the last stage's run folder
    objective: float | None = None

    @property
    def settings(self) -> dict[str, str]:
        return {key.lstrip("+~"): value for key, _, value in (word.partition("=") for word in self.words)}


@dataclass
class Group:
    """Jobs that differ in their seed alone."""

    settings: dict[str, str]
    jobs: list[Job] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)  # metric -> one value a job

    @property
    def seeds(self) -> str:
        done = sum(job.state == "finished" for job in self.jobs)
        seeds = ", ".join(job.settings.get("seed", "") for job in self.jobs)
        return seeds if done == len(self.jobs) else f"{seeds} ({done} of {len(self.jobs)} finished)"


def is_multirun(words: list[str]) -> bool:
    """Whether a command line asks for several jobs."""
    named = any(word.startswith("sweep=") and word not in ("sweep=", "sweep=null") for word in words)
    return named or bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words))


def check_plugins(words: list[str]) -> None:
    """Raise ConfigError for a launcher or sweeper whose package is missing; Hydra would list files."""
    for word in words:
        extra, package = _PLUGINS.get(word, ("", ""))
        if package and not is_installed(package):
            raise ConfigError(f"{word}: {package} is not installed; pip install 'qwen-align[{extra}]' has it")


def is_installed(package: str) -> bool:
    """Whether this Python has it."""
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def name_of(words: list[str]) -> str:
    """What a sweep is called: `name=`, else its `sweep=` and a hash of its words, so that the same command finds it again."""
    said = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)}
    if said.get("name"):
        return said["name"]
    passing = ("-", "hydra", "force=", "plan=", "runs_dir=")
    counted = sorted(word for word in words if not word.startswith(passing))
    return f"{said.get('sweep', 'sweep')}-{hashlib.sha256(shlex.join(counted).encode()).hexdigest()[:8]}"


def objective(folder: Path, path: str) -> float | None:
    """The number at a dotted path into a run's metrics.json; None only where the default names nothing.

    Raises:
        ConfigError: there is no such number; the message lists those that are there.
    """
    found = dict(groups.flatten(run_folder.read_json(folder / "metrics.json")))
    numbers = [key for key, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if path in numbers:
        return float(found[path])
    if path == DEFAULT_OBJECTIVE:
        return None
    means = [name for name in numbers if not name.endswith((".low", ".high"))]
    raise ConfigError(
        f"objective={path}: metrics.json has no such number{nearest(path, numbers)}; it has {', '.join(means)}"
    )


def recorded(
    folder: Path, number: int, words: list[str], work: Callable[[], tuple[Path | None, float | None]]
) -> float | None:
    """Do one job and write down how it ended; a failure is no exception, so the next job runs. Returns the objective.

    Raises:
        KeyboardInterrupt: the job was interrupted, and so is the sweep.
    """
    job = Job(number, words)
    write = lambda: run_folder.write_json(folder / "job.json", asdict(job))  # noqa: E731
    write()
    try:
        where, job.objective = work()
        job.folder, job.state = str(where) if where else None, "finished"
    except KeyboardInterrupt:
        job.state, job.code = "interrupted", INTERRUPTED
        raise
    except Exception as error:
        job.error, job.code = str(error), getattr(error, "code", 2 if isinstance(error, ConfigError) else 1)
        job.state = "interrupted" if job.code == INTERRUPTED else "failed"
        if job.state == "interrupted":
            raise KeyboardInterrupt from error
        if not isinstance(error, (ConfigError, StageFailed)):
            job.error = f"{type(error).__name__}: {error}"
            traceback.print_exc()
    finally:
        write()
    return job.objective


def clear(folder: Path) -> None:
    """Remove the records of an earlier call."""
    for path in folder.glob("*/job.json"):
        path.unlink()


def jobs_of(folder: Path) -> list[Job]:
    """The jobs that left a record; one that says no more than that it runs was killed."""
    found = sorted((Job(**run_folder.read_json(p)) for p in folder.glob("*/job.json")), key=lambda job: job.number)
    for job in found:
        if job.state == "running":
            job.state, job.code = "failed", 1
            job.error = "ended without a word: killed from outside, as a memory limit does"
    return found


def _measured(job: Job, path: str) -> dict[str, float]:
    """The numbers of a job that a table shows: the objective, the headline, and what its evaluation is known by."""
    metrics = run_folder.read_json(Path(job.folder) / "metrics.json") if job.folder else {}
    found = {path: job.objective} if path != DEFAULT_OBJECTIVE and job.objective is not None else {}
    if headline := evidence.headline_of(metrics):
        found[headline.name] = headline.value.mean
    own = evidence.summary_of(metrics.get("evaluation") or {})
    return found | {key: value.mean for key, value in own.main().items()}


def _differing(jobs: list[Job]) -> list[str]:
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def own_overrides(jobs: list[Job]) -> dict[int, str]:
    """number -> the overrides of a job that others don't share."""
    keys = _differing(jobs)
    return {j.number: shlex.join(f"{key}={j.settings[key]}" for key in keys if key in j.settings) for j in jobs}


def grouped(jobs: list[Job], path: str) -> list[Group]:
    """The jobs by the settings that differ, in the order they began; a metric has values of finished jobs alone."""
    differing = [key for key in _differing(jobs) if key != "seed"]
    groups: dict[tuple[str, ...], Group] = {}
    for job in jobs:
        mine = {key: job.settings.get(key, "") for key in differing}
        group = groups.setdefault(tuple(mine.values()), Group(mine))
        group.jobs.append(job)
        for name, value in (_measured(job, path) if job.state == "finished" else {}).items():
            group.values.setdefault(name, []).append(value)
    return list(groups.values())


def over_seeds(values: list[float]) -> Interval | float:
    """The mean, and with two values or more its interval: mean -+ t(0.975, n - 1) x standard deviation / sqrt(n)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def results(rows: list[Group]) -> list[list[str]]:
    """The table: settings that differ, seeds, metrics; the first row is its head."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.values))
    cells = lambda row: [formatted(over_seeds(v)) if (v := row.values.get(m)) else "" for m in metrics]  # noqa: E731
    head = [*rows[0].settings, "seeds", *(name if "." in name else titled(name) for name in metrics)]
    return [head, *([*row.settings.values(), row.seeds, *cells(row)] for row in rows)]


def failures(jobs: list[Job]) -> dict[str, list[Job]]:
    """Why jobs did not finish -> which; many fail for one reason."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        if job.state != "finished":
            found.setdefault(job.error or job.state, []).append(job)
    return found


def summary(jobs: list[Job]) -> str:
    """How many jobs ended how, and what to do about those that did not finish."""
    done = sum(job.state == "finished" for job in jobs)
    text = f"{done} of {len(jobs)} jobs that began are finished."
    return text if done == len(jobs) else f"{text} The same command runs only what is missing."


def _row(group: Group) -> dict[str, object]:
    """A row of sweep.json."""
    metrics = {}
    for name, values in group.values.items():
        found = over_seeds(values)
        metrics[name] = {**(vars(found) if isinstance(found, Interval) else {"mean": found}), "values": values}
    seeds = [job.settings.get("seed") for job in group.jobs]
    return {"settings": group.settings, "seeds": seeds, "jobs": [j.number for j in group.jobs], "metrics": metrics}


def write(folder: Path, path: str, command: str) -> list[Job]:
    """Print the table over all jobs and write sweep.json, sweep.md and sweep.html; returns the jobs."""
    jobs = jobs_of(folder)
    if not jobs:
        return []
    rows = grouped(jobs, path)
    cells = results(rows)
    print(f"\n{summary(jobs)} {INTERVAL}\n\n{table([tuple(row) for row in cells])}", flush=True)
    about = {"name": folder.name, "command": command, "objective": path, "interval": INTERVAL}
    run_folder.write_json(
        folder / "sweep.json", {**about, "rows": list(map(_row, rows)), "jobs": list(map(asdict, jobs))}
    )
    content = [Section("Results", INTERVAL, [*cells]), _failed(jobs), _listed(folder, jobs, command)]
    write_pages(folder, "sweep", folder.name, summary(jobs), content)
    print(f"\nsweep: {short_path(folder / 'sweep.html')}", flush=True)
    return jobs


def _failed(jobs: list[Job]) -> Section:
    own = own_overrides(jobs)
    rows: list[Row] = [["jobs", "state", "why"]]
    for why, these in failures(jobs).items():
        rows.append(["; ".join(own[job.number] or str(job.number) for job in these), these[0].state, why])
    return Section("Not finished", table=rows)


def _listed(folder: Path, jobs: list[Job], command: str) -> Section:
    own = own_overrides(jobs)
    rows: list[Row] = [["job", "overrides", "state", "run folder"]]
    for job in jobs:
        there = Path(os.path.relpath(job.folder, folder)).as_posix() if job.folder else ""
        link = Link(Path(there).name, f"{there}/report.html") if there else ""
        rows.append([str(job.number), own[job.number], job.state, link])
    return Section("Jobs", f"Command: {command}.", rows)
