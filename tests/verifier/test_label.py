"""Labels: which one a completion ends on, and which lists make no classes."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_align.verifier.label import build

FRAUD = build(["fraud", "not fraud", "Unclear"])


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("fraud", "correct"),
        ("not fraud? No: FRAUD.", "correct"),
        ("fraud, or **not  fraud**", "wellformed_wrong"),
        ("It is Not\nFraud", "wellformed_wrong"),
        ("<think>not fraud</think>fraud", "correct"),
        ("fraud<think>or unclear?", "correct"),
        ("the prompt opened it: fraud</think>", "malformed"),
        ("fraudulent, a non-fraud, fraud-like", "malformed"),
        ("", "malformed"),
        (None, "malformed"),
    ],
)
def test_the_last_whole_label_counts(completion, verdict):
    assert FRAUD.verify(completion, "fraud") == verdict


@pytest.mark.parametrize("label", ["unclear", "Unclear", " UNCLEAR "])
def test_a_rows_label_is_spelt_as_it_was_given(label):
    assert FRAUD.expected({"label": label}) == "Unclear"
    assert FRAUD.verify("unclear", label) == "correct"


def test_answers_are_listed_in_order_and_the_last_is_the_vote():
    text = "Fraud or unclear, not fraud"
    assert FRAUD.answers(text) == ["fraud", "Unclear", "not fraud"]
    assert (FRAUD.answer(text), FRAUD.answer("?"), FRAUD.answers(None)) == ("not fraud", None, [])


def test_numbers_are_labels_and_no_part_of_other_numbers():
    stars = build([1, 2, 3, 4, 5])
    assert stars.answers("3.5 of 25, so 4.") == ["4"]
    assert stars.verify("4", 4) == "correct"


@pytest.mark.parametrize("value", ["scam", "", None, True])
def test_a_row_with_another_label_is_refused(value):
    with pytest.raises(ValueError, match=r"^is (empty|neither text nor a number|'scam', none of fraud, not fraud, Unclear)$"):
        FRAUD.COLUMNS["label"](value)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["spam"], "expected at least two"),
        ([], "expected at least two"),
        (["spam", "Spam"], "each once whatever its case"),
        (["spam", " "], "one is empty"),
        (["spam", None], "one is empty"),
        ([True, False], "yes and no stand in quotes"),
        ("spam", r"expected a list such as \[spam, ham\]"),
    ],
)
def test_lists_that_are_no_classes_are_refused(labels, reason):
    with pytest.raises(ValueError, match=rf"^labels=.*{reason}"):
        build(labels)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["fraud", "not", "FRAUD", "unclear", " ", "-", ".", "<think>", "</think>"])).map("".join))
def test_the_last_of_all_answers_is_the_one_that_is_judged(text):
    found = FRAUD.answers(text)
    assert FRAUD.verify(found[-1] if found else "", "fraud") == FRAUD.verify(text, "fraud")


@pytest.mark.parametrize("piece", ["not ", "not" + " " * 99, "fraud ", "fraud-", "<think></think>", " "])
def test_long_hostile_texts_take_linear_time(piece):
    start = time.process_time()
    FRAUD.verify(piece * (1_000_000 // len(piece)), "fraud")
    assert time.process_time() - start < 2
