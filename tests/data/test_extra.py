"""data.extra: a file of demonstrations beside a data set's own."""

import json

import pytest

from qwen_align import data, run_folder
from qwen_align.config import groups
from qwen_align.data.countdown import extra_demonstrations, is_held_out
from qwen_align.errors import ConfigError
from qwen_align.stage import run, worker

GOOD = {
    "prompt": [{"role": "user", "content": "Numbers 1 2 target 3"}],
    "completion": [{"role": "assistant", "content": "1 + 2"}],
}


@pytest.fixture
def file(tmp_path):
    """file(row, ...): the path of a JSONL file with these rows; text is written as it is."""

    def write(*rows):
        path = tmp_path / "extra.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def countdown(path):
    return data.load(groups.read("data", "countdown") | {"problems": 5, "evaluation_problems": 5, "extra": path}).source


def read(path):
    return extra_demonstrations(path, lambda nums: False)


def test_no_path_no_rows():
    assert read(None) == []


def test_prompt_and_completion_are_read_and_other_columns_left_out(file):
    rows = read(file(GOOD | {"nums": "1 2", "provenance": {"teacher": "me"}}))
    assert rows == [GOOD | {"nums": [1, 2], "target": None}]


def test_text_becomes_messages(file):
    path = file({"prompt": "Numbers 1 2 target 3", "completion": "1 + 2"})
    assert read(path) == [GOOD | {"nums": None, "target": None}]


def test_every_bad_row_is_named_by_file_and_line(file):
    path = file(GOOD, "{torn", {"prompt": "no answer"}, GOOD | {"target": 3}, GOOD | {"target": "three"})
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"data.extra={path}: 3 of 5 rows cannot be used: ")
    assert all(f"line {number} " in message for number in (2, 3, 5))
    assert "on_bad_row" not in message


def test_a_missing_file_is_an_error_before_anything_runs():
    with pytest.raises(ConfigError, match=r"data\.extra=nowhere\.jsonl: no such file"):
        countdown("nowhere.jsonl")


def test_rows_come_after_the_data_sets_own(file):
    rows = countdown(file(GOOD, GOOD)).demonstrations()
    assert len(rows) == 7
    assert rows[6]["completion"] == GOOD["completion"]
    assert rows[6]["nums"] is None
    assert countdown(None).demonstrations().to_list() == rows.to_list()[:5]


def test_the_other_views_have_nothing_of_it(file):
    found = countdown(file(GOOD))
    assert (len(found.prompts()), len(found.evaluation())) == (5, 5)


def test_a_held_out_problem_is_an_error_with_its_row(file):
    held = next(nums for a in range(1, 99) if is_held_out(nums := [a, 2, 3], 0.15))
    path = file(GOOD, GOOD | {"nums": held, "target": 6})
    with pytest.raises(ConfigError, match=r"data\.extra=.*: line 2 asks for numbers that the evaluation view has"):
        countdown(path).demonstrations()


def test_sft_trains_on_what_synthesize_wrote(tmp_path, stages_of):
    small = {"count": "[3,3]", "numbers": "[1,20]", "problems": 30, "evaluation_problems": 8}
    overrides = [f"data.{key}={value}" for key, value in small.items()]
    tiny = ("model=countdown_tiny", "model.hidden_size=16", "model.num_hidden_layers=1", "max_completion_length=8")
    common = ("data=countdown", *overrides, *tiny, "data.prompt='Numbers {numbers} target {target}'", f"runs_dir={tmp_path}")
    (teacher,) = stages_of("method=synthesize", "generator=solver", "method.problems=10", *common)
    run.prepare(teacher, afresh=False)
    assert worker.run_stage(teacher.folder) == 0
    kept = run_folder.read_json(teacher.folder / "metrics.json")["answers"]["kept"]
    settings = ("method=sft", "method.batch_size=8", "method.args.max_steps=2", "evaluation.problems=4")
    (sft,) = stages_of(*settings, *common, f"data.extra={teacher.folder / 'demonstrations.jsonl'}")
    run.prepare(sft, afresh=False)
    assert worker.run_stage(sft.folder) == 0
    assert run_folder.read_json(sft.folder / "run.json")["data"]["demonstrations"]["rows"] == 30 + kept
