"""Every mistake in a composed config that can be found without loading weights: keys, types, ranges, views, batches."""

import importlib
import math
from typing import Any

from qwen_align import generator
from qwen_align.config import groups, schema
from qwen_align.errors import ConfigError, nearest
from qwen_align.generator import vllm
from qwen_align.method import select
from qwen_align.stage.plan import reward_nodes

_REFUSED = {  # TRL fields that have one home outside args
    "output_dir": "runs_dir", "resume_from_checkpoint": "nothing: runs resume by themselves", "report_to": "tracking",
    "model_init_kwargs": "model, or reward.base for a reward model,",
    "deepspeed": "hardware", "push_to_hub": "nothing: runs stay on this machine", "hub_token": "the environment (HF_TOKEN)",
}  # fmt: skip


_AT_LEAST = {  # keys of ours, of config.yaml and of the methods that sample
    "seed": 0, "max_completion_length": 1, "problems": 1, "samples": 1, "batch_size": 1, "evaluation_problems": 1,
    "prompts_per_step": 1, "keep": 1, "held_out_every": 1, "top_k": 0,
}  # fmt: skip


def composed(config: dict[str, Any], choices: dict[str, str]) -> None:
    """Check the keys and the plain types of a composed config against the YAML of the chosen options.

    Raises:
        ConfigError: a key that no option declares (a blind `+`, a misspelling in an experiment), or a value of another type.
    """
    top = groups.top_level()
    declared = dict(groups.flatten({k: v for k, v in top.items() if k != "stages"}))
    for group in groups.names():
        if choices.get(group) and group != "experiment":
            declared |= {group: {"_target_": ""}} | dict(
                groups.flatten(groups.read(group, choices[group]), f"{group}.")
            )
    for key, option in choices.items():  # one of several rewards: reward@reward.NAME
        group, _, package = key.partition("@")
        if package:
            declared |= {package: {}} | dict(groups.flatten(groups.read(group, option), f"{package}."))
    _compare({k: v for k, v in config.items() if k not in ("stages", "method")}, declared)
    for method, node in [(choices["method"], config["method"]), *config.get("stages", {}).items()]:
        if method not in groups.options("method"):
            raise ConfigError(f"stages.{method}: no such method{nearest(method, groups.options('method'))}")
        shown = "method" if node is config["method"] else f"stages.{method}"
        _compare({"method": node}, dict(groups.flatten({"method": groups.read("method", method)})), shown)


def _compare(config: dict[str, Any], declared: dict[str, Any], shown: str = "method") -> None:
    """Compare keys and values; `shown` is what the user calls the node that is compared as `method`."""
    args = {"method.args": declared.get("method.args._target_"), "adapter": declared.get("adapter._target_")}
    for key, value in groups.flatten(config):
        parent, _, name = key.rpartition(".")
        said = f"{shown}{key.removeprefix('method')}={value}" if key.startswith("method") else f"{key}={value}"
        fields = schema.fields(args.get(parent) or "")
        if name in fields:
            if parent == "method.args" and name in _REFUSED and value is not None:
                raise ConfigError(f"{said}: set {_REFUSED[name]} instead")
            if not _is_interpolation(value) and (wrong := schema.problem(name, value, fields[name])):
                raise ConfigError(f"{said}: {wrong}")
        elif key in declared:
            _same_type(key, said, value, declared[key])
        elif not (isinstance(value, dict) and value) and not _inside_free_form(key, declared, args):
            raise ConfigError(f"{said}: {_unknown(parent, name, fields) or 'no such key' + nearest(key, declared)}")


def _unknown(parent: str, name: str, fields: dict[str, Any]) -> str:
    """What to say of a field that this method's TRL class lacks; another method's may have it."""
    if parent != "method.args" and not fields:
        return ""
    targets = {m: groups.read("method", m).get("args", {}).get("_target_", "") for m in groups.options("method")}
    having = [f"method={m}" for m, target in targets.items() if name in schema.fields(target)]
    return f"not a field of this method{f'; {having[0]} has it' if having else nearest(name, fields)}"


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


def _same_type(key: str, said: str, value: Any, default: Any) -> None:
    name = key.rpartition(".")[2]
    if name in _AT_LEAST and isinstance(value, int) and value < _AT_LEAST[name]:
        raise ConfigError(f"{said}: expected a whole number from {_AT_LEAST[name]} on")
    if name == "temperature" and isinstance(value, (int, float)) and value <= 0:
        raise ConfigError(f"{said}: expected a number above 0; the greedy completion is measured anyway")
    if name == "top_p" and isinstance(value, (int, float)) and not 0 < value <= 1:
        raise ConfigError(f"{said}: expected a number above 0 and at most 1, which draws from all tokens")
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
        raise ConfigError(f"{said}: expected {kind[type(default)]}, for example {default}")


