"""What SFT trains on."""

import pytest
import torch
from datasets import Dataset
from tiny import TINY
from trl import SFTConfig

from qwen_align.errors import ConfigError
from qwen_align.method import policy, sft
from qwen_align.model import from_scratch

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


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_do_not_see_each_other(tmp_path, attention):
    ids = [[5 + (i * 7 + j) % 20 for j in range(3 + i % 9)] for i in range(16)]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    losses = []
    for packing in (False, True):
        torch.manual_seed(0)
        network, tokenizer = from_scratch("Numbers target", 20, **shape, intermediate_size=48)
        network.set_attn_implementation(attention)
        args = SFTConfig(
            output_dir=str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to=[], save_strategy="no", max_length=32,
            disable_tqdm=True, activation_checkpointing=False, per_device_train_batch_size=16, logging_steps=1, packing=packing,
        )  # fmt: skip
        rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
        speed = {"by_length": True, "completion_head": True}
        trainer = sft.SFT(model=network, args=args, train_dataset=rows, processing_class=tokenizer, speed=speed)
        trainer.train()
        losses.append((len(trainer.train_dataset), trainer.state.log_history[0]["loss"]))
    (plain, loss), (packed, same) = losses
    assert (plain, packed) == (16, 4)
    assert same == pytest.approx(loss, abs=1e-6)
