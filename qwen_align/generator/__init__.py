"""Many completions for many prompts, from wherever they come: a policy here, a server, an exact solver.

A generator yields each prompt's completions as soon as it has them, so that a caller can keep what is paid for.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from qwen_align.config import schema
from qwen_align.errors import ConfigError

if TYPE_CHECKING:
    from qwen_align.model import Policy

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Completion:
    """What was answered."""

    text: str
    tokens: int  # generated, the stop token included; 0 where nobody counts, and then `finished` says nothing either
    finished: bool  # False: cut at max_completion_length
    prompt_tokens: int = 0  # what an endpoint bills beside them; 0 where nobody counts


class Generator(Protocol):
    """One source of completions."""

    needs_policy: bool  # whether `policy` has to be given

    def stream(
        self, prompts: Sequence[Conversation], *, n: int, temperature: float, max_completion_length: int, seed: int,
        title: str, policy: "Policy | None" = None, top_p: float = 1.0, top_k: int = 0,
    ) -> Iterator[tuple[int, list[Completion]]]: ...  # fmt: skip


def sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """How a stage's settings say that tokens are drawn, as `stream` and `sample` take it."""
    return {key: settings[key] for key in ("temperature", "top_p", "top_k")}


def sample(
    generator: Generator, prompts: Sequence[Conversation], *, n: int, temperature: float, max_completion_length: int,
    seed: int, title: str, policy: "Policy | None" = None, top_p: float = 1.0, top_k: int = 0,
) -> list[list[Completion]]:  # fmt: skip
    """n completions for each prompt, in the prompts' order.

    Args:
        temperature: of the softmax; 0 is greedy.
        top_p: draw from the likeliest tokens that hold this share of probability; 1: from all.
        top_k: draw from this many likeliest tokens; 0: from all.
    """
    results: list[list[Completion]] = [[] for _ in prompts]
    for index, completions in generator.stream(
        prompts, n=n, temperature=temperature, top_p=top_p, top_k=top_k, max_completion_length=max_completion_length,
        seed=seed, title=title, policy=policy,
    ):  # fmt: skip
        results[index] = completions
    return results


def brings_problems(node: dict[str, Any] | None) -> bool:
    """Whether a source of completions holds the problems that they answer, so that the data's own are not asked for."""
    target = (node or {}).get("_target_", "")
    return "problems" in schema.methods_of(target) if target else False


def check(node: dict[str, Any], method: str, option: str, init: str) -> None:
    """Check a source of completions against what a stage asks of it, before any stage runs.

    Raises:
        ConfigError: a policy would be measured, or a teacher asked, with a source that can't answer; a file with a bad line.
    """
    if method == "reward" or not schema.is_light(node["_target_"]):
        return
    module, _, name = node["_target_"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    if brings_problems(node):
        if method != "evaluate" or init != "base":
            raise ConfigError(
                f"generator={option}: only what is in the file is measured, no policy; expected method=evaluate with "
                f"init=base, not method={method} with init={init}"
            )
        kind(**{key: value for key, value in node.items() if key != "_target_"}).problems()
    elif not kind.needs_policy and method != "synthesize":
        raise ConfigError(
            f"generator={option}: method={method} measures a policy, with that policy's own weights; expected "
            "generator=transformers or vllm"
        )
    else:  # what it lacks is said before a training that it measures the end of
        kind(**{key: value for key, value in node.items() if key != "_target_"})
