"""Rules about one planned stage that the parent can check without weights; a method's YAML names its own under `checks`.

A name there is a function here, a dotted path, or FILE.py:NAME of the user's own: it takes a `Planned` and raises a ConfigError
with the key, the value, and what would be right.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qwen_align.config import component, schema, source_code
from qwen_align.config.job import Job
from qwen_align.errors import ConfigError, nearest
from qwen_align.generator import vllm
from qwen_align.method import select
from qwen_align.verifier import Verifier

_COMPARED = ("loss_type", "scale_rewards", "multi_objective_aggregation", "importance_sampling_level")


@dataclass(frozen=True)
class Planned:
    """A stage before it runs: its job, group -> option as they were chosen, and the verifier of its data."""

    job: Job
    choices: Mapping[str, str]
    verifier: Verifier | None = None


def dotted(name: str, home: str) -> str:
    """The target of a rule's name: one of the module `home`, unless it says where it lies itself."""
    return name if "." in name else f"{home}.{name}"


def kind(name: str) -> str:
    """What a rule is called: the last part of its name."""
    return name.replace(":", ".").rpartition(".")[2]


def load(name: str) -> Callable[[Planned], None]:
    """The rule of a name under `checks`."""
    return component.locate(dotted(name, __name__), "method.checks")


def batch(method: Mapping[str, Any], processes: int) -> tuple[int, int]:
    """(per_device_train_batch_size, gradient_accumulation_steps) that make the method's batch, whatever the process count.

    The first is the largest that comes out even and is at most what the config says. ConfigError with an uneven equation.
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
    if (product := per_device * processes * accumulation) != total:
        equation = f"{per_device} x {processes} x {accumulation} = {product}; both must be equal"
        factors = "per_device_train_batch_size x processes x gradient_accumulation_steps"
        raise ConfigError(f"{key} = {total}, but {factors} = {equation}")
    return per_device, accumulation


def whole_batch(planned: Planned) -> None:
    """The batch comes out even over processes and accumulation."""
    batch(planned.job.method, planned.job.hardware.processes)


def compiler(planned: Planned) -> None:
    """DeepSpeed finds the compiler that it needs here."""
    planned.job.hardware.check_compiler()


def exact_resume(planned: Planned) -> None:
    """Checkpoints fall where a generation batch ends: what it is used for further on is in no checkpoint."""
    args = planned.job.method.args
    if args.get("generation_batch_size"):
        raise ConfigError("method.args.generation_batch_size: set method.prompts_per_step and args.num_generations instead")
    _, accumulation = batch(planned.job.method, planned.job.hardware.processes)
    window = (args.get("steps_per_generation") or accumulation) * args.get("num_iterations", 1)
    every = window // math.gcd(window, accumulation)
    if args.save_steps % every:
        ends = f"a run can only resume exactly where a generation batch ends, every {every} steps"
        raise ConfigError(f"method.args.save_steps={args.save_steps}: {ends}; expected a multiple of it")


def reference_on_disk(planned: Planned) -> None:
    """TRL reads the KL term's reference from where the policy came from."""
    job, beta = planned.job, planned.job.method.args.get("beta")
    if beta and job.init == "base" and planned.choices["adapter"] == "none" and "name" not in job.model:
        start = f"init=base of model={planned.choices['model']} is random weights; expected init=sft or beta=0"
        raise ConfigError(f"method.args.beta={beta}: the KL term's reference is read from disk, and {start}")


def whole_distribution(planned: Planned) -> None:
    """No truncated sampling in generation_kwargs; as TRL's own fields it is refused with their ranges."""
    args = planned.job.method.args
    for name, value in (args.get("generation_kwargs") or {}).items():
        truncates = name in ("top_p", "top_k", "min_p")
        if truncates and (wrong := schema.problem(name, value, schema.fields(args["_target_"])[name])):
            raise ConfigError(f"method.args.generation_kwargs.{name}={value}: {wrong}")


def vllm_rollouts(planned: Planned) -> None:
    """With use_vllm there is a vLLM, of a version that TRL was made for."""
    vllm.check_rollouts(planned.job.method.args)


