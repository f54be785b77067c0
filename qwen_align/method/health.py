"""Plain words during a run when its numbers say that something goes wrong, each with the number and the key to change.

Trainers log forty numbers a step and leave it to the reader to see that answers are cut, that a group's rewards are all alike,
that the policy has left its reference, or has learned to please the reward alone (over-optimisation, arXiv 2210.10760). A check
is a function of the logged lines and nothing else, so a resumed run, which reads metrics.jsonl back, warns as an uninterrupted
one. The limits are constants on purpose: they say when to look, not what is right. `HeldOut` gives the one number that trainers
don't have: what an exact judge says meanwhile. Left out: stopping the run.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qwen_align.errors import ConfigError
from qwen_align.generator import sample
from qwen_align.generator.transformers import Transformers
from qwen_align.method import audit, evaluate
from qwen_align.method.audit import WINDOW
from qwen_align.stage import run_folder

Line = dict[str, Any]
Check = Callable[[Sequence[Line]], str | None]

PAUSE = 50  # steps for which a kind of warning is not repeated
ALIKE = 0.5  # share of groups
KL = 10.0  # nats a completion: as choosing the best of 60,000 samples, whose KL is log n - 1 + 1/n
FALL = 0.1  # of the chosen answers' log-probability; its nats depend on how long answers are
ERRORS = 2.0  # standard errors: the best of many measurements is partly luck, one is too few
PROMPTS = 64  # held-out ones for each measurement


def recent(lines: Sequence[Line], key: str, n: int = WINDOW) -> float | None:
    """The mean of a number over the last n lines that have it; None before there are n."""
    found = [line[key] for line in lines if line.get(key) is not None][-n:]
    return fmean(found) if len(found) == n else None


def cut_completions(limit: int) -> Check:
    """Completions that end at max_completion_length, so that the reward judges what was not finished."""

    def check(lines: Sequence[Line]) -> str | None:
        cut = recent(lines, "completions/clipped_ratio")
        if cut is None or cut <= audit.FEW:
            return None
        if cut == 1.0:
            return audit.never_stops(f"no completion of the last {WINDOW} logged steps")
        return (
            f"{cut:.0%} of the completions are cut at max_completion_length={limit}, so the reward judges unfinished answers; "
            "raise max_completion_length, or start from a policy that answers shorter"
        )

    return check


def several_answers(lines: Sequence[Line]) -> str | None:
    """Completions that go on after their answer, which a reward on the last one does not mind."""
    share = recent(lines, "completions/several_answers")
    if share is None or share <= audit.FEW:
        return None
    return (
        f"{audit.several(share)}; the reward reads the last one, so trying again pays; a policy learns to stop from "
        "demonstrations that end with the stop token, or from a reward such as format or length beside this one"
    )


def groups_alike(num_generations: int, temperature: float) -> Check:
    """Groups whose completions all have one reward, which leave-one-out turns into no advantage for any of them."""

    def check(lines: Sequence[Line]) -> str | None:
        alike = recent(lines, "groups_without_variance")
        if alike is None or alike <= ALIKE:
            return None
        return (
            f"in {alike:.0%} of the groups all {num_generations} completions have the same reward, so they teach nothing; "
            f"raise method.args.num_generations or method.args.temperature={temperature:g}, or give prompts that the policy "
            "solves at times"
        )

    return check


def far_from_reference(beta: float, learning_rate: float) -> Check:
    """KL of whole completions: TRL logs it a token, but penalises, as a reward model suffers from, the sum."""

    def check(lines: Sequence[Line]) -> str | None:
        kl, length = recent(lines, "kl"), recent(lines, "completions/mean_length")
        if kl is None or length is None or kl * length <= KL:
            return None
        return (
            f"the policy is {kl * length:.1f} nats a completion away from its reference (KL; choosing the best of 60,000 "
            "samples would be 10), where a reward model may no longer know what is good; raise "
            f"method.args.beta={beta:g} or lower method.args.learning_rate={learning_rate:g}"
        )

    return check


def pleases_the_reward_alone(lines: Sequence[Line]) -> str | None:
    """The training reward has risen since the held-out judge was at its best, and the judge has fallen."""
    measured = [i for i, line in enumerate(lines) if line.get("held_out") is not None]
    if len(measured) < 2 or measured[-1] != len(lines) - 1:
        return None
    best, now = max(measured, key=lambda i: lines[i]["held_out"]), measured[-1]
    before, after = recent(lines[: max(best + 1, WINDOW)], "reward"), recent(lines, "reward")
    fell = lines[best]["held_out"] - lines[now]["held_out"]
    if before is None or after is None or after <= before or fell <= ERRORS * lines[now]["held_out_error"]:
        return None
    return (
        f"the reward has risen from {before:.3g} to {after:.3g} since step {lines[best]['step']}, but the held-out judge has "
        f"fallen from {lines[best]['held_out']:.3g} to {lines[now]['held_out']:.3g} (standard error "
        f"{lines[now]['held_out_error']:.2g}): the policy learns what the reward likes, not the task; stop earlier with "
        "method.args.max_steps, raise method.args.beta, or use a better reward"
    )


def chosen_falls(beta: float) -> Check:
    """Chosen answers that become less likely while the margins grow, as DPO allows (arXiv 2402.13228).

    logps/chosen itself differs from batch to batch with the answers' lengths; rewards/chosen / beta is its change since the
    reference, on the same answers.
    """

    def check(lines: Sequence[Line]) -> str | None:
        reward, now = recent(lines, "rewards/chosen"), recent(lines, "logps/chosen")
        margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
        margin = recent(lines, "rewards/margins")
        if reward is None or now is None or margin is None or margin <= margins[0]:
            return None
        before = now - reward / beta
        if before - now <= FALL * abs(before):
            return None
        return (
            f"the chosen answers have become less likely themselves, by {before - now:.1f} nats each (logps/chosen), while "
            f"the margins grow ({margins[0]:.2g} to {margin:.2g}): the rejected ones only fall faster, and what they lose may "
            f"go to answers that nobody judged; if the evaluation falls too, raise method.args.beta={beta:g}, lower "
            "method.args.learning_rate, or add the chosen answers' own loss with method.args.loss_type=[sigmoid,sft]"
        )

    return check


def of_rloo(args: dict[str, Any]) -> dict[str, Check]:
    """RLOO's checks, by kind. With beta=0 there is no reference, so no KL is known."""
    return {
        "completions_cut": cut_completions(args["max_completion_length"]),
        "several_answers": several_answers,
        "groups_without_variance": groups_alike(args["num_generations"], args["temperature"]),
        "kl": far_from_reference(args["beta"], args["learning_rate"]),
        "reward_against_judge": pleases_the_reward_alone,
    }


