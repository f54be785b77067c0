"""Win rate: ties count half, every sample meets every sample."""

import pytest

from qwen_align.metric.win_rate import WinRate, wins


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ([1.0], [0.0], 1.0),
        ([0.0], [1.0], 0.0),
        ([0.5], [0.5], 0.5),
        ([0.0, 1.0], [0.5, 0.5], 0.5),
        ([2.0, 0.0], [1.0, 0.0, 3.0], 0.4166667),
    ],
)
def test_every_sample_meets_every_sample(ours, theirs, share):
    assert wins(ours, theirs) == pytest.approx(share)


def test_the_interval_is_over_prompts():
    ours, theirs = [[1.0, 0.0]] * 30 + [[0.0, 0.0]] * 30, [[0.0, 0.0]] * 60
    found = WinRate(keep_in_memory=True).compute(predictions=ours, references=theirs)["win_rate"]
    assert found.mean == pytest.approx(0.625)
    assert 0.55 < found.low < found.mean < found.high < 0.7


def test_a_policy_against_itself_wins_half():
    scores = [[0.1, 0.7, 0.3]] * 5
    assert WinRate(keep_in_memory=True).compute(predictions=scores, references=scores)["win_rate"].mean == 0.5
