"""A file's own scores beside our verdicts."""

import pytest

from qwen_align.config import component
from qwen_align.generator import Completion
from qwen_align.generator.recorded import Problem
from qwen_align.method import agreement
from qwen_align.method.judge import Judged
from qwen_align.verifier import Verdict

C, W, M = Verdict.CORRECT, Verdict.WELLFORMED_WRONG, Verdict.MALFORMED
COUNTDOWN = component.verifier("countdown")


def problem(scores, number=1, text="<answer>1 +\n 2</answer>"):
    return Problem(f"line {number}", {}, [], [Completion(text, 0, True)] * len(scores), scores)


def compared(problems, verdicts):
    pools = [
        [Judged(**vars(c), verdict=verdict) for c, verdict in zip(one.pool, row, strict=True)]
        for one, row in zip(problems, verdicts, strict=True)
    ]
    return agreement.compared(problems, pools, COUNTDOWN)


@pytest.mark.parametrize(
    ("score", "verdict"), [(1, C), (1.0, C), (0.1, W), (0.10000000149, W), (0, M), (0.5, None), (-1, None), (1.1, None)]
)
def test_a_score_is_one_of_three_verdicts_or_none(score, verdict):
    assert agreement.verdict_of(score) == verdict


def test_correctness_and_form_are_counted_apart():
    found = compared([problem([1.0, 0.1, 0.0, 1.0, 0.1])], [[W, C, W, C, W]])
    assert (found["differ_in_correctness"], found["differ_in_form"]) == (2, 1)
    assert found["scored"] == 5
    assert found["scored_1"].mean == pytest.approx(0.4)
    assert found["mean_score"].mean == pytest.approx(2.2 / 5)
    assert found["mean_score_here"].mean == pytest.approx(2.3 / 5)


def test_where_0_only_means_wrong_no_form_is_compared():
    found = compared([problem([1.0, 0.0, 0.0])], [[C, W, M]])
    assert found["differ_in_correctness"] == 0
    assert not {"differ_in_form", "mean_score_here"} & found.keys()
    assert found["first_differences"] == []


def test_other_scores_are_counted_and_are_not_correct():
    found = compared([problem([0.5, -1.0])], [[C, W]])
    assert (found["other_scores"], found["differ_in_correctness"]) == (2, 1)


def test_a_difference_says_where_it_is_and_what_was_answered():
    found = compared([problem([1.0, 1.0]), problem([1.0, 1.0], 3)], [[C, C], [C, W]])
    assert found["first_differences"] == [
        {
            "problem": 1,
            "where": "line 3",
            "sample": 1,
            "recorded": 1.0,
            "ours": "wellformed_wrong",
            "answer": "<answer>1 + 2</answer>",
        }
    ]
    assert list(agreement.lines(found))[-1] == (
        "  problem 1 (line 3), sample 1: recorded 1, here wellformed_wrong: <answer>1 + 2</answer>"
    )


def test_of_many_differences_twenty_are_listed_those_in_correctness_first():
    scores, verdicts = [0.1] * 30 + [1.0] * 5, [M] * 30 + [W] * 5
    listed = compared([problem(scores)], [verdicts])["first_differences"]
    assert [one["sample"] for one in listed] == [*range(30, 35), *range(15)]


def test_a_completion_without_an_answer_shows_its_end():
    found = compared([problem([1.0], text="a" * 500 + " I give up")], [[M]])
    answer = found["first_differences"][0]["answer"]
    assert answer.startswith("... aaa")
    assert len(answer) <= 160


def test_without_scores_nothing_is_compared():
    found = compared([Problem("line 1", {}, [], [Completion("", 0, True)], None)], [[M]])
    assert list(agreement.lines(found)) == ["the file holds no scores, so nothing is compared"]
