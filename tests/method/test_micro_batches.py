"""An update's rows may change their micro-batch, never their update."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, SFTConfig, SFTTrainer

from qwen_align.compat.trl import head_on_labels
from qwen_align.method import micro_batches
from qwen_align.method.dpo import DPO
from qwen_align.method.sft import SFT
from qwen_align.model import from_scratch


def batch(lengths, advantages, prompts=None, width=9):
    """Rollouts as TRL gives them."""
    rows = torch.arange(len(lengths))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.tensor(prompts or [0] * len(lengths))[:, None].repeat(1, 4) + 1
    return {
        "prompt_ids": ids, "prompt_mask": torch.tensor([[0, 1, 1, 1]] * len(lengths)), "completion_mask": mask,
        "completion_ids": mask * (rows[:, None] + 1), "advantages": torch.tensor(advantages), "old_logps": rows.float(),
        "num_items": torch.tensor(7),
    }  # fmt: skip


def test_rows_are_sorted_within_their_update_alone():
    lengths = [5, 1, 4, 2, 9, 3]
    assert list(micro_batches.ByLength([3, 0, 2, 4, 5, 1], lengths, 3)) == [3, 2, 0, 1, 5, 4]


def test_an_incomplete_update_stays_in_order():
    assert list(micro_batches.ByLength([0, 1, 2], [3, 2, 1], 2)) == [1, 0, 2]


def test_rollouts_are_sorted_and_cut():
    first, second = micro_batches.arranged([batch([9, 2], [1.0, 2.0]), batch([3, 8], [3.0, 4.0])], drop=False, shared=False)
    assert first["completion_mask"].sum(1).tolist() == [2, 3]
    assert (first["completion_ids"].shape, second["completion_ids"].shape) == ((2, 3), (2, 9))
    assert first["prompt_ids"].shape == (2, 3)
    assert first["num_items"] == 7


def test_every_value_of_a_row_goes_with_it():
    found = micro_batches.arranged([batch([9, 2], [1.0, 2.0]), batch([3, 8], [3.0, 4.0])], drop=False, shared=False)
    columns = [torch.cat([one[name] for one in found]).tolist() for name in ("advantages", "old_logps")]
    lengths = torch.cat([one["completion_mask"].sum(1) for one in found]).tolist()
    rows = dict(zip(lengths, zip(*columns, strict=True), strict=True))
    assert rows == {9: (1.0, 0.0), 2: (2.0, 1.0), 3: (3.0, 0.0), 8: (4.0, 1.0)}


def test_dropped_rows_still_count_in_the_mean():
    batches = [batch([5, 5, 5], [1.0, 0.0, -2.0]), batch([5, 5, 5], [0.0, 0.0, 3.0])]
    found = micro_batches.arranged(batches, drop=True, shared=False)
    assert [len(one["advantages"]) for one in found] == [2, 1]
    assert sum(one["advantages"].mean() for one in found) == pytest.approx(sum(one["advantages"].mean() for one in batches))
    assert sum(one["advantages"].abs().sum() for one in found) > 0


def test_a_micro_batch_keeps_a_row_where_none_has_an_advantage():
    found = micro_batches.arranged([batch([5, 5], [0.0, 0.0]), batch([5, 5], [0.0, 0.0])], drop=True, shared=False)
    assert [len(one["advantages"]) for one in found] == [1, 1]


def test_rows_of_a_prompt_stay_together_where_it_is_computed_once():
    batches = [batch([3, 4], [1.0, 1.0], prompts=[0, 9]), batch([3, 4], [1.0, 1.0], prompts=[9, 0])]
    for shared, expected in ((True, 2), (False, 4)):
        found = micro_batches.arranged(batches, drop=False, shared=shared)
        assert sum(len(one["prompt_ids"].unique(dim=0)) for one in found) == expected


@pytest.mark.parametrize(("count", "accumulation", "sizes"), [(4, 4, [4]), (4, 2, [2, 2]), (2, 4, [2]), (3, 2, [1, 1, 1])])
def test_each_update_is_arranged_for_itself(count, accumulation, sizes):
    seen = []
    micro_batches.each_update([{}] * count, accumulation, lambda some: seen.append(len(some)) or list(some))
    assert seen == sizes


class Gradients(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.seen.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())


ARGS = {
    "max_steps": 3, "learning_rate": 0.01, "optim": "sgd", "max_grad_norm": 0.0, "use_cpu": True, "bf16": False,
    "report_to": [], "save_strategy": "no", "disable_tqdm": True, "activation_checkpointing": False,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "lr_scheduler_type": "constant", "max_length": None,
}  # fmt: skip


def tokens(count, longest, start=0):
    return [[5 + (i * 7 + j + start) % 20 for j in range(1 + (i * 5 + start) % longest)] for i in range(count)]


def gradients(trainer_class, args, rows, **given):
    """Of three updates, and how many tokens each forward pass had."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    policy, tokenizer = from_scratch("Numbers target", 20, **shape, intermediate_size=48)
    head_on_labels(False)
    trainer = trainer_class(model=policy, args=args, train_dataset=rows, processing_class=tokenizer, **given)
    watch, passed, inner = Gradients(), [], trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: (
        passed.append(inputs["input_ids"].numel()) or inner(model, inputs, *a, **k)
    )
    trainer.add_callback(watch)
    trainer.train()
    return watch.seen, sum(passed)


def assert_equal(found, expected):
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() / other.norm() < 1e-6


@pytest.mark.slow
def test_sft_of_sorted_updates_has_the_gradients_of_trl_and_less_padding(tmp_path):
    ids = tokens(24, 12)
    rows = Dataset.from_dict({"input_ids": ids, "labels": [[-100] * (len(one) // 2) + one[len(one) // 2 :] for one in ids]})
    args = SFTConfig(output_dir=str(tmp_path), dataset_kwargs={"skip_prepare_dataset": True}, **ARGS)
    expected, before = gradients(SFTTrainer, args, rows)
    found, after = gradients(SFT, args, rows, speed={"by_length": True, "completion_head": True})
    assert_equal(found, expected)
    assert after < before


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"loss_type": ["ipo"]}, {"loss_type": ["sigmoid", "sft"]}, {"ld_alpha": 0.5}], ids=str
)
@pytest.mark.parametrize("precomputed", [True, False])
def test_dpo_with_all_savings_has_the_gradients_of_trl(tmp_path, settings, precomputed):
    ids = {
        "prompt_ids": [[*one, 1, 2] for one in tokens(24, 8)],
        "chosen_ids": tokens(24, 9, 3),
        "rejected_ids": tokens(24, 6, 4),
    }
    rows = Dataset.from_dict(ids)
    run = tmp_path / "run" / "checkpoints"
    args = DPOConfig(output_dir=str(run), precompute_ref_log_probs=precomputed, **ARGS, **settings)
    run.parent.mkdir()
    found = {}
    for on in (False, True):
        speed = dict.fromkeys(("by_length", "shared_prompts", "completion_head"), on)
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
        torch.manual_seed(1)
        reference = None if precomputed else from_scratch("Numbers target", 20, **shape, intermediate_size=48)[0]
        found[on] = gradients(DPO, args, rows, ref_model=reference, speed=speed)[0]
        (run.parent / "reference.jsonl").unlink(missing_ok=True)
    assert_equal(found[True], found[False])
