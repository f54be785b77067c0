"""Before the first stage: is everything there that any stage of the plan loads, and which revision of it is meant.

A stage may start hours after the command, so the parent looks at every model, tokenizer and data set first (`hub`, no network
where the cache has all). What a stage of the same plan will make is left out, as is what only a scorer over HTTP would load.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from omegaconf import DictConfig, OmegaConf

from qwen_align.config import check, groups, schema
from qwen_align.generator import brings_problems
from qwen_align.hub import files, model, rows
from qwen_align.hub.model import Model
from qwen_align.hub.rows import Source
from qwen_align.stage import run_folder
from qwen_align.stage.plan import Stage, reward_nodes

_REWARD = "qwen_align.method.reward.train"
_NO_NETWORK = "model=countdown_tiny experiment=quickstart needs nothing, and model.name=FOLDER takes a local folder"


@cache
def _say(line: str) -> None:
    """Print a line once: a plan of several jobs would repeat it."""
    print(line, flush=True)


def require(stages: Sequence[Stage]) -> None:
    """Raise ConfigError unless all that these stages load is there and can be read; says aloud which weights are pickles."""
    for wanted in dict.fromkeys(found for stage in stages for found in _models(stage)):
        if pickle := model.require(wanted):
            _say(model.pickle_notice(wanted, pickle))
    for source in dict.fromkeys(found for stage in stages for found in sources(stage)):
        rows.require(source)


def _models(stage: Stage) -> Iterator[Model]:
    """What a stage loads: its reward models, and the policy that it starts from or those that it measures."""
    config, method = stage.config, stage.config["method"]
    if method.get("_target_") == _REWARD:
        for node in reward_nodes(config["reward"]).values():
            if isinstance(base := node.get("base"), str):
                advice = "reward.base=FOLDER takes a local folder"
                yield Model("reward.base", model.packaged(base), node.get("revision"), advice)
        return
    for node in reward_nodes(method.get("reward")).values():
        if isinstance(folder := node.get("folder"), str):
            advice = "reward.folder=FOLDER takes a local folder"
            yield from _given(Model("reward.folder", folder, node.get("revision"), advice), stage)
    if not _loads_a_policy(config):
        return
    if compared := method.get("policies"):
        for name, folder in compared.items():
            yield from _given(Model(f"method.policies.{name}", folder), stage)
        return
    if method.get("ancestors") and method["view"] == "evaluation":
        for ancestor in config.get("ancestors", [])[:-1]:
            yield from _given(Model("init", ancestor["folder"]), stage)
    node = config["model"]
    own_code = bool(node.get("trust_remote_code"))
    if config["init"] != "base":
        advice = "init=FOLDER takes a run folder or a model folder"
        yield from _given(Model("init", config["init"], None, advice, own_code=own_code), stage)
    elif "name" in node:
        yield Model("model.name", node["name"], node.get("revision"), _NO_NETWORK, own_code=own_code)


def _given(wanted: Model, stage: Stage) -> Iterator[Model]:
    """The model that a key names, of a run folder its model/; none where a stage of this plan is still to make it."""
    before = [earlier for parent in stage.parents.values() for earlier in (parent, *parent.lineage)]
    if wanted.name in (str(earlier.folder) for earlier in before if earlier.state != "finished"):
        return
    folder = Path(wanted.name).expanduser()
    finished = run_folder.state(folder) == "finished"
    yield replace(wanted, name=str(folder / "model"), saved=True) if finished else wanted


def _loads_a_policy(config: dict[str, Any]) -> bool:
    """Not with a teacher that is no policy of ours."""
    source = config.get("generator", {}).get("_target_")
    if "args" in config["method"] or not source or not schema.is_light(source):
        return True
    return bool(check.construct(config["generator"]).needs_policy)


def sources(stage: Stage) -> Iterator[Source]:
    """The rows of a stage's views: as its data class says in `sources(view)`, else whatever a key like data.X_name names."""
    data, method = stage.config["data"], stage.config["method"]
    if brings_problems(stage.config["generator"]):
        return
    built: Any = check.construct(data) if schema.is_light(data["_target_"]) else None
    if hasattr(built, "sources"):
        measured = "args" in method and method.get("_target_") != _REWARD  # what training ends with
        for view in dict.fromkeys([method["view"], *(["evaluation"] if measured else [])]):
            yield from built.sources(view)
        return
    for key, name in data.items():
        if key.endswith("_name") and isinstance(name, str):
            stem = key.removesuffix("_name")
            revision, config = data.get(f"{stem}_revision"), data.get(f"{stem}_config")
            yield Source(f"data.{key}", name, revision, config=config)


def settle_revisions(job: DictConfig, choices: dict[str, str], words: Iterable[str]) -> None:
    """Make each `revision` of a composed job one that its name has, before anything is planned.

    A YAML's pin belongs to the name in that YAML, and falls away beside another name. Offline, a pinned commit that the cache
    lacks becomes the one that the cache calls main, and a line says so; one that the command line names stays.
    """
    given = {word.lstrip("+").partition("=")[0] for word in words}
    for choice, option in choices.items():
        group, _, package = choice.partition("@")
        node = OmegaConf.select(job, package or group)
        if group not in ("model", "reward", "data") or not isinstance(node, DictConfig):
            continue
        default = groups.read(group, option)
        for name_key, key in _pins(group, node):
            name, pin, said = node[name_key], node[key], f"{package or group}.{key}"
            if pin is None or said in given:
                continue
            if name != default.get(name_key) and pin == default.get(key):
                node[key] = None
                continue
            kind = Source.kind if group == "data" else Model.kind
            main = files.commit(name, kind, None) if constants.HF_HUB_OFFLINE else None
            if main and not files.commit(name, kind, pin):
                node[key] = main
                _say(
                    f"{said}={pin}: not in the cache, and HF_HUB_OFFLINE forbids to fetch it; {main} of {name} is used"
                )


def _pins(group: str, node: DictConfig) -> list[tuple[str, str]]:
    """(the key of a name, the key of its revision) of a component."""
    if group == "data":
        found = [(str(key), f"{str(key).removesuffix('_name')}_revision") for key in node if str(key).endswith("_name")]
    else:
        found = [("name" if group == "model" else "folder" if node.get("folder") else "base", "revision")]
    return [(name, key) for name, key in found if key in node and isinstance(node.get(name), str)]
