"""Transcripts become messages; what can't be used is counted. Small local folders stand in for the Hub."""

import gzip
import json

import datasets
import pytest

from qwen_align.config import groups
from qwen_align.data.conversation import BadRow
from qwen_align.data.hh_rlhf import HHRLHF, parse
from qwen_align.errors import ConfigError


def turn(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def record(prompt: str, chosen: str = "good", rejected: str = "bad") -> dict:
    return {name: f"\n\nHuman: {prompt}\n\nAssistant: {text}" for name, text in (("chosen", chosen), ("rejected", rejected))}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hh(tmp_path):
    """hh(train, test, settings): the data set on a folder of the test's own, gzipped in a subset's folder like the Hub's."""

    def build(train, test=(), subset="harmless-base", **changes) -> HHRLHF:
        for split, rows in {"train": train, "test": test or [record("held out")]}.items():
            path = tmp_path / "hh" / (subset or ".") / f"{split}.jsonl.gz"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        node = {k: v for k, v in groups.read("data", "hh_rlhf").items() if k not in ("_target_", "verifier")}
        return HHRLHF(**node | {"dataset_name": str(tmp_path / "hh"), "subset": subset} | changes)

    return build


def test_a_transcript_becomes_messages():
    text = "\n\nHuman: Hi\nthere\n\nAssistant: Hello.\n\nIt is late.\n\nHuman: So?\n\nAssistant: Bye"
    assert parse(text, "chosen") == [
        turn("user", "Hi\nthere"),
        turn("assistant", "Hello.\n\nIt is late."),
        turn("user", "So?"),
        turn("assistant", "Bye"),
    ]


def test_an_empty_turn_in_the_middle_stays_out_and_an_empty_answer_stays():
    text = "\n\nHuman: Hi\n\nAssistant:\n\nHuman: So?\n\nAssistant: "
    assert parse(text, "chosen") == [turn("user", "Hi"), turn("user", "So?"), turn("assistant", "")]


@pytest.mark.parametrize(("text", "complaint"), [("Hi", "does not begin"), ("Hi\n\nHuman: a", "does not"), (None, "no text")])
def test_what_is_no_transcript_is_a_bad_row(text, complaint):
    with pytest.raises(BadRow, match=f"chosen {'is' if text is None else ''}.*{complaint}"):
        parse(text, "chosen")


def test_preferences_have_the_shared_turns_as_prompt(hh):
    both = "Hi\n\nAssistant: Hello\n\nHuman: So?"
    (row,) = hh([record(both)]).preferences()
    assert row == {
        "prompt": [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "So?")],
        "chosen": [turn("assistant", "good")],
        "rejected": [turn("assistant", "bad")],
    }


def test_pairs_that_cannot_be_used_are_counted_by_reason(hh, capsys):
    other = {"chosen": record("a")["chosen"], "rejected": record("b")["rejected"]}
    two_answers = {k: v.replace("\n\nAssistant:", "\n\nAssistant: x\n\nAssistant:") for k, v in record("c").items()}
    rows = [record("one"), record("two", rejected=" "), record("three", "x", "x"), other, two_answers, record("held out")]
    assert [row["prompt"][0]["content"] for row in hh(rows).preferences()] == ["one"]
    out = capsys.readouterr().out
    assert "(train): 5 of 6 rows are left out" in out
    for reason in (
        "rejected ends with an empty message",
        "chosen and rejected are the same",
        "answer different prompts",
        "the last answer follows another answer",
        "the evaluation view asks the same",
    ):
        assert reason in out


def test_prompts_and_evaluation_come_once_and_share_nothing(hh):
    made = hh([record("one"), record("one", "other"), record("held out"), record("two")], [record("held out")] * 2)
    assert [row["prompt"][0]["content"] for row in made.prompts()] == ["one", "two"]
    assert [row["prompt"][0]["content"] for row in made.evaluation()] == ["held out"]
    assert made.preferences().num_rows == 3


def test_fewer_rows_can_be_asked_for(hh):
    made = hh([record("one"), record("two")], [record("a"), record("b")], problems=1, evaluation_problems=1)
    assert (made.preferences().num_rows, made.prompts().num_rows, made.evaluation().num_rows) == (1, 1, 1)


def test_a_folder_without_subsets_is_read_whole(hh):
    assert hh([record("one")], subset=None).preferences().num_rows == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset": "harmles-base"}, r"data\.subset=harmles-base: .*did you mean harmless-base"),
        ({"problems": 0}, r"data\.problems=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(hh, changes, message):
    with pytest.raises(ConfigError, match=message):
        hh([record("one")], **changes)
