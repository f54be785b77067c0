"""Whose memory is free when a trained policy is measured, and what a device holds at once by conf/hardware/."""

import gc
import json
import shutil
import weakref

import pytest
import torch
from conftest import planned
from processes import weights
from tiny import TINY, TINY_MODEL

from qwen_align.method import dpo, evaluate, reward, rloo, sft
from qwen_align.stage import run, run_folder, worker


def pairs_file(folder) -> str:
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for i in range(16):
            asked = [{"role": "user", "content": f"Numbers {i} 2"}]
            answers = ([{"role": "assistant", "content": text}] for text in ("1 + 2", "2 - 1"))
            file.write(json.dumps(dict(zip(("prompt", "chosen", "rejected"), (asked, *answers), strict=True))) + "\n")
    return str(path)


def left_behind(module, words: list[str], monkeypatch: pytest.MonkeyPatch, where, name: str, result) -> list[bool]:
    """Which of trainer, policy, optimizer and weights are still alive when `where.name` begins."""
    alive, seen, inner = [], [], module.fit

    def fit(trainer, *args):
        found = inner(trainer, *args)
        held = [trainer, trainer.model, trainer.optimizer, *trainer.model.parameters()]
        alive.extend(weakref.ref(thing) for thing in held)
        return found

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(where, name, lambda *_: seen.append([ref() is not None for ref in alive]) or result)
    stage = planned(*words)[-1]
    run.prepare(stage, afresh=False)
    gc.disable()  # what circles hold must be looked for, not found by chance
    try:
        assert worker.run_stage(stage.folder) == 0, run_folder.read_json(stage.folder / "run.json")["error"]
    finally:
        gc.enable()
    assert len(seen[0]) > 10
    return seen[0]


@pytest.mark.parametrize("module", [sft, dpo, rloo], ids=lambda module: module.__name__.rpartition(".")[2])
def test_nothing_of_the_training_is_in_memory_when_the_policy_is_measured(module, tmp_path, monkeypatch):
    words = list(TINY)
    if module is dpo:  # countdown has no pairs
        words = [
            *TINY_MODEL,
            "model=countdown_tiny",
            "hardware=cpu",
            "data=local",
        ]
        words += [f"data.preferences_path={pairs_file(tmp_path)}", "method.batch_size=8"]
    words += [f"method={module.__name__.rpartition('.')[2]}", "init=base", f"runs_dir={tmp_path}"]
    assert not any(left_behind(module, words, monkeypatch, evaluate, "after_training", {}))


def test_nothing_of_the_training_is_in_memory_when_a_reward_model_is_measured(tmp_path, monkeypatch):
    words = ["method=reward", "reward=distilbert_tiny", "hardware=cpu", "data=local", f"runs_dir={tmp_path}"]
    words += [f"data.preferences_path={pairs_file(tmp_path)}", "method.batch_size=4", "method.args.max_steps=1"]
    measured = {"n": 1, "spread": 1.0, "pair_accuracy": {}}
    assert not any(left_behind(reward, words, monkeypatch, reward, "measure", measured))


def test_a_run_goes_on_where_fewer_rows_are_held_at_once(tmp_path):
    words = [*TINY, "method=sft", f"runs_dir={tmp_path}", "method.args.save_steps=2"]
    stage, smaller = (planned(*words, f"method.args.per_device_train_batch_size={rows}")[-1] for rows in (8, 2))
    assert smaller.folder == stage.folder, "the same run"
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == 0
    before = weights(stage.folder)
    shutil.rmtree(stage.folder / "model")
    shutil.rmtree(stage.folder / "checkpoints" / "checkpoint-4")
    run.prepare(smaller, afresh=False)
    assert worker.run_stage(stage.folder) == 0
    after = weights(stage.folder)
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
