"""A stage in this process: what it writes, and how it fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from qwen_align import run_folder
from qwen_align.stage import ranks, run, worker
from qwen_align.stage.launch import USER_ERROR


def metrics(stage):
    return run_folder.read_json(stage.folder / "metrics.json")


@pytest.fixture
def prepared(tmp_path, stages_of):
    def make(*overrides):
        stages = stages_of(*TINY, f"runs_dir={tmp_path}", *overrides)
        for stage in stages:
            run.prepare(stage, afresh=False)
        return stages

    return make


def test_a_chain_of_stages_writes_states_metrics_samples_and_models(smoke_chain):
    for stage in smoke_chain:
        assert stage.state == "finished"
        assert {"name", "policy", "mean", "low", "high", "n"} <= metrics(stage)["headline"].keys()
    sft, rloo, best = smoke_chain
    for stage in (sft, rloo):
        assert (stage.folder / "model" / "model.safetensors").is_file()
    assert len(run_folder.read_jsonl(sft.folder / "samples.jsonl")) == 20
    found = metrics(best)
    assert list(found["policies"]) == ["sft", "rloo"]
    assert found["policies"]["rloo"]["n"] == 20
    (difference,) = found["differences"]
    assert (difference["after"], difference["before"]) == ("rloo", "sft")
    assert {"greedy", "pass@1", "best_of_4"} == difference["metrics"].keys()
    lines = run_folder.read_jsonl(best.folder / "samples.jsonl")
    assert [line["policy"] for line in lines] == ["sft"] * 20 + ["rloo"] * 20
    assert lines[0]["nums"] == lines[20]["nums"], "both policies answer the same problems"


@pytest.mark.slow
def test_a_users_mistake_found_while_working_is_one_line(prepared, capsys):
    (stage,) = prepared("method=sft", "data.problems=1000000")
    assert worker.run_stage(stage.folder) == USER_ERROR
    manifest = run_folder.read_json(stage.folder / "run.json")
    assert manifest["state"] == "failed"
    assert manifest["error"].startswith("data.problems=1000000: only about")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_too_few_prompts_for_one_step_is_an_error_before_training(prepared):
    sft, rloo = prepared("method=rloo", "stages.rloo.prompts_per_step=256")
    assert worker.run_stage(sft.folder) == 0
    assert worker.run_stage(rloo.folder) == USER_ERROR
    assert "prompts_per_step=256: the data has only 200" in run_folder.read_json(rloo.folder / "run.json")["error"]


@pytest.mark.slow
def test_lora_trains_an_adapter_and_leaves_a_plain_model(prepared):
    (stage,) = prepared("method=sft", "adapter=lora", "adapter.r=4")
    assert worker.run_stage(stage.folder) == 0
    assert (stage.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (stage.folder / "model" / "model.safetensors").is_file()
    assert 0 < metrics(stage)["train"]["trainable_parameters"] < 10_000


@pytest.mark.slow
def test_tensorboard_files_land_in_the_run_folder(prepared):
    (stage,) = prepared("method=sft", "tracking=tensorboard")
    assert worker.run_stage(stage.folder) == 0
    assert list((stage.folder / "tensorboard").glob("events*"))


def test_run_json_says_that_a_plain_run_is_one_process(smoke_chain):
    manifest = run_folder.read_json(smoke_chain[0].folder / "run.json")
    assert (manifest["world_size"], manifest["distributed_type"], manifest["zero_stage"]) == (1, "NO", None)
    assert ranks.read_statuses(smoke_chain[0].folder) == {}


@pytest.mark.slow
def test_another_number_of_processes_than_asked_for_is_an_error(prepared, capsys):
    (stage,) = prepared("method=sft", "hardware=cpu_ddp")
    assert worker.run_stage(stage.folder) == 1
    error = run_folder.read_json(stage.folder / "run.json")["error"]
    assert error == "RuntimeError: hardware.processes=2, but 1 were started"


def test_a_stage_that_samples_is_one_process_on_any_hardware(smoke_chain, prepared):
    (measure,) = prepared("method=evaluate", f"init={smoke_chain[0].folder}", "hardware=cpu_ddp")
    assert worker.run_stage(measure.folder) == 0
    assert run_folder.read_json(measure.folder / "run.json")["world_size"] == 1


@pytest.mark.slow
def test_a_process_that_a_launcher_started_leaves_its_end(prepared, capsys):
    (stage,) = prepared("method=sft", "data.problems=1000000")
    assert worker.run_stage(stage.folder, rank=0) == USER_ERROR
    status = ranks.read_statuses(stage.folder)[0]
    assert status["error"].startswith("data.problems=1000000")
    assert status["code"] == USER_ERROR


def test_a_worker_is_told_to_stop_when_its_stdin_ends():
    code = "from qwen_align.stage.worker import _end_with_stdin as e; import time; e(); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=10) == -15


def test_the_log_of_another_rank_gets_what_c_libraries_say_too(tmp_path):
    code = (
        "from pathlib import Path; from qwen_align.stage.worker import _own_log; import os, sys\n"
        "_own_log(Path(sys.argv[1]), 3); print('python', flush=True); os.write(2, b'c')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""
    assert Path(tmp_path / "log-rank3.txt").read_text() == "python\nc"
