"""Where metrics are sent: offline without a key, one run a stage."""

import os
import subprocess
import sys

import pytest

from qwen_align.errors import ConfigError
from qwen_align.tracking import Tracking

STAGES = """
import sys
from pathlib import Path
import wandb
from qwen_align.tracking import Tracking

for name in ("first", "second"):
    folder = Path(sys.argv[1])
    tracking = Tracking(report_to="wandb", project="test")
    tracking.start(folder)
    run = wandb.init()
    run.log({"loss": 1.0})
    tracking.finish({"headline_mean": 0.5})
    print(name, run.id, wandb.run)
"""


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    """No key of Weights & Biases anywhere, and an environment that is put back afterwards."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "WANDB_SILENT", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return monkeypatch


def test_offline_without_a_key(no_key, tmp_path):
    Tracking(report_to="wandb").start(tmp_path)
    assert os.environ["WANDB_MODE"] == "offline"


def test_online_with_a_key_in_the_environment(no_key, tmp_path):
    no_key.setenv("WANDB_API_KEY", "0" * 40)
    Tracking(report_to="wandb").start(tmp_path)
    assert os.environ["WANDB_MODE"] == "online"


def test_online_with_a_key_in_netrc(no_key, tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password " + "0" * 40 + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    Tracking(report_to="wandb").start(tmp_path)
    assert os.environ["WANDB_MODE"] == "online"


def test_a_netrc_that_can_not_be_read_is_no_key(no_key, tmp_path):
    (tmp_path / ".netrc").write_text("machine\n")
    Tracking(report_to="wandb").start(tmp_path)
    assert os.environ["WANDB_MODE"] == "offline"


def test_a_wish_for_online_is_respected_without_a_key(no_key, tmp_path):
    Tracking(report_to="wandb", mode="online").start(tmp_path)
    assert os.environ["WANDB_MODE"] == "online"


def test_a_wish_for_offline_is_respected_with_a_key(no_key, tmp_path):
    no_key.setenv("WANDB_API_KEY", "0" * 40)
    Tracking(report_to="wandb", mode="offline").start(tmp_path)
    assert os.environ["WANDB_MODE"] == "offline"


def test_another_mode_is_refused():
    with pytest.raises(ConfigError, match=r"tracking\.mode=of: expected auto, online or offline"):
        Tracking(report_to="wandb", mode="of")


def test_nobody_is_told_by_default(no_key, tmp_path):
    before = dict(os.environ)
    Tracking().start(tmp_path)
    assert dict(os.environ) == before


def test_tensorboard_writes_into_the_run_folder(no_key, tmp_path):
    Tracking(report_to="tensorboard").start(tmp_path)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")


def test_every_start_is_an_offline_run_of_its_own_in_the_run_folder(no_key, tmp_path):
    command = [sys.executable, "-c", STAGES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = [line.split() for line in done.stdout.splitlines() if line.split()[0] in ("first", "second")]
    assert first[1] != second[1]
    for _, run_id, still_open in (first, second):
        (run,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}")
        assert b"headline_mean" in (run / f"run-{run_id}.wandb").read_bytes()
        assert still_open == "None"
