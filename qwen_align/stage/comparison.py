"""The policies that a method compares, each a plan of its own: named one by one, or as the rows of a table.

`policies` are {NAME: overrides}: the job itself with these on top. `rows`, in their place, are {NAME: {seeds, overrides}}: a
row is trained once a seed, with the overrides of `each` before its own. Stages under `named`, {NAME: overrides}, come first,
and {NAME} in any override is the run folder of that stage: `stages.sft.init={pretrained}` starts from it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import open_dict

from qwen_align.config import check
from qwen_align.errors import ConfigError
from qwen_align.metric.claim import check_claims
from qwen_align.stage import plan
from qwen_align.stage.plan import Composed, Stage

_OF_THE_COMPARISON = frozenset("method name plan force init workers".split())  # keys that its policies don't inherit
Compose = Callable[[list[str]], Composed]  # overrides as they are typed -> what Hydra makes of them


def resolve(composed: Composed, compose: Compose) -> list[Stage]:
    """The stages of a command line in the order they run, those behind its policies first, all checked."""
    method = composed.job.method
    stages: list[Stage] = []
    made: dict[str, Path] = {}
    policies: dict[str, Stage] = {}
    if "policies" not in method:
        _extend(stages, composed, policies)
        return stages
    if method.rows:
        check_claims(method)
    for name, overrides in method.named.items():
        made[name] = _add(stages, name, _with(composed, compose, name, overrides, made)).folder
    for name, row in method.rows.items():
        of_row = _with(composed, compose, name, [*method.each, *row.overrides], made)
        labels = [f"{name}, seed {seed}" for seed in row.seeds]
        with open_dict(composed.job):
            row.policies = labels  # so that nobody has to take a name apart
        for label, seed in zip(labels, row.seeds, strict=True):
            of_row.job.seed = seed
            policies[label] = _add(stages, label, of_row)
    for name, overrides in method.policies.items() if not method.rows else ():
        policies[name] = _add(stages, name, _with(composed, compose, name, overrides, made))
    _extend(stages, composed, policies)
    return stages


@contextmanager
def _named(name: str) -> Iterator[None]:
    """A mistake in a policy or a named stage begins with its name."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _with(composed: Composed, compose: Compose, name: str, overrides: Sequence[str], made: Mapping[str, Path]) -> Composed:
    """The job with overrides on top, run folders in place of {NAME}."""
    own = [re.sub(r"\{(\w+)\}", lambda m: str(made.get(m[1], m[0])), text) for text in overrides]
    names_reward = any(re.match(r"\+reward@|reward(\._target_)?=", text) for text in own)
    replaced = _OF_THE_COMPARISON | ({"reward"} if names_reward else set())
    kept = [text for text in composed.overrides if re.sub(r"^[+~]*(\w*).*", r"\1", text, flags=re.S) not in replaced]
    with _named(name):
        found = compose([*kept, *own])
    if found.job.method.get("policies"):
        raise ConfigError(f"method.policies.{name}: compares policies itself; expected overrides such as method=rloo")
    return found


def _add(stages: list[Stage], name: str, composed: Composed) -> Stage:
    """Put the stages of a policy among those of the plan; returns the one that makes it."""
    with _named(name):
        return _extend(stages, composed, {})


def _extend(stages: list[Stage], composed: Composed, policies: dict[str, Stage]) -> Stage:
    found = plan.resolve(composed, policies, stages)
    for stage in (new := [stage for stage in found if stage not in stages]):
        with stage.buildable() as job:
            check.stage(job, stage.choices)
    stages += new
    return found[-1]
