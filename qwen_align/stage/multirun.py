"""Several jobs of one command: what each leaves, whatever the launcher was.

A job writes job.json into its folder below runs_dir/sweeps/NAME, so jobs in other processes or on other machines need no way
back, and what a kill left behind can still be read. The same command has the same NAME: it reuses the run folders that are
finished. The table over all jobs is report/sweep.py.
"""

import hashlib
import re
import shlex
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qwen_align import run_folder
from qwen_align.config import groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.stage.launch import INTERRUPTED
from qwen_align.stage.run import StageFailed

DEFAULT_OBJECTIVE = "headline.mean"


@dataclass
class Job:
    """One job of a sweep, as job.json has it."""

    number: int
    overrides: list[str]
    state: str = "running"
    error: str | None = None
    code: int = 0
    folder: str | None = None  # the last stage's run folder
    objective: float | None = None

    @property
    def settings(self) -> dict[str, str]:
        return {key.lstrip("+~"): value for key, _, value in (text.partition("=") for text in self.overrides)}


def is_multirun(overrides: Sequence[str]) -> bool:
    """Whether a command line asks for several jobs."""
    named = any(text.startswith("sweep=") and text not in ("sweep=", "sweep=null") for text in overrides)
    return named or bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(overrides))


def check_plugins(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a launcher or sweeper whose package is missing; Hydra would list files."""
    for text in overrides:
        if found := re.match(r"hydra/(launcher|sweeper)=(joblib|submitit|ray|optuna)", text):
            kind, extra = found.groups()
            if not run_folder.installed_version(f"hydra-{extra}-{kind}"):
                raise ConfigError(f"{text}: hydra-{extra}-{kind} is not installed; pip install 'qwen-align[{extra}]' has it")


def name_of(overrides: Sequence[str]) -> str:
    """What a sweep is called: `name=`, else its `sweep=` and a hash of its overrides: the same command finds it again."""
    given = {key: value for key, _, value in (text.lstrip("+").partition("=") for text in overrides)}
    if given.get("name"):
        return given["name"]
    counted = sorted(t for t in overrides if not t.startswith(("-", "hydra", "force=", "plan=", "runs_dir=", "workers=")))
    return f"{given.get('sweep', 'sweep')}-{hashlib.sha256(shlex.join(counted).encode()).hexdigest()[:8]}"


def objective(folder: Path, path: str) -> float | None:
    """The number at a dotted path into a run's metrics.json; None where the default names nothing, else a ConfigError."""
    found = dict(groups.flatten(run_folder.read_json(folder / "metrics.json")))
    numbers = [key for key, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if path in numbers:
        return float(found[path])
    if path == DEFAULT_OBJECTIVE:
        return None
    means = [name for name in numbers if not name.endswith((".low", ".high"))]
    raise ConfigError(f"objective={path}: metrics.json has no such number{nearest(path, numbers)}; it has {', '.join(means)}")


def recorded(folder: Path, job: Job, work: Callable[[], tuple[Path | None, float | None]]) -> float | None:
    """Do one job and write down how it ended; only an interrupt is an exception: the next job runs. Returns the objective."""
    write = lambda: run_folder.write_json(folder / "job.json", asdict(job))  # noqa: E731
    write()
    try:
        where, job.objective = work()
        job.folder, job.state = str(where) if where else None, "finished"
    except KeyboardInterrupt:
        job.state, job.code = "interrupted", INTERRUPTED
        raise
    except BrokenPipeError:  # nobody reads on
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


def jobs_of(folder: Path) -> list[Job]:
    """The jobs that left a record; one that says no more than that it runs was killed."""
    found = sorted((Job(**run_folder.read_json(p)) for p in folder.glob("*/job.json")), key=lambda job: job.number)
    for job in found:
        if job.state == "running":
            job.state, job.code = "failed", 1
            job.error = "ended without saying why: killed from outside, as a memory limit does"
    return found
