"""Which stages a job needs, which exist already, in which order: like make, by fingerprint.

A finished run folder with a stage's fingerprint is reused. What a job names by folder (`init=`, `reward.folder=`, a file under
`data`) and another stage of the plan makes is that stage: its fingerprint counts, and it runs before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from qwen_align import reward, run_folder
from qwen_align.config import groups
from qwen_align.config.job import Job, read
from qwen_align.errors import ConfigError, nearest
from qwen_align.stage import fingerprint

_PLAN_KEYS = ("stages", "plan", "force", "experiment", "workers")  # of the plan, not of a stage


@dataclass(frozen=True)
class Composed:
    """A command line as Hydra composed it, the settings of its method complete."""

    job: DictConfig
    choices: dict[str, str]  # group -> option
    overrides: list[str]


@dataclass(frozen=True)
class Parents:
    """The stages that one starts from: its policy, its trained rewards and the policies it compares, by name, and files."""

    init: "Stage | None" = None
    rewards: "dict[str, Stage]" = field(default_factory=dict)
    policies: "dict[str, Stage]" = field(default_factory=dict)
    others: "tuple[Stage, ...]" = ()

    def all(self) -> "list[Stage]":
        found = [self.init, *self.rewards.values(), *self.policies.values(), *self.others]
        return [stage for stage in dict.fromkeys(found) if stage]


@dataclass(frozen=True, eq=False)
class Stage:
    """One run folder to be: a method, its resolved settings and where it starts."""

    method: str
    config: dict[str, Any]
    folder: Path
    fingerprint: str
    choices: dict[str, str]
    parents: Parents = Parents()

    @cached_property
    def job(self) -> Job:
        return read(self.method, self.config)

    @property
    def state(self) -> str:
        return run_folder.state(self.folder)

    @property
    def label(self) -> str:
        """The method, and the reward that it is about: an experiment may hold several of one method."""
        names = " + ".join(reward.nodes(self.rewards))
        return f"{self.method} ({names})" if names else self.method

    @property
    def trains_reward(self) -> bool:
        return fingerprint.trains_reward(self.config.get("method", {}))

    @property
    def rewards(self) -> dict[str, Any] | None:
        """The node of the reward that it trains or uses; None where there is none."""
        return self.config["reward"] if self.trains_reward else self.config.get("method", {}).get("reward")

    @property
    def lineage(self) -> "list[Stage]":
        """The policies this one came from, the earliest first."""
        parent = self.parents.init
        return [*parent.lineage, parent] if parent else []

    @contextmanager
    def buildable(self) -> Iterator[Job]:
        """Its settings, with an empty file in place of each that another stage is to write: components look for their files."""
        folders = tuple(f"{other.folder}/" for other in self.parents.others if other.state != "finished")
        if not folders:
            yield self.job
            return
        with TemporaryDirectory() as temporary:

            def stand_in(text: str) -> str:
                if not text.startswith(folders):
                    return text
                path = Path(temporary) / Path(text).name
                path.touch()
                return str(path)

            yield read(self.method, fingerprint.replaced(self.config, stand_in))

    def needed(self) -> "list[Stage]":
        """Every stage that has to be finished before this one, the earliest first."""
        found = [stage for parent in self.parents.all() for stage in (*parent.needed(), parent)]
        return list(dict.fromkeys(found))


def _existing(key: str, path: Path) -> Stage:
    """A finished run folder that the user names."""
    manifest = run_folder.read_json(path / "run.json")
    if (number := manifest.get("format", 1)) != run_folder.FORMAT:
        wrong = f"a run folder of format {number}, and this version reads format {run_folder.FORMAT}"
        raise ConfigError(f"{key}={path}: {wrong}; its model can still be used: {key}={path}/model")
    if (state := manifest.get("state", "without a state in its run.json")) != "finished":
        raise ConfigError(f"{key}={path}: that run is {state}; expected a finished one")
    if lacking := {"method", "parents", "fingerprint", "choices"} - manifest.keys():
        raise ConfigError(f"{key}={path}: its run.json lacks {', '.join(sorted(lacking))}; expected a whole run folder")
    parent = Path(manifest["parents"]["init"] or "")
    init = _existing(key, parent) if (parent / "run.json").is_file() else None
    return Stage(manifest["method"], {}, path, manifest["fingerprint"], manifest["choices"], Parents(init))


def _makers(product: str) -> list[str]:
    methods = {name: groups.read("method", name) for name in groups.options("method")}
    return [n for n, node in methods.items() if node.get("kind") == "train" and node.get("subject", "policy") == product]


class _Resolver:
    """The stages of one job, each once, in the order in which they can run."""

    def __init__(self, composed: Composed, known: Sequence[Stage]) -> None:
        self.composed, self.choices, self.known = composed, composed.choices, known
        self.order: list[Stage] = []
        self.resolving: list[str] = []

    def stage(self, method: str, reward_node: dict[str, Any] | None = None, policies: dict[str, Stage] | None = None) -> Stage:
        """A stage of this job after those that it needs; the one that is already there if it would be the same.

        `reward_node` is to be trained in place of the job's own; `policies` is None but for the asked-for stage.
        """
        if method in self.resolving:
            raise ConfigError(f"init={method}: stages would need each other: {' -> '.join([*self.resolving, method])}")
        config = self._settings(method if policies is None else None, reward_node)
        self.resolving.append(method)
        start, init = self._start(str((config["init"] if policies is not None else None) or config["method"]["init"]))
        rewards = self._rewards(config)
        self.resolving.pop()
        config["init"] = start
        if init:
            config["ancestors"] = [{"method": s.method, "folder": str(s.folder)} for s in [*init.lineage, init]]
        if policies:
            config["method"]["policies"] = {name: str(stage.folder) for name, stage in policies.items()}
        made = {str(s.folder): s.fingerprint for s in (*self.known, *self.order, *rewards.values(), *filter(None, [init]))}
        digest = fingerprint.of(config, method, made.get(start, start), made)
        same = next((stage for stage in (*self.known, *self.order) if stage.fingerprint == digest), None)
        trained = reward.nodes(config["reward"]) if fingerprint.trains_reward(config["method"]) else [self.choices["model"]]
        name = "-".join((method, self.choices["data"], next(iter(trained)), digest[:8]))
        node = {key: config[key] for key in ("data", "model", "generator")}
        texts = [value for _, value in groups.flatten(node) if isinstance(value, str)]
        others = tuple(s for s in self.known if any(text.startswith(f"{s.folder}/") for text in texts))
        parents = Parents(init, rewards, policies or {}, others)
        folder = Path(config["runs_dir"]).expanduser().resolve() / name
        found = same or Stage(method, config, folder, digest, self.choices, parents)
        if found not in self.order:
            self.order.append(found)
        return found

    def _settings(self, method: str | None, reward_node: dict[str, Any] | None) -> dict[str, Any]:
        """The job's settings, of another method or for another reward where one is given."""
        job, found = self.composed.job, {}
        changed = {"reward": reward_node} if reward_node else {}
        if method:
            own: Any = OmegaConf.to_container(job.stages.get(method) or OmegaConf.create(), resolve=False)
            changed["method"] = groups.merged(groups.read("method", method), own)
        before = {key: job[key] for key in changed}
        with flag_override(job, "no_deepcopy_set_nodes", True):  # a copy of the whole job at each stage takes long
            job.update(changed)
            for key in [str(key) for key in job if key not in _PLAN_KEYS]:
                found[key] = OmegaConf.to_container(job[key], resolve=True) if OmegaConf.is_config(job[key]) else job[key]
            job.update(before)
        return found

    def _run_at(self, key: str, path: Path, product: str) -> Stage | None:
        """The run of a folder that a key names, of this plan or an earlier one; None where it is no run folder."""
        found = next((stage for stage in (*self.known, *self.order) if stage.folder == path), None)
        if found is None and (path / "run.json").is_file():
            try:
                found = _existing(key, path)
            except ConfigError as error:
                raise ConfigError(str(error) if str(error).startswith(key) else f"{key}={path}: {error}") from error
        if found and found.method not in (makers := _makers(product)):
            wrong = f"that run ({found.method}) made no {product}"
            raise ConfigError(f"{key}={path}: {wrong}; expected one of method={', '.join(makers)}")
        return found

    def _start(self, start: str) -> tuple[str, Stage | None]:
        """What `init` means: (base | a model, None) or (a folder, its stage)."""
        if start in groups.options("method"):
            stage = self.stage(start)
            return str(stage.folder), stage
        if start == "base":
            return start, None
        path = Path(start).expanduser().resolve()
        if run := self._run_at("init", path, "policy"):
            return str(path), run
        if (path / "config.json").is_file():
            return str(path), None
        runs = Path(self.composed.job.runs_dir).expanduser().resolve()
        if start.count("/") == 1 and path.parent != runs and not start.startswith((".", "/", "~")) and not path.exists():
            return start, None  # a Hub name
        known = ["base", *groups.options("method")]
        expected = f"one of {', '.join(known)}, a run folder, a model folder or a Hub name like org/model"
        raise ConfigError(f"init={start}: expected {expected}{nearest(start, known)}")

    def _rewards(self, config: dict[str, Any]) -> dict[str, Stage]:
        """The stages of a stage's trained reward models; their folders go into its settings."""
        if fingerprint.trains_reward(config["method"]):
            _check_trainable(config["reward"])
            return {}
        found: dict[str, Stage] = {}
        node = config["method"].get("reward")
        for name in reward.nodes(node):
            part = node[name] if node["_target_"] == reward.SEVERAL else node
            if part.get("folder", "") is None:
                found[name] = self.stage(_makers("reward")[0], reward_node=part | {"name": name})
                part["folder"] = str(found[name].folder)
            elif part.get("folder"):
                path = Path(part["folder"]).expanduser().resolve()
                if run := self._run_at("reward.folder", path, "reward"):
                    found[name] = run
                elif path.is_dir() and not (path / "config.json").is_file():
                    raise ConfigError(f"reward.folder={path}: neither a run folder nor a model folder")
                part["folder"] = str(path) if run or path.exists() else part["folder"]
        return found


