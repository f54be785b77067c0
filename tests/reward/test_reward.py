"""From reward objects to the functions that TRL calls."""

import math

import pytest

from qwen_align.errors import ConfigError
from qwen_align.reward import text_of, to_trl


class Length:
    """The length of each completion, or the values it is given."""

    weight = 1.0
    needs = ("bonus",)

    def __init__(self, name="length", values=None):
        self.name, self.values, self.columns = name, values, None

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
