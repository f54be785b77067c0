"""Verifier: a module, an object or a plain function under one name."""

from types import SimpleNamespace

import pytest

from qwen_align.verifier import Verdict, Verifier, constraints, countdown, label, math

ROW = {"prompt": "1 + 1?", "answer": "2", "completion": "#### 2"}


def verdict(result):
    return Verifier(lambda completion, answer: result, "mine").judge("2", ROW)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Verdict.MALFORMED, ("malformed", None)),
        ("correct", ("correct", None)),
        (True, ("correct", None)),
        (False, ("wellformed_wrong", None)),
        (1, ("correct", 1.0)),
        (0.25, ("wellformed_wrong", 0.25)),
    ],
)
def test_a_verdict_a_bool_and_a_score_are_understood(result, expected):
    assert verdict(result) == expected


def test_numpys_bools_and_numbers_are_understood():
    numpy = pytest.importorskip("numpy")
    assert (verdict(numpy.bool_(True)), verdict(numpy.float32(0.5))) == (("correct", None), ("wellformed_wrong", 0.5))


@pytest.mark.parametrize("result", [None, "right", 1.5, -1, float("nan"), [1]])
def test_anything_else_is_an_error_with_its_name(result):
    with pytest.raises(RuntimeError, match=r"the verifier mine returned .*; expected a Verdict"):
        verdict(result)


def test_what_it_raises_comes_with_its_name():
    with pytest.raises(RuntimeError, match="the verifier mine raised ZeroDivisionError: division by zero"):
        Verifier(lambda completion: 1 / 0, "mine").verify("", ROW)


def test_a_function_gets_the_columns_that_it_names():
    found = Verifier(lambda text, answer, unit="": text == answer and not unit, "mine")
    assert found.needs == ("answer",)
    assert (found.missing(["prompt"]), found.missing(ROW)) == (["answer"], [])
    assert found.verify("2", ROW) == "correct"


def test_a_function_of_any_row_gets_all_columns_but_its_first_parameter():
    seen = {}

    def verify(completion, **row):
        seen.update(row)
        return completion == "2"

    assert Verifier(verify, "mine").verify("2", ROW) == "correct"
    assert seen == {"prompt": "1 + 1?", "answer": "2"}


@pytest.mark.parametrize("judge", [3, SimpleNamespace(), lambda: True, lambda *, completion: True, lambda **row: True])
def test_what_takes_no_completion_is_refused(judge):
    with pytest.raises(ValueError, match=r"^mine: expected a function verify\(completion, \*\*row\)$"):
        Verifier(judge, "mine")


def test_what_a_function_lacks_is_none():
    found = Verifier(lambda completion: True, "mine")
    assert (found.answer, found.answers, found.expected, found.timeouts) == (None, None, None, None)
    assert found.read("answer", 3) == 3


@pytest.mark.parametrize(
    ("judge", "needs", "has"),
    [
        (countdown, ("nums", "target"), {"answer", "answers"}),
        (math, ("answer",), {"answer", "answers", "timeouts"}),
        (constraints, ("constraints",), set()),
        (label.build(["a", "b"]), ("label",), {"answer", "answers", "expected"}),
    ],
)
def test_those_that_are_here_say_what_they_read_and_offer(judge, needs, has):
    found = Verifier(judge, "here")
    assert found.needs == needs == tuple(found.columns)
    assert {name for name in ("answer", "answers", "expected", "timeouts") if getattr(found, name)} == has


def test_a_score_stands_beside_the_verdict():
    wanted = '[{"kind": "starts", "with": "dog"}, {"kind": "ends", "with": "cat"}]'
    found = Verifier(constraints, "constraints")
    assert found.judge("dog", {"constraints": wanted}) == ("wellformed_wrong", 0.5)
    assert found.judge("dog cat", {"constraints": wanted}) == ("correct", 1.0)
