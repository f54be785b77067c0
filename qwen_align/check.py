"""Every mistake that can be found without loading weights, each as one line with the key, the value and what would be right."""

import importlib
import re
from pathlib import Path
from typing import Any

from qwen_align import groups, schema
from qwen_align.errors import ConfigError, nearest

_RENAMED = {  # names that people know from older releases and from papers
    "kl_coef": "beta", "init_kl_coef": "beta", "rloo_k": "num_generations", "cliprange": "epsilon",
    "num_ppo_epochs": "num_iterations", "response_length": "max_completion_length", "max_seq_length": "max_length",
    "max_new_tokens": "max_completion_length", "warmup_ratio": "warmup_steps", "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu", "lr": "learning_rate", "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs",
    "group_by_length": "train_sampling_strategy", "k": "num_generations", "grad_accum": "gradient_accumulation_steps",
}  # fmt: skip
_REFUSED = {  # TRL fields that have one home outside args
    "output_dir": "runs_dir", "resume_from_checkpoint": "nothing: runs resume by themselves", "report_to": "tracking",
    "deepspeed": "hardware", "push_to_hub": "nothing: runs stay on this machine", "hub_token": "the environment (HF_TOKEN)",
}  # fmt: skip


def _args_targets() -> dict[str, str]:
    """method -> the TRL config class of its args."""
    found = {name: groups.read("method", name).get("args", {}).get("_target_") for name in groups.options("method")}
    return {name: target for name, target in found.items() if target}


def _known_keys() -> set[str]:
    """Every key that some choice of options accepts; TRL's and PEFT's fields are kept apart."""
    known = {key for key, _ in groups.flatten(groups.top_level())}
    for group in groups.names():
        if group == "experiment":
            continue
        for option in groups.options(group):
            known |= {key for key, _ in groups.flatten(groups.read(group, option), f"{group}.")}
    return known


def override(token: str) -> str:
    """One command-line word, checked; a known TRL or PEFT field gets the ++ that Hydra wants for it.

    Raises:
        ConfigError: an unknown group, option or key, with the nearest right one.
    """
    match = re.match(r"(?P<plus>[+~]{0,2})(?P<key>[\w./@:-]+)(?P<rest>=.*)?$", token, re.DOTALL)
    if token.startswith("-") or not match or match["key"].startswith("hydra"):
        return token
    key, rest = match["key"], match["rest"]
    group = key.partition("@")[0]
    if group in groups.names():
        for option in re.findall(r"[^,\[\]\s]+", (rest or "")[1:]):
            if not re.search(r"[(){}'\"$]", option) and option not in [*groups.options(group), "null"]:
                raise ConfigError(
                    f"{group}={option}: expected one of {', '.join(groups.options(group))}"
                    f"{nearest(option, groups.options(group))}"
                )
        return token
    if rest is None and "=" not in token and not match["plus"]:
        raise ConfigError(f"{token}: expected key=value, a group=option, or a flag such as --help")
    if field := re.fullmatch(r"(method|stages\.(?P<stage>\w+))\.(?P<name>.+)", key):
        return _method_override(token, key, rest or "", field["stage"], field["name"])
    if key.startswith("adapter.") and (name := key.split(".")[1]) in schema.fields("peft.LoraConfig"):
        return f"++adapter.{name}{rest}"
    known = _known_keys() | {f"adapter.{name}" for name in schema.fields("peft.LoraConfig")}
    if key not in known:
        near = nearest(key, known | set(groups.names())) or nearest(key.rpartition(".")[2], known)
        raise ConfigError(f"{key}{rest or ''}: no such key{near}")
    return token


def _method_override(token: str, key: str, rest: str, stage: str | None, name: str) -> str:
    targets = _args_targets()
    if stage and stage not in groups.options("method"):
        raise ConfigError(f"{key}: no method {stage}{nearest(stage, groups.options('method'))}")
    methods = [stage] if stage else groups.options("method")
    head, _, field = name.partition(".")
    if head == "args" and field:
        field = field.split(".")[0]
        fields = {f for m in methods if m in targets for f in schema.fields(targets[m])}
        if field not in fields:
            hint = f" (did you mean {_RENAMED[field]}?)" if _RENAMED.get(field) in fields else nearest(field, fields)
            raise ConfigError(
                f"{key}{rest}: {', '.join(targets[m] for m in methods if m in targets)} has no {field}{hint}"
            )
        return f"++{token.lstrip('+')}"
    known = {k for m in methods for k, _ in groups.flatten(groups.read("method", m))}
    if name not in known:
        raise ConfigError(f"{key}{rest}: no such key{nearest(name, known)}")
    return f"++{token.lstrip('+')}" if stage else token


def composed(config: dict[str, Any], choices: dict[str, str]) -> None:
    """Check the keys and the plain types of a composed config against the YAML of the chosen options.

    Raises:
        ConfigError: a key that no option declares (a blind `+`, a misspelling in an experiment), or a value of another type.
    """
    top = groups.top_level()
    declared = dict(groups.flatten({k: v for k, v in top.items() if k != "stages"}))
    for group in groups.names():
        if choices.get(group) and group != "experiment":
            declared |= {group: {}} | dict(groups.flatten(groups.read(group, choices[group]), f"{group}."))
    _compare({k: v for k, v in config.items() if k not in ("stages", "method")}, declared)
    for method, node in [(choices["method"], config["method"]), *config.get("stages", {}).items()]:
        if method not in groups.options("method"):
            raise ConfigError(f"stages.{method}: no such method{nearest(method, groups.options('method'))}")
        _compare({"method": node}, dict(groups.flatten({"method": groups.read("method", method)})))