def of_dpo(args: dict[str, Any]) -> dict[str, Check]:
    """DPO's checks, by kind."""
    return {"chosen_falls": chosen_falls(args["beta"])}


class Health(TrainerCallback):
    """Prints what the checks find, at most one line a kind and `pause` steps, and keeps it in `warnings`.

    Args:
        folder: the run folder; a resumed run's earlier lines are read from its metrics.jsonl.
        checks: by kind.
        pause: steps for which a kind is not repeated; None: it is said once.
    """

    def __init__(self, folder: Path, checks: dict[str, Check], pause: int | None = PAUSE) -> None:
        self.folder, self.checks, self.pause = folder, checks, pause
        self.lines: list[Line] = []
        self.warnings: list[dict[str, Any]] = []

    def see(self, line: Line) -> list[str]:
        """Take one logged line with its step; returns what is new to say about it."""
        self.lines.append(line)
        said: list[str] = []
        for kind, check in self.checks.items():
            earlier = [warning["step"] for warning in self.warnings if warning["kind"] == kind]
            if earlier and (self.pause is None or line["step"] < earlier[-1] + self.pause):
                continue
            if text := check(self.lines):
                self.warnings.append({"step": line["step"], "kind": kind, "text": text})
                said.append(text)
        return said

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Catch up on the steps before a resume, in silence: they were said then."""
        self.lines, self.warnings = [], []
        for line in run_folder.read_jsonl(self.folder / "metrics.jsonl"):
            if line["step"] <= state.global_step and "train_runtime" not in line:
                self.see(line)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Look at what the trainer logged."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            for text in self.see({"step": state.global_step, **logs}):
                print(f"\nwarning at step {state.global_step}: {text}", flush=True)


def judge_of(data: Any) -> Callable[[str, Any], float] | None:
    """What a completion of a row is truly worth: the data's judge, else whether its verifier accepts; None without both."""
    verify = getattr(data, "verify", None)
    if judge := getattr(data, "judge", None):
        return judge
    return None if verify is None else lambda completion, row: float(verify(completion, row) == "correct")


