"""Where a trainer's step goes: timers around its methods, on the instance, so that the product has none.

A span's time is its own, without the spans inside it, so a step's budget sums to the step; what no timer saw is `rest` (loading
rows, collating, callbacks). A step lasts from the end of one update to the end of the next, logging included. On a GPU each
boundary waits for the device. Left out: what happens inside forward and backward, which is torch.profiler's business.
"""

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl

from qwen_align.stage import worker

_METHODS = {  # of trainers -> their part; a trainer without one of them has no such part
    "_generate": "generation",
    "_calculate_rewards": "reward",
    "compute_loss": "forward",
    "_clip_grad_norm": "optimizer",
    "_maybe_log_save_evaluate": "logging",
    "_save_checkpoint": "saving",
}


class Spans:
    """Seconds by part, each second in one of them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.monotonic()

    def _charge(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        self.seconds[self._open[-1] if self._open else "rest"] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def span(self, part: str) -> Iterator[None]:
        """Charge what happens inside to a part."""
        self._charge()
        self._open.append(part)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def wrap(self, owner: Any, name: str, part: str | Callable[[], str | None]) -> None:
        """Time a method of one object; `part` may be asked anew at each call, and None is no span of its own."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.span(found) if (found := part if isinstance(part, str) else part()) else contextlib.nullcontext():
                return method(*args, **kwargs)

        setattr(owner, name, timed)

    def take(self) -> tuple[float, dict[str, float]]:
        """(now, seconds by part since the last call)."""
        self._charge()
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return self._since, taken


def peak_memory_mb() -> float:
    """Of this process on the GPU where there is one, else its resident memory since `reset_peak_memory`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e6
    return worker.peak_memory_mb()


def reset_peak_memory() -> None:
    """Forget earlier peaks, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux; elsewhere the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_flops() -> float:
    """Operations a second of the best of some square matmuls on this device, in the precision that training computes in."""
    cuda = torch.cuda.is_available()
    size, kind = (8192, torch.bfloat16) if cuda else (1024, torch.float32)
    a, best = torch.randn(size, size, dtype=kind, device="cuda" if cuda else "cpu"), float("inf")
    for _ in range(12):
        began = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


class Steps(TrainerCallback):
    """Emits a line for each step, and ends the run after the step in which it is asked to, with a checkpoint."""

    def __init__(self, trainer: Any, spans: Spans, emit: Callable[[dict[str, Any]], None], asked: Callable[[], bool]) -> None:
        self.trainer, self.spans, self.emit, self.asked = trainer, spans, emit, asked
        self.began, self.step = time.monotonic(), 0
        self.losses: list[torch.Tensor] = []
        self.gradient_norm = 0.0
        self.completion_tokens = 0

    def listen(self) -> None:
        """Read losses, gradients and completions off what the trainer's methods return."""
        training_step, generate = self.trainer.training_step, getattr(self.trainer, "_generate", None)
        clip = self.trainer._clip_grad_norm

        @functools.wraps(training_step)
        def with_loss(*args: Any, **kwargs: Any) -> Any:
            self.losses.append(loss := training_step(*args, **kwargs))
            return loss

        def counted(*args: Any, **kwargs: Any) -> Any:
            found = generate(*args, **kwargs)  # type: ignore[misc]
            self.completion_tokens += sum(map(len, found[1]))
            return found

        def with_norm(model: Any) -> Any:
            self.gradient_norm = norm = clip(model)
            return norm

        self.trainer.training_step, self.trainer._clip_grad_norm = with_loss, with_norm
        if generate:
            self.trainer._generate = counted

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The optimizer exists by now."""
        self.spans.wrap(self.trainer.optimizer, "step", "optimizer")
        self.began, _parts = self.spans.take()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        """A line about this step."""
        end, budget = self.spans.take()
        self.emit(
            {
                "step": state.global_step,
                "begin": self.began,
                "end": end,
                "budget": budget,
                "loss": float(torch.stack(self.losses).sum()),
                "gradient_norm": float(self.gradient_norm),
                "completion_tokens": self.completion_tokens,
                "peak_memory_mb": peak_memory_mb(),
            }
        )
        self.began, self.losses, self.completion_tokens = end, [], 0
        if self.asked():
            control.should_training_stop = control.should_save = True


def instrument(trainer: Any, spans: Spans, emit: Callable[[dict[str, Any]], None], asked: Callable[[], bool]) -> None:
    """Put timers around a trainer's methods, and a callback at its end."""
    steps = Steps(trainer, spans, emit, asked)
    for name, part in _METHODS.items():
        if hasattr(trainer, name):
            spans.wrap(trainer, name, part)
    if hasattr(trainer, "_get_per_token_logps_and_entropies"):
        old = lambda: None if torch.is_grad_enabled() else "old log-probs"  # noqa: E731
        spans.wrap(trainer, "_get_per_token_logps_and_entropies", old)
    if getattr(trainer, "ref_model", None) is not None:
        spans.wrap(trainer.ref_model, "forward", "reference")
    spans.wrap(trainer.accelerator, "backward", "backward")
    steps.listen()
    trainer.add_callback(steps)


def timed_precompute(trainer_class: type[Any], emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    """Time the reference log-probs that a trainer computes before its first step; returns what undoes it."""
    original = trainer_class.__init__

    @functools.wraps(original)
    def timed(self: Any, *args: Any, **kwargs: Any) -> None:
        compute = self._precompute_ref_logps

        def measured(rows: Any, *more: Any, **named: Any) -> Any:
            began = time.monotonic()
            found = compute(rows, *more, **named)
            emit({"reference_seconds_per_row": (time.monotonic() - began) / len(rows)})
            return found

        self._precompute_ref_logps = measured
        original(self, *args, **kwargs)

    trainer_class.__init__ = timed
    return lambda: setattr(trainer_class, "__init__", original)


class Done(BaseException):
    """The steps that were to be measured are; what follows in a stage is of no interest here."""


@contextlib.contextmanager
def measuring(emit: Callable[[dict[str, Any]], None], asked: Callable[[], bool]) -> Iterator[None]:
    """Every trainer whose `train` is called inside emits its steps, and raises Done when it is through."""
    from trl import DPOTrainer

    original, undo = Trainer.train, timed_precompute(DPOTrainer, emit)

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        spans = Spans()
        instrument(self, spans, emit, asked)
        original(self, *args, **kwargs)
        emit({"saving_seconds": spans.take()[1].get("saving", 0.0)})
        raise Done

    Trainer.train = train  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.train = original  # type: ignore[method-assign]
        undo()
