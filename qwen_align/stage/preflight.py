"""Before the first stage: is everything there that any stage of the plan loads, and which revision of it is meant.

A stage may start hours after the command, so the parent looks at every model, tokenizer and data set first (`hub`, no network
where the cache has all). What a stage of the same plan will make is left out, as is what only a scorer over HTTP would load.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from omegaconf import DictConfig, OmegaConf

from qwen_align import data, reward, run_folder
from qwen_align.config import component, groups, source_code
from qwen_align.config.job import Job, plain
from qwen_align.data.check import report
from qwen_align.generator import brings_problems
from qwen_align.hub import files, model, rows
from qwen_align.hub.model import Model
from qwen_align.hub.rows import Source
from qwen_align.stage.plan import Stage
from qwen_align.stage.text import print_once


def require(stages: Sequence[Stage]) -> None:
    """Raise ConfigError unless all that these stages load is there and can be read; prints which weights are pickles."""
    for wanted in dict.fromkeys(found for stage in stages for found in _models(stage)):
        if pickle := model.require(wanted):
            print_once(model.pickle_notice(wanted, pickle))
    for source in dict.fromkeys(found for stage in stages for found in sources(stage)):
        rows.require(source)


def local_files(stages: Sequence[Stage]) -> list[str]:
    """A line for each file of the user's that these stages read, once all of its rows are checked; raises ConfigError."""
    lines: dict[str, None] = {}
    for stage in stages:
        folders = tuple(f"{other.folder}/" for other in stage.parents.others if other.state != "finished")
        node = {k: None if folders and str(v).startswith(folders) else v for k, v in stage.config["data"].items()}
        if source_code.is_light(node["_target_"]) and not brings_problems(stage.config["generator"]):
            named = [Path(v).expanduser() for v in node.values() if isinstance(v, str) and "\n" not in v and len(v) < 4096]
            stamps = [(found.st_mtime_ns, found.st_size) for path in named if path.is_file() and (found := path.stat())]
            lines |= dict.fromkeys(_checked(json.dumps(node), str(stamps)))
    return list(lines)


@cache
def _checked(node: str, stamps: str) -> tuple[str, ...]:
    """The lines of a data node; once for all stages and jobs that have it."""
    source = data.load(json.loads(node)).source
    return tuple(map(report, source.user_files())) if hasattr(source, "user_files") else ()


def _models(stage: Stage) -> Iterator[Model]:
    """Its reward models, and the policy that it starts from or those that it measures."""
    job = stage.job
    key = "reward.base" if stage.trains_reward else "reward.folder"
    for node in reward.nodes(stage.rewards).values():
        if isinstance(name := node.get(key.removeprefix("reward.")), str):
            base = model.packaged(name) if stage.trains_reward else name
            wanted = Model(key, base, node.get("revision"), f"{key}=FOLDER takes a local folder")
            yield from [wanted] if stage.trains_reward else _there(wanted, stage)
    if stage.trains_reward or not loads_a_policy(job):
        return
    if compared := job.method.get("policies"):
        for name, folder in compared.items():
            yield from _there(Model(f"method.policies.{name}", folder), stage)
        return
    if job.method.get("ancestors") and job.method.view == "evaluation":
        for ancestor in job.ancestors[:-1]:
            yield from _there(Model("init", str(ancestor.folder)), stage)
    own_code = bool(job.model.get("trust_remote_code"))
    if job.init != "base":
        advice = "init=FOLDER takes a run folder or a model folder"
        yield from _there(Model("init", job.init, None, advice, own_code=own_code), stage)
    elif name := job.model.get("name"):
        advice = "model=countdown_tiny experiment=quickstart needs nothing, and model.name=FOLDER takes a local folder"
        yield Model("model.name", name, job.model.get("revision"), advice, own_code=own_code)


def _there(wanted: Model, stage: Stage) -> Iterator[Model]:
    """A model that has to be there already, of a run folder its model/; none where a stage of this plan is still to make it."""
    if wanted.name in (str(earlier.folder) for earlier in stage.needed() if earlier.state != "finished"):
        return
    folder = Path(wanted.name).expanduser()
    finished = run_folder.state(folder) == "finished"
    yield replace(wanted, name=str(folder / "model"), saved=True) if finished else wanted


def loads_a_policy(job: Job) -> bool:
    """Whether completions come from a policy of ours; not with a teacher behind an endpoint, a solver or a file."""
    source = job.generator.get("_target_")
    if job.trains or not source or not source_code.is_light(source):
        return True
    return bool(component.construct(plain(job.generator), "generator").needs_policy)


def sources(stage: Stage) -> Iterator[Source]:
    """The rows of a stage's views: as its data class says in `sources(view)`, else whatever a key like data.X_name names."""
    job, node = stage.job, stage.config["data"]
    if brings_problems(stage.config["generator"]):
        return
    built: Any = None
    if source_code.is_light(node["_target_"]):
        with stage.buildable() as buildable:
            built = data.load(plain(buildable.data)).source
    if hasattr(built, "sources"):
        measured = job.trains and not stage.trains_reward  # what training ends with
        for view in dict.fromkeys([job.method.view, *(["evaluation"] if measured else [])]):
            yield from built.sources(view)
        return
    for key, name in node.items():
        if key.endswith("_name") and isinstance(name, str):
            stem = key.removesuffix("_name")
            revision, config = node.get(f"{stem}_revision"), node.get(f"{stem}_config")
            yield Source(f"data.{key}", name, revision, config=config)


def settle_revisions(job: DictConfig, choices: dict[str, str], overrides: Iterable[str]) -> None:
    """Make each `revision` of a composed job one that its name has; what the command line names stays.

    A YAML's pin falls away beside another name. Offline, a commit that the cache lacks becomes the one that it calls main.
    """
    given, offline = {text.lstrip("+").partition("=")[0] for text in overrides}, constants.HF_HUB_OFFLINE
    for choice, option in choices.items():
        group, _, package = choice.partition("@")
        node = OmegaConf.select(job, package or group)
        if group not in ("model", "reward", "data") or not isinstance(node, DictConfig):
            continue
        default, kind = groups.read(group, option), Source.kind if group == "data" else Model.kind
        pins = {"name" if group == "model" else "folder" if node.get("folder") else "base": "revision"}
        if group == "data":
            pins = {str(key): f"{str(key).removesuffix('_name')}_revision" for key in node if str(key).endswith("_name")}
        for name_key, key in pins.items():
            name, pin, full_key = node.get(name_key), node.get(key), f"{package or group}.{key}"
            if pin is None or not isinstance(name, str) or full_key in given:
                continue
            if name != default.get(name_key) and pin == default.get(key):
                node[key] = None
            elif offline and (main := files.snapshot(name, kind, None)) and not files.snapshot(name, kind, pin):
                node[key] = main.name
                why = "not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
                print_once(f"{full_key}={pin}: {why}; {main.name} of {name} is used")
