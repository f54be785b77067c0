"""Problems made from a seed: solvable, distinct, held apart, and the same every time."""

import random
from itertools import permutations

import pytest

from qwen_align.config import groups
from qwen_align.data.countdown import Countdown, ask, is_held_out, solve, trace
from qwen_align.errors import ConfigError
from qwen_align.verifier.countdown import verify

PROMPT = "Numbers {numbers} target {target}"


def countdown(**changes) -> Countdown:
    """conf/data/countdown.yaml, small."""
    node = {k: v for k, v in groups.read("data", "countdown").items() if k not in ("_target_", "verifier")}
    return Countdown(**node | {"problems": 300, "evaluation_problems": 100} | changes)


def every_value(numbers: tuple[int, ...], largest: int) -> set[int]:
    """What all numbers together reach through integers in 0..largest: pick two in any order, join them, go on."""
    if len(numbers) == 1:
        return set(numbers)
    found = set()
    for a, b, *rest in set(permutations(numbers)):
        joined = [a + b, a * b, a - b] + ([a // b] if b and a % b == 0 else [])
        for value in joined:
            if 0 <= value <= largest:
                found |= every_value((value, *rest), largest)
    return found


@pytest.mark.parametrize("count", [[2, 2], [3, 4], [5, 5]])
def test_every_demonstration_is_correct(count):
    rows = countdown(problems=60, count=count).demonstrations()
    assert len(rows) == 60
    for row in rows:
        assert verify(row["completion"][0]["content"], row["nums"], row["target"]) == "correct"


def test_the_steps_of_a_trace_are_true():
    for row in countdown(problems=50).demonstrations():
        thoughts = row["completion"][0]["content"].partition("</think>")[0].removeprefix("<think>")
        for step in thoughts.split(" ; "):
            left, _, right = step.partition(" = ")
            a, operator, b = left.split()
            results = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
            assert int(right) == (int(a) / int(b) if operator == "/" else results[operator])


def test_no_step_leaves_the_bounds():
    for row in countdown(problems=100, largest=99).demonstrations():
        thoughts = row["completion"][0]["content"].partition("</think>")[0]
        results = [int(step.rpartition(" = ")[2]) for step in thoughts.split(" ; ")]
        assert all(0 <= result <= 99 for result in results)


def test_a_trace_shows_the_steps_and_the_answer():
    assert trace([(6, "-", 2), (4, "*", 3)], "(6 - 2) * 3") == (
        "<think>6 - 2 = 4 ; 4 * 3 = 12</think><answer>(6 - 2) * 3</answer>"
    )


@pytest.mark.parametrize("view", ["demonstrations", "prompts", "evaluation"])
def test_a_seed_gives_the_same_rows_again(view):
    first, again = (getattr(countdown(problems=50, evaluation_problems=50), view)() for _ in range(2))
    assert first.to_list() == again.to_list()


@pytest.mark.parametrize("view", ["demonstrations", "prompts", "evaluation"])
def test_another_seed_gives_other_rows(view):
    first, other = getattr(countdown(seed=1), view)(), getattr(countdown(seed=2), view)()
    assert first["nums"][:] != other["nums"][:]


def test_a_longer_set_begins_with_the_shorter_one():
    assert countdown(problems=100).prompts()["nums"][:50] == countdown(problems=50).prompts()["nums"][:]


def test_demonstrations_and_prompts_are_the_same_problems():
    data = countdown()
    assert data.demonstrations()["prompt"][:] == data.prompts()["prompt"][:]


def test_train_and_evaluation_share_no_number_multiset():
    data = countdown(problems=2000, evaluation_problems=500, count=[3, 3], numbers=[1, 20], target=[1, 100])
    train = {tuple(sorted(nums)) for nums in data.prompts()["nums"]}
    evaluation = {tuple(sorted(nums)) for nums in data.evaluation()["nums"]}
    assert len(train) > 100
    assert len(evaluation) > 50
    assert train & evaluation == set()


def test_evaluation_problems_are_distinct_whatever_the_order_of_the_numbers():
    rows = countdown(evaluation_problems=500, count=[3, 3], numbers=[1, 20], target=[1, 100]).evaluation()
    assert len({(tuple(sorted(row["nums"])), row["target"]) for row in rows}) == 500


def test_training_prompts_are_distinct():
    rows = countdown(problems=2000, count=[3, 3], numbers=[1, 20], target=[1, 100]).prompts()
    assert len({row["prompt"][0]["content"] for row in rows}) == 2000


@pytest.mark.parametrize("view", ["prompts", "evaluation"])
def test_the_ranges_are_kept(view):
    rows = getattr(countdown(count=[2, 4], numbers=[3, 12], target=[20, 40]), view)()
    assert {len(nums) for nums in rows["nums"]} == {2, 3, 4}
    numbers = [number for nums in rows["nums"] for number in nums]
    assert (min(numbers), max(numbers)) == (3, 12)
    assert min(rows["target"]) >= 20
    assert max(rows["target"]) <= 40


def test_columns_of_the_views():
    data = countdown(problems=5, evaluation_problems=5)
    assert set(data.demonstrations().column_names) == {"prompt", "completion", "nums", "target"}
    assert set(data.prompts().column_names) == {"prompt", "nums", "target"}
    assert set(data.evaluation().column_names) == {"prompt", "nums", "target"}


def test_the_prompt_shows_the_numbers_in_their_order():
    assert ask(PROMPT, [7, 3, 14], 24) == [{"role": "user", "content": "Numbers 7 3 14 target 24"}]


def test_a_multiset_is_held_out_in_any_order():
    for numbers in [(3, 7, 14), (1, 1, 2), (5, 25, 50, 75)]:
        assert len({is_held_out(order, 0.5) for order in permutations(numbers)}) == 1


@pytest.mark.parametrize(
    "numbers", [(1, 1), (2, 7), (6, 6), (1, 1, 1), (3, 7, 14), (2, 2, 9), (8, 4, 2), (1, 5, 11, 20), (2, 2, 3, 3)]
)
@pytest.mark.parametrize("largest", [30, 1000])
def test_solve_agrees_with_brute_force(numbers, largest):
    possible = every_value(numbers, largest)
    rng = random.Random(0)
    for target in range(61):
        solution = solve(numbers, target, rng, largest)
        assert (solution is not None) == (target in possible)
        if solution:
            assert verify(f"<answer>{solution[1]}</answer>", numbers, target) == "correct"


def test_solutions_vary():
    rng = random.Random(0)
    assert len({solve((1, 2, 3, 4), 10, rng)[1] for _ in range(50)}) > 10


def test_more_problems_than_there_are_is_a_config_error():
    small = countdown(problems=10_000, count=[2, 2], numbers=[1, 4], target=[1, 10])
    with pytest.raises(ConfigError, match=r"data\.problems=10000: only about \d+ distinct problems"):
        small.prompts()


def test_more_evaluation_problems_than_there_are_is_a_config_error():
    small = countdown(evaluation_problems=10_000, count=[2, 2], numbers=[1, 9], target=[1, 10])
    with pytest.raises(ConfigError, match=r"data\.evaluation_problems=10000: only about \d+ distinct problems"):
        small.evaluation()


COUNTS = [[4, 3], [3, 7], [0, 3], [3], [3, 4, 5], [3, "four"]]
RANGES = [("numbers", [0, 9]), ("numbers", [9, 1]), ("target", [0, 9]), ("target", [99, 10])]
OTHERS = [("problems", 0), ("held_out", 1), ("prompt", "Numbers {numbers}")]


@pytest.mark.parametrize(("key", "value"), [*(("count", count) for count in COUNTS), *RANGES, *OTHERS])
def test_settings_that_make_no_problem_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"data.{key}="):
        countdown(**{key: value})
