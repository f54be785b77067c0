"""What a stage will take, before anything is loaded: updates, tokens, memory, disk and time.

Memory follows from the config (memory.py) and from what a process with TRL takes by itself. Time is arithmetic over a rate: of
the newest finished run of this method on this device, else one that is assumed. Rows are counted where their files hold a
count; otherwise nothing is claimed. Left out: what a reward function takes, and vLLM.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from qwen_align import reward, run_folder
from qwen_align.config import rules
from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware
from qwen_align.hub import model, rows
from qwen_align.stage import memory, preflight
from qwen_align.stage.memory import Architecture, Training
from qwen_align.stage.plan import Stage

GB = 1e9
_PROCESS = 0.50 * GB  # Python with torch and TRL, on a CPU
_CUDA = 0.60 * GB
_PER_CORE = 25e9  # operations a second: assumed of a CPU core in fp32
_UNKNOWN_PROMPT = 256  # tokens
_SHARE = 0.9  # of the memory that is there: what may be asked for


@dataclass(frozen=True)
class Forecast:
    """What one stage takes; None: not known. Memory and disk in bytes, time in seconds."""

    updates: int | None
    epochs: float | None
    update: str
    tokens: int | None
    memory: float
    disk: float
    left: float
    operations: float | None
    seconds: float | None
    rate: str


def _architecture(stage: Stage) -> Architecture | None:
    config = stage.config
    if stage.trains_reward:
        return next(iter(_encoders(config["reward"])), None)
    node, start = config["model"], config["init"]
    if "name" in node:
        own = start != "base" and "ancestors" not in config
        return memory.named(start if own else node["name"], None if own else node.get("revision"))
    vocabulary = len(node["words"].split()) + int(node["numbers"]) + 8
    return memory.of({"model_type": "qwen2", "vocab_size": vocabulary, "tie_word_embeddings": True} | node)


def _encoders(node: dict[str, Any] | None) -> Iterator[Architecture]:
    for part in reward.nodes(node).values():
        base = part.get("base") or part.get("folder")
        if isinstance(base, dict):
            yield memory.of({"vocab_size": 2000} | base)
        elif isinstance(base, str) and (found := memory.named(model.packaged(base), part.get("revision"))):
            yield found


def _rows(stage: Stage) -> tuple[int | None, float | None]:
    """(rows of a training view, bytes of one), each where the files say it."""
    data, view = stage.config["data"], stage.config["method"]["view"]
    limit = data.get("pairs" if view == "preferences" and "pairs" in data else "problems")
    path = data.get(f"{view}_path")
    if path and path.endswith(".jsonl") and Path(path).expanduser().is_file():
        with Path(path).expanduser().open("rb") as file:
            return sum(1 for line in file if line.strip()), None
    wanted = {f"data.{view}_name", "data.dataset_name"}
    sources = list(preflight.sources(stage))
    source = next((source for source in sources if source.key in wanted), next(iter(sources), None))
    known = (rows.counted(source) if source else None) or (None, None)
    if known[0] is not None:
        return round(min(known[0], limit or known[0]) * (1 - (data.get("held_out") or 0))), known[1]
    return (limit if not sources else None), None


def _prompt(config: dict[str, Any]) -> int:
    """Its tokens: by the text that asks, where there is one; a policy that is built has four times that context."""
    text, context = config["data"].get("prompt"), config["model"].get("max_position_embeddings")
    if isinstance(text, str):
        return len(text) // 4 + 16
    return context // 4 if context else _UNKNOWN_PROMPT


def _training(stage: Stage, policy: Architecture) -> Training:
    config, settings, hardware = stage.config, stage.config["method"], stage.job.hardware
    args, adapter = settings["args"], config["adapter"]
    per_device, _ = rules.batch(settings, hardware.processes)
    rolls = "num_generations" in args  # training draws completions of its own
    trained = policy.parameters
    if "r" in adapter:  # each matrix gets two thin ones; its sides add up to some 8 hidden sizes a layer and kind
        inner, hidden = policy.inner, policy.hidden
        trained = policy.layers * int(adapter["r"]) * (8 * hidden + (3 if policy.decoder else 2) * (hidden + inner))
    tokens = args.get("max_length") or config["reward"].get("max_length") or 1024
    prompt = min(settings.get("max_prompt_tokens") or _UNKNOWN_PROMPT, _prompt(config))
    built = "max_position_embeddings" in config["model"]
    fixed = _prompt(config) + config["max_completion_length"] if built else 10**9
    return Training(
        policy=policy,
        rows=per_device,
        texts=2 if settings["view"] == "preferences" else 1,
        tokens=min(prompt + args["max_completion_length"] if rolls else tokens, fixed),
        checkpointing=bool(args.get("activation_checkpointing", args.get("gradient_checkpointing", True))),
        trained=trained,
        reference=bool(rolls and args.get("beta") and trained == policy.parameters),
        rewards=tuple(_encoders(settings.get("reward"))) if rolls else (),
        rollout=settings["prompts_per_step"] * args["num_generations"] // hardware.processes if rolls else 0,
        half=hardware.on_gpu and hardware.precision != "fp32",
        process=_CUDA if hardware.on_gpu else _PROCESS,
        processes=hardware.processes,
        zero=hardware.zero_stage or 0,
    )


def _sampling(stage: Stage, policy: Architecture) -> tuple[float, float]:
    """(memory, operations) of a stage that samples, or of the measurement that training ends with."""
    config = stage.config
    settings, source = config["evaluation" if stage.job.trains else "method"], config["generator"]
    length, drawn = _prompt(config) + config["max_completion_length"], settings["problems"] * (settings["samples"] + 1)
    batch = min(source.get("batch_size") or 256, settings["problems"] * settings["samples"])
    held = min(batch * length, source.get("batch_tokens") or 10**9)
    policies = max(len(settings.get("policies") or {}), 1)
    needed = 4 * policy.parameters + held * policy.cached(4) + batch * 3 * 4 * policy.vocabulary
    needed += sum(4 * reward.parameters for reward in _encoders(settings.get("reward")))
    process = _CUDA if stage.job.hardware.on_gpu else _PROCESS
    return process + needed, 2.0 * policy.parameters * drawn * length * policies


def of(stage: Stage) -> Forecast | None:
    """The forecast of a stage; None where the size of its policy is not known."""
    policy = _architecture(stage)
    if policy is None:
        return None
    if not stage.job.trains:
        needed, spent = _sampling(stage, policy)
        return Forecast(None, None, "", None, needed, 0.0, 0.0, spent, *_time(stage, spent))
    hardware, settings, plan = stage.job.hardware, stage.config["method"], _training(stage, policy)
    args, (count, size) = settings["args"], _rows(stage)
    held_out = settings.get("held_out") or 0  # pairs that a reward model is measured on
    held_out = round(held_out * (count or 0) if held_out < 1 else held_out)
    left_rows = (count or 0) - held_out
    rows_per_update = settings.get("prompts_per_step") or settings["batch_size"]
    updates, epochs = args.get("max_steps", -1), args.get("num_train_epochs", 3.0)
    if updates is not None and updates > 0:
        epochs = updates * rows_per_update / left_rows if count and left_rows else None
    else:
        updates = ceil(ceil(left_rows / rows_per_update) * epochs) if count and left_rows else None
    rolls, demonstrations = "num_generations" in args, settings["view"] == "demonstrations"
    batch = settings.get("prompts_per_step", 0) * args.get("num_generations", 1) or settings["batch_size"]
    length = min(plan.tokens, size / 4) if size and demonstrations else plan.tokens
    tokens = round(updates * batch * plan.texts * length) if updates is not None else None
    beside = 2 if settings["view"] == "preferences" and not stage.trains_reward else 0  # the reference model
    passes = 6 + 2 * plan.checkpointing + 4 * rolls + 2 * plan.reference + beside
    needed = plan.memory if hardware.on_gpu else max(plan.memory, plan.saving)
    operations = None
    if tokens is not None:
        operations = tokens * (passes * policy.parameters + sum(2.0 * part.parameters for part in plan.rewards))
        if stage.trains_reward:
            operations += 4.0 * held_out * length * policy.parameters
        elif stage.job.data.get("verifier") is not None:  # training ends with a measurement
            sampling, more = _sampling(stage, policy)
            needed, operations = max(needed, sampling), operations + more
    left = 4.0 * policy.parameters + (4.0 * plan.trained if plan.trained < policy.parameters else 0)
    kept = stage.job.checkpoints.keep + 1  # the new one is whole before the old one goes
    saves = 1 if updates is None else updates // int(args["save_steps"] or 1)
    disk = left + 12.0 * plan.trained * min(kept, max(saves, 1))  # weights and optimizer
    what = "completions" if rolls else "demonstrations" if demonstrations else "pairs"
    times = _time(stage, operations)
    return Forecast(updates, epochs, f"{batch:,} {what}", tokens, needed, disk, left, operations, *times)


def _time(stage: Stage, operations: float | None) -> tuple[float | None, str]:
    """(seconds, where the rate comes from): by the newest finished run of this method and model on this kind of device."""
    hardware = stage.job.hardware
    if operations is None:
        return None, ""
    earlier = []
    for path in stage.folder.parent.glob(f"{stage.method}-*/run.json"):
        run = run_folder.read_json(path)
        same_model = run.get("choices", {}).get("model") == stage.choices["model"]
        known = same_model and run.get("state") == "finished" and run.get("operations") and run.get("seconds")
        if known and (run.get("device") == "cpu") != hardware.on_gpu and run.get("world_size") == hardware.processes:
            earlier.append((run.get("finished", 0.0), run["operations"] / run["seconds"]))
    if earlier:
        _, measured = max(earlier)
        return operations / measured, f"at {measured / 1e9:,.0f} GFLOP/s, measured by an earlier run"
    if hardware.tflops:
        rate = hardware.tflops * 1e12 * hardware.processes
        return operations / rate, f"at {hardware.tflops:g} TFLOP/s a GPU, assumed"
    if hardware.on_gpu:
        return None, "hardware.tflops says no rate"
    cores = (hardware.threads or len(os.sched_getaffinity(0))) * (hardware.processes if hardware.threads else 1)
    return operations / (_PER_CORE * cores), f"at {_PER_CORE / 1e9:.0f} GFLOP/s a core, assumed"


def available(hardware: Hardware) -> float | None:
    """Bytes of memory that a stage may take: the GPU's, as far as the config says, else what this machine has free."""
    if hardware.on_gpu:
        return None if hardware.memory_gb is None else hardware.memory_gb * GB
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if Path("/proc/meminfo").is_file() else []
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:")), None)


