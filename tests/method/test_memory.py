"""Whose memory is free when a trained policy is measured, and what a device holds at once by conf/hardware/."""

import gc
import shutil
import weakref

import pytest
import torch
from conftest import planned
from processes import weights
from tiny import TINY
from trained import finished, on_pairs

from qwen_align import run_folder
from qwen_align.method import evaluate, fit, on_policy, preferences, reward, sft
from qwen_align.metric.interval import Interval
from qwen_align.stage import run, worker

pytestmark = pytest.mark.slow


def left_behind(module, overrides: list[str], monkeypatch: pytest.MonkeyPatch, where, name: str, result) -> list[bool]:
    """Which of trainer, policy, optimizer and weights are still alive when `where.name` begins."""
    alive, seen = [], []

    def fitted(trainer, *args):
        found = fit.fit(trainer, *args)
        held = [trainer, trainer.model, trainer.optimizer, *trainer.model.parameters()]
        alive.extend(weakref.ref(thing) for thing in held)
        return found

    monkeypatch.setattr(module, "fit", fitted)
    monkeypatch.setattr(where, name, lambda *_: seen.append([ref() is not None for ref in alive]) or result)
    stage = planned(*overrides)[-1]
    run.prepare(stage, afresh=False)
    gc.disable()  # what circles hold must be looked for, not found by chance
    try:
        assert worker.run_stage(stage.folder) == 0, run_folder.read_json(stage.folder / "run.json")["error"]
    finally:
        gc.enable()
    assert len(seen[0]) > 10
    return seen[0]


@pytest.mark.parametrize(
    ("method", "module"), [("sft", sft), ("dpo", preferences), ("rloo", on_policy)], ids=["sft", "dpo", "rloo"]
)
def test_nothing_of_the_training_is_in_memory_when_the_policy_is_measured(method, module, tmp_path, monkeypatch):
    overrides = [*TINY, f"method={method}", "init=base", f"runs_dir={tmp_path}"]
    if method == "dpo":  # countdown has no pairs
        overrides = on_pairs(tmp_path, "dpo", 16)
    assert not any(left_behind(module, overrides, monkeypatch, evaluate, "after_training", {}))


def test_nothing_of_the_training_is_in_memory_when_a_reward_model_is_measured(tmp_path, monkeypatch):
    overrides = [word for word in on_pairs(tmp_path, "reward", 16) if not word.startswith(("model", "method.args.max_length"))]
    overrides += ["reward=distilbert_tiny", "method.batch_size=4", "method.args.max_steps=1"]
    measured = {"n": 1, "spread": 1.0, "pair_accuracy": Interval(0.5, 0.0, 1.0)}
    assert not any(left_behind(reward, overrides, monkeypatch, reward, "measure", measured))


def test_a_run_goes_on_where_fewer_rows_are_held_at_once(tmp_path):
    words = [*TINY, "method=sft", f"runs_dir={tmp_path}", "method.args.save_steps=2"]
    stage, smaller = (planned(*words, f"method.args.per_device_train_batch_size={rows}")[-1] for rows in (8, 2))
    assert smaller.folder == stage.folder, "the same run"
    finished(stage)
    before = weights(stage.folder)
    shutil.rmtree(stage.folder / "model")
    shutil.rmtree(stage.folder / "checkpoints" / "checkpoint-4")
    finished(smaller)
    after = weights(stage.folder)
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
