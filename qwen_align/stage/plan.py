"""Which stages a job needs, which exist already, in which order: like make, by fingerprint.

A finished run folder with a stage's fingerprint is reused, anything else runs first. What a job names by folder (`init=`,
`reward.folder=`, a file under `data`) and another stage of the plan makes is that stage: its fingerprint counts, and it runs
before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qwen_align import reward
from qwen_align.config import groups
from qwen_align.config.job import Job, read
from qwen_align.errors import ConfigError, nearest
from qwen_align.stage import fingerprint, run_folder

MethodSettings = Callable[[str], DictConfig]
_PLAN_KEYS = ("stages", "plan", "force", "experiment", "workers")  # of the plan, not of a stage


@dataclass(frozen=True)
class Parents:
    """The stages that one starts from: its policy, its trained rewards and the policies it compares, by name, and files."""

    init: "Stage | None" = None
    rewards: "dict[str, Stage]" = field(default_factory=dict)
    policies: "dict[str, Stage]" = field(default_factory=dict)
    others: "tuple[Stage, ...]" = ()

    def all(self) -> "list[Stage]":
        """Each of them once."""
        found = [*([self.init] if self.init else []), *self.rewards.values(), *self.policies.values(), *self.others]
        return list(dict.fromkeys(found))


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
        """Its settings, typed."""
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
        """Whether it trains the group `reward` in place of the policy."""
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
        folders = [str(other.folder) for other in self.parents.others if other.state != "finished"]
        if not folders:
            yield self.job
            return
        with TemporaryDirectory() as temporary:

            def stand_in(text: str) -> str:
                if not any(text.startswith(f"{folder}/") for folder in folders):
                    return text
                path = Path(temporary) / Path(text).name
                path.touch()
                return str(path)

            yield read(self.method, fingerprint.replaced(self.config, stand_in))

    def needed(self) -> "list[Stage]":
        """Every stage that has to be finished before this one, the earliest first."""
        found = [stage for parent in self.parents.all() for stage in (*parent.needed(), parent)]
        return list(dict.fromkeys(found))


def _finished_run(key: str, path: Path) -> dict[str, Any]:
    """run.json of a run folder that the user names.

    Raises:
        ConfigError: that run is of another format, or has not finished.
    """
    manifest: dict[str, Any] = run_folder.read_json(path / "run.json")
    if (number := manifest.get("format", 1)) != run_folder.FORMAT:
        raise ConfigError(
            f"{key}={path}: a run folder of format {number}, and this version reads format {run_folder.FORMAT}; its model can "
            f"still be used: {key}={path}/model"
        )
    if manifest["state"] != "finished":
        raise ConfigError(f"{key}={path}: that run is {manifest['state']}; expected a finished one")
    return manifest


def _existing(path: Path) -> Stage:
    """A run folder that the user names as the start."""
    manifest = _finished_run("init", path)
    if not (path / "model").is_dir():
        raise ConfigError(
            f"init={path}: that run ({manifest['method']}) made no policy; expected one of a training method"
        )
    parent = manifest["parents"]["init"]
    init = _existing(Path(parent)) if parent and (Path(parent) / "run.json").is_file() else None
    return Stage(manifest["method"], {}, path, manifest["fingerprint"], manifest["choices"], Parents(init))


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


class _Resolver:
    """The stages of one job, each once, in the order in which they can run."""

    def __init__(
        self, job: DictConfig, choices: dict[str, str], settings_of: MethodSettings, known: Sequence[Stage]
    ) -> None:
        self.job, self.choices, self.settings_of, self.known = job, choices, settings_of, list(known)
        self.order: list[Stage] = []
        self.resolving: list[str] = []

    def stage(
        self, method: str, reward_node: dict[str, Any] | None = None, policies: dict[str, Stage] | None = None
    ) -> Stage:
        """A stage of this job after those that it needs; the one that is already there if it would be the same.

        Args:
            reward_node: the reward model that is to be trained, where it is not the job's own.
            policies: what the asked-for stage compares; None for the stages on the way to it.
        """
        if method in self.resolving:
            chain = " -> ".join([*self.resolving, method])
            raise ConfigError(f"init={method}: stages would need each other: {chain}")
        own = self.job.copy()
        if policies is None:
            own.method = self.settings_of(method)
        if reward_node:
            own.reward = reward_node
        config: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
        for key in _PLAN_KEYS:
            config.pop(key, None)
        self.resolving.append(method)
        start, init = self._start(str((config["init"] if policies is not None else None) or config["method"]["init"]))
        made = self._made() | ({start: init.fingerprint} if init else {})
        rewards = self._rewards(config, made)
        self.resolving.pop()
        config["init"] = start
        if init:
            config["ancestors"] = [{"method": s.method, "folder": str(s.folder)} for s in [*init.lineage, init]]
        if policies:
            config["method"]["policies"] = {name: str(stage.folder) for name, stage in policies.items()}
        made |= self._made()
        mark = fingerprint.of(config, method, made.get(start, start), made)
        parents = Parents(init, rewards, policies or {}, tuple(self._named_in(config)))
        return self._once(Stage(method, config, self._folder(method, config, mark), mark, self.choices, parents))

    def _made(self) -> dict[str, str]:
        """folder -> fingerprint of all stages so far."""
        return {str(stage.folder): stage.fingerprint for stage in (*self.known, *self.order)}

    def _planned(self, path: Path) -> Stage | None:
        return next((stage for stage in (*self.known, *self.order) if stage.folder == path), None)

    def _named_in(self, config: dict[str, Any]) -> Iterator[Stage]:
        """The stages whose files a job's data, model or generator is made of."""
        node = {key: config[key] for key in ("data", "model", "generator")}
        texts = [value for _, value in groups.flatten(node) if isinstance(value, str)]
        for stage in self.known:
            if any(text.startswith(f"{stage.folder}/") for text in texts):
                yield stage

    def _once(self, stage: Stage) -> Stage:
        found = next((s for s in (*self.known, *self.order) if s.fingerprint == stage.fingerprint), stage)
        if found not in self.order:
            self.order.append(found)
        return found

    def _folder(self, method: str, config: dict[str, Any], mark: str) -> Path:
        of_reward = fingerprint.trains_reward(config["method"])
        subject = next(iter(reward.nodes(config["reward"]))) if of_reward else self.choices["model"]
        name = "-".join((method, self.choices["data"], subject, mark[:8]))
        return Path(config["runs_dir"]).expanduser().resolve() / name

    def _start(self, start: str) -> tuple[str, Stage | None]:
        """What `init` means: (base | a model, None) or (a folder, its stage)."""
        if start == "base":
            return "base", None
        if start in groups.options("method"):
            stage = self.stage(start)
            return str(stage.folder), stage
        path = Path(start).expanduser().resolve()
        if stage := self._planned(path):
            if stage.job.trains and not stage.trains_reward:
                return str(path), stage
            raise ConfigError(f"init={start}: that stage ({stage.method}) makes no policy")
        if (path / "run.json").is_file():
            return str(path), _existing(path)
        if (path / "config.json").is_file():
            return str(path), None
        if _is_hub_name(start) and not path.exists():
            return start, None
        known = ["base", *groups.options("method")]
        raise ConfigError(
            f"init={start}: expected one of {', '.join(known)}, a run folder, a model folder or a Hub name like org/model"
            f"{nearest(start, known)}"
        )

    def _rewards(self, config: dict[str, Any], made: dict[str, str]) -> dict[str, Stage]:
        """The stages that train the reward models of a stage; their folders go into its settings.

        `made` gets the fingerprints of finished runs that the user names.
        """
        if fingerprint.trains_reward(config["method"]):
            _check_trainable(config["reward"])
            return {}
        found: dict[str, Stage] = {}
        for name, node in _nodes(config["method"].get("reward")).items():
            if "folder" not in node:
                continue
            if node["folder"] is None:
                found[name] = self.stage(_reward_method(), reward_node=node | {"name": name})
                node["folder"] = str(found[name].folder)
                continue
            path = Path(node["folder"]).expanduser().resolve()
            if path.exists() or self._planned(path):
                node["folder"] = str(path)
            if planned := self._planned(path):
                found[name] = planned
            elif (path / "run.json").is_file():
                manifest = _finished_run("reward.folder", path)
                made[str(path)] = manifest["fingerprint"]
                _check_reward_run(path, manifest["method"], name)
            elif path.is_dir() and not (path / "config.json").is_file():
                raise ConfigError(f"reward.folder={path}: neither a run folder nor a model folder")
        for name, stage in found.items():
            _check_reward_run(stage.folder, stage.method, name)
        return found


