"""The entrypoint: compose with Hydra, check, plan, run, report. The only module that knows Hydra; it never imports torch."""

import gc
import os
import pickle
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterable
from functools import cache, reduce
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from qwen_align import run_folder
from qwen_align.config import check, command_line, component, groups, overrides, own_options, usage
from qwen_align.errors import ConfigError
from qwen_align.stage import comparison, multirun, preflight, run, summary
from qwen_align.stage.launch import INTERRUPTED, USER_ERROR
from qwen_align.stage.plan import Composed, Stage
from qwen_align.stage.text import short_path

_failures: list[Exception] = []
_COMPARED = ("method.policies", "method.rows")  # one on the command line takes the place of both in an experiment


def _complete(job: DictConfig, choices: dict[str, str], parsed: list[Override]) -> Composed:
    """A job that Hydra composed, checked and settled: stages, the user's files, revisions."""
    plain: Any = OmegaConf.to_container(job, resolve=False)
    check.composed(plain, choices)
    given = [str(o.input_line) for o in parsed if not o.is_hydra_override()]
    with open_dict(job):
        job.method = groups.merged(plain["method"], plain["stages"].get(choices["method"]) or {})
        # The command line wins over the experiment.
        own = {o.key_or_group: o for o in parsed if not o.is_delete()}
        for key in _COMPARED if own.keys() & set(_COMPARED) else ():
            OmegaConf.update(job, key, {}, merge=False)
        for key, override in own.items():
            if key.startswith("method."):
                OmegaConf.update(job, key, override.value(), force_add=True)
        component.settle(job)
        preflight.settle_revisions(job, choices, given)
    return Composed(job, choices, given)


def _compose(given: list[str]) -> Composed:
    """A job from its overrides: what it shares with the others of a table is composed by Hydra once, the rest put on top."""
    checked = [overrides.checked(text) for text in overrides.expanded(given)]
    _store_targets(checked)
    parsed = OverridesParser.create().parse_overrides(checked)
    options = {o.key_or_group: str(o.value()) for o in parsed if groups.stands_apart(o.key_or_group, str(o.value()))}
    values = [o for o in parsed if o.key_or_group not in groups.names() and not o.is_hydra_override()]
    shared = [text for text, o in zip(checked, parsed, strict=True) if o not in values and o.key_or_group not in options]
    alters_groups = any(o.is_delete() or o.is_add() or o.package for o in parsed)
    if not alters_groups and len(options) + len(values) + len(shared) == len(parsed):  # no option named twice
        job, choices = pickle.loads(_composed(tuple(shared)))
        choices |= options
        try:
            with open_dict(job):
                for group, option in options.items():
                    own = [groups.read(kind, choices.get(kind, "")).get(group) or {} for kind in ("experiment", "sweep")]
                    job[group] = reduce(groups.merged, own, groups.read(group, option))
            for o in values:
                OmegaConf.update(job, o.key_or_group, o.value(), force_add=o.is_force_add())
            return _complete(job, choices, parsed)
        except OmegaConfBaseException:  # Hydra says why
            pass
    job, choices = pickle.loads(_composed(tuple(checked)))
    return _complete(job, choices, parsed)


@cache
def _composed(given: tuple[str, ...]) -> bytes:
    """(job, group -> option) as a pickle: DictConfig.copy takes seven times as long as reading one."""
    job = compose("config", list(given), return_hydra_config=True)
    with open_dict(job):
        runtime = job.pop("hydra").runtime
    return pickle.dumps((job, _choices(runtime)))


def _store_targets(given: list[str]) -> None:
    """Make options of the rewards that are named by a target, so that Hydra composes and sweeps them like any other."""
    for option in overrides.targets(given):
        group, _, name = f"reward/{option}".replace("//", "/").rpartition("/")
        ConfigStore.instance().store(name, groups.read("reward", option), group)


def _choices(runtime: Any) -> dict[str, str]:
    return {k: v for k, v in runtime.choices.items() if v and "/" not in k}


def planned(given: list[str]) -> list[Stage]:
    """The stages of a command line, nothing started."""
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        return comparison.resolve(_compose(given), _compose)


def _job(job: DictConfig) -> float | None:
    """One job that Hydra composed, maybe in a process of its own. Returns the objective, which a sweeper may ask for."""
    runtime = HydraConfig.get()
    groups.extra.clear()
    _use_folders(s.path for s in runtime.runtime.config_sources if s.provider == "command-line")
    # As they were typed: a list of OmegaConf's would put values in place of ${...}.
    given: list[str] = OmegaConf.to_container(runtime.overrides.task, resolve=False)  # type: ignore[assignment]
    choices, parsed = _choices(runtime.runtime), OverridesParser.create().parse_overrides(given)
    if runtime.mode == RunMode.MULTIRUN:
        with open_dict(job):
            job.name = None  # the jobs of an experiment would write over each other's report
        folder, record = Path(runtime.runtime.output_dir), multirun.Job(int(runtime.job.num), given)
        return multirun.recorded(folder, record, lambda: _plan_and_run(_complete(job, choices, parsed)))
    try:
        return _plan_and_run(_complete(job, choices, parsed))[1]
    except (ConfigError, run.StageFailed, OmegaConfBaseException) as error:
        _failures.append(error)  # Hydra would print a page
        return None


