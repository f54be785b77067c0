"""The exact solver as a generator: it reads the problem from the prompt and is always right."""

import pytest

from qwen_align.config import groups
from qwen_align.data.countdown import ask
from qwen_align.errors import ConfigError
from qwen_align.generator import Sampling, sample
from qwen_align.generator.solver import Solver
from qwen_align.verifier.countdown import verify

SHORT = "Numbers {numbers} target {target}"
LONG = groups.read("data", "countdown")["prompt"]


def solutions(template, *problems, n=3, seed=0, largest=1000):
    prompts = [ask(template, numbers, target) for numbers, target in problems]
    return sample(Solver(template, largest), prompts, Sampling(n, 1.0, 28, seed), "test")


@pytest.mark.parametrize("template", [SHORT, LONG, "{target}: {numbers}; reach {target} {{exactly}}"])
def test_every_answer_is_correct(template):
    problems = [([3, 7, 14], 24), ([2, 2, 5], 20), ([1, 20, 100, 4], 84)]
    for (numbers, target), pool in zip(problems, solutions(template, *problems), strict=True):
        assert [verify(c.text, numbers, target) for c in pool] == ["correct"] * 3


def test_the_seed_repeats_the_solutions_and_another_changes_them():
    problem = ([3, 7, 14, 2], 24)
    assert solutions(SHORT, problem, n=6) == solutions(SHORT, problem, n=6)
    assert solutions(SHORT, problem, n=6) != solutions(SHORT, problem, n=6, seed=1)


def test_a_problem_without_a_solution_gets_an_empty_answer():
    assert [c.text for c in solutions(SHORT, ([1, 1], 50))[0]] == [""] * 3


def test_no_intermediate_result_is_above_the_bound():
    assert solutions(SHORT, ([30, 30, 800], 100), largest=100)[0][0].text == ""


def test_a_prompt_in_other_words_is_an_error():
    with pytest.raises(ConfigError, match=r"generator=solver: .*method\.teacher_prompt=null"):
        sample(Solver(SHORT), [[{"role": "user", "content": "What is 1 + 1?"}]], Sampling(1, 1.0, 9, 0), "test")


def test_data_without_problems_of_this_kind_is_an_error():
    with pytest.raises(ConfigError, match="solves Countdown only; expected data=countdown"):
        Solver(None)
