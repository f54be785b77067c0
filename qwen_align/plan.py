"""Which stages a run needs, which exist already, in which order: like make, by fingerprint.

A stage's fingerprint hashes the settings that can change its result and the fingerprints of the stages it starts from. A
finished run folder with that fingerprint is reused. How often something is logged or saved does not count, nor where the
run happens, nor how much is evaluated at its end.
"""

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qwen_align import groups, run_folder
from qwen_align.errors import ConfigError, nearest

_NEUTRAL_ARGS = frozenset(
    "logging_steps logging_strategy logging_first_step save_steps save_strategy save_total_limit report_to run_name project "
    "disable_tqdm log_completions log_level log_level_replica num_completions_to_print log_unique_prompts log_multimodal "
    "dataloader_num_workers dataloader_pin_memory push_to_hub hub_model_id hub_token hub_strategy hub_private_repo".split()
)
_NEUTRAL_GENERATOR = frozenset(
    "concurrency retries backoff timeout api_key_env gpu_memory_utilization enforce_eager".split()
)
Overlay = Callable[[str], DictConfig]


@dataclass
class Stage:
    """One run folder to be: a method, its resolved settings and where it starts."""

    method: str
    config: dict[str, Any]
    folder: Path
    fingerprint: str
    choices: dict[str, str]
    parents: "dict[str, Stage]" = field(default_factory=dict)

    @property
    def state(self) -> str:
        return run_folder.state(self.folder)

    @property
    def lineage(self) -> "list[Stage]":
        """The policies this one came from, the earliest first."""
        parent = self.parents.get("init")
        return [*parent.lineage, parent] if parent else []


def _contents(node: dict[str, Any]) -> dict[str, str]:
    """key -> hash of every file that a data set names: what is in it counts, not only where it lies."""
    named = {key: os.path.expanduser(value) for key, value in groups.flatten(node) if isinstance(value, str)}
    files = {key: name for key, name in named.items() if os.path.isfile(name)}  # Path.is_file raises on a long prompt
    return {key: hashlib.sha256(Path(name).read_bytes()).hexdigest() for key, name in files.items()}


def settings(config: dict[str, Any], method: str, start: str) -> dict[str, Any]:
    """The part of a stage's config that can change its result."""
    chosen = copy.deepcopy({k: config[k] for k in ("model", "data", "seed", "max_completion_length")})
    mine = copy.deepcopy(config["method"])
    if files := _contents(config["data"]):
        chosen["files"] = files
    if "args" in mine:
        mine["args"] = {k: v for k, v in mine["args"].items() if k not in _NEUTRAL_ARGS}
        chosen["adapter"] = config["adapter"]
        chosen["precision"] = config["hardware"]["precision"]
    else:
        chosen["generator"] = {k: v for k, v in config["generator"].items() if k not in _NEUTRAL_GENERATOR}
    return chosen | {"method": mine, "name": method, "start": start}


def _existing(path: Path) -> Stage:
    """A run folder that the user names as the start."""
    manifest = run_folder.read_json(path / "run.json")
    if manifest.get("state") != "finished":
        raise ConfigError(f"init={path}: that run is {manifest.get('state', 'not a run')}; expected a finished one")
    if not (path / "model").is_dir():
        raise ConfigError(
            f"init={path}: that run ({manifest['method']}) made no policy; expected one of a training method"
        )
    stage = Stage(manifest["method"], {}, path, manifest["fingerprint"], manifest["choices"])
    parent = manifest["parents"].get("init")
    if parent and (Path(parent) / "run.json").is_file():
        stage.parents["init"] = _existing(Path(parent))
    return stage


def _start(start: str, stage_of: Callable[[str], Stage]) -> tuple[str, Stage | None]:
    """What `init` means: (base | a model, None) or (a folder, its stage)."""
    if start == "base":
        return "base", None
    if start in groups.options("method"):
        stage = stage_of(start)
        return str(stage.folder), stage
    path = Path(start).expanduser()
    if (path / "run.json").is_file():
        return str(path.resolve()), _existing(path.resolve())
    if (path / "config.json").is_file():
        return str(path.resolve()), None
    if start.count("/") == 1 and not start.startswith((".", "/", "~")) and not path.exists():
        return start, None
    known = ["base", *groups.options("method")]
    raise ConfigError(
        f"init={start}: expected one of {', '.join(known)}, a run folder, a model folder or a Hub name like org/model"
        f"{nearest(start, known)}"
    )


def resolve(job: DictConfig, choices: dict[str, str], method_of: Overlay) -> list[Stage]:
    """The stages of a job in the order they run, the asked-for one last.

    Args:
        job: the composed config; its `method` is the target's, with the command line's overrides.
        choices: group -> option.
        method_of: a method's settings as another stage of this job needs them.

    Raises:
        ConfigError: an `init` that means nothing, or stages that need each other.
    """
    order: list[Stage] = []
    running: list[str] = []

    def stage_of(method: str, target: bool = False) -> Stage:
        if method in running:
            raise ConfigError(f"init={method}: stages would need each other: {' -> '.join([*running, method])}")
        running.append(method)
        own = job.copy()
        if not target:
            own.method = method_of(method)
        config: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
        start, parent = _start((config["init"] if target else None) or config["method"]["init"], stage_of)
        running.pop()
        for key in ("stages", "plan", "force", "experiment"):
            config.pop(key, None)
        config["init"] = start
        if parent:
            config["ancestors"] = [{"method": s.method, "folder": str(s.folder)} for s in [*parent.lineage, parent]]
        mark = run_folder.fingerprint(settings(config, method, parent.fingerprint if parent else start))
        for known in order:
            if known.fingerprint == mark:
                return known
        name = "-".join((method, choices["data"], choices["model"], mark[:8]))
        folder = Path(config["runs_dir"]).expanduser().resolve() / name
        stage = Stage(method, config, folder, mark, choices, {"init": parent} if parent else {})
        order.append(stage)
        return stage

    stage_of(choices["method"], target=True)
    return order
