"""The entrypoint's side of the overhead suite is the job that the plain script does."""

import pytest

from qwen_align.bench import overhead


@pytest.mark.parametrize("method", ["sft", "rloo"])
def test_both_sides_train_with_the_same_batch_and_rate(stages_of, method, tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a model's folder, to start from
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b", "nums": [1, 2], "target": 3}\n')
    (stage,) = stages_of(*overhead.overrides(method, tmp_path, rows, tmp_path / "runs", 20))
    args = stage.config["method"]["args"]
    expected = {"sft": (64, 1e-3), "rloo": (128, 5e-5)}[method]
    assert (args["per_device_train_batch_size"], args["learning_rate"]) == expected
    assert (args["warmup_steps"], args["lr_scheduler_type"]) == (0, "linear"), "TRL's own defaults"


def test_a_ratio_above_one_means_that_the_entrypoint_is_the_faster_one():
    row = overhead.row_of("case", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], "")
    assert (row.ratio, row.low, row.high, row.rounds) == (1.0, 0.5, 2.0, 3)
