"""What happens beside the steps of a training run: the progress bar, metrics.jsonl, warnings, and held-out measurements."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerBase,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qwen_align import interrupt, run_folder
from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.generator import Sampling, sample
from qwen_align.generator.transformers import Transformers
from qwen_align.method import audit, faults
from qwen_align.method.health import Line, Rule
from qwen_align.verifier import Verdict

PAUSE = 50  # steps for which a kind of warning is not repeated
PROMPTS = 64  # held-out ones for each measurement


class ProgressBar(ProgressCallback):
    """The trainer's progress bar with the numbers worth watching on it, instead of a line of forty at each logging step."""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show loss or reward beside the bar."""
        shown = {k: f"{float(v):.3g}" for k, v in (logs or {}).items() if k in ("loss", "reward", "kl", "reward_std")}
        if "reward" in shown:
            shown.pop("loss", None)  # about 0 by construction
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

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
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


class HealthWarnings(TrainerCallback):
    """Prints what the rules find, at most one line a kind and PAUSE steps, and keeps it in `warnings`.

    Args:
        folder: the run folder; a resumed run's earlier lines are read from its metrics.jsonl.
        rules: by kind.
    """

    def __init__(self, folder: Path, rules: Mapping[str, Rule]) -> None:
        self.folder, self.rules = folder, rules
        self.lines: list[Line] = []
        self.warnings: list[dict[str, Any]] = []

    def see(self, line: Line, args: Any) -> list[str]:
        """Take one logged line with its step; returns the new warnings."""
        self.lines.append(line)
        found: list[str] = []
        for kind, rule in self.rules.items():
            earlier = [warning["step"] for warning in self.warnings if warning["kind"] == kind]
            if earlier and (getattr(rule, "once", False) or line["step"] < earlier[-1] + PAUSE):
                continue
            if text := rule(self.lines, args):
                self.warnings.append({"step": line["step"], "kind": kind, "text": text})
                found.append(text)
        return found

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Catch up on the steps before a resume, in silence: they were printed then."""
        self.lines, self.warnings = [], []
        for line in run_folder.read_jsonl(self.folder / "metrics.jsonl"):
            if line["step"] <= state.global_step and "train_runtime" not in line:
                self.see(line, args)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Look at what the trainer logged."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            for text in self.see({"step": state.global_step, **logs}, args):
                print(f"\nwarning at step {state.global_step}: {text}", flush=True)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Leave all generators of random numbers as they were, so that training draws what it would have drawn."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def undisturbed(policy: torch.nn.Module) -> Iterator[None]:
    """Leave random numbers and the modules' modes as they were."""
    modes = [(module, module.training) for module in policy.modules()]
    try:
        with same_random_numbers():
            yield
    finally:
        for module, training in modes:
            module.training = training


class HeldOut(TrainerCallback):
    """Every `held_out_every` steps, what the data's verifier says of the greedy answers to a few held-out prompts.

    They are the last rows of the evaluation view; the evaluation after training takes the first, so a warning that is heeded
    doesn't touch the final number while the view is large enough. Each process measures the same prompts, as sharded weights
    need. Notes held_out (mean of its scores, or the share that is correct), held_out_error (its standard error) and
    held_out_seconds.

    Args:
        job: the stage's.
        data: its data; without an evaluation view or a verifier nothing is measured.
        note: takes a number's name and value into the next logged line.
    """

    def __init__(self, job: Job, data: Data, note: Callable[[str, float], None]) -> None:
        self.every, self.note = job.method.held_out_every, note
        self.drawing = Sampling(1, 0.0, job.max_completion_length, job.seed)
        self.verifier, self.rows = data.verifier, []
        if self.every and self.verifier and "evaluation" in data.views:
            rows = data.rows("evaluation")
            self.rows = rows.select(range(max(0, len(rows) - PROMPTS), len(rows))).to_list()

    def measure(self, policy: Any, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        """One value a prompt."""
        assert self.verifier is not None, "there are no rows without a verifier"
        prompts = [row["prompt"] for row in self.rows]
        with undisturbed(policy):
            answers = sample(Transformers(), prompts, self.drawing, "held-out", (policy, tokenizer))
            judged = [self.verifier.judge(answer.text, row) for (answer,), row in zip(answers, self.rows, strict=True)]
        return [float(verdict == Verdict.CORRECT) if score is None else score for verdict, score in judged]

    def _note(self, policy: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        began = time.monotonic()
        values = self.measure(policy, tokenizer)
        self.note("held_out", fmean(values))
        self.note("held_out_error", stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0)
        self.note("held_out_seconds", round(time.monotonic() - began, 2))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Where training starts from, and whether it ends completions otherwise than they are measured."""
        for text in audit.differences({"method": {"args": vars(args)}}, self.drawing.max_completion_length):
            if state.is_world_process_zero:
                print(f"warning: {text}", flush=True)
        if self.rows and state.global_step == 0:
            self._note(given["model"], given["processing_class"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Every so many steps."""
        if self.rows and state.global_step % self.every == 0:
            self._note(given["model"], given["processing_class"])
