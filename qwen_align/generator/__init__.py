"""Many completions for many prompts, from wherever they come: a policy here, a server, an exact solver.

A generator yields each prompt's completions as soon as it has them, so that a caller can keep what is paid for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from qwen_align.config import component, source_code
from qwen_align.errors import ConfigError
from qwen_align.verifier import Verifier

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Completion:
    """What was answered."""

    text: str
    tokens: int  # generated, the stop token included; 0 where nobody counts, and then `finished` says nothing either
    finished: bool  # False: cut at max_completion_length
    prompt_tokens: int = 0  # what an endpoint bills beside them; 0 where nobody counts


Answers = Iterator[tuple[int, list[Completion]]]  # (index of a prompt, its n completions)


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    n: int  # completions for each prompt
    temperature: float  # of the softmax; 0 is greedy
    max_completion_length: int  # tokens at most
    seed: int
    top_p: float = 1.0  # draw from the likeliest tokens that hold this share of probability; 1: from all
    top_k: int = 0  # draw from this many likeliest tokens; 0: from all

    def greedy(self) -> "Sampling":
        """The most likely completion instead."""
        return replace(self, n=1, temperature=0.0, top_p=1.0, top_k=0)


class Generator(Protocol):
    """One source of completions."""

    needs_policy: bool  # whether `policy` has to be given

    def stream(self, prompts: Sequence[Conversation], sampling: Sampling, title: str, policy: Any = None) -> Answers:
        """The prompts' completions as they are there, by a loaded model.Policy if needed; `title` is of the progress bar."""
        ...


def sample(
    generator: Generator, prompts: Sequence[Conversation], sampling: Sampling, title: str, policy: Any = None
) -> list[list[Completion]]:
    """n completions for each prompt, in the prompts' order; none for those that a stop left out."""
    found = dict(generator.stream(prompts, sampling, title, policy))
    return [found.get(index, []) for index in range(len(prompts))]


def brings_problems(node: Mapping[str, Any] | None) -> bool:
    """Whether a source of completions holds the problems that they answer, so that the data's own are not asked for."""
    target = (node or {}).get("_target_", "")
    return "problems" in source_code.methods_of(target) if target else False


def check_measures(needs_policy: bool, method: str, option: str) -> None:
    """Raise ConfigError for a source that would measure something else than the policy; only a teacher may be one."""
    if not needs_policy and method != "synthesize":
        expected = "expected generator=transformers or vllm"
        raise ConfigError(f"generator={option}: method={method} measures a policy, with that policy's own weights; {expected}")


def check(node: Mapping[str, Any], method: str, option: str, init: str, verifier: Verifier | None) -> None:
    """Raise ConfigError, before any stage runs, for a source of completions that can't answer what a stage asks of it."""
    if method == "reward" or not source_code.is_light(node["_target_"]):
        return
    recorded = brings_problems(node)
    if not recorded:
        check_measures(component.locate(node["_target_"], "generator._target_").needs_policy, method, option)
    elif method != "evaluate" or init != "base":
        expected = f"expected method=evaluate with init=base, not method={method} with init={init}"
        raise ConfigError(f"generator={option}: only what is in the file is measured, no policy; {expected}")
    source = component.construct(node, "generator")  # what it lacks is said before a training that it measures the end of
    if recorded:
        source.problems(verifier)