def _plan_and_run(composed: Composed) -> tuple[Path | None, float | None]:
    """Print the plan, or run it and write the report. Returns the last stage's folder and the objective, if there are."""
    job, stages = composed.job, comparison.resolve(composed, _compose)
    if job.plan:
        summary.print_plan(stages)
        return None, None
    last, given = stages[-1], [text.lstrip("+") for text in composed.overrides]
    run.execute(stages, job.force, given, job.workers)
    from qwen_align.report import pages  # a plan needs none

    keys = {text.partition("=")[0] for text in given}
    # An experiment's name stands for its whole chain; a part of it reports beside it.
    part = job.name and "method" in keys and "name" not in keys
    name = f"{job.name}-{last.method}" if part else job.name
    folder = last.folder.parent / name if name else last.folder
    pages.write(folder, stages)
    print(f"\nreport: {short_path(folder / 'report.html')}\nnext:   {summary.next_command(last, given)}")
    return last.folder, multirun.objective(last.folder, job.objective or multirun.DEFAULT_OBJECTIVE)


def _use_folders(folders: Iterable[str]) -> None:
    """Take folders of --config-dir: their YAMLs are options, and their modules can be named in a `_target_`."""
    _composed.cache_clear()
    for folder in folders:
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            raise ConfigError(f"--config-dir {folder}: is no folder; expected one that holds GROUP/OPTION.yaml")
        groups.extra.append(path)
        if str(path) not in sys.path:
            sys.path.append(str(path))


def _compose_and_run(given: list[str]) -> None:
    if {"--help", "-h"} & set(given):
        return print(usage.text(), end="")
    given = command_line.words(given)
    _use_folders(text.partition("=")[2] for text in given if text.startswith("--config-dir="))
    checked = [overrides.checked(text) for text in overrides.expanded(given)]
    own_options.check(checked)
    multirun.check_plugins(checked)
    if multirun.is_multirun(checked) and not any(text.startswith(("--cfg", "--info")) for text in checked):
        _sweep(checked)
    elif any(text.lstrip("+~").startswith(("-", "hydra", "sweep=")) for text in checked):
        _under_hydra(checked)
    else:  # one plain job: hydra.main would compose it twice, to find out that it is one
        with initialize_config_dir(str(groups.CONF), version_base="1.3"):
            _plan_and_run(_compose(given))


def _under_hydra(given: list[str]) -> None:
    _store_targets(given)
    sys.argv = ["python -m qwen_align", *given]
    hydra.main(config_path=str(groups.CONF), config_name="config", version_base="1.3")(_job)()


def _sweep(given: list[str]) -> None:
    """All jobs of a command line, then the table over them; what failed is kept for `main`."""
    from qwen_align.report import sweep

    # What names the sweep's folder, without what is swept: that can only be composed job by job.
    fixed = [text for text in given if re.match(r"\+*(experiment|runs_dir|plan|objective)=[^,]*$", text)]
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        job = compose("config", fixed)
    if "hydra/sweeper=optuna" in given and not any(text.startswith("hydra.sweeper.direction=") for text in given):
        given = [*given, "hydra.sweeper.direction=maximize"]  # optuna's own default would look for the worst policy
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # between two stages as in one
    if job.plan:
        with tempfile.TemporaryDirectory() as nowhere:
            _jobs(given, Path(nowhere))
        return
    folder = Path(job.runs_dir).expanduser().resolve() / "sweeps" / multirun.name_of(given)
    with run_folder.locked(folder):
        for record in folder.glob("*/job.json"):  # of an earlier call
            record.unlink()
        try:
            _jobs(given, folder)
        finally:
            command = shlex.join(["python", "-m", "qwen_align", *(text.lstrip("+") for text in given)])
            sweep.write(folder, job.objective or multirun.DEFAULT_OBJECTIVE, command)


def _jobs(given: list[str], folder: Path) -> None:
    from qwen_align.report import sweep

    try:
        _under_hydra([*given, f"hydra.sweep.dir={folder}"])
    except (ConfigError, HydraException, OmegaConfBaseException, BrokenPipeError):
        raise
    except Exception as error:  # whatever a launcher or a sweeper raises
        _failures.append(run.StageFailed(f"the sweep stopped: {type(error).__name__}: {error}", 1))
    finally:
        jobs = multirun.jobs_of(folder)
        own = sweep.own_overrides(jobs)
        for why, failed in sweep.failures(jobs).items():
            named = ", ".join(f"job {job.number} ({own[job.number]})" for job in failed)
            _failures.append(run.StageFailed(f"{named}: {why}", max(job.code for job in failed)))


def _one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's messages without their advice: the first line, and the key if they name one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key")), "")
    if lines and (refused := re.match(r"Could not override '(.+?)'", lines[0])):
        return overrides.misplaced(refused[1])
    if isinstance(error, OverrideParseException):
        return command_line.unreadable(str(error.override))
    if lines and (several := re.match(r"Ambiguous value for argument '(.+)'", lines[0])):
        return command_line.ambiguous(several[1])
    if isinstance(error, YAMLError):
        return f"{getattr(getattr(error, 'problem_mark', None), 'name', 'a file of yours')}: is no YAML ({' '.join(lines)})"
    return f"{key + ': ' if key else ''}{lines[0] if lines else type(error).__name__}"


def main() -> int:
    """The exit code: 0 done, 1 a stage failed, 2 the user's mistake, 130 interrupted."""
    gc.set_threshold(100_000)  # a plan is many small objects, which stay
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; the one line below is ours
    _failures.clear()
    try:
        _compose_and_run(sys.argv[1:])
    except (ConfigError, run.StageFailed, HydraException, OmegaConfBaseException, YAMLError) as error:
        _failures.append(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    for failure in _failures:
        known = isinstance(failure, (ConfigError, run.StageFailed))
        print(f"error: {failure if known else _one_line(failure)}", file=sys.stderr)
    return getattr(_failures[0], "code", USER_ERROR) if _failures else 0


if __name__ == "__main__":
    from qwen_align.__main__ import main as importable  # a launcher sends its job to other processes, by its module's name

    sys.exit(importable())
