"""Rows of pairs: what trains, what is cut or left out aloud, and what is refused."""

import pytest
from datasets import Dataset
from tiny import TINY
from trained import says

from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.method import policy, preferences

PROMPT = [{"role": "user", "content": "Numbers 1 2 target 3"}]


class Pairs:
    """A source of these preference rows."""

    def __init__(self, rows):
        self.rows = rows

    def preferences(self):
        return Dataset.from_list(self.rows)


def pair(chosen, rejected):
    return {"prompt": PROMPT, "chosen": says(chosen), "rejected": says(rejected)}


@pytest.fixture
def tokenizer(stages_of):
    return policy.load(stages_of(*TINY, "method=sft")[0].job)[1]


def test_a_missing_column_is_named():
    with pytest.raises(ConfigError, match=r"no column rejected, only prompt, chosen; expected prompt, chosen, rejected"):
        preferences.pairs_of(Data(Pairs([{"prompt": PROMPT, "chosen": says("1 + 2")}])))


def test_further_columns_are_left_behind():
    rows = preferences.pairs_of(Data(Pairs([pair("1", "2") | {"images": None}])))
    assert rows.column_names == ["prompt", "chosen", "rejected"]


def test_both_answers_follow_the_prompt(tokenizer):
    (row,) = preferences.tokenise(Dataset.from_list([pair("1 + 2", "2")]), tokenizer, None)
    assert tokenizer.decode(row["prompt_ids"]).split()[-2:] == ["<|im_start|>", "assistant"]
    assert tokenizer.decode(row["chosen_ids"]).split() == ["1", "+", "2", "<|im_end|>"]
    assert tokenizer.decode(row["rejected_ids"]).split() == ["2", "<|im_end|>"]


def test_pairs_that_are_cut_or_left_out_are_counted(tokenizer, capsys):
    rows = Dataset.from_list([pair("1 + 2 + 3", "1 + 2 - 3"), pair("1 + 2 + 3", "2 + 1"), pair("1", "2")])
    begin = len(preferences.tokenise(rows.select([2]), tokenizer, None)[0]["prompt_ids"])
    capsys.readouterr()
    kept = preferences.tokenise(rows, tokenizer, begin + 3)
    assert [len(row["chosen_ids"]) for row in kept] == [3, 2]
    assert "1 of 3 pairs are longer than" in (printed := capsys.readouterr().out)
    assert "1 more have no two different answers left" in printed
    with pytest.raises(ConfigError, match=f"max_length={begin}: no row has two different answers left"):
        preferences.tokenise(rows, tokenizer, begin)


def test_single_answers_keep_their_labels(tokenizer, capsys):
    rows = Dataset.from_list(
        [{"prompt": PROMPT, "completion": says(text), "label": good} for text, good in (("1 + 2", True), ("2", False))]
    )
    kept = preferences.tokenise(rows, tokenizer, 16, ("completion",))
    assert [tokenizer.decode(row["completion_ids"]).split() for row in kept] == [
        ["1", "+", "2", "<|im_end|>"],
        ["2", "<|im_end|>"],
    ]
    assert kept["label"][:] == [True, False]
    assert capsys.readouterr().out == ""
