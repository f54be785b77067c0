"""Countdown problems made from a seed: reach a target with every number once and + - * /.

The task of the study's maths half (arXiv 2506.21560; the format is TinyZero's). A table of all values that each subset of
the numbers can reach gives every problem a random solution, exactly and without a search per problem. Intermediate
results are integers between 0 and `largest`; the verifier accepts any exact rational. Whether a multiset of numbers is
held out is decided by its checksum, so no number set of the evaluation view is ever trained on, whatever the sizes.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.data import files, local, settings
from qwen_align.data.conversation import BadRow, completion_of, dataset, prompt_of
from qwen_align.errors import ConfigError
from qwen_align.verifier.countdown import COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

Step = tuple[int, str, int]  # left operand, operator, right operand
Derivation = tuple[int, int, str, int, int]  # left subset, left value, operator, right value, right subset
Table = list[dict[int, list[Derivation]]]  # by subset (a bit mask): value -> the ways to reach it


def _combine(a: int, b: int, largest: int) -> Iterator[tuple[int, str, bool]]:
    """(value, operator, swapped) for each result in 0..largest; the larger operand comes first in - and /."""
    if a + b <= largest:
        yield a + b, "+", False
    if a * b <= largest:
        yield a * b, "*", False
    swapped = b > a
    high, low = (b, a) if swapped else (a, b)
    yield high - low, "-", swapped
    if low and high % low == 0:
        yield high // low, "/", swapped


@lru_cache(maxsize=4096)
def reachable(numbers: tuple[int, ...], largest: int) -> Table:
    """Every value that each subset of `numbers` can reach through integers in 0..largest, with the last step to it."""
    table: Table = [{} for _ in range(1 << len(numbers))]
    for i, number in enumerate(numbers):
        table[1 << i][number] = []
    for whole in range(1, len(table)):
        ways = table[whole]
        left = (whole - 1) & whole
        while left:
            right = whole ^ left
            if left > right:  # each unordered split once
                for a in table[left]:
                    for b in table[right]:
                        for value, operator, swapped in _combine(a, b, largest):
                            step = (right, b, operator, a, left) if swapped else (left, a, operator, b, right)
                            ways.setdefault(value, []).append(step)
            left = (left - 1) & whole
    return table


def solve(numbers: Sequence[int], target: int, rng: random.Random, largest: int = 1000) -> tuple[list[Step], str] | None:
    """A random solution: its steps in order and the expression, or None where the integers 0..largest hold none."""
    table = reachable(tuple(sorted(numbers)), largest)
    whole = len(table) - 1
    if target not in table[whole]:
        return None
    steps: list[Step] = []

    def build(subset: int, value: int) -> str:
        ways = table[subset][value]
        if not ways:
            return str(value)
        left, a, operator, b, right = rng.choice(ways)
        if operator in "+*" and rng.random() < 0.5:
            left, a, b, right = right, b, a, left
        expression = f"{build(left, a)} {operator} {build(right, b)}"
        steps.append((a, operator, b))
        return expression if subset == whole else f"({expression})"

    expression = build(whole, target)
    return steps, expression


def trace(steps: Sequence[Step], expression: str) -> str:
    """The demonstration: each step with its result inside <think>, the expression inside <answer>."""
    results = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    thoughts = " ; ".join(f"{a} {op} {b} = {results[op](a, b)}" for a, op, b in steps)
    return f"<think>{thoughts}</think><answer>{expression}</answer>"


def is_held_out(numbers: Sequence[int], share: float) -> bool:
    """Whether a number multiset belongs to the evaluation view; its order does not matter."""
    return settings.is_held_out(" ".join(map(str, sorted(numbers))), share)


def ask(prompt: str, numbers: Sequence[int], target: int) -> list[dict[str, str]]:
    """The prompt as messages."""
    return [{"role": "user", "content": prompt.format(numbers=" ".join(map(str, numbers)), target=target)}]


def _demonstration(held_out: Callable[[Sequence[int]], bool], record: files.Record) -> files.Record:
    found = local.conversation("demonstrations", record, {})
    own = {name: files.cell(record, name, reader) for name, reader in COLUMNS.items() if record.get(name) is not None}
    if own.get("nums") and held_out(own["nums"]):
        raise BadRow("asks for numbers that the evaluation view has", own["nums"])
    return dict.fromkeys(COLUMNS) | own | {"prompt": prompt_of(found), "completion": completion_of(found)}


def extra_file(path: str | None, held_out: Callable[[Sequence[int]], bool]) -> Iterator[files.File]:
    """The file of `data.extra`, if there is one."""
    if path is not None:
        yield files.File("data.extra", Path(path).expanduser(), partial(_demonstration, held_out))


def extra_demonstrations(path: str | None, held_out: Callable[[Sequence[int]], bool]) -> list[dict[str, Any]]:
    """The rows of `data.extra`, read as `data=local` reads demonstrations; ConfigError where one asks a held-out problem.

    Each has prompt, completion, and nums and target or None. Left out: other columns; weights; to mix more of it, repeat rows.
    """
    rows: list[dict[str, Any]] = [row for file in extra_file(path, held_out) for row in files.read(file).to_list()]
    if not rows:
        return []
    print(f"data.extra={path}: {len(rows)} demonstrations are mixed in", flush=True)
    return rows


@dataclass
class Countdown:
    """Problems, demonstrations with a random solution each, and a held-out evaluation view."""

    problems: int  # distinct prompts in the training views
    evaluation_problems: int  # distinct problems in the evaluation view
    count: Sequence[int]  # fewest and most numbers in a problem
    numbers: Sequence[int]  # smallest and largest number
    target: Sequence[int]  # smallest and largest target
    largest: int  # bound on the intermediate results of a trace
    held_out: float  # share of number multisets kept for the evaluation view
    seed: int  # of the problems, not of the training
    prompt: str  # with {numbers} and {target}
    extra: str | None = None  # a file of more demonstrations

    def __post_init__(self) -> None:
        settings.check_limits(problems=self.problems, evaluation_problems=self.evaluation_problems)
        settings.check_template(self.prompt, "numbers", "target")
        settings.check_held_out(self.held_out)
        files.check("data.extra", self.extra)
        for key in ("count", "numbers", "target"):
            settings.check_bounds(key, getattr(self, key), low=1, high=6 if key == "count" else None)

    def user_files(self) -> Iterator[files.File]:
        """The user's file."""
        return extra_file(self.extra, partial(is_held_out, share=self.held_out))

    def _problems(self, held_out: bool) -> Iterator[dict[str, Any]]:
        """prompt, nums, target."""
        key = "evaluation_problems" if held_out else "problems"
        wanted, rng = getattr(self, key), random.Random(f"{self.seed} {'evaluation' if held_out else 'train'}")
        seen: set[tuple[tuple[int, ...], int]] = set()
        misses = 0
        while len(seen) < wanted:
            numbers = [rng.randint(*self.numbers) for _ in range(rng.randint(*self.count))]
            if is_held_out(numbers, self.held_out) == held_out:
                multiset = tuple(sorted(numbers))
                reached = reachable(multiset, self.largest)[-1]
                targets = [v for v in reached if self.target[0] <= v <= self.target[1]]
                # Another order of the numbers is another prompt, but no other problem.
                shown = multiset if held_out else tuple(numbers)
                if targets and (problem := (shown, rng.choice(targets))) not in seen:
                    seen.add(problem)
                    misses = 0
                    yield {"prompt": ask(self.prompt, numbers, problem[1]), "nums": numbers, "target": problem[1]}
                    continue
            misses += 1
            if misses > 20_000:
                ranges = "numbers {}..{} and targets {}..{}".format(*self.numbers, *self.target)
                found = f"only about {len(seen)} distinct problems exist with {ranges}"
                raise ConfigError(f"data.{key}={wanted}: {found}; ask for fewer or widen the ranges")

    def demonstrations(self) -> "Dataset":
        """prompt, completion (a random solution), nums, target; then the rows of `extra`."""
        rng = random.Random(f"{self.seed} solutions")
        rows = []
        for row in self._problems(held_out=False):
            solution = solve(row["nums"], row["target"], rng, self.largest)
            assert solution is not None, "a problem is drawn from the table that solve reads"
            rows.append(row | {"completion": [{"role": "assistant", "content": trace(*solution)}]})
        return dataset(rows + extra_demonstrations(self.extra, partial(is_held_out, share=self.held_out)))

    def prompts(self) -> "Dataset":
        """prompt, nums, target of training problems."""
        return dataset(list(self._problems(held_out=False)))

    def evaluation(self) -> "Dataset":
        """prompt, nums, target of held-out problems."""
        return dataset(list(self._problems(held_out=True)))
