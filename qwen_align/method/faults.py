"""What ends a training run whose settings are right: a loss that is no number, and a disk that is full.

Both keep the last good checkpoint, and say so. transformers goes on with NaN weights and its log hides them, and a full disk is
reported in as many ways as there are file formats. Left out: leaving a bad step out of the training; the same step comes again.
"""

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qwen_align import run_folder
from qwen_align.compat.transformers import on_gradient_norm

BAD_STEPS = 3  # in a row, after which a loss that is not finite ends a run: by then its weights aren't either


def on_any(here: bool, args: TrainingArguments) -> bool:
    """Whether it is so on any process: saving takes all of them."""
    if args.world_size == 1:
        return here
    flag = torch.tensor(int(here), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


class FiniteLoss(TrainerCallback):
    """Ends a run whose loss or gradient is not finite, and saves nothing meanwhile: a checkpoint would push out a good one.

    The trainer's log has the mean of the losses that were finite, so each step's own loss is looked at.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.steps: list[int] = []
        self.here = False
        inner = trainer.training_step

        def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = inner(*args, **kwargs)
            self.here = self.here or not bool(torch.isfinite(loss).all())
            return loss

        trainer.training_step = watched  # type: ignore[method-assign]
        if not trainer.args.fp16:  # loss scaling meets infinite gradients as a rule, and leaves those steps out
            on_gradient_norm(trainer, self._see_norm)

    def _see_norm(self, norm: float | None) -> None:
        """A gradient can be NaN where the loss is not: the weights are from then on, and the step would be saved."""
        self.here = self.here or (norm is not None and not math.isfinite(norm))

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save nothing here either."""
        control.should_save = control.should_save and not self.steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step, on all processes alike."""
        bad, self.here = on_any(self.here, args), False
        self.steps = [*self.steps, state.global_step] if bad else []
        if bad:
            print(f"\nstep {state.global_step}: the loss or its gradient is not finite", flush=True)
            control.should_save = False
            control.should_training_stop = control.should_training_stop or len(self.steps) >= BAD_STEPS

    def check(self, folder: Path, cause: Exception | None = None) -> None:
        """Raise RuntimeError if the last step was bad; what such weights break later is only a consequence."""
        if not self.steps and not (cause and self.here):
            return
        first = f"from step {self.steps[0]} on" if self.steps else "in the step that was under way"
        raise RuntimeError(
            f"the loss or its gradient was not finite {first}; {_kept(folder)}. What helps most often: a lower "
            "method.args.learning_rate or method.args.max_grad_norm, or hardware.precision=fp32"
        ) from cause


def _kept(folder: Path) -> str:
    saved = run_folder.checkpoints(folder)
    return f"{saved[-1].name} from before is kept" if saved else "no checkpoint was written before it"


def _is_full(folder: Path) -> bool:
    """Whether a megabyte more can not be written; torch and safetensors have messages of their own, if any."""
    probe = folder / ".room"
    try:
        probe.write_bytes(bytes(2**20))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    finally:
        with suppress(OSError):
            probe.unlink()
    return False


@contextmanager
def explained(folder: Path, finite: FiniteLoss) -> Iterator[None]:
    """Say what really went wrong: weights that are no numbers, or a full disk, whose torn checkpoint makes room for run.json.

    Raises:
        RuntimeError: with the checkpoint that a resume begins from.
    """
    try:
        yield
    except Exception as error:
        if _is_full(folder):
            torn = set((folder / "checkpoints").glob("*")) - set(run_folder.checkpoints(folder))
            for path in [] if run_folder.read_only else torn:
                shutil.rmtree(path, ignore_errors=True)
            raise RuntimeError(f"no space left to write in {folder}; {_kept(folder)}") from error
        finite.check(folder, error)
        raise
    finite.check(folder)
