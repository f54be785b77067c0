"""What each verdict of the Countdown verifier is worth."""

import pytest
from hydra.utils import instantiate

from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.reward import to_trl
from qwen_align.reward.countdown import CountdownReward

COMPLETIONS = ["<answer>(6 - 2) * 3</answer>", "<answer>6 + 2 + 3</answer>", "twelve", "<answer>6 * 2</answer>"]
COLUMNS = {"nums": [[6, 2, 3]] * 4, "target": [12] * 4}


def test_each_verdict_has_its_value():
    assert CountdownReward().score(["?"] * 4, COMPLETIONS, **COLUMNS) == [1.0, 0.1, 0.0, 0.1]


def test_the_values_can_be_configured():
    reward = CountdownReward(correct=2.0, wellformed_wrong=-0.5, malformed=-1.0)
    assert reward.score(["?"] * 4, COMPLETIONS, **COLUMNS) == [2.0, -0.5, -1.0, -0.5]


def test_each_completion_is_judged_by_its_own_problem():
    answers = ["<answer>1 + 2</answer>"] * 2
    assert CountdownReward().score(["?"] * 2, answers, nums=[[1, 2], [1, 3]], target=[3, 4]) == [1.0, 0.1]


def test_the_yaml_builds_the_default_values():
    reward = instantiate(groups.read("reward", "countdown"))
    assert (reward.values, reward.weight) == (CountdownReward().values, CountdownReward().weight)


@pytest.mark.parametrize(
    "values",
    [{"correct": 0.1}, {"correct": 0.0}, {"wellformed_wrong": -0.1}, {"malformed": 0.5}, {"correct": float("nan")}],
)
def test_values_in_the_wrong_order_are_refused(values):
    with pytest.raises(ConfigError, match=r"reward\.correct="):
        CountdownReward(**values)


def test_trl_gets_a_function_with_its_name():
    (function,) = to_trl([CountdownReward()])
    prompts = [[{"role": "user", "content": "?"}]]
    completions = [[{"role": "assistant", "content": COMPLETIONS[0]}]]
    values = function(prompts=prompts, completions=completions, nums=[[6, 2, 3]], target=[12], completion_ids=[[1, 2]])
    assert (function.__name__, values) == ("countdown", [1.0])
