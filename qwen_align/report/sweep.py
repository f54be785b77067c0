"""The table over the jobs of a sweep: the settings that differ, seeds, metrics; what did not finish, and why.

Jobs that differ in their seed alone are one row, with Student's t interval over the seeds. Left out: tests of differences
between rows; methods of one seed are compared problem by problem with method=compare.
"""

import math
import os
import shlex
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qwen_align import run_folder
from qwen_align.metric.interval import Interval
from qwen_align.report import evidence
from qwen_align.report.render import Link, Row, Section, formatted, write_pages
from qwen_align.report.sections import titled
from qwen_align.stage.multirun import DEFAULT_OBJECTIVE, Job, jobs_of
from qwen_align.stage.text import short_path, table

INTERVAL = "In brackets the 95 % interval over seeds (Student's t): it covers the training seed, not the choice of problems."


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
    found = [[*rows[0].settings, "seeds", *(name if "." in name else titled(name) for name in metrics)]]
    for row in rows:
        cells = [formatted(over_seeds(row.values[name])) if name in row.values else "" for name in metrics]
        found.append([*row.settings.values(), row.seeds, *cells])
    return found


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
    means = {name: over_seeds(values) for name, values in group.values.items()}
    metrics = {k: (vars(m) if isinstance(m, Interval) else {"mean": m}) | {"values": group.values[k]} for k, m in means.items()}
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
    run_folder.write_json(folder / "sweep.json", {**about, "rows": list(map(_row, rows)), "jobs": list(map(asdict, jobs))})
    own, failed = own_overrides(jobs), [["jobs", "state", "why"]]
    for why, these in failures(jobs).items():
        failed.append(["; ".join(own[job.number] or str(job.number) for job in these), these[0].state, why])
    listed: list[Row] = [["job", "overrides", "state", "run folder"]]
    for job in jobs:
        there = Path(os.path.relpath(job.folder, folder)).as_posix() if job.folder else ""
        link = Link(Path(there).name, f"{there}/report.html") if there else ""
        listed.append([str(job.number), own[job.number], job.state, link])
    of_jobs = [Section("Not finished", table=failed), Section("Jobs", f"Command: {command}.", listed)]
    write_pages(folder / "sweep", folder.name, summary(jobs), [Section("Results", INTERVAL, [*cells]), *of_jobs])
    print(f"\nsweep: {short_path(folder / 'sweep.html')}", flush=True)
    return jobs
