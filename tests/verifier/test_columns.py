"""What a cell of a file is read as."""

import pytest

from qwen_align.verifier import columns


@pytest.mark.parametrize("value", [12, "12", " 12\n", "+12", "012"])
def test_a_whole_number_may_be_text(value):
    assert columns.whole_number(value) == 12


@pytest.mark.parametrize("value", [True, None, "", 1.0, "1.0", "1e3", "１", "9" * 101])
def test_anything_else_is_no_whole_number(value):
    with pytest.raises(ValueError, match="is no whole number"):
        columns.whole_number(value)


@pytest.mark.parametrize("value", [[1, 2, 3], ["1", 2, "3"], "[1, 2, 3]", "1 2 3", "1;2,3"])
def test_a_list_of_numbers_may_be_text(value):
    assert columns.whole_numbers(value) == [1, 2, 3]


@pytest.mark.parametrize("value", [[], "", None, 3, {"a": 1}, [True], ["b"], [[1]]])
def test_anything_else_is_no_list_of_numbers(value):
    with pytest.raises(ValueError, match=r"is no (list of )?whole number"):
        columns.whole_numbers(value)


@pytest.mark.parametrize(("value", "text"), [(1234, "1234"), (" a ", " a "), (0.5, "0.5")])
def test_a_number_is_read_as_text(value, text):
    assert columns.text(value) == text


@pytest.mark.parametrize(("value", "reason"), [(None, "empty"), (" ", "empty"), (False, "neither"), ([1], "neither")])
def test_nothing_and_other_things_are_no_text(value, reason):
    with pytest.raises(ValueError, match=f"is {reason}"):
        columns.text(value)
