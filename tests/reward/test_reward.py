"""From reward objects to the functions that TRL calls, and what every caller of a reward can count on."""

import math

import pytest

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import select
from qwen_align.reward import clipping, scores, several, text_of, to_trl
from qwen_align.reward.countdown import CountdownReward
from qwen_align.reward.math import MathReward


class Length:
    """The length of each completion, or the values it is given."""

    weight = 1.0
    needs = ("bonus",)

    def __init__(self, name="length", values=None, clip=None):
        self.name, self.values, self.columns, self.clip = name, values, None, clip

    def score(self, prompts, completions, **columns):
        self.columns = columns
        return self.values if self.values is not None else [float(len(text)) for text in completions]


def call(reward, completions):
    return to_trl([reward])[0](prompts=["?"] * len(completions), completions=completions, bonus=[0] * len(completions))


def test_functions_keep_order_and_names():
    assert [f.__name__ for f in to_trl([Length("b"), Length("a")])] == ["b", "a"]


def test_two_rewards_with_one_name_are_refused():
    with pytest.raises(ConfigError, match="two rewards are called length"):
        to_trl([Length(), Length("other"), Length()])


def test_plain_text_is_scored():
    assert call(Length(), ["abc", ""]) == [3.0, 0.0]


def test_messages_are_scored_by_their_last_content():
    messages = [{"role": "assistant", "content": "long before"}, {"role": "assistant", "content": "abc"}]
    assert call(Length(), [messages]) == [3.0]


def test_only_the_needed_columns_are_handed_over():
    reward = Length()
    to_trl([reward])[0](prompts=["?"], completions=["a"], bonus=[7], trainer_state=None, completion_ids=[[1]])
    assert reward.columns == {"bonus": [7]}


def test_none_stays_none():
    assert call(Length(values=[None, 1.0]), ["a", "b"]) == [None, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_names_the_reward_and_the_completion(value):
    with pytest.raises(RuntimeError, match=f"reward length returned {value} for 'second'"):
        call(Length(values=[1.0, value]), ["first", "second"])


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_values_is_an_error(values):
    with pytest.raises(RuntimeError, match=f"reward length returned {len(values)} values for 2 completions"):
        call(Length(values=values), ["a", "b"])


def test_text_of_both_forms():
    assert text_of("abc") == "abc"
    assert text_of([{"role": "assistant", "content": "abc"}]) == "abc"


def test_values_beyond_clip_are_cut_and_none_stays_none():
    reward = Length(values=[-3.0, None, 0.5, 8], clip=[-1, 1.0])
    assert scores(reward, ["?"] * 4, ["a"] * 4, {"bonus": [0] * 4}) == [-1.0, None, 0.5, 1.0]


def test_clipping_does_not_hide_a_value_that_is_not_finite():
    with pytest.raises(RuntimeError, match="returned inf"):
        scores(Length(values=[math.inf], clip=[0, 1]), ["?"], ["a"], {"bonus": [0]})


@pytest.mark.parametrize(
    "clip", [[1.0, 0.0], [0.5, 0.5], [0.0], [0, 1, 2], 3, "01", [0, math.inf], [None, 1], [False, True]]
)
def test_a_clip_that_is_no_range_is_refused(clip):
    with pytest.raises(ConfigError, match=r"reward\.clip=.*expected \[low, high\] with low < high"):
        clipping(clip)


@pytest.mark.parametrize("reward", [CountdownReward, MathReward])
def test_verifier_rewards_take_a_clip_and_check_it(reward):
    assert reward(clip=[0.2, 0.8]).clip == (0.2, 0.8)
    with pytest.raises(ConfigError, match=r"reward\.clip"):
        reward(clip=[1, 0])


def test_best_of_n_and_rloo_see_the_same_scores():
    reward = Length(values=[-3.0, 0.5], clip=[-1.0, 1.0])
    rows = [{"prompt": [{"role": "user", "content": "?"}], "bonus": 0}]
    pool = [Completion("a", 1, True), Completion("b", 1, True)]
    assert select.weighted([reward], rows, [pool]) == [call(reward, ["a", "b"])] == [[-1.0, 0.5]]


def test_best_of_n_refuses_a_value_that_is_not_finite():
    rows = [{"prompt": [{"role": "user", "content": "?"}], "bonus": 0}]
    with pytest.raises(RuntimeError, match="reward length returned nan for 'a'"):
        select.weighted([Length(values=[math.nan])], rows, [[Completion("a", 1, True)]])


def test_several_rewards_are_called_by_their_keys():
    assert [reward.name for reward in several(long=Length(), short=Length())] == ["long", "short"]
    with pytest.raises(ConfigError, match="reward=several: holds no reward"):
        several()
