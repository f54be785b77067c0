"""Rewards in TRL's convention: any callable `f(completions, **columns) -> list[float | None]`, plain or async.

TRL's own (`trl.rewards.*`), a user's function or class, and the reward models here are all the same to the layer, which adds
`name`, `weight` and `clip` around them. One `Reward` drives RLOO and GRPO, ranks in best-of-N, filters what a teacher wrote and
judges in compare; whoever scores asks `Reward.score`, so that a value means the same everywhere. None means that a reward does
not apply to a completion. Weights come after it, where several rewards are added up.
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from qwen_align.config import component
from qwen_align.errors import ConfigError

Conversation = str | list[dict[str, str]]
SEVERAL = "qwen_align.reward.several"
LAYER = ("name", "weight", "clip")  # beside `_target_`, of the layer and not of the callable
GIVEN = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
)  # by TRL, beside columns


def text_of(completion: Conversation) -> str:
    """The text of a completion, plain or as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def several(**rewards: Any) -> dict[str, Any]:
    """Several rewards, each a node under its own name; `build` takes them apart."""
    return rewards


def nodes(node: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """name -> component of a reward setting: one, or several under names of their own."""
    if not node:
        return {}
    if node.get("_target_") == SEVERAL:
        return {name: dict(part) for name, part in node.items() if name != "_target_"}
    target = str(node.get("_target_") or "")
    plain = (
        target.replace(":", ".").rpartition(".")[2] if not target.startswith("qwen_align.") else target.split(".")[-2]
    )
    return {str(node.get("name") or plain): dict(node)}


def _nothing(*_: Any) -> None:
    """What log_extra and log_metric do outside a trainer."""


@dataclass(frozen=True)
class Reward:
    """What a completion is worth, under a name.

    Args:
        name: of its metrics.
        function: in TRL's convention.
        weight: in a sum of several.
        clip: the range that its values are cut to, before the weight; None cuts nothing.
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0
    clip: tuple[float, float] | None = None

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the data that it can't do without: those it names itself, or its required parameters."""
        if (named := getattr(self.function, "needs", None)) is not None:
            return tuple(named)
        own = [p for p in self.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        return tuple(p.name for p in own if p.default is p.empty and p.name not in GIVEN)

    @property
    def reads_ids(self) -> bool:
        """Whether it can't do without the completions' token ids."""
        own = self.parameters.get("completion_ids")
        return own is not None and own.default is own.empty

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            getattr(self.function, "__call__", None)  # noqa: B004
        )

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise ConfigError for the first column that it needs and the data lacks."""
        for name in self.needs:
            if name not in columns:
                raise ConfigError(f"reward={self.name}: needs the column {name}; the data has {', '.join(columns)}")

    def _call(self, given: Mapping[str, Any]) -> Any:
        everything = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        return self.function(**{k: v for k, v in given.items() if everything or k in self.parameters})

    def _raised(self, error: Exception) -> RuntimeError:
        return RuntimeError(f"reward {self.name} raised {type(error).__name__}: {error}")

    def _checked(self, values: Any, completions: Sequence[Any]) -> list[float | None]:
        if hasattr(values, "tolist"):
            values = values.tolist()
        if not isinstance(values, (list, tuple)) or len(values) != len(completions):
            shape = f"{len(values)} values" if isinstance(values, (list, tuple)) else f"{values!r:.100}"
            raise RuntimeError(f"reward {self.name} returned {shape} for {len(completions)} completions")
        for value, completion in zip(values, completions, strict=True):
            if value is not None and not (isinstance(value, (int, float)) and isfinite(value)):
                raise RuntimeError(f"reward {self.name} returned {value!r} for {text_of(completion)[:200]!r}")
        if self.clip is None:
            return list(values)
        low, high = self.clip
        return [None if value is None else min(max(value, low), high) for value in values]

    def trl(self) -> Callable[..., Any]:
        """The callable that TRL is given; async where the reward is, so that TRL runs several at once."""

        def score(**given: Any) -> list[float | None]:
            try:
                values = self._call(given)
            except Exception as error:
                raise self._raised(error) from error
            return self._checked(values, given["completions"])

        async def score_async(**given: Any) -> list[float | None]:
            try:
                values = await self._call(given)
            except Exception as error:
                raise self._raised(error) from error
            return self._checked(values, given["completions"])

        chosen: Callable[..., Any] = score_async if self.is_async else score
        chosen.__name__ = self.name
        return chosen

    def score(
        self, prompts: Sequence[Conversation], completions: Sequence[str], columns: Mapping[str, Sequence[Any]],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[float | None]:  # fmt: skip
        """What it says of each completion, called as TRL calls it, outside a trainer.

        Args:
            prompts: text or messages.
            completions: texts; it sees messages where the prompts are messages.
            columns: of the data, a value a completion.
            completion_ids: token ids of the completions, for rewards that read them.

        Raises:
            ConfigError: it reads a column or token ids that are not there.
            RuntimeError: it raised, returned another number of values than completions, or one that is no finite number.
        """
        self.check_columns(list(columns))
        if self.reads_ids and completion_ids is None:
            raise ConfigError(
                f"reward={self.name}: reads completion_ids, and nothing is known of these completions but text"
            )
        spoken = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        given: dict[str, Any] = {k: values for k, values in columns.items() if k not in ("prompt", *GIVEN)}
        given |= {"prompts": list(prompts), "completions": spoken, "log_extra": _nothing, "log_metric": _nothing}
        given |= {"trainer_state": None} | ({} if completion_ids is None else {"completion_ids": completion_ids})
        values = self.trl()(**given)
        return asyncio.run(_awaited(values)) if self.is_async else values


async def _awaited(values: Awaitable[Any]) -> Any:
    return await values


def clipping(clip: Sequence[float] | None) -> tuple[float, float] | None:
    """The range that a reward's values are cut to; ConfigError for anything but null or [low, high]."""
    if clip is None:
        return None
    numbers = isinstance(clip, (list, tuple)) and all(type(c) in (int, float) and isfinite(c) for c in clip)
    if not numbers or len(clip) != 2 or not clip[0] < clip[1]:
        raise ConfigError(f"reward.clip={clip}: expected [low, high] with low < high, or null")
    return float(clip[0]), float(clip[1])


def _function(name: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    """The callable of a node: an object of a class, a function, or what a factory such as TRL's makes of the settings."""
    target = node["_target_"]
    found = component.locate(target, "reward._target_")
    given = {key: value for key, value in node.items() if key not in ("_target_", *LAYER)}
    if inspect.isclass(found):
        if "name" in inspect.signature(found).parameters:
            given["name"] = name
        component.check_arguments("reward", target, found, given)
        found = found(**given)
    elif callable(found) and not _is_reward(found):
        component.check_arguments("reward", target, found, given)
        found = found(**given)
    elif given:
        found = functools.partial(found, **given)
    if not callable(found) or not _is_reward(found):
        raise ConfigError(
            f"reward._target_={target}: is not called with completions; expected f(completions, **columns) -> a list of numbers"
        )
    return found


def _is_reward(function: Callable[..., Any]) -> bool:
    """Whether TRL's convention fits a signature: it takes completions, their token ids, or anything by name."""
    parameters = inspect.signature(function).parameters.values()
    named = {"completions", "completion_ids"} & {p.name for p in parameters}
    return bool(named) or any(p.kind is p.VAR_KEYWORD for p in parameters)


def build(node: Mapping[str, Any] | None) -> list[Reward]:
    """The rewards of a setting, in order.

    Raises:
        ConfigError: a target that is not there or not called with completions, a wrong clip, two rewards with one name (which
            TRL would log as their mean), or no reward at all.
    """
    found = []
    parts = nodes(node)
    if not parts:
        raise ConfigError("reward=several: holds no reward; expected names, for example reward=[countdown,length]")
    for name, part in parts.items():
        function = _function(name, part)
        found.append(Reward(name, function, float(part.get("weight", 1.0)), clipping(part.get("clip"))))
    return found


def rehearse(rewards: Sequence[Reward], rows: Sequence[Mapping[str, Any]]) -> None:
    """Ask every reward about two made-up answers to the data's first rows, so that a wrong one is found before training.

    Raises:
        ConfigError: it lacks a column, raised, or gave anything but two numbers.
    """
    some = list(rows[:2])
    columns = {key: [row[key] for row in some] for key in some[0]}
    texts = ["", "A trial answer."][: len(some)]
    for reward in rewards:
        try:
            reward.score([row["prompt"] for row in some], texts, columns, [[0]] * len(some))
        except RuntimeError as error:
            raise ConfigError(
                f"reward={reward.name}: {error} (asked about two trial answers before training)"
            ) from error
