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

from omegaconf import DictConfig, OmegaConf, open_dict

from qwen_align.config import groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.stage import run_folder

_NEUTRAL_ARGS = frozenset(
    "logging_steps logging_strategy logging_first_step save_steps save_strategy save_total_limit report_to run_name project "
    "disable_tqdm log_completions log_level log_level_replica num_completions_to_print log_unique_prompts log_multimodal "
    "per_device_train_batch_size gradient_accumulation_steps activation_checkpointing gradient_checkpointing "
    "dataloader_num_workers dataloader_pin_memory push_to_hub hub_model_id hub_token hub_strategy hub_private_repo".split()
)
_NEUTRAL_GENERATOR = frozenset(
    "concurrency retries backoff timeout api_key_env gpu_memory_utilization enforce_eager".split()
)
_SEVERAL = "qwen_align.reward.several"
_NEUTRAL_REWARD = frozenset("name weight clip device dtype batch_tokens".split())  # how a trained one scores
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
    def label(self) -> str:
        """The method, and the reward that it is about: an experiment may hold several of one method."""
        node = self.config.get("reward") if self.method == "reward" else self.config.get("method", {}).get("reward")
        names = " + ".join(reward_nodes(node)) if self.method in ("reward", "rloo") else ""
        return f"{self.method} ({names})" if names else self.method

    @property
    def lineage(self) -> "list[Stage]":
        """The policies this one came from, the earliest first."""
        parent = self.parents.get("init")
        return [*parent.lineage, parent] if parent else []