def known_names(planned: Planned) -> None:
    """Names that TRL's trainer compares with its own only while it trains."""
    args = planned.job.method.args
    for field in _COMPARED:
        value = args.get(field)
        for name in [value] if isinstance(value, (str, bool)) else value or []:
            known = source_code.compared_with(args["_target_"], field)
            if known and name not in known and not isinstance(name, bool):
                one, near = "one" if isinstance(value, str) else "one or more", nearest(str(name), known)
                raise ConfigError(f"method.args.{field}={name}: expected {one} of {', '.join(known)}{near}")


def beta_above_zero(planned: Planned) -> None:
    """A preference loss without beta is constant."""
    beta = planned.job.method.args.beta
    if not beta > 0:
        raise ConfigError(f"method.args.beta={beta}: expected a number above 0, or no pair would change anything")


def cut_at_the_end(planned: Planned) -> None:
    """Long rows are cut here, and TRL's other way has no effect."""
    mode = planned.job.method.args.get("truncation_mode", "keep_start")
    if mode != "keep_start":
        raise ConfigError(f"method.args.truncation_mode={mode}: long pairs are cut at their end; expected keep_start")


def reference_in_one_process(planned: Planned) -> None:
    """Reference log-probs are computed before the first step in one process alone."""
    processes = planned.job.hardware.processes
    if planned.job.method.args.get("precompute_ref_log_probs") and processes > 1:
        reason = f"TRL does that in one process, and hardware.processes={processes}"
        raise ConfigError(f"method.args.precompute_ref_log_probs=true: {reason}; expected false")


def smoothing_of_robust(planned: Planned) -> None:
    """The robust loss divides by 1 - 2 label_smoothing."""
    args = planned.job.method.args
    smoothing = args.get("label_smoothing", 0.0)
    if "robust" in args.loss_type and not 0 <= smoothing < 0.5:
        expected = "the share of wrong labels for loss_type=robust; expected at least 0 and less than 0.5"
        raise ConfigError(f"method.args.label_smoothing={smoothing}: {expected}")


def share_of_wrong_labels(planned: Planned) -> None:
    """Label smoothing of a reward model is a share below a half."""
    share = planned.job.method.label_smoothing
    if not 0 <= share < 0.5:
        raise ConfigError(f"method.label_smoothing={share}: expected the share of wrong labels, at least 0 and below 0.5")


def mismatched_rows(planned: Planned) -> None:
    """KTO's KL term pairs the prompts in memory with each other's answers, in an order that stays."""
    args = planned.job.method.args
    if args.get("loss_type") == "apo_zero_unpaired":
        return
    if planned.job.method.speed.by_length:
        raise ConfigError("method.speed.by_length=true: the KL term pairs rows that are in memory together; expected false")
    other = "or loss_type=apo_zero_unpaired, which has no KL term"
    if (order := args.get("train_sampling_strategy", "sequential")) != "sequential":
        reason = f"the KL term pairs neighbours (rows are shuffled once, by seed); expected sequential, {other}"
        raise ConfigError(f"method.args.train_sampling_strategy={order}: {reason}")
    per_device, _ = batch(planned.job.method, planned.job.hardware.processes)
    if per_device < 2:
        reason = f"the KL term needs two answers in memory at once; expected more, an even method.batch_size, {other}"
        raise ConfigError(f"method.args.per_device_train_batch_size={per_device}: {reason}")


def verified(planned: Planned) -> None:
    """The data has a verifier."""
    if planned.verifier is None:
        wrong = f"has no verifier, which method={planned.job.name} needs; expected one with exact answers such as countdown"
        other = "data.verifier=NAME or FILE.py:NAME, or method=compare, where a reward model can judge"
        raise ConfigError(f"data={planned.choices['data']}: {wrong}, {other}")


def filtered(planned: Planned) -> None:
    """Something says which of a teacher's answers are kept: a reward, or the data's verifier."""
    if not planned.job.method.get("reward"):
        verified(planned)


def selection(planned: Planned) -> None:
    """How best_of_n chooses fits the rest."""
    select.check(planned.job.method, planned.verifier)


def two_policies(planned: Planned) -> None:
    """There is something to compare."""
    if len(planned.job.method.policies) < 2:
        raise ConfigError('method.policies: expected at least two, for example {sft: ["method=sft"], rloo: ["method=rloo"]}')