def _check_trainable(node: dict[str, Any]) -> None:
    """Raise ConfigError unless there is one reward, with a base to train from and no folder where it is trained already."""
    parts = reward.nodes(node)
    first = next(iter(parts.values()), {})
    wrong = "several rewards are trained one by one" if len(parts) != 1 else ""
    if "base" not in first:
        wrong = "is a function, there is nothing to train"
    elif not wrong and first["folder"] is not None:
        wrong = f"folder={first['folder']} is trained already"
    if wrong:
        having = [option for option in groups.options("reward") if groups.read("reward", option).get("base")]
        raise ConfigError(f"reward={'+'.join(parts)}: {wrong}; expected one of {', '.join(having)}")


def resolve(composed: Composed, policies: dict[str, Stage], known: Sequence[Stage]) -> list[Stage]:
    """The stages of a job in the order they run, the asked-for one last.

    `policies` are name -> the stage that makes it, for a method that compares some; `known` stages of the same plan, which the
    job may name by their folders.
    """
    runs_dir = composed.job.runs_dir
    if not isinstance(runs_dir, str) or not runs_dir:
        raise ConfigError(f"runs_dir={'null' if runs_dir is None else runs_dir}: expected a folder, for example runs")
    try:
        folder = Path(runs_dir).expanduser().resolve()
    except RuntimeError as error:  # ~ without a home
        raise ConfigError(f"runs_dir={runs_dir}: ~ names no home directory; expected a folder, for example runs") from error
    run_folder.check_writable("runs_dir", folder)
    plan = _Resolver(composed, known)
    plan.stage(composed.choices["method"], policies=policies)
    return plan.order
