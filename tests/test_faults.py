"""What goes wrong on real machines: nothing that is finished is lost, and the message says what happened and what stays.

The kill of one rank of two is in test_distributed.py, SIGTERM and the kill of a worker in test_run.py.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import planned
from processes import gone, logged, once, start
from safetensors.torch import load_file
from tiny import TINY
from trl import RLOOTrainer, SFTTrainer

from qwen_align import run_folder
from qwen_align.stage import forecast, run, worker
from qwen_align.stage.plan import Stage

pytestmark = pytest.mark.slow
SFT = (*TINY, "method=sft", "stages.sft.args.save_steps=1", "hardware.threads=1")
RLOO = (*TINY, "method=rloo", "init=base", "hardware.threads=1", "evaluation.problems=2", "evaluation.samples=1")


def stage_of(folder: Path, *overrides: str) -> Stage:
    return planned(*overrides, f"runs_dir={folder}")[-1]


def worked(stage: Stage) -> tuple[int, str]:
    """(exit code, the error of run.json) of a worker in this process."""
    run.prepare(stage, afresh=False)
    code = worker.run_stage(stage.folder)
    return code, run_folder.read_json(stage.folder / "run.json")["error"] or ""


def saved(stage: Stage) -> list[str]:
    return [path.name for path in run_folder.checkpoints(stage.folder)]


def finite(stage: Stage) -> bool:
    weights = load_file(run_folder.checkpoints(stage.folder)[-1] / "model.safetensors")
    return all(bool(value.isfinite().all()) for value in weights.values())


def spoiled(monkeypatch: pytest.MonkeyPatch, trainer: type, loss_of, steps: range) -> None:
    """Let the loss of these steps, counted from 1, be another one."""
    compute = trainer.compute_loss

    def other(self, model, *args, **kwargs):
        loss = compute(self, model, *args, **kwargs)
        return loss_of(loss, next(model.parameters())) if self.state.global_step + 1 in steps else loss

    monkeypatch.setattr(trainer, "compute_loss", other)


def is_nan(loss, _):
    return loss * torch.nan


def has_a_nan_gradient(loss, weight):
    return loss + (weight * 0).sqrt().sum()


def is_infinite(loss, _):
    return loss + torch.inf


@pytest.mark.parametrize("loss_of", [is_nan, has_a_nan_gradient])
def test_a_nan_loss_ends_the_run_and_the_checkpoint_before_it_stays(tmp_path, monkeypatch, loss_of):
    stage = stage_of(tmp_path, *SFT, "stages.sft.args.max_steps=9")
    spoiled(monkeypatch, SFTTrainer, loss_of, range(3, 10))
    code, error = worked(stage)
    assert code == 1
    assert "not finite from step 3 on; checkpoint-2 from before is kept" in error
    assert saved(stage) == ["checkpoint-1", "checkpoint-2"]
    assert finite(stage)
    assert not (stage.folder / "model").exists()
    steps = [line["step"] for line in run_folder.read_jsonl(stage.folder / "metrics.jsonl")]
    assert max(steps, default=5) == 5, "three bad steps in a row, and no more"


def test_a_nan_loss_in_the_last_step_saves_no_policy(tmp_path, monkeypatch):
    stage = stage_of(tmp_path, *SFT)
    spoiled(monkeypatch, SFTTrainer, is_nan, range(4, 5))
    code, error = worked(stage)
    assert (code, saved(stage)) == (1, ["checkpoint-2", "checkpoint-3"])
    assert "from step 4 on" in error
    assert not (stage.folder / "model").exists()


def test_a_run_goes_on_after_one_infinite_loss_and_prints_it(tmp_path, monkeypatch, capsys):
    stage = stage_of(tmp_path, *SFT)
    spoiled(monkeypatch, SFTTrainer, is_infinite, range(2, 3))
    assert worked(stage) == (0, "")
    assert "step 2: the loss or its gradient is not finite" in capsys.readouterr().out
    assert saved(stage) == ["checkpoint-3", "checkpoint-4"]


def test_rloo_says_that_the_loss_was_nan_and_not_what_sampling_made_of_it(tmp_path, monkeypatch):
    stage = stage_of(tmp_path, *RLOO, "method.args.max_steps=6")
    spoiled(monkeypatch, RLOOTrainer, is_nan, range(3, 9))
    code, error = worked(stage)
    assert code == 1
    assert "not finite from step 3 on; checkpoint-2 from before is kept" in error


def test_a_reward_that_raises_is_named_and_the_checkpoint_before_it_stays(tmp_path, monkeypatch):
    stage = stage_of(tmp_path, *RLOO, "reward=faulty.Faulty", "+reward.fault=raise")
    assert worked(stage) == (1, "RuntimeError: reward Faulty raised ZeroDivisionError: no words")
    assert saved(stage) == ["checkpoint-1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint_and_the_run_goes_on_from_it(small_disk, run_main, monkeypatch):
    monkeypatch.setattr(forecast, "check_disk", lambda stages, folder: 0.0)  # others may fill it later
    overrides = (*SFT, "stages.sft.args.max_steps=40", "checkpoints.keep=99", f"runs_dir={small_disk}")
    stage = stage_of(small_disk, *overrides)
    code, out, errors = run_main(*overrides)
    kept = saved(stage)
    assert code == 1, out
    assert f"no space left to write in {stage.folder}; {kept[-1]} from before is kept" in errors
    assert stage.state == "failed"
    assert 1 < len(kept) < 40
    assert finite(stage)
    remount(small_disk, "size=200m")
    code, out, errors = run_main(*overrides)
    assert code == 0, out
    assert f"resuming from {kept[-1]}" in out


def test_a_disk_that_others_filled_is_one_line(small_disk, run_main):
    descriptor = os.open(small_disk / "of-others", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(descriptor, bytes(4096)):
            pass
    os.close(descriptor)
    code, _, errors = run_main(*SFT, f"runs_dir={small_disk}")
    assert code in (1, 2)
    assert "0.0 MB are free there" in errors
    assert len(errors.splitlines()) == 1


def test_a_folder_that_became_read_only_is_one_line(small_disk, run_main):
    stage = stage_of(small_disk, *SFT)
    stage.folder.mkdir()
    (stage.folder / ".lock").touch()
    remount(small_disk, "ro")
    code, _, errors = run_main(*SFT, f"runs_dir={small_disk}")
    assert code == 2
    assert errors.startswith(f"error: runs_dir={small_disk}: cannot write there (Read-only file system)")
    assert len(errors.splitlines()) == 1


def test_a_killed_parent_loses_nothing_and_two_parents_share_what_is_left(tmp_path):
    overrides = (*SFT, "stages.sft.args.max_steps=60", "stages.sft.args.save_steps=20", "stages.sft.args.logging_steps=1")
    stage = stage_of(tmp_path, *overrides)
    first = start(tmp_path, *overrides)
    once(lambda: len(logged(stage.folder, "loss")) >= 5, first)
    first.kill()
    worker_pid = run_folder.read_json(stage.folder / "run.json")["pid"]
    once(lambda: gone(worker_pid))
    first.communicate()
    assert stage.state == "interrupted", "the worker got a signal, saved and left"
    assert len(saved(stage)) >= 1

    both = [start(tmp_path, *overrides) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("is in use by process" in text for text in outputs) == 1
    assert sum("resuming from checkpoint-" in text for text in outputs) == 1
    steps = [line["step"] for line in run_folder.read_jsonl(stage.folder / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 61))


def test_a_reward_that_hangs_is_named_on_ctrl_c_and_a_second_one_ends_it(tmp_path):
    overrides = (*RLOO, "reward=faulty.Faulty")
    stage = stage_of(tmp_path, *overrides)
    program = start(tmp_path, *overrides)
    log = stage.folder / "log.txt"
    once(lambda: log.is_file() and "hanging" in log.read_text(), program)
    program.send_signal(signal.SIGINT)
    once(lambda: "stopping after this step" in log.read_text(), program)
    assert "faulty.py" in log.read_text().rpartition("stopping after this step")[2]
    program.send_signal(signal.SIGINT)
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 1, output
    assert "the same command goes on from step" in output
    assert saved(stage) == ["checkpoint-1"]
