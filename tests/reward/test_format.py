"""The wanted sections, in order, and nothing else."""

import time

import pytest

from qwen_align.errors import ConfigError
from qwen_align.reward.format import FormatReward


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
    assert FormatReward()([text]) == [value]


def test_messages_are_read_by_their_content():
    assert FormatReward(["plan"])([[{"role": "assistant", "content": "<plan>a</plan>"}]], prompts=["?"]) == [1.0]


def test_other_tags_can_be_asked_for():
    assert FormatReward(tags=["plan"])(["<plan>a</plan>", "<think>a</think>"]) == [1.0, 0.0]


@pytest.mark.parametrize("text", ["<think>" * 100_000, "<" * 700_000, "<think>" + " \n" * 300_000, "</answer" * 90_000])
def test_hostile_texts_do_not_hang_it(text):
    start = time.process_time()
    assert FormatReward()([text]) == [0.0]
    assert time.process_time() - start < 5


@pytest.mark.parametrize("tags", [[], ["a", "a"], ["(a+)+"], [1]])
def test_tags_that_make_no_sense_are_refused(tags):
    with pytest.raises(ConfigError, match=r"reward\.tags="):
        FormatReward(tags)
