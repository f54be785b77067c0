"""Rewards in TRL's convention: any callable `f(completions, **columns) -> list[float | None]`, plain or async.

TRL's own (`trl.rewards.*`), a user's function or class, and the reward models here are all the same to the layer, which adds
`name`, `weight` and `clip` around them. One `Reward` drives RLOO and GRPO, ranks in best-of-N, filters what a teacher wrote and
judges in compare; whoever scores asks `Reward.score`, so that a value means the same everywhere. None means that a reward does
not apply to a completion. Weights come after it, where several rewards are added up.
"""

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from qwen_align.config import component, groups, source_code, user_code
from qwen_align.errors import ConfigError

Conversation = str | list[dict[str, str]]
Columns = Mapping[str, Sequence[Any]]
Ids = Sequence[Sequence[int]]
LogMetric = Callable[[str, float], None] | None
SEVERAL = "qwen_align.reward.several"
# What TRL gives beside the columns of the data.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def text_of(completion: Conversation) -> str:
    """The text of a completion, plain or as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def several(**rewards: Any) -> dict[str, Any]:
    """Several rewards, each a node under its own name; `build` takes them apart."""
    return rewards


def nodes(node: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """name -> component of a reward setting: one, or several under names of their own; {} of none."""
    if not node:
        return {}
    if node.get("_target_") == SEVERAL:
        return {name: dict(part) for name, part in node.items() if name != "_target_"}
    return {str(node.get("name") or re.split("[.:]", str(node.get("_target_")))[-1]): dict(node)}


@dataclass(frozen=True)
class Reward:
    """What a completion is worth, under a name."""

    name: str  # of its metrics
    function: Callable[..., Any]  # in TRL's convention
    weight: float = 1.0  # in a sum of several
    clip: tuple[float, float] | None = None  # the range that its values are cut to, before the weight

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the data that it can't do without: those it names itself, or its required parameters."""
        named = getattr(self.function, "needs", None)
        return tuple(name for name in self._required if name not in GIVEN) if named is None else tuple(named)

    @property
    def reads_ids(self) -> bool:
        """Whether it can't do without the completions' token ids."""
        return "completion_ids" in self._required

    @property
    def _required(self) -> list[str]:
        return [p.name for p in _parameters(self.function)[0] if p.default is p.empty]

    @property
    def is_async(self) -> bool:
        called = getattr(self.function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(called)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise ConfigError for the first column that it needs and the data lacks."""
        for name in self.needs:
            if name not in columns:
                raise ConfigError(f"reward={self.name}: needs the column {name}; the data has {', '.join(columns)}")

    def trl(self) -> Callable[..., Any]:
        """The callable that TRL is given; async where the reward is, so that TRL runs several at once."""

        def score(**given: Any) -> list[float | None]:
            with self._named_errors():
                returned = self._call(given)
            return self._values(returned, given["completions"])

        async def score_async(**given: Any) -> list[float | None]:
            with self._named_errors():
                returned = await self._call(given)
            return self._values(returned, given["completions"])

        chosen: Callable[..., Any] = score_async if self.is_async else score
        chosen.__name__ = self.name
        return chosen

    def _call(self, given: Mapping[str, Any]) -> Any:
        parameters, takes_all = _parameters(self.function)
        names = {p.name for p in parameters}
        return self.function(**{name: value for name, value in given.items() if takes_all or name in names})

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except ConfigError:  # such as a reward model that can't be loaded
            raise
        except Exception as error:
            raise RuntimeError(f"reward {self.name} raised {type(error).__name__}: {error}") from error

    def _values(self, returned: Any, completions: Sequence[Conversation]) -> list[float | None]:
        values = returned.tolist() if hasattr(returned, "tolist") else returned
        if not isinstance(values, (list, tuple)) or len(values) != len(completions):
            shape = f"{len(values)} values" if isinstance(values, (list, tuple)) else f"{values!r:.100}"
            raise RuntimeError(f"reward {self.name} returned {shape} for {len(completions)} completions")
        low, high = self.clip or (-inf, inf)
        found: list[float | None] = []
        for returned, completion in zip(values, completions, strict=True):
            value = returned.item() if hasattr(returned, "item") else returned  # NumPy's and torch's numbers
            if value is not None and not (isinstance(value, (int, float)) and isfinite(value)):
                raise RuntimeError(f"reward {self.name} returned {value!r:.100} for {text_of(completion)[:200]!r}")
            found.append(None if value is None else min(max(float(value), low), high))
        return found

    def score(
        self, prompts: Sequence[Conversation], completions: Sequence[str], columns: Columns, completion_ids: Ids | None = None
    ) -> list[float | None]:
        """The value of each completion outside a trainer, called as TRL calls it: messages where the prompts are messages.

        ConfigError where it reads a column or ids that are not there; RuntimeError where it raised or returned no such values.
        """
        self.check_columns(list(columns))
        if self.reads_ids and completion_ids is None:
            raise ConfigError(f"reward={self.name}: reads completion_ids, and only the text of these completions is known")
        given: dict[str, Any] = {k: v for k, v in columns.items() if k not in ("prompt", "completion", *GIVEN)}
        given |= {"prompts": list(prompts), "trainer_state": None}
        given |= dict.fromkeys(("log_extra", "log_metric"), lambda *_: None)
        given["completions"] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        if completion_ids is not None:
            given["completion_ids"] = completion_ids
        returned = self.trl()(**given)
        return asyncio.run(returned) if self.is_async else returned


def clipping(clip: Sequence[float] | None) -> tuple[float, float] | None:
    """The range that a reward's values are cut to; ConfigError for anything but null or [low, high]."""
    if clip is None:
        return None
    numbers = isinstance(clip, (list, tuple)) and all(type(c) in (int, float) and isfinite(c) for c in clip)
    if not numbers or len(clip) != 2 or not clip[0] < clip[1]:
        raise ConfigError(f"reward.clip={clip}: expected [low, high] with low < high, or null")
    return float(clip[0]), float(clip[1])


def _parameters(function: Callable[..., Any]) -> tuple[list[inspect.Parameter], bool]:
    """(the parameters of a function that have a name of their own, whether it takes any other by name)."""
    found = inspect.signature(function).parameters.values()
    named = [p for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def _is_reward(function: Any) -> bool:
    """Whether it takes completions, their token ids, or anything by name."""
    try:
        parameters, takes_all = _parameters(function)
    except (TypeError, ValueError):  # nothing to call, or a builtin
        return False
    return takes_all or any(p.name in ("completions", "completion_ids") for p in parameters)


def _function(name: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    """The callable of a node: an object of a class, a function, or what a factory such as TRL's makes of the settings."""
    target = node["_target_"]
    found = component.locate(target, "reward._target_")
    given = {key: value for key, value in node.items() if key not in ("_target_", *groups.LAYER)}
    if inspect.isclass(found) and "name" in inspect.signature(found).parameters:
        given["name"] = name
    if inspect.isclass(found) or (callable(found) and not _is_reward(found)):
        found = component.construct({"_target_": target, **given}, "reward")
    elif given:
        component.check_arguments("reward", target, found, given, some=True)
        found = functools.partial(found, **given)
    if not _is_reward(found):
        expected = "f(completions, **columns) -> a list of numbers, or what makes one"
        raise ConfigError(f"reward._target_={target}: can't be called with completions; expected {expected}")
    return found


def _settings(node: Mapping[str, Any] | None) -> Iterator[tuple[str, dict[str, Any], float, tuple[float, float] | None]]:
    """(name, component, weight, clip) of each reward; ConfigError for a wrong weight or clip, or no reward at all."""
    if not (found := nodes(node)):
        raise ConfigError("reward=several: holds no reward; expected names, for example reward=[countdown,length]")
    for name, part in found.items():
        weight = part.get("weight", 1.0)
        if type(weight) not in (int, float) or not isfinite(weight):
            raise ConfigError(f"reward.weight={weight}: expected a number")
        yield name, part, float(weight), clipping(part.get("clip"))


def check(node: Mapping[str, Any] | None) -> None:
    """Raise ConfigError for what is wrong with a reward setting, as far as that shows without importing anything heavy."""
    for name, part, _, _ in _settings(node):
        target = part.get("_target_")
        if not isinstance(target, str):
            raise ConfigError(f"reward={name}: has no _target_; expected package.function or FILE.py:NAME")
        if component.is_file(target):
            target = component.absolute("reward._target_", target)
        elif not source_code.defines(target):
            near = source_code.nearest_name(target)
            raise ConfigError(f"reward._target_={target}: is not there; expected package.function or FILE.py:NAME{near}")
        elif target.startswith("qwen_align.") and source_code.is_light(target):
            _function(name, part)
        if not target.startswith("qwen_align."):
            own = part.keys() - {"_target_", *groups.LAYER}
            user_code.check_parameters("reward._target_", target, own, ("completions", "completion_ids"))
            user_code.check("reward._target_", target)


def build(node: Mapping[str, Any] | None) -> list[Reward]:
    """The rewards of a setting, in order; ConfigError for a target that can't be imported or called with completions."""
    return [Reward(name, _function(name, part), weight, clip) for name, part, weight, clip in _settings(node)]


def rehearse(rewards: Sequence[Reward], rows: Sequence[Mapping[str, Any]], with_ids: bool = True) -> None:
    """Ask every reward about made-up answers to the data's first two rows: a wrong one is a ConfigError before training."""
    some = list(rows[:2])
    columns = {key: [row[key] for row in some] for key in some[0]}
    texts = ["", "A trial answer."][: len(some)]
    for reward in rewards:
        try:
            reward.score([row["prompt"] for row in some], texts, columns, [[0]] * len(some) if with_ids else None)
        except RuntimeError as error:
            raise ConfigError(f"{error} (asked about trial answers to two rows, before anything else)") from error
