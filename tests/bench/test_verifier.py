"""The verifier suite: both sides judge the same completions, and ours is right."""

import pytest

from qwen_align.bench import verifier
from qwen_align.errors import ConfigError


def test_the_unsafe_checker_agrees_on_plain_arithmetic():
    cases = verifier.arithmetic(4, 200)
    ours = [verifier.countdown.verify(*case) == "correct" for case in cases]
    assert ours == [verifier.UNSAFE_verdict(*case) for case in cases]
    assert 0 < sum(ours) < 200


@pytest.mark.parametrize("name", [name for name in verifier.hostile() if "brackets" not in name])
def test_no_hostile_case_is_called_correct(name):
    assert verifier.countdown.verify(*verifier.hostile()[name]) != "correct"


def test_gsm8k_style_answers_hold_as_many_right_as_wrong():
    pairs = verifier.gsm8k_answers(None)
    assert sum(verifier.math.verify(text, gold) == "correct" for text, gold in pairs) == len(pairs) / 2


def test_a_file_of_answers_that_is_not_there_is_one_error():
    with pytest.raises(ConfigError, match="gsm8k=nothing"):
        verifier.gsm8k_answers("nothing")