def batch(method: dict[str, Any], processes: int) -> tuple[int, int]:
    """(per_device_train_batch_size, gradient_accumulation_steps) that make the method's batch, whatever the process count.

    The first is the largest that comes out even and is at most what the config says: what a device holds at once.

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
    share = max(total // processes, 1)
    most, accumulation = min(args["per_device_train_batch_size"], share), args.get("gradient_accumulation_steps")
    per_device = most if accumulation else max(n for n in range(1, most + 1) if share % n == 0)
    accumulation = accumulation or share // per_device
    if per_device * processes * accumulation != total:
        raise ConfigError(
            f"{key} = {total}, but per_device_train_batch_size x processes x gradient_accumulation_steps = {per_device} x "
            f"{processes} x {accumulation} = {per_device * processes * accumulation}; both must be equal"
        )
    return per_device, accumulation


def construct(node: dict[str, Any]) -> Any:
    """Build a component whose constructor only checks its settings, to hear its complaint before anything is started."""
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**{k: v for k, v in node.items() if k != "_target_"})


def stage(config: dict[str, Any], choices: dict[str, str], method: str) -> None:
    """Check what one stage of a plan needs: the view of the data, the batch, a save step that a resume can be exact from."""
    settings, data = config["method"], config["data"]
    source = None if "args" in settings else config["generator"]
    rewards = reward_nodes(config["reward"] if method == "reward" else settings.get("reward"))
    for node in (config["hardware"], config["tracking"], source, *rewards.values()):
        if node and "_target_" in node and schema.is_light(node["_target_"]):
            construct(node)
    generator.check(config["generator"], method, choices["generator"], config["init"])
    light = schema.is_light(data["_target_"])
    built: Any = construct(data) if light else None
    views = schema.methods_of(data["_target_"])
    if hasattr(built, "views"):
        views = frozenset(built.views())  # a data set that depends on its files
    if (views or light) and settings["view"] not in views and not generator.brings_problems(config["generator"]):
        targets = {option: groups.read("data", option)["_target_"] for option in groups.options("data")}
        having = [option for option, target in targets.items() if settings["view"] in schema.methods_of(target)]
        keys = {f"{settings['view']}_path": "FILE", f"{settings['view']}_name": "HUB_NAME"}
        own = next((f"set data.{key}={what}; " for key, what in keys.items() if key in data), "")
        raise ConfigError(
            f"data={choices['data']}: has no {settings['view']} view, which method={method} needs; "
            f"{own}data sets that have it: {', '.join(having) or 'none'}"
        )
    if light and method in ("evaluate", "best_of_n", "synthesize") and getattr(built, "verify", None) is None:
        raise ConfigError(
            f"data={choices['data']}: has no verifier, which method={method} needs; expected one with exact answers such as "
            "countdown or constraints, or method=compare, where a reward model can judge"
        )
    if method == "best_of_n":
        select.check(settings)
        if light and settings["select"] == "majority" and not getattr(built, "answer", None):
            raise ConfigError(
                f"method.select=majority: data={choices['data']} gives no answer to vote on; expected verifier or reward"
            )
    if "policies" in settings and len(settings["policies"]) < 2:
        raise ConfigError(
            'method.policies: expected at least two, for example {sft: ["method=sft"], rloo: ["method=rloo"]}'
        )
    if method == "rloo":
        reference(config, choices)
        whole_distribution(settings["args"])
        vllm.check_rollouts(settings["args"])
    if method == "dpo":
        pairs(settings["args"], config["hardware"]["processes"])
    if "args" in settings:
        _batches(settings, config["hardware"]["processes"])
        if method != "reward":
            construct(config["hardware"]).check_compiler()


def _batches(settings: dict[str, Any], processes: int) -> None:
    _, accumulation = batch(settings, processes)
    args = settings["args"]
    if "num_generations" not in args:
        return
    if args.get("generation_batch_size"):
        raise ConfigError(
            "method.args.generation_batch_size: set method.prompts_per_step and args.num_generations instead"
        )
    window = (args.get("steps_per_generation") or accumulation) * args.get("num_iterations", 1)
    every = window // math.gcd(window, accumulation)
    if args["save_steps"] % every:
        raise ConfigError(
            f"method.args.save_steps={args['save_steps']}: a run can only resume exactly where a generation batch ends, "
            f"every {every} steps; expected a multiple of it"
        )


def reference(config: dict[str, Any], choices: dict[str, str]) -> None:
    """Raise ConfigError for a KL term whose reference TRL could not load: it reads it from where the policy came from."""
    beta = config["method"]["args"]["beta"]
    if beta and config["init"] == "base" and choices["adapter"] == "none" and "name" not in config["model"]:
        raise ConfigError(
            f"method.args.beta={beta}: the KL term's reference is read from disk, and init=base of model={choices['model']} "
            "is random weights; expected init=sft or beta=0"
        )


def whole_distribution(args: dict[str, Any]) -> None:
    """Raise ConfigError for truncated sampling in generation_kwargs; as TRL's own fields it is refused with their types."""
    for name, value in (args.get("generation_kwargs") or {}).items():
        if name in ("top_p", "top_k", "min_p"):
            wrong = schema.problem(name, value, schema.fields(args["_target_"])[name])
            if wrong:
                raise ConfigError(f"method.args.generation_kwargs.{name}={value}: {wrong}")


def pairs(args: dict[str, Any], processes: int) -> None:
    """Raise ConfigError for settings of DPO that TRL would only notice at its first step, or not at all."""
    chosen, known = args["loss_type"], schema.losses()
    for name in [chosen] if isinstance(chosen, str) else chosen:
        if name not in known:
            raise ConfigError(
                f"method.args.loss_type={name}: expected one or more of {', '.join(known)}{nearest(str(name), known)}"
            )
    if not args["beta"] > 0:
        raise ConfigError(
            f"method.args.beta={args['beta']}: expected a number above 0, or no pair would change anything"
        )
    if args.get("truncation_mode", "keep_start") != "keep_start":
        raise ConfigError(
            f"method.args.truncation_mode={args['truncation_mode']}: long pairs are cut at their end; expected keep_start"
        )
    if args.get("precompute_ref_log_probs") and processes > 1:
        raise ConfigError(
            f"method.args.precompute_ref_log_probs=true: TRL does that in one process, and hardware.processes={processes}; "
            "expected false"
        )
    smoothing = args.get("label_smoothing", 0.0)
    if "robust" in chosen and not 0 <= smoothing < 0.5:
        raise ConfigError(
            f"method.args.label_smoothing={smoothing}: the share of wrong labels for loss_type=robust; expected at least 0 and "
            "less than 0.5"
        )
