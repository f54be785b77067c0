"""Many completions for many prompts, from wherever they come: a policy here, a server, an exact solver.

A generator yields each prompt's completions as soon as it has them, so that a caller can keep what is paid for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qwen_align.model import Policy

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Completion:
    """What was answered."""

    text: str
    tokens: int  # generated, the stop token included
    finished: bool  # False: cut at max_completion_length
    prompt_tokens: int = 0  # what an endpoint bills beside them; 0 where nobody counts


class Generator(Protocol):
    """One source of completions."""

    needs_policy: bool  # whether `policy` has to be given

    def stream(
        self, prompts: Sequence[Conversation], *, n: int, temperature: float, max_completion_length: int, seed: int,
        title: str, policy: "Policy | None" = None,
    ) -> Iterator[tuple[int, list[Completion]]]: ...  # fmt: skip


def sample(
    generator: Generator, prompts: Sequence[Conversation], *, n: int, temperature: float, max_completion_length: int,
    seed: int, title: str, policy: "Policy | None" = None,
) -> list[list[Completion]]:  # fmt: skip
    """n completions for each prompt, in the prompts' order; temperature 0 is greedy."""
    results: list[list[Completion]] = [[] for _ in prompts]
    for index, completions in generator.stream(
        prompts, n=n, temperature=temperature, max_completion_length=max_completion_length, seed=seed, title=title,
        policy=policy,
    ):  # fmt: skip
        results[index] = completions
    return results
