"""What the stages of a plan will take."""

import json

import pytest
from sizes import QWEN
from tiny import TINY

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.stage import forecast


@pytest.fixture
def qwen(tmp_path) -> str:
    """A folder with the config of Qwen2.5-0.5B, as an override."""
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen/config.json").write_text(json.dumps(QWEN))
    return f"model.name={tmp_path / 'qwen'}"


def forecasts(stages) -> dict[str, forecast.Forecast]:
    return {stage.method: forecast.of(stage) for stage in stages}


def test_updates_epochs_and_tokens_follow_from_rows_and_batch(stages_of):
    found = forecasts(stages_of("experiment=quickstart"))
    assert (found["sft"].updates, found["sft"].epochs) == (626, 2)
    assert found["rloo"].updates == 120
    assert found["rloo"].update == "256 completions"
    assert found["rloo"].tokens == 120 * 256 * (24 + 28)
    assert found["best_of_n"].updates is None


def test_reward_models_and_pairs_are_counted_without_what_is_held_out(stages_of):
    given = ("experiment=quickstart_instruct", "method=rloo", "reward=distilbert_tiny", "data.pairs=1000")
    found = forecasts(stages_of(*given))
    assert found["reward"].updates == 2 * -(-900 // 32)
    assert found["reward"].update == "32 pairs"


def test_rows_of_a_file_are_counted(stages_of, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 130)
    stages = stages_of("method=sft", "data=local", "model=countdown_tiny", "data.demonstrations_path=rows.jsonl")
    assert forecast.of(stages[0]).updates == 3


def test_rows_that_nobody_has_counted_are_not_guessed(stages_of, qwen):
    (stage,) = stages_of("method=sft", "data=gsm8k", qwen)
    found = forecast.of(stage)
    assert (found.updates, found.tokens, found.seconds) == (None, None, None)
    assert found.memory > 8e9


def test_a_policy_of_unknown_size_has_no_forecast(stages_of):
    (stage,) = stages_of("method=sft", "model.name=nobody/nothing")
    assert forecast.of(stage) is None


def test_half_a_billion_parameters_take_sixteen_bytes_each_and_their_checkpoints_twelve(stages_of, qwen):
    found = forecasts(stages_of("method=rloo", "data=countdown", qwen, "hardware=cpu"))
    assert 0.494 * 16e9 < found["sft"].memory < 0.494 * 16e9 + 5e9
    assert found["rloo"].memory > found["sft"].memory + 1.5e9, "the reference"
    assert found["rloo"].disk == pytest.approx(0.494 * (4 + 2 * 12) * 1e9, rel=0.01)


def test_an_adapter_takes_a_fraction(stages_of, qwen):
    whole, thin = (stages_of("method=sft", "data=countdown", qwen, f"adapter={a}")[0] for a in ("none", "lora"))
    assert forecast.of(thin).memory < 0.6 * forecast.of(whole).memory
    assert forecast.of(thin).disk < 0.5 * forecast.of(whole).disk


def test_what_does_not_fit_is_said_with_the_smallest_change_that_does(stages_of, qwen, monkeypatch):
    stage = stages_of("method=sft", "data=countdown", qwen, "hardware=cpu", "hardware.per_device.sft=64")[0]
    found = forecast.of(stage)
    needed = found.memory / 0.9
    monkeypatch.setattr(forecast, "available", lambda hardware: 1.01 * needed)
    assert forecast.shortage(stage, found) == []
    monkeypatch.setattr(forecast, "available", lambda hardware: 0.97 * needed)
    (line,) = forecast.shortage(stage, found)
    assert "this would fit: stages.sft.args.per_device_train_batch_size=32" in line
    monkeypatch.setattr(forecast, "available", lambda hardware: 6e9)
    assert "this would fit: adapter=lora" in forecast.shortage(stage, found)[0]
    monkeypatch.setattr(forecast, "available", lambda hardware: 1e9)
    assert "a smaller model or another machine would" in forecast.shortage(stage, found)[0]


def test_a_disk_without_room_is_refused_before_the_first_stage(stages_of, qwen, tmp_path, monkeypatch):
    stages = stages_of("method=rloo", "data=countdown", qwen)
    most = forecast.check_disk(stages, tmp_path)
    assert 14e9 < most < 17e9
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000_000_000}))
    with pytest.raises(ConfigError, match=r"10\.0 GB are free there, and checkpoints and models will take 15\.\d GB"):
        forecast.check_disk(stages, tmp_path)


def test_time_is_that_of_an_earlier_run_where_there_is_one(stages_of):
    stage = stages_of(*TINY, "method=sft")[0]
    assumed = forecast.of(stage)
    assert "assumed" in assumed.rate
    done = {"state": "finished", "operations": 1e9, "seconds": 2.0, "device": "cpu", "world_size": 1}
    folder = stage.folder.with_name("sft-other")
    run_folder.write_json(folder / "run.json", done | {"choices": {"model": "countdown_tiny"}})
    measured = forecast.of(stage)
    assert measured.seconds == pytest.approx(measured.operations / 0.5e9)
    assert "measured by an earlier run" in measured.rate
    run_folder.write_json(folder / "run.json", done | {"choices": {"model": "smollm2_135m"}})
    assert "assumed" in forecast.of(stage).rate


def test_a_plan_prints_it(run_main):
    code, out, _ = run_main("experiment=quickstart", "plan=true")
    assert code == 0
    assert "updates" in out
    assert "256 completions" in out
    assert "GFLOP/s a core, assumed" in out
