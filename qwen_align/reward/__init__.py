"""Rewards: one object that scores completions, the same in RLOO, in best-of-N and in evaluation.

TRL calls plain functions. `to_trl` is the only way from one to the other: unique names, finite values, None kept.
"""

from collections.abc import Callable, Sequence
from math import isfinite  # under its own name `math` would be replaced by the module reward.math
from typing import Any, Protocol

from qwen_align.errors import ConfigError

Conversation = str | list[dict[str, str]]


class Reward(Protocol):
    """What a completion is worth; None means that this reward does not apply to it."""

    name: str
    weight: float
    needs: tuple[str, ...]  # columns of the data that score reads

    def score(
        self, prompts: Sequence[Conversation], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]: ...


def text_of(completion: Conversation) -> str:
    """The text of a completion, plain or as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def verdict_values(correct: float, wellformed_wrong: float, malformed: float) -> dict[str, float]:
    """What each verdict of a verifier is worth.

    Raises:
        ConfigError: values that do not reward what is right.
    """
    if not correct > wellformed_wrong >= malformed:
        raise ConfigError(
            f"reward.correct={correct}: expected more than wellformed_wrong={wellformed_wrong} >= malformed={malformed}"
        )
    return {"correct": correct, "wellformed_wrong": wellformed_wrong, "malformed": malformed}


def to_trl(rewards: Sequence[Reward]) -> list[Callable[..., list[float | None]]]:
    """TRL's callables for these rewards, in order; their weights go into `reward_weights`.

    Raises:
        ConfigError: two rewards with one name, which TRL would log as their mean.
    """
    names = [reward.name for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"reward: two rewards are called {name}; give one of them another name")
    return [_callable(reward) for reward in rewards]


def _callable(reward: Reward) -> Callable[..., list[float | None]]:
    def score(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        needed = {key: columns[key] for key in reward.needs}
        values = reward.score(prompts, [text_of(c) for c in completions], **needed)
        if len(values) != len(completions):
            raise RuntimeError(f"reward {reward.name} returned {len(values)} values for {len(completions)} completions")
        for value, completion in zip(values, completions, strict=True):
            if value is not None and not isfinite(value):
                raise RuntimeError(f"reward {reward.name} returned {value} for {text_of(completion)[:200]!r}")
        if "log_metric" in columns and hasattr(reward, "metrics"):
            for key, value in reward.metrics().items():
                columns["log_metric"](f"{reward.name}/{key}", value)
        return values

    score.__name__ = reward.name
    return score
