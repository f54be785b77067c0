"""Rewards: one object that scores completions, the same in RLOO, in best-of-N and in evaluation.

TRL calls plain functions. `to_trl` is the only way from one to the other: unique names, finite values, None kept. Whoever
scores asks `scores`, so that a value means the same everywhere; weights come after it, where several rewards are added up.
"""

from collections.abc import Callable, Mapping, Sequence
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


def clipping(clip: Sequence[float] | None) -> tuple[float, float] | None:
    """The range that a reward's values are cut to, before its weight; None cuts nothing.

    Raises:
        ConfigError: anything but null or [low, high].
    """
    if clip is None:
        return None
    numbers = isinstance(clip, (list, tuple)) and all(type(c) in (int, float) and isfinite(c) for c in clip)
    if not numbers or len(clip) != 2 or not clip[0] < clip[1]:
        raise ConfigError(f"reward.clip={clip}: expected [low, high] with low < high, or null")
    return float(clip[0]), float(clip[1])


def scores(
    reward: Reward, prompts: Sequence[Conversation], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> list[float | None]:
    """What a reward says of each completion, cut to its `clip` if it has one; of the columns it sees those it needs.

    Raises:
        RuntimeError: it raised, returned another number of values than completions, or one that is no finite number.
    """
    try:
        values = reward.score(prompts, completions, **{key: columns[key] for key in reward.needs})
    except Exception as error:
        raise RuntimeError(f"reward {reward.name} raised {type(error).__name__}: {error}") from error
    if not isinstance(values, (list, tuple)) or len(values) != len(completions):
        shape = f"{len(values)} values" if isinstance(values, (list, tuple)) else f"{values!r:.100}"
        raise RuntimeError(f"reward {reward.name} returned {shape} for {len(completions)} completions")
    for value, completion in zip(values, completions, strict=True):
        if value is not None and not (isinstance(value, (int, float)) and isfinite(value)):
            raise RuntimeError(f"reward {reward.name} returned {value!r} for {completion[:200]!r}")
    bounds = clipping(getattr(reward, "clip", None))
    if bounds is None:
        return values
    return [None if value is None else min(max(value, bounds[0]), bounds[1]) for value in values]


def several(**rewards: Reward) -> list[Reward]:
    """Several rewards, each under its own name: the key it has in the config.

    Raises:
        ConfigError: none is named.
    """
    if not rewards:
        raise ConfigError("reward=several: holds no reward; expected names, for example reward=[countdown,length]")
    for name, reward in rewards.items():
        reward.name = name
    return list(rewards.values())


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
        values = scores(reward, prompts, [text_of(completion) for completion in completions], columns)
        if "log_metric" in columns and hasattr(reward, "metrics"):
            for key, value in reward.metrics().items():
                columns["log_metric"](f"{reward.name}/{key}", value)
        return values

    score.__name__ = reward.name
    return score
