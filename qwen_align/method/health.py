"""Rules that look at a run's logged numbers and say in plain words what goes wrong, with the number and the key to change.

Trainers log forty numbers a step and leave it to the reader to see that answers are cut, that a group's rewards are all alike,
that the policy has left its reference, or has learned to please the reward alone (over-optimisation, arXiv 2210.10760). A
method's YAML names its rules under `health`: those here, a dotted path, or FILE.py:NAME. A rule is a function of the logged
lines and the trainer's arguments and nothing else, so a resumed run, which reads metrics.jsonl back, warns as an uninterrupted
one. The limits are constants on purpose: they say when to look, not what is right. Left out: stopping the run.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from qwen_align.config import component, rules
from qwen_align.method import audit
from qwen_align.method.audit import WINDOW

Line = dict[str, Any]
Rule = Callable[[Sequence[Line], Any], str | None]

SAME_REWARD = 0.5  # share of groups
KL = 10.0  # nats a completion: as choosing the best of 60,000 samples, whose KL is log n - 1 + 1/n
FALL = 0.1  # of the chosen answers' log-probability; its nats depend on how long answers are
ERRORS = 2.0  # standard errors: the best of many measurements is partly luck, one is too few
WEIGHT = 1.2  # by which factor a completion's importance weight is off


def load(names: Iterable[str]) -> dict[str, Rule]:
    """kind -> rule of a method's YAML."""
    return {rules.kind(name): component.locate(rules.dotted(name, __name__), "method.health") for name in names}


def once(rule: Rule) -> Rule:
    """Mark a rule whose finding stays true, so that it is not repeated."""
    vars(rule)["once"] = True
    return rule


def recent(lines: Sequence[Line], key: str, n: int = WINDOW) -> float | None:
    """The mean of a number over the last n lines that have it; None before there are n."""
    found = [line[key] for line in lines if line.get(key) is not None][-n:]
    return fmean(found) if len(found) == n else None


def completions_cut(lines: Sequence[Line], args: Any) -> str | None:
    """Completions that end at max_completion_length, so that the reward judges what was not finished."""
    cut = recent(lines, "completions/clipped_ratio")
    if cut is None or cut <= audit.FEW:
        return None
    if cut == 1.0:
        return audit.never_stops(f"no completion of the last {WINDOW} logged steps")
    return (
        f"{cut:.0%} of the completions are cut at max_completion_length={args.max_completion_length}, so the reward judges "
        "unfinished answers; raise max_completion_length, or start from a policy that answers shorter"
    )


def several_answers(lines: Sequence[Line], args: Any) -> str | None:
    """Completions that go on after their answer, which a reward on the last one does not mind."""
    share = recent(lines, "completions/several_answers")
    if share is None or share <= audit.FEW:
        return None
    return (
        f"{audit.several(share)}; the reward reads the last one, so trying again pays; a policy learns to stop from "
        "demonstrations that end with the stop token, or from a reward such as format or length beside this one"
    )


def groups_without_variance(lines: Sequence[Line], args: Any) -> str | None:
    """Groups whose completions all have one reward, so that none has an advantage."""
    share = recent(lines, "groups_without_variance")
    if share is None or share <= SAME_REWARD:
        return None
    return (
        f"in {share:.0%} of the groups all {args.num_generations} completions have the same reward, so they teach nothing; "
        f"raise method.args.num_generations or method.args.temperature={args.temperature:g}, or give prompts that the policy "
        "solves at times"
    )


def kl(lines: Sequence[Line], args: Any) -> str | None:
    """KL of whole completions: TRL logs it a token, but a reward model suffers from the sum. None is logged with beta=0."""
    token, length = recent(lines, "kl"), recent(lines, "completions/mean_length")
    if token is None or length is None or token * length <= KL:
        return None
    return (
        f"the policy is {token * length:.1f} nats a completion away from its reference (KL; choosing the best of 60,000 "
        "samples would be 10), where a reward model may no longer know what is good; raise "
        f"method.args.beta={args.beta:g} or lower method.args.learning_rate={args.learning_rate:g}"
    )


def reward_against_judge(lines: Sequence[Line], args: Any) -> str | None:
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


@once
def chosen_falls(lines: Sequence[Line], args: Any) -> str | None:
    """Chosen answers that become less likely while the margins grow, as DPO allows (arXiv 2402.13228).

    logps/chosen itself differs from batch to batch with the answers' lengths; rewards/chosen / beta is its change since the
    reference, on the same answers.
    """
    reward, now = recent(lines, "rewards/chosen"), recent(lines, "logps/chosen")
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    margin = recent(lines, "rewards/margins")
    if reward is None or now is None or margin is None or margin <= margins[0]:
        return None
    before = now - reward / args.beta
    if before - now <= FALL * abs(before):
        return None
    return (
        f"the chosen answers have become less likely themselves, by {before - now:.1f} nats each (logps/chosen), while "
        f"the margins grow ({margins[0]:.2g} to {margin:.2g}): the rejected ones only fall faster, and what they lose may "
        f"go to answers that nobody judged; if the evaluation falls too, raise method.args.beta={args.beta:g}, lower "
        "method.args.learning_rate, or use another loss (DPO: method.args.loss_type=[sigmoid,sft] adds the chosen answers' own)"
    )


def sampling_drift(lines: Sequence[Line], args: Any) -> str | None:
    """vLLM draws from another distribution than the one that is trained."""
    weight, token = recent(lines, "sampling/importance_weight"), recent(lines, "sampling/logp_difference/mean")
    if weight is None or token is None or weight <= WEIGHT:
        return None
    return (
        f"vLLM's log-probs are {token:.2g} nats a token away from the trainer's, so a completion's importance weight is off by "
        f"a factor of {weight:.2f}, which RLOO takes for 1; set hardware.precision=fp32 or fp16 (bf16 rounds the most), lower "
        "max_completion_length, or set method.args.use_vllm=false"
    )
