"""What SFT trains on."""

import pytest
from datasets import Dataset
from tiny import TINY

from qwen_align.errors import ConfigError
from qwen_align.method import policy, sft

TALK = [
    {"role": "user", "content": "Numbers 3 7 14 target 24"}, {"role": "assistant", "content": "(3 + 7) + 14"},
    {"role": "user", "content": "target 2"}, {"role": "assistant", "content": "2"},
]  # fmt: skip


@pytest.fixture
def tokenizer(stages_of):
    return policy.load(stages_of(*TINY, "method=sft")[0].job)[1]


def trained(row, tokenizer) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def test_every_answer_of_a_conversation_is_trained(tokenizer):
    (row,) = sft.tokenise(Dataset.from_list([{"messages": TALK}]), tokenizer, None)
    assert trained(row, tokenizer) == "( 3 + 7 ) + 14 <|im_end|> 2 <|im_end|>"
    assert tokenizer.decode(row["input_ids"]).count("user") == 2


def test_only_the_completion_of_a_prompt_is_trained(tokenizer):
    rows = Dataset.from_list([{"prompt": TALK[:3], "completion": TALK[3:], "nums": [1]}])
    assert trained(sft.tokenise(rows, tokenizer, None)[0], tokenizer) == "2 <|im_end|>"


def test_prompts_are_trained_too_where_completion_only_loss_is_off(tokenizer):
    (row,) = sft.tokenise(Dataset.from_list([{"messages": TALK}]), tokenizer, None, everything=True)
    assert row["labels"] == row["input_ids"]


def test_what_is_cut_or_left_out_is_said(tokenizer, capsys):
    rows = Dataset.from_list([{"messages": TALK}, {"messages": TALK[:2]}, {"messages": TALK[2:]}])
    lengths = [len(row["input_ids"]) for row in sft.tokenise(rows, tokenizer, None)]
    capsys.readouterr()
    kept = sft.tokenise(rows, tokenizer, lengths[2])
    assert [len(row["input_ids"]) for row in kept] == [lengths[2]]
    said = capsys.readouterr().out
    assert f"0 of 3 demonstrations are longer than max_length={lengths[2]} and are cut; 2 more have no answer left" in said


def test_no_answer_left_is_an_error(tokenizer):
    with pytest.raises(ConfigError, match=r"method\.args\.max_length=2: every prompt fills it"):
        sft.tokenise(Dataset.from_list([{"messages": TALK}]), tokenizer, 2)