def _compare(config: dict[str, Any], declared: dict[str, Any]) -> None:
    args = {"method.args": declared.get("method.args._target_"), "adapter": declared.get("adapter._target_")}
    for key, value in groups.flatten(config):
        parent, _, name = key.rpartition(".")
        fields = schema.fields(args.get(parent) or "")
        if name in fields:
            if parent == "method.args" and name in _REFUSED and value is not None:
                raise ConfigError(f"{key}={value}: set {_REFUSED[name]} instead")
            if not _is_interpolation(value) and (wrong := schema.problem(name, value, fields[name])):
                raise ConfigError(f"{key}={value}: {wrong}")
        elif key in declared:
            _same_type(key, value, declared[key])
        elif not _inside_free_form(key, declared, args):
            what = f"{args[parent]} has no {name}" if fields else "no such key"
            raise ConfigError(f"{key}={value}: {what}{nearest(name, fields) or nearest(key, declared)}")


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _inside_free_form(key: str, declared: dict[str, Any], args: dict[str, str | None]) -> bool:
    """Below a dict that is empty by default, below a whole group that is passed on, or below a TRL field that is a dict."""
    parts = key.split(".")
    for cut in range(1, len(parts)):
        above, name = ".".join(parts[:cut]), parts[cut - 1]
        if (above in declared and declared[above] in ({}, None)) or _is_interpolation(declared.get(above)):
            return True
        if name in schema.fields(args.get(".".join(parts[: cut - 1])) or ""):
            return True
    return False


def _same_type(key: str, value: Any, default: Any) -> None:
    if default is None or value is None or _is_interpolation(default) or _is_interpolation(value):
        return
    kind = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a node",
    }
    fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits:
        raise ConfigError(f"{key}={value}: expected {kind[type(default)]}, for example {default}")


def batch(method: dict[str, Any], processes: int) -> tuple[int, int]:
    """(per_device_train_batch_size, gradient_accumulation_steps) that make the method's batch, whatever the process count.

    Raises:
        ConfigError: the equation that does not come out even.
    """
    args = method["args"]
    if "prompts_per_step" in method:
        total, key = method["prompts_per_step"] * args["num_generations"], "method.prompts_per_step x num_generations"
    else:
        total, key = method["batch_size"], "method.batch_size"
    if total < 1:
        raise ConfigError(f"{key}={total}: expected a whole number from 1 on")
    per_device = min(args["per_device_train_batch_size"], max(total // processes, 1))
    accumulation = args.get("gradient_accumulation_steps") or max(total // (per_device * processes), 1)
    if per_device * processes * accumulation != total:
        raise ConfigError(
            f"{key} = {total}, but per_device_train_batch_size x processes x gradient_accumulation_steps = {per_device} x "
            f"{processes} x {accumulation} = {per_device * processes * accumulation}; both must be equal"
        )
    return per_device, accumulation


def construct(node: dict[str, Any]) -> Any:
    """Build a component whose constructor only checks its settings: data, hardware and tracking are such."""
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**{k: v for k, v in node.items() if k != "_target_"})


def stage(config: dict[str, Any], choices: dict[str, str], method: str) -> None:
    """Check what one stage of a plan needs: the view of the data, the batch, a save step that a resume can be exact from."""
    settings, data = config["method"], config["data"]
    for group in ("data", "hardware", "tracking"):
        construct(config[group])
    views = schema.methods_of(data["_target_"])
    if views and settings["view"] not in views:
        having = [
            o
            for o in groups.options("data")
            if settings["view"] in schema.methods_of(groups.read("data", o)["_target_"])
        ]
        raise ConfigError(
            f"data={choices['data']}: has no {settings['view']} view, which method={method} needs; "
            f"data sets that have it: {', '.join(having) or 'none'}"
        )
    if "args" not in settings:
        for key in ("problems", "samples", "batch_size"):
            if settings.get(key, 1) < 1:
                raise ConfigError(f"method.{key}={settings[key]}: expected a whole number from 1 on")
        return
    _, accumulation = batch(settings, config["hardware"]["processes"])
    args = settings["args"]
    if "num_generations" in args:
        if args.get("generation_batch_size"):
            raise ConfigError(
                "method.args.generation_batch_size: set method.prompts_per_step and args.num_generations instead"
            )
        window = (args.get("steps_per_generation") or accumulation) * args.get("num_iterations", 1)
        if window % accumulation or (args["save_steps"] * accumulation) % window:
            raise ConfigError(
                f"method.args.save_steps={args['save_steps']}: a run can only resume exactly where a generation batch ends, "
                f"every {-(-window // accumulation)} steps; expected a multiple of it"
            )


def reachable(config: dict[str, Any]) -> None:
    """Ask the Hub once, before anything slow, for a model that is neither a folder nor in the cache.

    Raises:
        ConfigError: the model cannot be had from here.
    """
    name = config["model"].get("name") if config["init"] == "base" else config["init"]
    if name is None or "ancestors" in config or Path(name).expanduser().exists():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    revision = config["model"].get("revision")
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    key = "model.name" if config["init"] == "base" else "init"
    instead = (
        "offline, model=countdown_tiny experiment=quickstart needs nothing, and model.name=FOLDER takes a local folder"
    )
    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except HfHubHTTPError as error:
        raise ConfigError(f"{key}={name}: the Hub says {str(error).splitlines()[0]}; {instead}") from error
    except Exception as error:  # whatever the HTTP library underneath raises: no name, no route, no time
        raise ConfigError(f"{key}={name}: not in the local cache, and the Hub cannot be reached; {instead}") from error
