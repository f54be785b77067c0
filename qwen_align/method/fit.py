"""The sequence that every trainer shares: arguments, resume, train, guards, save.

TRL and transformers exit 0 having trained nothing in several ways (no trainable parameter, a data set smaller than one
generation batch, a loss that is no number); each is an error here. Several processes train together until the model is saved;
from then on rank 0 goes on alone.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from transformers import PreTrainedTokenizerBase, ProgressCallback, Trainer, TrainerState

from qwen_align import interrupt, model, run_folder
from qwen_align.config import component, rules
from qwen_align.config.job import Job, plain
from qwen_align.device import precision
from qwen_align.method import faults
from qwen_align.method.callbacks import ProgressBar, Recorder
from qwen_align.stage import ranks


def free_memory() -> None:
    """Give back what nothing refers to any more: trainer, callbacks and optimizer refer to each other in circles.

    Both allocators keep freed memory for this process, and a generator may be another: vLLM's engine is.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


def adapter(job: Job) -> Any:
    """PEFT's config of the adapter to train, None for full fine-tuning."""
    return component.construct(plain(job.adapter), "adapter")


def arguments(job: Job, folder: Path, instead: Mapping[str, Any] | None = None, **derived: Any) -> Any:
    """TRL's config object: what the user set, and what follows from the rest of the config.

    Args:
        job: the stage's.
        folder: its run folder.
        instead: fields that are not what the user set, for work that is done before TRL sees the rows.
        derived: fields for which the user's own values come first.

    Raises:
        ConfigError: TRL refuses the settings.
        RuntimeError: transformers found another number of processes than the config says.
    """
    hardware = job.hardware
    per_device, accumulation = rules.batch(job.method, hardware.processes)
    flags = precision(hardware)
    if hardware.deepspeed and flags["use_cpu"]:
        import deepspeed

        # transformers starts torch's own, and ZeRO-3 would see one process
        deepspeed.init_distributed(dist_backend="gloo")
    values = {
        "seed": job.seed,
        "run_name": folder.name,
        "disable_tqdm": False,
        "save_total_limit": job.checkpoints.keep,
        **flags,
        **derived,
        **plain(job.method.args),
        **(instead or {}),
        "output_dir": str(folder / "checkpoints"),
        "report_to": job.tracking.report_to,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "deepspeed": hardware.configuration(),
    }
    args = component.construct(values, "method.args")
    if args.world_size != hardware.processes:
        raise RuntimeError(f"hardware.processes={hardware.processes}, but the trainer sees {args.world_size}")
    return args


def _gathered(trainer: Trainer) -> AbstractContextManager[None]:
    """Every weight on every process for a while: under ZeRO-3 each holds a part."""
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(list(trainer.model_wrapped.parameters()))
    return gathered


def _leave_others(trainer: Trainer) -> None:
    """Leave the group of processes: what follows is rank 0's, which loads models as if there had been no other."""
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
    trainer.add_callback(ProgressBar())
    recorder = Recorder(folder, int(last.name.rpartition("-")[2]) if last else 0)
    trainer.add_callback(recorder)
    run_folder.update(folder, distributed_type=trainer.accelerator.distributed_type.value)
    finite = faults.FiniteLoss(trainer)
    trainer.add_callback(finite)
    with interrupt.deferred(), faults.explained(folder, finite):
        result = trainer.train(resume_from_checkpoint=str(last) if last else None)
    if recorder.stopped:  # another process was asked
        raise interrupt.Interrupted
    if trainer.state.global_step == 0:
        raise RuntimeError("0 training steps were taken: the data set is smaller than one batch, or max_steps is 0")
    policy = trainer.accelerator.unwrap_model(trainer.model)
    with _gathered(trainer), faults.explained(folder, finite):
        if trainer.is_world_process_zero():
            (save or model.save)(policy, trainer.processing_class, folder / "model", probes)
    _leave_others(trainer)
    logs = [line for line in trainer.state.log_history if "loss" in line]
    return {
        "steps": trainer.state.global_step,
        "trainable_parameters": parameters,
        "train_seconds": round(result.metrics["train_runtime"], 1),
        "last_log": logs[-1] if logs else {},
    }
