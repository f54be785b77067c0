"""Which labels were answered where which was right."""

import pytest

from qwen_align.metric import interval
from qwen_align.metric.confusion import by_label, confusion

EXPECTED = ["ham", "ham", "spam"]


def test_answers_are_counted_by_what_was_right_with_none_last():
    found = confusion(["ham", "spam"], EXPECTED, [["ham", "spam"], ["ham", None], ["ham", "spam"]])
    assert found["table"] == [[2, 1, 1], [1, 1, 0]]


def test_a_label_that_is_never_right_counts_as_none():
    assert confusion(["ham"], ["ham"], [["eggs", "ham"]])["table"] == [[1, 1]]


def test_the_accuracy_of_a_label_is_over_its_problems():
    found = confusion(["ham", "spam"], EXPECTED, [["ham", "spam"], ["ham", "ham"], ["ham", None]])["accuracy"]
    assert found["ham"] == {"n": 2, **vars(interval.mean([0.5, 1.0], shares=True))}
    assert (found["spam"]["n"], found["spam"]["mean"]) == (1, 0.0)
    assert found["spam"]["high"] > 0.5, "one problem proves little"


def test_of_one_answer_each_the_interval_is_that_of_a_share():
    found = confusion(["ham", "spam"], EXPECTED, [["ham"], ["spam"], ["spam"]])["accuracy"]
    assert found["ham"] == {"n": 2, **vars(interval.share([True, False]))}


@pytest.mark.parametrize("greedy", [[], ["ham", "ham", "ham"]])
def test_greedy_answers_have_a_table_of_their_own_where_there_are_some(greedy):
    found = by_label(EXPECTED, greedy, [["ham"], ["ham"], ["spam"]])
    assert found["labels"] == ["ham", "spam"]
    assert found["samples"]["table"] == [[2, 0, 0], [0, 1, 0]]
    assert found.get("greedy", {}).get("table") == ([[2, 0, 0], [1, 0, 0]] if greedy else None)