@contextmanager
def undisturbed(policy: torch.nn.Module) -> Iterator[None]:
    """Leave random numbers and the modules' modes as they were, so that training can't tell."""
    states, modes = (random.getstate(), np.random.get_state()), [(m, m.training) for m in policy.modules()]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, training in modes:
            module.training = training


class HeldOut(TrainerCallback):
    """Every `held_out_every` steps, what an exact judge says of the greedy answers to a few held-out prompts.

    They are the last rows of the evaluation view; the evaluation after training takes the first, so a warning that is heeded
    doesn't touch the final number while the view is large enough. Each process measures the same prompts, as sharded weights
    need. Notes held_out (mean), held_out_error (its standard error) and held_out_seconds.

    Args:
        config: the stage's.
        data: its data set; without an evaluation view, or without judge and verifier, nothing is measured.
        note: takes a number's name and value into the next logged line.
    """

    def __init__(self, config: dict[str, Any], data: Any, note: Callable[[str, float], None]) -> None:
        self.every, self.note = config["method"]["held_out_every"], note
        if self.every is not None and (type(self.every) is not int or self.every < 1):
            raise ConfigError(
                f"method.held_out_every={self.every}: expected a whole number of steps from 1 on, or null"
            )
        self.limits = {"max_completion_length": config["max_completion_length"], "seed": config["seed"]}
        self.judge, self.rows = judge_of(data), []
        if self.every and self.judge and "evaluation" in evaluate.views(data):
            rows = data.evaluation()
            self.rows = rows.select(range(max(0, len(rows) - PROMPTS), len(rows))).to_list()

    def measure(self, policy: Any, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        """One value a prompt."""
        assert self.judge is not None, "there are no rows without a judge"
        prompts = [row["prompt"] for row in self.rows]
        with undisturbed(policy):
            drawing: dict[str, Any] = {"n": 1, "temperature": 0.0, "policy": (policy, tokenizer), **self.limits}
            answers = sample(Transformers(), prompts, title="held-out", **drawing)
            return [self.judge(answer.text, row) for (answer,), row in zip(answers, self.rows, strict=True)]

    def _note(self, policy: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        began = time.monotonic()
        values = self.measure(policy, tokenizer)
        self.note("held_out", fmean(values))
        self.note("held_out_error", stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0)
        self.note("held_out_seconds", round(time.monotonic() - began, 2))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Where training starts from, and whether it ends completions otherwise than they are measured."""
        for text in audit.differences({"method": {"args": vars(args)}}, self.limits["max_completion_length"]):
            if state.is_world_process_zero:
                print(f"warning: {text}", flush=True)
        if self.rows and state.global_step == 0:
            self._note(given["model"], given["processing_class"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Every so many steps."""
        if self.rows and state.global_step % self.every == 0:
            self._note(given["model"], given["processing_class"])
