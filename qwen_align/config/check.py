"""Every mistake in a composed config that can be found without loading weights: keys, types, components, views, rules."""

from collections.abc import Mapping
from typing import Any

from qwen_align import data, generator, reward
from qwen_align.config import component, groups, overrides, renamed, rules, schema, source_code
from qwen_align.config.job import Job, plain
from qwen_align.errors import ConfigError, nearest

_ELSEWHERE = {  # TRL's fields that have one home outside args; a method's own `elsewhere` has more
    "output_dir": "runs_dir",
    "resume_from_checkpoint": "nothing: runs resume by themselves",
    "report_to": "tracking",
    "model_init_kwargs": "model, or reward.base for a reward model,",
    "deepspeed": "hardware",
    "push_to_hub": "nothing: runs stay on this machine",
    "hub_token": "the environment (HF_TOKEN)",
}
_FROM_ONE = "max_completion_length problems samples batch_size evaluation_problems prompts_per_step keep held_out_every workers"
_RANGES = {  # the layer's own settings, by their last name
    **dict.fromkeys(_FROM_ONE.split(), (lambda v: v >= 1, "a whole number from 1 on")),
    **dict.fromkeys(("seed", "top_k"), (lambda v: v >= 0, "a whole number from 0 on")),
    "temperature": (lambda v: v > 0, "a number above 0; the greedy completion is measured anyway"),
    "top_p": (lambda v: 0 < v <= 1, "a number above 0 and at most 1, which draws from all tokens"),
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a node"}


def composed(config: dict[str, Any], choices: dict[str, str]) -> None:
    """Raise ConfigError for a key that no option declares (a blind `+`, a misspelling in an experiment), or a wrong type."""
    top = groups.top_level()
    declared = dict(groups.flatten({k: v for k, v in top.items() if k != "stages"}))
    for key, option in choices.items():
        group, _, package = key.partition("@")  # one of several rewards: reward@reward.NAME
        if group in groups.names() and group != "experiment":
            node = groups.read(group, option)
            is_free = package or groups.is_target(group, option)  # a user's function knows its settings
            declared |= {package or group: {} if is_free else node} | dict(groups.flatten(node, f"{package or group}."))
    _compare({k: v for k, v in config.items() if k not in ("stages", "method")}, declared)
    for method, node in [(choices["method"], config["method"]), *config.get("stages", {}).items()]:
        if method not in groups.options("method"):
            raise ConfigError(f"stages.{method}: no such method{nearest(method, groups.options('method'))}")
        shown = "method" if node is config["method"] else f"stages.{method}"
        _compare({"method": node}, dict(groups.flatten({"method": groups.read("method", method)})), shown)


def _compare(config: dict[str, Any], declared: dict[str, Any], shown: str = "method") -> None:
    """Compare keys and values; `shown` is what the user calls the node that is compared as `method`."""
    args = {"method.args": declared.get("method.args._target_"), "adapter": declared.get("adapter._target_")}
    elsewhere = _ELSEWHERE | declared.get("method.elsewhere", {})
    for key, value in groups.flatten(config):
        parent, _, name = key.rpartition(".")
        shown_as = f"{shown}{key.removeprefix('method')}={value}" if key.startswith("method") else f"{key}={value}"
        fields = schema.fields(args.get(parent) or "")
        if name in fields:
            if parent == "method.args" and name in elsewhere and value is not None:
                raise ConfigError(f"{shown_as}: set {elsewhere[name]} instead")
            if not _is_interpolation(value) and (wrong := schema.problem(name, value, fields[name])):
                raise ConfigError(f"{shown_as}: {wrong}")
        elif key in declared:
            _same_type(key, shown_as, value, declared[key])
        elif not (isinstance(value, dict) and value) and not _inside_free_form(key, declared, args):
            if parent != "method.args" and not fields:
                near = overrides.owners(key) or renamed.hint(name, {}) or nearest(key, declared)
                raise ConfigError(f"{shown_as}: no such key{near}")
            targets = {m: groups.read("method", m).get("args", {}).get("_target_", "") for m in groups.options("method")}
            other = next((f"; method={m} has it" for m, target in targets.items() if name in schema.fields(target)), "")
            places = {field: shown_as.partition(f".{name}=")[0] + f".{field}" for field in fields if field not in elsewhere}
            near = renamed.hint(name, places) or other or nearest(name, fields)
            raise ConfigError(f"{shown_as}: not a field of this {'method' if parent == 'method.args' else 'adapter'}{near}")


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _inside_free_form(key: str, declared: dict[str, Any], args: dict[str, str | None]) -> bool:
    """Below a dict that is empty by default, below a whole group that is passed on, or below a TRL field that is a dict."""
    while key := key.rpartition(".")[0]:
        parent, _, name = key.rpartition(".")
        default = declared.get(key, "")
        if default in ({}, None) or _is_interpolation(default) or (name == "verifier" and default):
            return True
        if name in schema.fields(args.get(parent) or ""):
            return True
    return False


def _same_type(key: str, shown_as: str, value: Any, default: Any) -> None:
    name = key.rpartition(".")[2]
    if name in _RANGES and isinstance(value, (int, float)) and not _RANGES[name][0](value):
        raise ConfigError(f"{shown_as}: expected {_RANGES[name][1]}")
    if name == "verifier" or default is None or value is None or _is_interpolation(default) or _is_interpolation(value):
        return  # a verifier is a name or a node, which `component.verifier` checks
    if not schema.has_type(value, type(default)):
        raise ConfigError(f"{shown_as}: expected {_KINDS[type(default)]}, for example {default}")


def stage(job: Job, choices: Mapping[str, str]) -> None:
    """Raise ConfigError for the first thing that would end a stage later: components, view of the data, its method's rules."""
    verifier = component.verifier(job.data.get("verifier"))
    for key, node in (("hardware", job.processes), ("tracking", job.tracking)):
        if source_code.is_light(node["_target_"]):
            component.construct(plain(node), key)
    if rewards := job.reward if job.method.get("subject") else job.method.get("reward"):
        reward.check(plain(rewards))
    generator.check(plain(job.generator), job.name, choices["generator"], job.init, verifier)
    _view(job, choices)
    for name in job.method.get("checks", []):
        rules.load(name)(rules.Planned(job, choices, verifier))


def _view(job: Job, choices: Mapping[str, str]) -> None:
    """Raise ConfigError for a view that the data lacks, with the data sets that have it."""
    view, target = job.method.view, job.data["_target_"]
    light = source_code.is_light(target)
    views = data.load(plain(job.data)).views if light else source_code.methods_of(target)
    if view in views or not (views or light) or generator.brings_problems(plain(job.generator)):
        return
    having = [o for o in groups.options("data") if view in source_code.methods_of(groups.read("data", o)["_target_"])]
    keys = {f"{view}_path": "FILE", f"{view}_name": "HUB_NAME"}
    own = next((f"set data.{key}={what}; " for key, what in keys.items() if key in job.data), "")
    missing = f"has no {view} view, which method={job.name} needs"
    raise ConfigError(f"data={choices['data']}: {missing}; {own}data sets that have it: {', '.join(having) or 'none'}")
