"""What each verdict of the maths verifier is worth, and that lateness is told."""

import pytest
from hydra.utils import instantiate

from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.reward import math as maths
from qwen_align.reward import to_trl
from qwen_align.reward.math import MathReward

COMPLETIONS = ["so 2+2 = 4\n#### 4", "#### 5", "no idea", "\\boxed{4.0}"]


def test_each_verdict_has_its_value():
    assert MathReward().score(["?"] * 4, COMPLETIONS, answer=["4"] * 4) == [1.0, 0.0, 0.0, 1.0]


def test_the_values_can_be_configured():
    reward = MathReward(correct=2.0, wellformed_wrong=0.1, malformed=-1.0)
    assert reward.score(["?"] * 4, COMPLETIONS, answer=["4"] * 4) == [2.0, 0.1, -1.0, 2.0]


def test_each_completion_is_judged_by_its_own_answer():
    assert MathReward().score(["?"] * 2, ["#### 4"] * 2, answer=["4", "5"]) == [1.0, 0.0]


def test_the_yaml_builds_the_default_values():
    reward = instantiate(groups.read("reward", "math"))
    assert (reward.values, reward.weight) == (MathReward().values, MathReward().weight)


@pytest.mark.parametrize("values", [{"correct": 0.0}, {"malformed": 0.5}, {"correct": float("nan")}])
def test_values_in_the_wrong_order_are_refused(values):
    with pytest.raises(ConfigError, match=r"reward\.correct="):
        MathReward(**values)


def test_timeouts_of_the_last_call_are_a_metric(monkeypatch):
    counted = iter([3, 5, 5, 5])
    monkeypatch.setattr(maths, "timeouts", lambda: next(counted))
    reward = MathReward()
    reward.score(["?"], ["#### 4"], answer=["4"])
    assert reward.metrics() == {"timeouts": 2.0}
    reward.score(["?"], ["#### 4"], answer=["4"])
    assert reward.metrics() == {"timeouts": 0.0}


def test_trl_gets_a_function_with_its_name():
    (function,) = to_trl([MathReward()])
    prompts = [[{"role": "user", "content": "?"}]]
    completions = [[{"role": "assistant", "content": "#### 4"}]]
    assert (function.__name__, function(prompts=prompts, completions=completions, answer=["4"])) == ("math", [1.0])


def test_trl_is_told_of_timeouts():
    (function,) = to_trl([MathReward()])
    told = {}
    completions = [[{"role": "assistant", "content": "#### 4"}]]
    function(prompts=["?"], completions=completions, answer=["4"], log_metric=told.__setitem__)
    assert told == {"math/timeouts": 0.0}
