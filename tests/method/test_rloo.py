"""RLOO reads the same prompts after a resume, in every epoch."""

import shutil

from safetensors.torch import load_file
from tiny import TINY

from qwen_align import run, run_folder, worker


def test_a_resume_after_the_first_epoch_is_exact(tmp_path, stages_of):
    words = [
        *TINY, f"runs_dir={tmp_path}", "method=rloo", "data.problems=64", "stages.sft.args.max_steps=60",
        "stages.rloo.args.max_steps=7", "stages.rloo.args.save_steps=5", "reward.malformed=-1",
    ]  # fmt: skip
    sft, rloo = stages_of(*words)
    for stage in (sft, rloo):
        run.prepare(stage, afresh=False)
        assert worker.run_stage(stage.folder) == 0
    final = rloo.folder / "model" / "model.safetensors"
    expected = load_file(final)
    shutil.rmtree(rloo.folder / "checkpoints" / "checkpoint-7")
    final.unlink()
    assert [p.name for p in run_folder.checkpoints(rloo.folder)] == ["checkpoint-5"], "four steps are an epoch"
    assert worker.run_stage(rloo.folder) == 0
    actual = load_file(final)
    assert all(expected[name].equal(actual[name]) for name in expected)
    rewards = [line["reward"] for line in run_folder.read_jsonl(rloo.folder / "metrics.jsonl") if "reward" in line]
    assert len(rewards) == 7
