"""The program as a user starts it, in processes of its own: start it, wait for a moment in its life, compare weights."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from qwen_align import run_folder
from qwen_align.stage import worker

Program = subprocess.Popen[str]


def start(runs: Path, *overrides: str) -> Program:
    """The program with its run folders in `runs`; it finds the modules of tests/ too."""
    runs.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    argv, environment = [sys.executable, "-m", "qwen_align", *overrides, f"runs_dir={runs}"], {"PYTHONPATH": path}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(argv, **streams, text=True, cwd=runs, env=os.environ | environment)


def finish(program: Program) -> tuple[int, str]:
    """Wait for its end: (exit code, output)."""
    output, _ = program.communicate(timeout=600)
    return program.returncode, output


def once(condition: Callable[[], object], program: Program | None = None) -> None:
    """Wait until it holds, as long as the program runs.

    Raises:
        AssertionError: the program ended, or five minutes passed.
    """
    deadline = time.time() + 300
    while not condition():
        ended = program is not None and program.poll() is not None
        if ended or time.time() > deadline:
            if program:
                program.kill()
            raise AssertionError("it never came so far" + (f":\n{finish(program)[1][-3000:]}" if program else ""))
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def logged(folder: Path, key: str) -> list[float]:
    """The values of a key in metrics.jsonl, in the order of steps."""
    return [line[key] for line in run_folder.read_jsonl(folder / "metrics.jsonl") if key in line]


def weights(folder: Path) -> dict[str, Tensor]:
    """What a run folder holds as trained: the model and, if there is one, the adapter beside it."""
    files = [folder / "model" / "model.safetensors", *(folder / "adapter").glob("*.safetensors")]
    return {f"{path.name} {name}": value for path in files for name, value in load_file(path).items()}


def same_weights(one: Path | dict[str, Tensor], other: Path) -> bool:
    """Whether two run folders hold the same tensors, bit for bit; the first may be given as weights read before."""
    a, b = one if isinstance(one, dict) else weights(one), weights(other)
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def resumes_exactly(folder: Path, checkpoint: str) -> bool:
    """Whether a finished run, set back to this checkpoint, ends with its weights again; the worker is this process."""
    before, saved = weights(folder), run_folder.checkpoints(folder)
    for newer in saved[[path.name for path in saved].index(checkpoint) + 1 :]:
        shutil.rmtree(newer)
    shutil.rmtree(folder / "model")
    assert worker.run_stage(folder) == 0
    return same_weights(before, folder)