def _smaller(stage: Stage, room: float) -> str | None:
    """The first change that makes a training stage fit, as overrides; None: none of those tried does."""
    policy = _architecture(stage)
    if policy is None or not stage.job.trains:
        return None
    plan = _training(stage, policy)
    where = f"stages.{stage.method}.args"
    halves = [plan.rows // 2**i for i in range(1, 8) if plan.rows // 2**i]
    tries = [(f"{where}.activation_checkpointing=true", replace(plan, checkpointing=True))]
    tries += [(f"{where}.per_device_train_batch_size={n}", replace(plan, rows=n)) for n in halves]
    tries += [(f"{text} {tries[0][0]}", replace(plan, rows=p.rows, checkpointing=True)) for text, p in tries[1:]]
    thin = replace(plan, trained=policy.parameters // 50, reference=False)
    tries.append(("adapter=lora", thin))
    tries.append((f"adapter=lora {where}.per_device_train_batch_size=1", replace(thin, rows=1, checkpointing=True)))
    return next((text for text, tried in tries if tried.memory <= room), None)


def size(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1e6:.1f} MB"


def shortage(stage: Stage, found: Forecast) -> list[str]:
    """The line about a stage that needs more memory than there is."""
    room = available(stage.job.hardware)
    if room is None or found.memory <= _SHARE * room:
        return []
    help_ = _smaller(stage, _SHARE * room)
    cure = f"this would fit: {help_}" if help_ else "a smaller model or another machine would"
    return [f"memory: {stage.label} needs about {size(found.memory)} of the {size(room)} that are there; {cure}"]


def check_disk(stages: list[Stage], folder: Path) -> float:
    """The bytes that these stages write and keep, at their most; ConfigError if there is less free."""
    most = left = 0.0
    for found in filter(None, (of(stage) for stage in stages if stage.state != "finished")):
        most, left = max(most, left + found.disk), left + found.left
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
    if most > free:
        raise ConfigError(
            f"runs_dir={folder}: {size(free)} are free there, and checkpoints and models will take {size(most)}; "
            "expected another folder, or checkpoints.keep=1, or a larger save_steps"
        )
    return most
