"""Nothing for short answers, down to -1 for long ones."""

import pytest

from qwen_align.errors import ConfigError
from qwen_align.reward.length import LengthReward


def test_short_answers_cost_nothing_and_long_ones_up_to_one():
    texts = ["", "a b c d", "a b c d e", "a b c d e f g", "a " * 8, "a " * 99]
    assert LengthReward(most=4, falloff=4)(texts) == [0, 0, -0.25, -0.75, -1, -1]


def test_length_can_be_counted_in_characters():
    assert LengthReward(most=3, falloff=2, unit="characters")(["abc", "a bc", "abcdefgh"]) == [0, -0.5, -1]


def test_messages_are_read_by_their_content():
    assert LengthReward(most=1, falloff=1)([[{"role": "assistant", "content": "a b"}]], prompts=["?"]) == [-1]


@pytest.mark.parametrize("settings", [{"most": 0}, {"falloff": 0}, {"most": 1.5}, {"unit": "tokens"}])
def test_settings_that_make_no_sense_are_refused(settings):
    ((key, _),) = settings.items()
    with pytest.raises(ConfigError, match=rf"reward\.{key}="):
        LengthReward(**settings)
