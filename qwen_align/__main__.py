"""The one entrypoint: compose with Hydra, check, plan, launch. The only module that knows Hydra; it never imports torch.

python -m qwen_align experiment=quickstart plan=true
"""

import importlib
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from qwen_align.config import check, groups, overrides, usage
from qwen_align.errors import ConfigError
from qwen_align.report import sweep
from qwen_align.stage import preflight, run, run_folder
from qwen_align.stage.launch import INTERRUPTED, USER_ERROR
from qwen_align.stage.plan import Stage, resolve

_failures: list[Exception] = []


def _overlay(job: DictConfig, method: DictConfig, name: str) -> DictConfig:
    """A method's settings with what the experiment says about that stage on top."""
    merged = OmegaConf.merge(method, job.stages.get(name) or {})
    assert isinstance(merged, DictConfig)
    return merged


def _plan(job: DictConfig, choices: dict[str, str], words: list[str]) -> list[Stage]:
    check.composed(OmegaConf.to_container(job, resolve=False), choices)  # type: ignore[arg-type]
    with open_dict(job):
        job.method = _overlay(job, job.method, choices["method"])
        # The command line wins over the experiment.
        for override in OverridesParser.create().parse_overrides(words):
            if override.key_or_group.startswith("method.") and not override.is_delete():
                whole = override.key_or_group == "method.policies"  # instead of the experiment's own, not beside them
                OmegaConf.update(job, override.key_or_group, override.value(), merge=not whole, force_add=True)
        preflight.settle_revisions(job, choices, words)
        method_of = lambda name: _overlay(job, OmegaConf.create(groups.read("method", name)), name)  # noqa: E731
        stages = resolve(job, choices, method_of, _policies(job, words))
    for stage in stages:
        check.stage(stage.config, stage.choices, stage.method)
    return stages


def _policies(job: DictConfig, words: list[str]) -> dict[str, list[Stage]]:
    """The plans behind the policies that a method compares: each is this job with words of its own."""
    found: dict[str, list[Stage]] = {}
    for name, own in (job.method.get("policies") or {}).items():
        mine = overrides.expanded(list(own))
        replaced = {"method", "name", "plan", "force", "init"}
        replaced |= {"reward"} if any(word.startswith(("reward=", "+reward@")) for word in mine) else set()
        kept = [w for w in words if re.match(r"[+~]*(\w*)", w)[1] not in replaced]  # type: ignore[index]
        composed, choices, all_words = _composed([*kept, *(overrides.checked(word) for word in mine)])
        if composed.method.get("policies"):
            raise ConfigError(f"method.policies.{name}: compares policies itself; expected words such as method=rloo")
        found[name] = _plan(composed, choices, all_words)
    return found


def _composed(words: list[str]) -> tuple[DictConfig, dict[str, str], list[str]]:
    """(the job, group -> option, its words) of checked words."""
    job = compose("config", words, return_hydra_config=True)
    runtime = job.hydra
    with open_dict(job):
        del job["hydra"]
    return job, *_told(runtime)


def planned(words: list[str]) -> list[Stage]:
    """The stages of a command line, nothing started."""
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        return _plan(*_composed([overrides.checked(word) for word in overrides.expanded(words)]))


def _told(runtime: Any) -> tuple[dict[str, str], list[str]]:
    """(group -> option, words) of a job that Hydra composed."""
    # Words as they were typed: a list of OmegaConf's would put values in place of ${...}.
    words: list[str] = OmegaConf.to_container(runtime.overrides.task, resolve=False)  # type: ignore[assignment]
    return {k: v for k, v in runtime.runtime.choices.items() if v and "/" not in k}, words


def _job(job: DictConfig) -> float | None:
    """One job that Hydra composed, maybe in a process of its own. Returns the objective, which a sweeper may ask for."""
    told = HydraConfig.get()
    groups.extra[:] = [Path(s.path) for s in told.runtime.config_sources if s.provider == "command-line"]
    if told.mode == RunMode.MULTIRUN:
        where, choices_and_words = Path(told.runtime.output_dir), _told(told)
        alone = {"name": None}  # the jobs of an experiment would write over each other's report
        work = lambda: _plan_and_run(OmegaConf.merge(job, alone), *choices_and_words)  # type: ignore[arg-type]  # noqa: E731
        return sweep.recorded(where, int(told.job.num), choices_and_words[1], work)
    try:
        return _plan_and_run(job, *_told(told))[1]
    except (ConfigError, run.StageFailed, OmegaConfBaseException) as error:
        # Hydra would print it in its own words.
        _failures.append(error)
        return None


