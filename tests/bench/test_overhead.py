"""The entrypoint's side of the overhead suite is the job that the plain script does."""

import json

import pytest

from qwen_align.bench import overhead


@pytest.mark.parametrize("method", ["sft", "rloo"])
def test_both_sides_train_with_the_same_batch_and_rate(stages_of, method, tmp_path):
    start = tmp_path / "start"
    (start / "model").mkdir(parents=True)
    record = {"method": "sft", "state": "finished", "fingerprint": "f", "choices": {}, "parents": {}}
    (start / "run.json").write_text(json.dumps(record))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    view = "demonstrations" if method == "sft" else "prompts"
    (stage,) = stages_of(
        *overhead._COMMON, *overhead._OWN[method], f"method={method}", f"init={start}", f"data.{view}_path={rows}"
    )
    args = stage.config["method"]["args"]
    expected = {"sft": (64, 1e-3), "rloo": (128, 5e-5)}[method]
    assert (args["per_device_train_batch_size"], args["learning_rate"]) == expected
    assert (args["warmup_steps"], args["lr_scheduler_type"]) == (0, "linear"), "TRL's own defaults"


def test_a_ratio_above_one_means_that_the_entrypoint_is_the_faster_one():
    row = overhead._row("case", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], "")
    assert (row.ratio, row.low, row.high, row.rounds) == (1.0, 0.5, 2.0, 3)
