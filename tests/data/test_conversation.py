"""What public sets leave out is counted by reason."""

from functools import partial

import pytest
from datasets import Dataset, Value

from qwen_align.data.conversation import BadRow, dialogue, prompt_key, unique_prompts, usable_rows
from qwen_align.errors import ConfigError


def even(record: dict) -> dict:
    if record["number"] % 2:
        raise BadRow("it is odd" if record["number"] < 5 else "it is odd and large")
    return {"number": record["number"]}


def usable_numbers(*numbers: int) -> list[int]:
    records = Dataset.from_dict({"number": list(numbers), "other": [None] * len(numbers)})
    rows = usable_rows("data.name=x", records, partial(even), [], number=Value("int64"))
    assert rows.column_names == ["number"]
    return rows["number"][:]


def test_rows_that_are_left_out_are_counted_by_reason(capsys):
    assert usable_numbers(*range(6)) == [0, 2, 4]
    assert capsys.readouterr().out == (
        "data.name=x: 3 of 6 rows are left out: 2 because it is odd; 1 because it is odd and large\n"
    )


def test_nothing_is_said_where_nothing_is_left_out(capsys):
    assert usable_numbers(2) == [2]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("numbers", "reason"), [([1], "; 1 because it is odd"), ([], "")])
def test_no_row_at_all_is_an_error(numbers, reason):
    with pytest.raises(ConfigError) as caught:
        usable_numbers(*numbers)
    assert str(caught.value) == f"data.name=x: holds no row that can be used{reason}"


def test_of_rows_with_the_same_prompt_the_first_stays(capsys):
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b", "a ")]
    rows = unique_prompts("data.name=x", Dataset.from_dict({"prompt": prompts, "number": [1, 2, 3]}))
    assert rows["number"][:] == [1, 2]
    assert "1 of 3 rows are left out: 1 because the prompt is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("roles", "texts", "reason"),
    [
        ("ua", ["q", " "], "ends with an empty message"),
        ("uaua", ["q", "", "q", "a"], "hold an empty answer"),
        ("aua", ["a", "q", "a"], "hold an answer without a prompt"),
        ("a", ["a"], "hold an answer without a prompt"),
    ],
)
def test_a_conversation_that_teaches_a_wrong_answer_is_no_demonstration(roles, texts, reason):
    names = {"u": "user", "a": "assistant"}
    value = [{"role": names[role], "content": text} for role, text in zip(roles, texts, strict=True)]
    with pytest.raises(BadRow, match=reason):
        dialogue(value, "messages")


def test_the_key_of_a_prompt_tells_turns_apart():
    one, two = {"role": "user", "content": "a b"}, {"role": "user", "content": "b"}
    assert prompt_key([one]) != prompt_key([{"role": "user", "content": "a"}, two])
    assert prompt_key([one]) == prompt_key([{"role": "user", "content": " a b\n"}])
    assert prompt_key([one]) != prompt_key([one | {"role": "system"}])