def reward_nodes(node: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """name -> component of a reward setting: one, or several under names of their own."""
    if not node:
        return {}
    if node["_target_"] == _SEVERAL:
        return {name: part for name, part in node.items() if name != "_target_"}
    return {node.get("name") or node["_target_"].split(".")[-2]: node}


def _contents(node: dict[str, Any]) -> dict[str, str]:
    """key -> hash of every file that a data set names: what is in it counts, not only where it lies."""
    named = {key: os.path.expanduser(value) for key, value in groups.flatten(node) if isinstance(value, str)}
    files = {key: name for key, name in named.items() if os.path.isfile(name)}  # Path.is_file raises on a long prompt
    return {key: hashlib.sha256(Path(name).read_bytes()).hexdigest() for key, name in files.items()}


def settings(config: dict[str, Any], method: str, start: str) -> dict[str, Any]:
    """The part of a stage's config that can change its result."""
    keys = ("reward", "data", "seed") if method == "reward" else ("model", "data", "seed", "max_completion_length")
    chosen = copy.deepcopy({k: config[k] for k in keys})
    mine = copy.deepcopy(config["method"])
    if method == "reward":
        chosen["reward"] = {k: v for k, v in chosen["reward"].items() if k not in _NEUTRAL_REWARD}
    for name, node in reward_nodes(mine.get("reward")).items():
        if node.get("folder"):
            node["folder"] = _given(name, node)
    if files := _contents(config["data"]):
        chosen["files"] = files
    mine.pop("held_out_every", None)  # looking changes nothing
    mine.pop("init", None)  # `start` says it, whatever the folder is called
    if "args" in mine:
        # in units of which steps_per_generation counts
        counted = {"per_device_train_batch_size"} if mine["args"].get("steps_per_generation") else set()
        mine["args"] = {k: v for k, v in mine["args"].items() if k not in _NEUTRAL_ARGS - counted}
        chosen["adapter"] = config["adapter"]
        chosen["precision"] = config["hardware"]["precision"]
    else:
        mine.pop("price_per_million_tokens", None)  # what is paid for stays paid for
        chosen["generator"] = {k: v for k, v in config["generator"].items() if k not in _NEUTRAL_GENERATOR}
        chosen["generator"] |= _contents(config["generator"])  # what is recorded counts, not where
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


def _given(name: str, node: dict[str, Any]) -> str:
    """What stands for a trained reward model that the user names: a run's fingerprint, a folder, a Hub name."""
    path = Path(node["folder"]).expanduser()
    if not (path / "run.json").is_file():
        if path.is_dir() and not (path / "config.json").is_file():
            raise ConfigError(f"reward.folder={path}: neither a run folder nor a model folder")
        return str(path.resolve()) if path.exists() else str(node["folder"])
    manifest = run_folder.read_json(path / "run.json")
    if (manifest.get("method"), manifest.get("state")) != ("reward", "finished"):
        raise ConfigError(
            f"reward.folder={path}: that run is {manifest.get('method')}, {manifest.get('state')}; expected a finished run of "
            f"method=reward, or reward.folder=null to train {name} first"
        )
    return str(manifest["fingerprint"])


class _Resolver:
    """The stages of one job, each once, in the order in which they can run."""

    def __init__(self, job: DictConfig, choices: dict[str, str], method_of: Overlay) -> None:
        self.job, self.choices, self.method_of = job, choices, method_of
        self.order: list[Stage] = []
        self.running: list[str] = []

    def stage(self, method: str, target: bool = False, reward: dict[str, Any] | None = None) -> Stage:
        """A stage of this job after those that it needs; the one that is already there if it would be the same."""
        if method in self.running:
            raise ConfigError(f"init={method}: stages would need each other: {' -> '.join([*self.running, method])}")
        own = self.job.copy()
        if not target:
            own.method = self.method_of(method)
        if reward:
            own.reward = reward
        config: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
        self.running.append(method)
        start, parent = _start((config["init"] if target else None) or config["method"]["init"], self.stage)
        parents = ({"init": parent} if parent else {}) | self._reward_models(config, method)
        self.running.pop()
        for key in ("stages", "plan", "force", "experiment"):
            config.pop(key, None)
        config["init"] = start
        if parent:
            config["ancestors"] = [{"method": s.method, "folder": str(s.folder)} for s in [*parent.lineage, parent]]
        mark = run_folder.fingerprint(settings(config, method, parent.fingerprint if parent else start))
        for name, node in reward_nodes(config["method"].get("reward")).items():
            if f"reward {name}" in parents:
                node["folder"] = str(parents[f"reward {name}"].folder)
        return self._once(Stage(method, config, self._folder(method, config, mark), mark, self.choices, parents))

    def _once(self, stage: Stage) -> Stage:
        known = next((s for s in self.order if s.fingerprint == stage.fingerprint), None)
        if known is None:
            self.order.append(stage)
        return known or stage

    def _folder(self, method: str, config: dict[str, Any], mark: str) -> Path:
        subject = next(iter(reward_nodes(config["reward"]))) if method == "reward" else self.choices["model"]
        name = "-".join((method, self.choices["data"], subject, mark[:8]))
        return Path(config["runs_dir"]).expanduser().resolve() / name

    def _reward_models(self, config: dict[str, Any], method: str) -> dict[str, Stage]:
        """The stages that train the reward models of a stage; a node's folder becomes what stands for it in fingerprints."""
        found: dict[str, Stage] = {}
        if method == "reward":
            _check_trainable(config["reward"])
            return found
        for name, node in reward_nodes(config["method"].get("reward")).items():
            if "folder" in node and node["folder"] is None:
                stage = found[f"reward {name}"] = self.stage("reward", reward=node | {"name": name})
                node["folder"] = stage.fingerprint
        return found


def _check_trainable(node: dict[str, Any]) -> None:
    having = [option for option in groups.options("reward") if groups.read("reward", option).get("base")]
    names = reward_nodes(node)
    wrong = "several rewards are trained one by one" if len(names) != 1 else ""
    if "base" not in next(iter(names.values()), {}):
        wrong = "is a function, there is nothing to train"
    elif not wrong and node["folder"] is not None:
        wrong = f"folder={node['folder']} is trained already"
    if wrong:
        raise ConfigError(f"reward={'+'.join(names)}: {wrong}; expected one of {', '.join(having)}")


def resolve(
    job: DictConfig, choices: dict[str, str], method_of: Overlay, policies: dict[str, list[Stage]] | None = None
) -> list[Stage]:
    """The stages of a job in the order they run, the asked-for one last.

    Args:
        job: the composed config; its `method` is the target's, with the command line's overrides.
        choices: group -> option.
        method_of: a method's settings as another stage of this job needs them.
        policies: name -> the plan that makes it, for a method that compares policies.

    Raises:
        ConfigError: an `init` that means nothing, a reward that cannot be trained, or stages that need each other.
    """
    plan = _Resolver(job, choices, method_of)
    made = {name: [plan._once(stage) for stage in stages][-1] for name, stages in (policies or {}).items()}
    if made:
        with open_dict(job):
            job.method.policies = {name: stage.fingerprint for name, stage in made.items()}
    last = plan.stage(choices["method"], target=True)
    if made:
        last.config["method"]["policies"] = {name: str(stage.folder) for name, stage in made.items()}
        last.parents |= {f"policy {name}": stage for name, stage in made.items()}
    return plan.order
