"""The speed suite: what it refuses, and that a script's settings are those of the entrypoint's job."""

import pytest
from tiny import TINY_MODEL

from qwen_align.bench import growth, speed, training
from qwen_align.bench.row import Row
from qwen_align.config import component, groups
from qwen_align.errors import ConfigError

SETTINGS = component.settings(groups.read("bench", "speed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, "pairs=0: expected a whole number from 1 on"),
        ({"parts": "slf"}, r"parts=slf: expected some of rloo, .*\(did you mean sft\?\)"),
        ({"parts": ["rloo", 3]}, "parts=3: expected some of rloo"),
        ({"hardware": "tpu"}, "hardware=tpu: expected one of auto"),
        ({"policy": "nothing"}, "policy=nothing: expected a finished run folder"),
    ],
)
def test_a_setting_that_names_nothing_is_one_error(change, message):
    with pytest.raises(ConfigError, match=message):
        speed.run(**SETTINGS | change)


def test_an_older_suite_is_a_part_by_its_name(monkeypatch):
    row = Row("case", "texts", 1.0, 1.0, 1.0, 1.0, 1.0, 1)
    monkeypatch.setattr(speed.component, "construct", lambda node: [row] if "reward" in node["_target_"] else [])
    assert speed.run(**SETTINGS | {"parts": "reward", "growth": False}) == [row]


def test_the_study_is_left_out_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "has_gpu", lambda: False)
    assert speed.study(tmp_path, "auto", 1) == []
    assert "left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(speed.JOBS))
def test_every_job_composes(stages_of, name, tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a model's folder, to start from
    stage = stages_of(*speed.JOBS[name].overrides, f"init={tmp_path}")[-1]
    assert stage.method == name.partition("_")[0].replace("study", "rloo")
    assert stage.config["method"].get("held_out_every") is None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    job = speed.JOBS["sft"].given(*TINY_MODEL, "data.problems=100")
    return training.Prepared(job, tmp_path_factory.mktemp("prepared"), "cpu")


def test_a_script_has_the_batch_of_the_job(prepared):
    args = prepared.cases("batch")["theirs"]["plain"]["args"]
    assert args["per_device_train_batch_size"] * args["gradient_accumulation_steps"] == 64
    assert (args["learning_rate"], args["activation_checkpointing"]) == (0, False)
    assert (args["adam_beta2"], args["max_length"]) == (0.98, 64), "what the experiment sets"


def test_trls_own_batch_is_eight_rows_with_checkpointing_and_the_same_update(prepared):
    args = prepared.cases("defaults")["theirs"]["plain"]["args"]
    assert (args["per_device_train_batch_size"], args["gradient_accumulation_steps"]) == (8, 8)
    assert args["activation_checkpointing"] is True


def test_model_flops_are_about_six_a_parameter_and_token(prepared):
    assert prepared.tokens[0] == 11
    whole = training.Prepared.flops(prepared, 0.0)
    assert whole == pytest.approx(64 * 3 * 34 * 2 * prepared.parameters, rel=0.5), "2 a parameter and token, three times"


def test_seconds_that_double_with_x_grow_as_x_to_the_first():
    assert growth.slope([1, 2, 4], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    rows = [Row(str(x), "rows", 10.0, 10.0 / x, x, x, x, 2) for x in (1, 2, 4)]
    last = growth.with_slope(rows, [1, 2, 4], [1, 2, 4])[-1]
    assert (last.point, last.units) == (4.0, 4.0)
    assert last.note == "over the series seconds grow as x^1.00 and x^2.00"
