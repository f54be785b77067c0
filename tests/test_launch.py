"""Hardware settings and the child's environment."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen_align import launch
from qwen_align.errors import ConfigError
from qwen_align.launch import Hardware


@pytest.mark.parametrize("setting", [{"device": "tpu"}, {"precision": "fp8"}, {"processes": 3}])
def test_a_wrong_setting_names_its_key(setting):
    (key,) = setting
    with pytest.raises(ConfigError, match=rf"hardware\.{key}="):
        Hardware(**setting)


def test_a_gpu_that_is_not_there_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(launch, "has_gpu", lambda: False)
    with pytest.raises(ConfigError, match="no NVIDIA device"):
        Hardware(device="gpu")
    assert not Hardware(device="auto").on_gpu


def test_one_process_sees_one_gpu(monkeypatch):
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert Hardware(device="auto").environment()["CUDA_VISIBLE_DEVICES"] == "2"
    assert Hardware(device="cpu").environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_threads_reach_the_child():
    assert Hardware(device="cpu", threads=1).environment()["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in Hardware(device="cpu").environment()


def test_the_log_keeps_the_last_state_of_a_progress_bar(capfdbinary):
    read, write = os.pipe()
    os.write(write, b"begin\n 10%\r 50%\r100%\nend without newline")
    os.close(write)
    log = io.BytesIO()
    with os.fdopen(read, "rb", buffering=0) as source:
        launch._stream(source, log)
    assert log.getvalue() == b"begin\n100%\nend without newline"


def test_the_workers_exit_code_and_output_come_back(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        code = launch.run(tmp_path, Hardware(device="cpu"), lock.fileno())
    assert code == 1, "a folder without config.yaml is no run"
    assert "config.yaml" in (tmp_path / "log.txt").read_text()


def test_a_worker_ends_with_its_parent(tmp_path):
    script = (
        "import subprocess, sys\n"
        "code = 'from qwen_align.worker import _end_with_parent as e; import time; e(); print(1, flush=True); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    child = int(said.stdout)
    deadline = time.time() + 5
    while time.time() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the worker outlived its parent")