def _nodes(node: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """As reward.nodes, the nodes themselves: what is set in them is set in the config."""
    if not node:
        return {}
    several = node["_target_"] == reward.SEVERAL
    return {name: node[name] if several else node for name in reward.nodes(node)}


def _reward_method() -> str:
    """The method that trains the group `reward`."""
    return next(m for m in groups.options("method") if fingerprint.trains_reward(groups.read("method", m)))


def _check_reward_run(path: Path, method: str, name: str) -> None:
    if not fingerprint.trains_reward(groups.read("method", method)):
        raise ConfigError(
            f"reward.folder={path}: that run is of method={method}; expected one of method={_reward_method()}, or "
            f"reward.folder=null to train {name} first"
        )


def _check_trainable(node: dict[str, Any]) -> None:
    having = [option for option in groups.options("reward") if groups.read("reward", option).get("base")]
    names = reward.nodes(node)
    wrong = "several rewards are trained one by one" if len(names) != 1 else ""
    if "base" not in next(iter(names.values()), {}):
        wrong = "is a function, there is nothing to train"
    elif not wrong and names[next(iter(names))]["folder"] is not None:
        wrong = f"folder={node['folder']} is trained already"
    if wrong:
        raise ConfigError(f"reward={'+'.join(names)}: {wrong}; expected one of {', '.join(having)}")


def resolve(
    job: DictConfig, choices: dict[str, str], settings_of: MethodSettings, policies: dict[str, Stage] | None = None,
    known: Sequence[Stage] = (),
) -> list[Stage]:  # fmt: skip
    """The stages of a job in the order they run, the asked-for one last.

    Args:
        job: the composed config; its `method` is the asked-for method's, with the command line's overrides.
        choices: group -> option.
        settings_of: a method's settings as another stage of this job needs them.
        policies: name -> the stage that makes it, for a method that compares policies.
        known: stages of the same plan that the job may name by their folders.

    Raises:
        ConfigError: an `init` that means nothing, a reward that cannot be trained, or stages that need each other.
    """
    plan = _Resolver(job, choices, settings_of, known)
    plan.stage(choices["method"], policies=policies or {})
    return plan.order
