"""The sequence that every trainer shares: arguments, resume, train, guards, save.

TRL and transformers exit 0 having trained nothing in several ways (no trainable parameter, a data set smaller than one
generation batch, a loss that is no number); each is an error here. Several processes train together and part when the model is
saved: rank 0 goes on alone.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import Module
from transformers import (
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qwen_align import model
from qwen_align.config import check
from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware
from qwen_align.method import faults
from qwen_align.stage import interrupt, ranks, run_folder


@cache
def _no_cuda() -> str:
    """Why torch can't use a GPU that is there; the driver's version, most often."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no device is visible"


def on_gpu(hardware: Hardware) -> bool:
    """Whether this process computes on a GPU.

    Raises:
        ConfigError: hardware.device=gpu and torch can use none, or the GPU has less memory than the settings count on.
    """
    if not hardware.on_gpu:
        return False
    if not torch.cuda.is_available():
        said = f"torch {torch.__version__} can't use the GPU ({_no_cuda()})"
        if hardware.device == "gpu":
            raise ConfigError(f"hardware.device=gpu: {said}; expected a driver that fits, or hardware=cpu")
        print(f"this runs on the CPU: {said}", flush=True)
        return False
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    if hardware.memory_gb and memory < 0.9 * hardware.memory_gb:
        raise ConfigError(
            f"hardware.memory_gb={hardware.memory_gb:g}: this GPU has {memory:.0f} GB, too little for the rows that "
            "hardware.per_device holds at once; expected the option for a smaller one: hardware=rtx4090, t4 or gpu"
        )
    return True


def precision(hardware: dict[str, Any]) -> dict[str, bool]:
    """TRL's precision flags for what was asked for; auto is bf16 where the GPU computes in it, else fp32."""
    cpu = not on_gpu(check.construct(hardware))
    wanted = hardware["precision"]
    if wanted == "auto":
        wanted = "fp32" if cpu or not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
    return {"use_cpu": cpu, "bf16": wanted == "bf16", "fp16": wanted == "fp16"}


def free_memory() -> None:
    """Give back what nothing refers to any more: trainer, callbacks and optimizer refer to each other in circles.

    Both allocators keep freed memory for this process, and a generator may be another: vLLM's engine is.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


def arguments(config: dict[str, Any], folder: Path, **derived: Any) -> Any:
    """TRL's config object: what the user set, and what follows from the rest of the config.

    Raises:
        RuntimeError: transformers found another number of processes than the config says.
    """
    hardware = check.construct(config["hardware"])
    per_device, accumulation = check.batch(config["method"], hardware.processes)
    flags = precision(config["hardware"])
    if hardware.deepspeed and flags["use_cpu"]:
        import deepspeed

        deepspeed.init_distributed(
            dist_backend="gloo"
        )  # transformers starts torch's own, and ZeRO-3 would see one process
    values = {
        "seed": config["seed"],
        "run_name": folder.name,
        "disable_tqdm": False,
        "save_total_limit": config["checkpoints"]["keep"],
        **flags,
        **derived,
        **config["method"]["args"],
        "output_dir": str(folder / "checkpoints"),
        "report_to": config["tracking"]["report_to"],
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "deepspeed": hardware.configuration(),
    }
    args = instantiate(OmegaConf.create(values), _convert_="object")
    if args.world_size != hardware.processes:
        raise RuntimeError(f"hardware.processes={hardware.processes}, but the trainer sees {args.world_size}")
    return args


class Bar(ProgressCallback):
    """The trainer's progress bar with the numbers worth watching on it, instead of a line of forty at each logging step."""

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Show loss or reward beside the bar."""
        shown = {k: f"{float(v):.3g}" for k, v in (logs or {}).items() if k in ("loss", "reward", "kl", "reward_std")}
        if "reward" in shown:
            shown.pop("loss", None)  # RLOO's is about 0 by construction
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown, refresh=False)


class Recorder(TrainerCallback):
    """Writes each logging step to metrics.jsonl and stops at the end of a step when asked to."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self.path = folder / "metrics.jsonl"
        self.stopped = False
        before = run_folder.read_jsonl(self.path)  # an interrupted run's closing summary is no step
        kept = [line for line in before if line["step"] <= resumed_step and "train_runtime" not in line]
        run_folder.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Append what the trainer logged."""
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save where a resume is exact, and stop, once a stop was asked for; all processes at the same step."""
        self.stopped = faults.on_any(interrupt.asked(), args)
        if self.stopped:
            window = getattr(args, "steps_per_generation", 1) * getattr(args, "num_iterations", 1)
            control.should_save = (state.global_step * args.gradient_accumulation_steps) % window == 0 or window == 1
            control.should_training_stop = True


