"""Whose memory is free when a trained policy is measured, and what a device holds at once by conf/hardware/."""

import gc
import json
import weakref

import pytest
from conftest import planned
from tiny import TINY

from qwen_align import run, run_folder, worker
from qwen_align.method import dpo, evaluate, rloo, sft


def pairs_file(folder) -> str:
    path = folder / "pairs.jsonl"
    said = ([{"role": "assistant", "content": text}] for text in ("1 + 2", "2 - 1"))
    pair = dict(
        zip(("prompt", "chosen", "rejected"), ([{"role": "user", "content": "Numbers 1 2"}], *said), strict=True)
    )
    path.write_text((json.dumps(pair) + "\n") * 16)
    return str(path)


@pytest.mark.parametrize("module", [sft, dpo, rloo], ids=lambda module: module.__name__.rpartition(".")[2])
def test_nothing_of_the_training_is_in_memory_when_the_policy_is_measured(module, tmp_path, monkeypatch):
    method = module.__name__.rpartition(".")[2]
    alive, inner = [], module.fit

    def fit(trainer, *args):
        found = inner(trainer, *args)
        held = [trainer, trainer.model, trainer.optimizer, *trainer.model.parameters()]
        alive.extend(weakref.ref(thing) for thing in held)
        return found

    seen = []
    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(evaluate, "after_training", lambda *_: seen.append([ref() is not None for ref in alive]) or {})
    words = list(TINY)
    if module is dpo:  # countdown has no pairs
        words = [word for word in TINY if word.startswith("model.")] + [
            "model=countdown_tiny",
            "hardware=cpu",
            "data=local",
        ]
        words += [f"data.preferences_path={pairs_file(tmp_path)}", "method.batch_size=8"]
    words += [f"method={method}", "init=base", f"runs_dir={tmp_path}"]
    stage = planned(*words)[-1]
    run.prepare(stage, afresh=False)
    gc.disable()  # what circles hold must be looked for, not found by chance
    try:
        assert worker.run_stage(stage.folder) == 0, run_folder.read_json(stage.folder / "run.json")["error"]
    finally:
        gc.enable()
    assert len(seen[0]) > 10
    assert not any(seen[0])
