"""Stages forked by a process that has its imports behind it: what they share with a fresh process, and what they don't."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from processes import gone, once
from tiny import TINY

from qwen_align import run_folder
from qwen_align.hardware import Hardware
from qwen_align.stage import fork_server, launch, run
from qwen_align.stage.fork_server import ForkServer
from qwen_align.stage.launch import INTERRUPTED, Child

CPU = Hardware(device="cpu", threads=1)
HERE = str(Path(__file__).parent.parent)


@pytest.fixture(scope="module", autouse=True)
def found_by_children():
    """Modules of tests/ and of a test's own folder can be imported by what a test starts."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [before])])
    yield
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture
def server_of(tmp_path, monkeypatch):
    """server_of(name, text): a server that imports a module of this text."""
    servers = []

    def make(name: str, text: str) -> ForkServer:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
        servers.append(ForkServer(launch.environment(CPU), [name]))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def forked(server: ForkServer, folder: Path) -> Child:
    """A stage of the server in this folder, which holds nothing that a stage could do."""
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        return Child(folder, CPU, lock.fileno(), shown=False, server=server)


@pytest.mark.slow
def test_stages_of_one_server_import_once_and_each_log_has_what_was_said_then(tmp_path, server_of):
    server = server_of("counted", f"open({str(tmp_path / 'imports')!r}, 'a').write('once '); print('beware')")
    assert [forked(server, tmp_path / name).wait() for name in ("one", "two")] == [1, 1], "folders without config.yaml"
    assert (tmp_path / "imports").read_text() == "once "
    logs = [(tmp_path / name / "log.txt").read_text() for name in ("one", "two")]
    assert all(log.startswith("beware\n") and "config.yaml" in log for log in logs)


def test_a_stage_with_other_threads_gets_a_process_of_its_own(tmp_path, server_of):
    server = server_of("nothing", "")
    environment = launch.environment(Hardware(device="cpu", threads=2))
    assert server.fork(tmp_path, environment, lock=0) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(9,), name='busy', daemon=True).start()", "(busy)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with exit code -9"),
        ("import no_such_module", "ended with exit code 1"),
    ],
)
def test_a_server_that_can_not_fork_leaves_one_line_and_stages_start_afresh(tmp_path, server_of, capsys, text, reason):
    server = server_of("bad", text)
    with (tmp_path / ".lock").open("w") as lock:
        found = [server.fork(tmp_path, launch.environment(CPU), lock.fileno()) for _ in range(2)]
    assert found == [None, None]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("stages start in fresh processes, not from the fork server: ")
    assert reason in line


def test_a_thread_or_an_open_gpu_is_a_reason_not_to_fork(monkeypatch):
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="a reward's")
    thread.start()
    assert "runs threads (" in fork_server._unusable() and "a reward's" in fork_server._unusable()
    ended.set()
    thread.join()
    monkeypatch.setattr(os.path, "islink", lambda path: True)
    monkeypatch.setattr(os, "readlink", lambda path: "/dev/nvidiactl")
    assert "GPU" in fork_server._unusable()


def test_stages_draw_other_names_for_rows_in_the_cache():
    from datasets import fingerprint

    state = fingerprint.fingerprint_rng.getstate()
    fork_server._seed_anew()
    assert fingerprint.fingerprint_rng.getstate() != state
    assert fingerprint.generate_random_fingerprint() and isinstance(fingerprint.fingerprint_rng, random.Random)


def test_only_one_process_on_a_cpu_is_forked():
    assert launch.forkable(CPU) == (sys.platform == "linux")
    assert not launch.forkable(Hardware(device="cpu", processes=2))


@pytest.fixture
def prepared(tmp_path, stages_of):
    """prepared(seed, **asked): the folder of a stage that does what slow_stage is asked."""

    def make(seed: int, **asked: float) -> Path:
        (stage,) = stages_of(*TINY, "method=sft", "hardware.threads=1", f"seed={seed}", f"runs_dir={tmp_path}")
        run.prepare(stage, afresh=False)
        config = stage.folder / "config.yaml"
        settings = yaml.safe_load(config.read_text())
        settings["method"]["_target_"] = "slow_stage.work"
        config.write_text(yaml.safe_dump(settings))
        (stage.folder / "asked.json").write_text(json.dumps(asked))
        return stage.folder

    return make


@pytest.mark.slow
def test_stages_of_a_server_are_stopped_killed_and_measured_as_fresh_processes_are(prepared, tmp_path, server_of):
    server = server_of("warm", "import torch, transformers, datasets")
    large, small = prepared(1, megabytes=400), prepared(4)
    stopped, killed = prepared(2, seconds=60), prepared(3, seconds=60)
    assert forked(server, large).wait() == 0
    children = [forked(server, stopped), forked(server, killed)]
    once(lambda: all((folder / "began").is_file() for folder in (stopped, killed)))
    assert {(folder / "began").read_text() for folder in (large, stopped, killed)} == {str(os.getpid())}, "not the server's"
    children[0].ask_to_stop()
    os.killpg(children[1].process.pid, signal.SIGKILL)
    assert [child.wait() for child in children] == [INTERRUPTED, -signal.SIGKILL]
    os.kill(server._process.pid, signal.SIGKILL)
    assert run_folder.state(stopped) == "interrupted"

    peaks = [run_folder.read_json(large / "run.json")["peak_memory_mb"]]
    assert forked(server, small).wait() == 0, "a fresh process, since the server is gone"
    peaks.append(run_folder.read_json(small / "run.json")["peak_memory_mb"])
    assert 280 < peaks[0] - peaks[1] < 450, "its own memory is in it, and what the server read of libraries once is not"


@pytest.mark.slow
def test_a_stage_and_its_server_end_with_the_program(prepared, tmp_path):
    folder = prepared(1, seconds=60)
    script = (
        "import sys, time; from pathlib import Path; from qwen_align.hardware import Hardware\n"
        "from qwen_align.stage import launch; from qwen_align.stage.fork_server import ForkServer\n"
        "folder, hardware = Path(sys.argv[1]), Hardware(device='cpu', threads=1)\n"
        "server = ForkServer(launch.environment(hardware), ['json'])\n"
        "with (folder / '.lock').open('w') as lock:\n"
        "    child = launch.Child(folder, hardware, lock.fileno(), server=server)\n"
        "print(child.process.pid, server._process.pid, flush=True); time.sleep(60)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    pids = [int(text) for text in program.stdout.readline().split()]
    once((folder / "began").is_file, program)
    program.kill()
    program.wait()
    once(lambda: all(map(gone, pids)))
    assert run_folder.state(folder) == "interrupted", "it was asked to stop, and could save"