def _whole(trainer: Trainer) -> AbstractContextManager[None]:
    """Every weight on every process for a while: under ZeRO-3 each holds a part."""
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(list(trainer.model_wrapped.parameters()))
    return gathered


def _part(trainer: Trainer) -> None:
    """Let the processes go their own ways: what follows is rank 0's, which loads models as if there had been no other."""
    if not torch.distributed.is_initialized():
        return
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    trainer.accelerator.wait_for_everyone()
    unset_hf_deepspeed_config()
    if hasattr(trainer, "stop_engine"):
        trainer.stop_engine()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    ranks.leave()


def _take_no_more_steps(trainer: Trainer, last: Path) -> None:
    """After a run that ended behind its last step, while it saved or measured: transformers would take one step more."""
    state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    if state.global_step >= state.max_steps:
        trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0


def fit(
    trainer: Trainer, folder: Path, probes: list[list[dict[str, str]]], save: Callable[..., None] | None = None
) -> dict[str, Any]:
    """Train from the last complete checkpoint, check that something was trained, save `model/`; returns the last logs.

    `save` stands in for model.save where what is trained is no policy.

    Raises:
        RuntimeError: nothing was trainable, no step was taken, or the saved tokenizer does not round-trip.
    """
    assert isinstance(trainer.model, Module) and isinstance(trainer.processing_class, PreTrainedTokenizerBase)
    parameters = model.trainable(trainer.model)
    if parameters == 0:
        raise RuntimeError("0 of the policy's parameters are trainable: nothing would be learned")
    saved = run_folder.checkpoints(folder)
    for torn in sorted(set((folder / "checkpoints").glob("checkpoint-*")) - set(saved)):
        print(f"skipping {torn.name}: it is incomplete", flush=True)
    last = saved[-1] if saved else None
    if last:
        print(f"resuming from {last.name}", flush=True)
        _take_no_more_steps(trainer, last)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar())
    recorder = Recorder(folder, int(last.name.rpartition("-")[2]) if last else 0)
    trainer.add_callback(recorder)
    run_folder.update(folder, distributed_type=trainer.accelerator.distributed_type.value)
    finite = faults.Finite(trainer)
    trainer.add_callback(finite)
    with interrupt.deferred(), faults.explained(folder, finite):
        result = trainer.train(resume_from_checkpoint=str(last) if last else None)
    if recorder.stopped:  # another process was asked
        raise interrupt.Interrupted
    if trainer.state.global_step == 0:
        raise RuntimeError("0 training steps were taken: the data set is smaller than one batch, or max_steps is 0")
    policy = trainer.accelerator.unwrap_model(trainer.model)
    with _whole(trainer), faults.explained(folder, finite):
        if trainer.is_world_process_zero():
            (save or model.save)(policy, trainer.processing_class, folder / "model", probes)
    _part(trainer)
    logs = [line for line in trainer.state.log_history if "loss" in line]
    return {
        "steps": trainer.state.global_step,
        "trainable_parameters": parameters,
        "train_seconds": round(result.metrics["train_runtime"], 1),
        "last_log": logs[-1] if logs else {},
    }
