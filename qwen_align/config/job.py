"""One stage's settings, typed once: what the layer owns by name, components as the nodes they are.

`config.yaml` of a run folder is read into a `Job`, which every method gets. A method's YAML says in `kind` whether it trains or
samples; nobody infers it from a key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qwen_align.hardware import Hardware


@dataclass(frozen=True)
class Ancestor:
    """A policy that a stage's own came from."""

    method: str
    folder: Path


@dataclass(frozen=True)
class Job:
    """What one stage was asked for: read-only nodes, whose keys are attributes (`plain` makes a dict of one), and values.

    `ancestors` are the policies on the way to this one, the earliest first.
    """

    name: str  # of the method
    method: DictConfig
    model: DictConfig
    adapter: DictConfig
    data: DictConfig
    reward: DictConfig
    generator: DictConfig
    tracking: DictConfig
    evaluation: DictConfig
    checkpoints: DictConfig
    processes: DictConfig  # the node `hardware`
    seed: int
    init: str
    max_completion_length: int
    ancestors: tuple[Ancestor, ...] = ()

    @cached_property
    def hardware(self) -> Hardware:
        """Where it runs: training may be spread over processes, sampling never is."""
        hardware = Hardware(**{k: v for k, v in plain(self.processes).items() if k != "_target_"})
        return hardware if self.trains else hardware.in_one_process()

    @property
    def trains(self) -> bool:
        return bool(self.method.kind == "train")


def plain(node: DictConfig) -> dict[str, Any]:
    """A node as a dict of plain values."""
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


_nodes: dict[str, DictConfig] = {}  # the stages of a plan share most of theirs, and nobody can write to one


def _node(content: dict[str, Any]) -> DictConfig:
    if (key := repr(content)) not in _nodes:
        _nodes[key] = OmegaConf.create(content, flags={"struct": True, "readonly": True})
    return _nodes[key]


def read(name: str, config: Mapping[str, Any]) -> Job:
    """The job of a method's name and a resolved config, as a stage holds it or config.yaml does."""
    groups = "method model adapter data reward generator tracking evaluation checkpoints hardware".split()
    nodes: dict[str, Any] = {group: _node(dict(config.get(group) or {})) for group in groups}
    values = {key: config[key] for key in ("seed", "max_completion_length")}
    ancestors = tuple(Ancestor(a["method"], Path(a["folder"])) for a in config.get("ancestors", []))
    return Job(name, processes=nodes.pop("hardware"), **nodes, **values, init=str(config["init"]), ancestors=ancestors)
