"""A stage in this process: what it writes, and how it says that it failed."""

import pytest
from tiny import TINY

from qwen_align import run, run_folder, worker
from qwen_align.launch import USER_ERROR


@pytest.fixture
def prepared(tmp_path, stages_of):
    def make(*words):
        stages = stages_of(*TINY, f"runs_dir={tmp_path}", *words)
        for stage in stages:
            run.prepare(stage, afresh=False)
        return stages

    return make


def test_a_chain_of_stages_writes_states_metrics_samples_and_models(prepared):
    stages = prepared()
    for stage in stages:
        assert worker.run_stage(stage.folder) == 0
        assert stage.state == "finished"
        assert (stage.folder / "metrics.json").is_file()
    sft, rloo, best = stages
    for stage in (sft, rloo):
        assert (stage.folder / "model" / "model.safetensors").is_file()
        assert {"name", "mean", "low", "high", "n"} <= run_folder.read_json(stage.folder / "metrics.json")[
            "headline"
        ].keys()
    assert len(run_folder.read_jsonl(sft.folder / "samples.jsonl")) == 20
    metrics = run_folder.read_json(best.folder / "metrics.json")
    assert list(metrics["policies"]) == ["sft", "rloo"]
    assert metrics["policies"]["rloo"]["n"] == 20
    assert {"greedy", "pass@1", "best_of_4"} == metrics["differences"]["rloo_minus_sft"].keys()
    lines = run_folder.read_jsonl(best.folder / "samples.jsonl")
    assert [line["policy"] for line in lines] == ["sft"] * 20 + ["rloo"] * 20
    assert lines[0]["nums"] == lines[20]["nums"], "both policies answer the same problems"


def test_a_users_mistake_found_while_working_is_one_line(prepared, capsys):
    (stage,) = prepared("method=sft", "data.problems=1000000")
    assert worker.run_stage(stage.folder) == USER_ERROR
    manifest = run_folder.read_json(stage.folder / "run.json")
    assert manifest["state"] == "failed"
    assert manifest["error"].startswith("data.problems=1000000: only about")
    assert "Traceback" not in capsys.readouterr().err


def test_too_few_prompts_for_one_step_is_an_error_before_training(prepared):
    sft, rloo = prepared("method=rloo", "stages.rloo.prompts_per_step=256")
    assert worker.run_stage(sft.folder) == 0
    assert worker.run_stage(rloo.folder) == USER_ERROR
    assert "prompts_per_step=256: the data has only 200" in run_folder.read_json(rloo.folder / "run.json")["error"]


def test_lora_trains_an_adapter_and_leaves_a_plain_model(prepared):
    (stage,) = prepared("method=sft", "adapter=lora", "adapter.r=4")
    assert worker.run_stage(stage.folder) == 0
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert (stage.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (stage.folder / "model" / "model.safetensors").is_file()
    assert 0 < metrics["train"]["trainable_parameters"] < 10_000


def test_tensorboard_files_land_in_the_run_folder(prepared):
    (stage,) = prepared("method=sft", "tracking=tensorboard")
    assert worker.run_stage(stage.folder) == 0
    assert list((stage.folder / "tensorboard").glob("events*"))