def _plan_and_run(job: DictConfig, choices: dict[str, str], task: list[str]) -> tuple[Path | None, float | None]:
    """Print the plan or run it. Returns the last stage's folder and the objective, None and None for a plan."""
    stages = _plan(job, choices, task)
    if job.plan:
        run.print_plan(stages)
        return None, None
    words = [word.lstrip("+") for word in task]
    given = {word.partition("=")[0] for word in words}
    # An experiment's name stands for its whole chain; a part of it reports beside it.
    part = job.name and "method" in given and "name" not in given
    run.execute(stages, f"{job.name}-{choices['method']}" if part else job.name, job.force, words)
    return stages[-1].folder, sweep.objective(stages[-1].folder, job.get("objective") or sweep.DEFAULT_OBJECTIVE)


def _compose_and_run(words: list[str]) -> None:
    if "--config-dir" in words or "-cd" in words:
        at = next(i for i, word in enumerate(words) if word in ("--config-dir", "-cd"))
        groups.extra.extend(Path(folder).absolute() for folder in words[at + 1 : at + 2])
    groups.extra.extend(Path(w.partition("=")[2]).absolute() for w in words if w.startswith("--config-dir="))
    flags_with_value = "--config-dir -cd --config-path -cp --config-name -cn --package -p --cfg -c".split()
    if "--help" in words or "-h" in words:
        print(usage.text(), end="")
        return
    words = overrides.expanded(words)
    checked = [w if i and words[i - 1] in flags_with_value else overrides.checked(w) for i, w in enumerate(words)]
    sweep.check_plugins(checked)
    if sweep.is_one(checked) and not {"--cfg", "-c"} & set(checked):
        _sweep(checked)
        return
    if not any(word.lstrip("+~").startswith(("-", "hydra", "sweep=")) for word in checked):
        # One plain job: hydra.main would compose it twice, to find out that it is one.
        with initialize_config_dir(str(groups.CONF), version_base="1.3"):
            _plan_and_run(*_composed(checked))
        return
    _under_hydra(checked, _job)


def _under_hydra(words: list[str], job: Callable[[DictConfig], float | None]) -> None:
    sys.argv = ["python -m qwen_align", *words]
    hydra.main(config_path=str(groups.CONF), config_name="config", version_base="1.3")(job)()


def _sweep(words: list[str]) -> None:
    """All jobs of a command line, then the table over them; what failed is kept for `main`."""
    # What names the sweep's folder, without what is swept: that can only be composed job by job.
    fixed = [word for word in words if re.match(r"\+*(experiment|runs_dir|plan|objective)=", word)]
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        job, _, _ = _composed(fixed)
    if "hydra/sweeper=optuna" in words and not any(word.startswith("hydra.sweeper.direction=") for word in words):
        words = [*words, "hydra.sweeper.direction=maximize"]  # optuna's own default would look for the worst policy
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # between two stages as in one: what runs is told to stop
    if job.plan:
        with tempfile.TemporaryDirectory() as nowhere:
            _jobs(words, Path(nowhere))
        return
    folder = Path(job.runs_dir).expanduser().resolve() / "sweeps" / sweep.name_of(words)
    with run_folder.locked(folder, f"{run.shown(folder)} is in use by process {{owner}}; waiting for it"):
        sweep.forget(folder)
        try:
            _jobs(words, folder)
        finally:
            command = shlex.join(["python", "-m", "qwen_align", *(word.lstrip("+") for word in words)])
            sweep.write(folder, job.get("objective") or sweep.DEFAULT_OBJECTIVE, command)


def _jobs(words: list[str], folder: Path) -> None:
    # By its importable name: a launcher sends the function to other processes, where __main__ is another program.
    job = importlib.import_module("qwen_align.__main__")._job
    try:
        _under_hydra([*words, f"hydra.sweep.dir={folder}"], job)
    except (ConfigError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # whatever a launcher or a sweeper raises
        _failures.append(run.StageFailed(f"the sweep stopped: {type(error).__name__}: {error}", 1))
    finally:
        jobs = sweep.jobs_of(folder)
        words_of = sweep.told_apart(jobs)
        for why, lost in sweep.losses(jobs).items():
            named = ", ".join(f"job {job.number} ({words_of[job.number]})" for job in lost)
            _failures.append(run.StageFailed(f"{named}: {why}", max(job.code for job in lost)))


def _one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's messages without the advice that frightens: the first line, and the key if they name one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key")), "")
    if lines and (refused := re.match(r"Could not override '(.+?)'", lines[0])):
        return overrides.misplaced(refused[1])
    if isinstance(error, OverrideParseException):
        key = f"{error.override} (quote it for Hydra as well as for the shell)"
    return f"{key + ': ' if key else ''}{lines[0] if lines else type(error).__name__}"


def main() -> int:
    """The exit code: 0 done, 1 a stage failed, 2 the user's mistake, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; the one line below is ours
    _failures.clear()
    try:
        _compose_and_run(sys.argv[1:])
    except (ConfigError, run.StageFailed, HydraException, OmegaConfBaseException) as error:
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
    sys.exit(main())
