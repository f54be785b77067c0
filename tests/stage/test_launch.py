"""How a stage is started: environment, argv, output, and the end of its processes."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from qwen_align import hardware, run_folder
from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware
from qwen_align.stage import launch
from qwen_align.stage.text import print_once


@pytest.fixture
def two_of_four_gpus(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: ["2", "3"])
    monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0", "13.0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")


def test_one_process_sees_one_gpu(two_of_four_gpus):
    assert launch.environment(Hardware(device="auto"))["CUDA_VISIBLE_DEVICES"] == "2"
    assert launch.environment(Hardware(device="cpu"))["CUDA_VISIBLE_DEVICES"] == ""


def test_several_processes_see_as_many_gpus(two_of_four_gpus):
    assert launch.environment(Hardware(device="gpu", processes=2))["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_threads_reach_the_child(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.environment(Hardware(device="cpu", threads=1))["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in launch.environment(Hardware(device="cpu"))


def test_a_step_on_a_cpu_keeps_the_memory_of_the_last_unless_the_user_says_otherwise(two_of_four_gpus, monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert launch.environment(Hardware(device="cpu"))["MALLOC_TRIM_THRESHOLD_"] == str(2**30)
    assert "MALLOC_TRIM_THRESHOLD_" not in launch.environment(Hardware(device="gpu"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert launch.environment(Hardware(device="cpu"))["MALLOC_TRIM_THRESHOLD_"] == "1"


def test_a_launcher_around_the_program_is_not_mistaken_for_ours(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert not {"RANK", "WORLD_SIZE"} & launch.environment(Hardware(device="cpu")).keys()


def test_one_process_needs_no_launcher(tmp_path):
    assert launch.command(Hardware(device="cpu"), tmp_path) == [sys.executable, "-m", "qwen_align.stage.worker", str(tmp_path)]


@pytest.mark.parametrize("deepspeed", [None, "launch/zero2.json"])
def test_several_processes_are_started_by_deepspeed_on_a_port_of_their_own(tmp_path, deepspeed):
    wanted = Hardware(device="cpu", processes=2, deepspeed=deepspeed)
    argv = launch.command(wanted, tmp_path)
    assert argv[1:4] == ["-m", "deepspeed.launcher.runner", "--no_local_rank"]
    assert argv[-3:] == ["--module", "qwen_align.stage.worker", str(tmp_path)]
    assert argv[argv.index("--num_accelerators") + 1] == "2"
    ports = {launch.command(wanted, tmp_path)[argv.index("--master_port") + 1] for _ in range(3)}
    assert len(ports) > 1


def test_several_machines_are_named_to_deepspeed(tmp_path):
    (tmp_path / "hosts").write_text("node-1 slots=8\nnode-2 slots=8\n")
    argv = launch.command(Hardware(device="gpu", processes=16, hostfile=str(tmp_path / "hosts")), tmp_path)
    assert argv[argv.index("--hostfile") + 1] == str(tmp_path / "hosts")
    assert "--num_accelerators" not in argv


@pytest.fixture
def in_a_slurm_job(monkeypatch):
    for name, value in {"SLURM_JOB_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}.items():
        monkeypatch.setenv(name, value)


def test_slurm_starts_a_task_for_each_process(tmp_path, in_a_slurm_job):
    wanted = Hardware(device="gpu", processes=4, launcher="srun")
    argv = launch.command(wanted, tmp_path)
    assert argv[:2] == ["srun", "--ntasks=4"]
    assert argv[-3:] == ["-m", "qwen_align.stage.worker", str(tmp_path)]
    assert launch.environment(wanted)["MASTER_ADDR"] == "127.0.0.1"


def test_a_run_does_not_go_on_from_checkpoints_of_another_world(tmp_path):
    step = tmp_path / "checkpoints" / "checkpoint-2"
    step.mkdir(parents=True)
    for name in ("trainer_state.json", "scheduler.pt", "optimizer.pt"):
        (step / name).write_text('{"global_step": 2}')
    for rank in range(2):
        zipfile.ZipFile(step / f"rng_state_{rank}.pth", "w").close()  # what torch.save writes is a zip
    run_folder.update(tmp_path, world_size=2, zero_stage=None)
    with (tmp_path / ".lock").open("w") as lock, pytest.raises(ConfigError, match=r"with 2 process\(es\).*force=true"):
        launch.Child(tmp_path, Hardware(device="cpu"), lock.fileno())


def run_of(monkeypatch, folder: Path, script: str) -> int:
    """The exit code of a stage whose process is this script."""
    monkeypatch.setattr(launch, "command", lambda hardware, folder: [sys.executable, "-c", script])
    with (folder / ".lock").open("w") as lock:
        return launch.Child(folder, Hardware(device="cpu"), lock.fileno()).wait()


def test_the_log_keeps_the_last_state_of_a_progress_bar(tmp_path, monkeypatch, capfdbinary):
    output = rb"begin\n 10%\r 50%\r100%\nend without newline"
    assert run_of(monkeypatch, tmp_path, f"import os; os.write(1, b'{output.decode()}')") == 0
    assert (tmp_path / "log.txt").read_bytes() == b"begin\n100%\nend without newline"


def test_a_log_that_can_not_be_written_ends_no_stage(tmp_path, monkeypatch, capfd):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    assert run_of(monkeypatch, tmp_path, "print('one'); print('two')") == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ["log.txt ends here: No space left on device", "one", "two"]


def test_modules_beside_a_users_configuration_are_found_by_the_children(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "extra", [tmp_path])
    (tmp_path / "my_module.py").write_text("print('found')")
    assert run_of(monkeypatch, tmp_path, "import my_module") == 0
    assert (tmp_path / "log.txt").read_text() == "found\n"


def test_an_idle_gpu_is_mentioned_once(tmp_path, two_of_four_gpus, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0+cpu", None))
    monkeypatch.setattr(launch, "command", lambda hardware, folder: [sys.executable, "-c", ""])
    print_once.cache_clear()
    for _ in range(2):
        with (tmp_path / ".lock").open("w") as lock:
            launch.Child(tmp_path, Hardware(device="auto"), lock.fileno()).wait()
    assert capsys.readouterr().out.count("this runs on the CPU: a GPU is visible, but the installed torch") == 1


@pytest.mark.slow
def test_the_workers_exit_code_and_output_come_back(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        code = launch.Child(tmp_path, Hardware(device="cpu"), lock.fileno()).wait()
    assert code == 1, "a folder without config.yaml is no run"
    assert "config.yaml" in (tmp_path / "log.txt").read_text()


def test_a_worker_ends_with_its_parent(tmp_path):
    script = (
        "import subprocess, sys\n"
        "code = 'from qwen_align.stage.worker import end_with_parent as e; import time; '\n"
        "code += 'e(); print(1, flush=True); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    child = int(parent.stdout)
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
