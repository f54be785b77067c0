"""What public sets leave out is counted by reason."""

import pytest

from qwen_align.data.conversation import BadRow, mark, usable
from qwen_align.errors import ConfigError


def even(number: int) -> dict:
    if number % 2:
        raise BadRow("it is odd" if number < 5 else "it is odd and large")
    return {"number": number}


def test_rows_that_are_left_out_are_counted_by_reason(capsys):
    assert usable("data.name=x", range(6), even) == [{"number": 0}, {"number": 2}, {"number": 4}]
    assert capsys.readouterr().out == (
        "data.name=x: 3 of 6 rows are left out: 2 because it is odd; 1 because it is odd and large\n"
    )


def test_nothing_is_said_where_nothing_is_left_out(capsys):
    assert usable("data.name=x", [2], even) == [{"number": 2}]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("records", "reason"), [([1], "; 1 because it is odd"), ([], "")])
def test_no_row_at_all_is_an_error(records, reason):
    with pytest.raises(ConfigError) as caught:
        usable("data.name=x", records, even)
    assert str(caught.value) == f"data.name=x: holds no row that can be used{reason}"


def test_the_mark_of_a_prompt_tells_turns_apart():
    one, two = {"role": "user", "content": "a b"}, {"role": "user", "content": "b"}
    assert mark([one]) != mark([{"role": "user", "content": "a"}, two])
    assert mark([one]) == mark([{"role": "user", "content": " a b\n"}])
    assert mark([one]) != mark([one | {"role": "system"}])
