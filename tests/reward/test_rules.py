"""Rewards that are rules: length, format, repetition, constraints."""

import time

import pytest
from hydra.utils import instantiate

from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.reward import scores, to_trl
from qwen_align.reward.constraints import ConstraintsReward
from qwen_align.reward.format import FormatReward
from qwen_align.reward.length import LengthReward
from qwen_align.reward.repetition import RepetitionReward

RULES = (ConstraintsReward, FormatReward, LengthReward, RepetitionReward)


def of(reward, *texts: str, **columns) -> list:
    return reward.score(["?"] * len(texts), list(texts), **columns)


def test_short_answers_cost_nothing_and_long_ones_up_to_one():
    reward = LengthReward(most=4, falloff=4)
    assert of(reward, "", "a b c d", "a b c d e", "a b c d e f g", "a " * 8, "a " * 99) == [0, 0, -0.25, -0.75, -1, -1]


def test_length_can_be_counted_in_characters():
    assert of(LengthReward(most=3, falloff=2, unit="characters"), "abc", "a bc", "abcdefgh") == [0, -0.5, -1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" <think>\n</think>\n\n<answer>x < y > z</answer>\n", 1.0),
        ("<think>a</think><answer>b</answer> and more", 0.0),
        ("so <think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think> then <answer>b</answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<answer>b</answer></think>", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("<THINK>a</THINK><answer>b</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_the_sections_come_in_order_and_alone(text, value):
    assert of(FormatReward(), text) == [value]


def test_other_tags_can_be_asked_for():
    assert of(FormatReward(tags=["plan"]), "<plan>a</plan>", "<think>a</think>") == [1.0, 0.0]


@pytest.mark.parametrize("text", ["<think>" * 100_000, "<" * 700_000, "<think>" + " \n" * 300_000, "</answer" * 90_000])
def test_hostile_texts_do_not_hang_the_format_reward(text):
    start = time.process_time()
    assert of(FormatReward(), text) == [0.0]
    assert time.process_time() - start < 5


def test_repetition_is_the_share_of_n_grams_said_before():
    reward = RepetitionReward(n=2)
    assert of(reward, "a b c d", "a b A B a b", "a", "") == [0.0, pytest.approx(-3 / 5), 0.0, 0.0]
    assert of(RepetitionReward(n=1), "a a a a") == [-0.75]


def test_constraints_are_scored_by_their_share():
    wanted = ['[{"kind": "starts", "with": "a"}, {"kind": "ends", "with": "b"}]'] * 3
    assert of(ConstraintsReward(), "a b", "a c", "", constraints=wanted) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("kind", RULES)
def test_the_yaml_builds_the_defaults(kind):
    reward = instantiate(groups.read("reward", kind.name), _convert_="object")
    assert type(reward) is kind
    assert vars(reward) == vars(kind())


@pytest.mark.parametrize("kind", RULES)
def test_weight_and_clip_are_kept_and_a_wrong_clip_is_refused(kind):
    reward = kind(weight=0.5, clip=[-0.5, 0.5])
    assert (reward.weight, tuple(reward.clip)) == (0.5, (-0.5, 0.5))
    with pytest.raises(ConfigError, match=r"reward\.clip="):
        kind(clip=[1, 0])


def test_values_are_clipped_where_they_are_used():
    assert scores(LengthReward(most=1, falloff=1, clip=[-0.5, 0]), ["?"] * 2, ["a", "a b c"], {}) == [0, -0.5]


def test_trl_gets_one_function_for_each():
    functions = to_trl([kind() for kind in RULES])
    assert [function.__name__ for function in functions] == ["constraints", "format", "length", "repetition"]
    completions = [[{"role": "assistant", "content": "a b"}]]
    columns = {"constraints": ['[{"kind": "ends", "with": "b"}]'], "completion_ids": [[1]]}
    assert [function(prompts=["?"], completions=completions, **columns) for function in functions] == [
        [1],
        [0],
        [0],
        [0],
    ]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LengthReward, {"most": 0}), (LengthReward, {"falloff": 0}), (LengthReward, {"unit": "tokens"}),
        (RepetitionReward, {"n": 0}), (FormatReward, {"tags": []}), (FormatReward, {"tags": ["a", "a"]}),
        (FormatReward, {"tags": ["(a+)+"]}), (FormatReward, {"tags": [1]}),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(kind, settings):
    ((key, _),) = settings.items()
    with pytest.raises(ConfigError, match=rf"reward\.{key}="):
        kind(**settings)
