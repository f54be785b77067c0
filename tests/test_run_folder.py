"""A run folder survives failed writes, torn lines, half checkpoints and killed owners."""

import json
import os
import select
import signal
import subprocess
import sys

import pytest

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.metric.interval import Interval

HOLD = """
import sys, time
from pathlib import Path
from qwen_align.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)


def test_json_comes_back(tmp_path):
    value = {"text": "÷ ✓", "list": [1, 2.5, None, True]}
    run_folder.write_json(tmp_path / "deep" / "a.json", value)
    assert run_folder.read_json(tmp_path / "deep" / "a.json") == value


def test_there_is_nothing_in_a_missing_file(tmp_path):
    assert run_folder.read_json(tmp_path / "a.json") == {}
    assert run_folder.read_jsonl(tmp_path / "a.jsonl") == []


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    run_folder.write_json(tmp_path / "a.json", {"step": 1})
    with pytest.raises(TypeError):
        run_folder.write_json(tmp_path / "a.json", {"step": 2, "what": object()})
    assert run_folder.read_json(tmp_path / "a.json") == {"step": 1}


def test_a_dataclass_in_json_is_an_object_of_its_fields(tmp_path):
    run_folder.write_json(tmp_path / "a.json", {"share": Interval(0.5, 0.25, 0.75)})
    assert run_folder.read_json(tmp_path / "a.json") == {"share": {"mean": 0.5, "low": 0.25, "high": 0.75}}


def test_a_lock_that_another_process_holds_is_not_waited_for_if_so_asked(tmp_path):
    held = run_folder.lock(tmp_path)
    assert run_folder.lock(tmp_path, wait=False) is None
    os.close(held)
    os.close(run_folder.lock(tmp_path, wait=False))


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    run_folder.write_json(tmp_path / "a.json", {"step": 1})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_folder.write_json(tmp_path / "a.json", {"step": 2})
    assert run_folder.read_json(tmp_path / "a.json") == {"step": 1}


def test_a_write_that_breaks_off_leaves_nothing_beside_the_file(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        run_folder.write_text(tmp_path / "a.txt", "good so far \ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    seen = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (seen.append(run_folder.read_json(tmp_path / "a.json")), sync(d)))
    run_folder.write_json(tmp_path / "a.json", {"step": 1})
    run_folder.write_json(tmp_path / "a.json", {"step": 2})
    assert seen == [{}, {"step": 1}]


def test_a_torn_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert run_folder.read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


def test_a_last_line_without_its_end_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    assert run_folder.read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_update_keeps_what_it_does_not_change(tmp_path):
    run_folder.update(tmp_path, state="planned", method="sft")
    assert run_folder.update(tmp_path, state="running") == {"state": "running", "method": "sft"}
    assert json.loads((tmp_path / "run.json").read_text()) == {"state": "running", "method": "sft"}


def test_state_is_what_the_manifest_says(tmp_path):
    assert run_folder.state(tmp_path) == "missing"
    run_folder.update(tmp_path, state="interrupted")
    assert run_folder.state(tmp_path) == "interrupted"


def checkpoint(folder, step: int, *missing: str) -> None:
    path = folder / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in {"trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors"} - set(missing):
        (path / name).write_text('{"global_step": 1}')


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path):
    for step in (100, 20, 3):
        checkpoint(tmp_path, step)
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]


@pytest.mark.parametrize("missing", ["trainer_state.json", "optimizer.pt", "scheduler.pt"])
def test_an_incomplete_checkpoint_is_not_one(tmp_path, missing):
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, missing)
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["checkpoint-10"]


def test_a_checkpoint_whose_last_file_was_not_written_to_its_end_is_not_one(tmp_path):
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20)
    (tmp_path / "checkpoints" / "checkpoint-20" / "trainer_state.json").write_text('{"global_step": 20, "log_hist')
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["checkpoint-10"]


def test_a_new_folder_has_no_checkpoints(tmp_path):
    assert run_folder.checkpoints(tmp_path) == []


def test_a_fingerprint_does_not_depend_on_the_order():
    one, other = {"a": 1, "b": {"c": 2, "d": [3, 4]}}, {"b": {"d": [3, 4], "c": 2}, "a": 1}
    assert run_folder.fingerprint(one) == run_folder.fingerprint(other)


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": [1, 2], "b": None}, {"a": ["1", 2]}, {}])
def test_other_settings_have_another_fingerprint(other):
    assert run_folder.fingerprint({"a": [1, 2]}) != run_folder.fingerprint(other)


def test_a_fingerprint_is_the_same_in_another_process():
    script = "from qwen_align.run_folder import fingerprint; print(fingerprint({'a': 'x', 'b': [1, None]}))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == run_folder.fingerprint({"b": [1, None], "a": "x"})


def test_a_lock_can_be_taken_again_once_it_is_free(tmp_path, capsys):
    for _ in range(2):
        with run_folder.locked(tmp_path / "run"):
            assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
    assert capsys.readouterr().out == ""


def test_a_lock_keeps_a_second_process_out_until_its_holder_is_killed(tmp_path):
    first = start_holder(tmp_path / "run")
    second = None
    try:
        assert first.stdout.readline() == "held\n"
        second = start_holder(tmp_path / "run")
        assert second.stdout.readline() == f"{tmp_path / 'run'} is in use by process {first.pid}; waiting for it\n"
        assert select.select([second.stdout], [], [], 0.3)[0] == []
        first.send_signal(signal.SIGKILL)
        assert select.select([second.stdout], [], [], 10)[0] != []
        assert second.stdout.readline() == "held\n"
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.communicate()


def test_runs_dir_that_can_not_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").touch()
    message = f"runs_dir={tmp_path / 'file'}: cannot write there"
    with pytest.raises(ConfigError) as caught, run_folder.locked(tmp_path / "file" / "run"):
        pass
    assert str(caught.value).startswith(message)


def test_provenance_names_the_versions_that_matter():
    versions = run_folder.provenance()["versions"]
    assert versions["trl"].startswith("1.16")
    assert {"qwen-align", "torch", "transformers", "datasets", "peft"} <= versions.keys()
