"""The one entrypoint: compose with Hydra, check, plan, launch. The only module that knows Hydra; it never imports torch.

python -m qwen_align experiment=quickstart plan=true
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from qwen_align import check, groups, overrides, run, usage
from qwen_align.errors import ConfigError
from qwen_align.launch import INTERRUPTED, USER_ERROR
from qwen_align.plan import Stage, resolve

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
                OmegaConf.update(job, override.key_or_group, override.value(), force_add=True)
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


def _told(runtime: Any) -> tuple[dict[str, str], list[str]]:
    """(group -> option, words) of a job that Hydra composed."""
    # Words as they were typed: a list of OmegaConf's would put values in place of ${...}.
    words: list[str] = OmegaConf.to_container(runtime.overrides.task, resolve=False)  # type: ignore[assignment]
    return {k: v for k, v in runtime.runtime.choices.items() if v and "/" not in k}, words


def _job(job: DictConfig) -> float | None:
    """One job that Hydra composed; it would print a failure in its own words, so that is kept for `main`."""
    try:
        return _plan_and_run(job, *_told(HydraConfig.get()))
    except (ConfigError, run.StageFailed, OmegaConfBaseException) as error:
        _failures.append(error)
        return None


def _plan_and_run(job: DictConfig, choices: dict[str, str], task: list[str]) -> float | None:
    """Print the plan or run it. Returns the headline number, which a sweeper may ask for."""
    stages = _plan(job, choices, task)
    if job.plan:
        run.print_plan(stages)
        return None
    words = [word.lstrip("+") for word in task]
    given = {word.partition("=")[0] for word in words}
    # An experiment's name stands for its whole chain; a part of it reports beside it.
    part = job.name and "method" in given and "name" not in given
    return run.execute(stages, f"{job.name}-{choices['method']}" if part else job.name, job.force, words)


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
    if not any(word.lstrip("+~").startswith(("-", "hydra")) for word in checked):
        # One plain job: hydra.main would compose it twice, to find out that it is one.
        with initialize_config_dir(str(groups.CONF), version_base="1.3"):
            _plan_and_run(*_composed(checked))
        return
    sys.argv = ["python -m qwen_align", *checked]
    hydra.main(config_path=str(groups.CONF), config_name="config", version_base="1.3")(_job)()


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
    for failure in _failures:
        known = isinstance(failure, (ConfigError, run.StageFailed))
        print(f"error: {failure if known else _one_line(failure)}", file=sys.stderr)
    return getattr(_failures[0], "code", USER_ERROR) if _failures else 0


if __name__ == "__main__":
    sys.exit(main())
