"""A stage: read the resolved config, build the data, call the method, write its metrics.

The parent starts `python -m qwen_align.stage.worker RUN_FOLDER`, once, or through a launcher as many times as there are
processes; or `fork_server` forks one. A worker whose parent dies gets SIGTERM.
"""

import atexit
import ctypes
import gc
import io
import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from qwen_align import interrupt, run_folder
from qwen_align.compat import imports
from qwen_align.errors import ConfigError
from qwen_align.stage import ranks
from qwen_align.stage.launch import INTERRUPTED, USER_ERROR
from qwen_align.tracking import Tracking

_exit_code = 1  # of a process that did not come to its end


def end_with_parent(parent: int | None = None) -> None:
    """Let the parent's death be a SIGTERM; so it is at once where another process than `parent` is the parent by now."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
        if parent not in (None, os.getppid()):
            os.kill(os.getpid(), signal.SIGTERM)


def _end_with_stdin() -> None:
    # A launcher stands between this process and the parent, which holds the other end of stdin.
    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class _Output(io.FileIO):
    """stdout or stderr as long as the parent reads it, then log.txt: saving must not fail on a line that nobody reads."""

    folder: Path  # of the stage that this process is or will become

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            with (self.folder / "log.txt").open("ab") as log:
                os.dup2(log.fileno(), self.fileno())
            return super().write(data)


def _leave() -> NoReturn:
    """Taking all modules apart would take a third of a second with TRL among them."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(_exit_code)


def begin() -> None:
    """Before anything is imported, in a worker or in the process that is to fork workers."""
    atexit.register(_leave)  # the first that is registered is the last that is called
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(_Output(descriptor), encoding="utf-8", errors="replace", write_through=True) for descriptor in (1, 2)
    )
    warnings.filterwarnings("ignore", category=FutureWarning)
    gc.disable()  # until all is imported: looking for garbage among modules would take a quarter of the start


def run(folder: Path) -> int:
    """Be the worker of a stage, after `begin`."""
    global _exit_code
    _Output.folder = folder
    interrupt.install()
    _exit_code = _run(folder, os.environ.get("QWEN_ALIGN_LAUNCHER"))
    return _exit_code


def _run(folder: Path, launcher: str | None) -> int:
    if not launcher:
        return run_stage(folder)
    rank, _ = ranks.place()
    ranks.write_status(folder, rank)
    if os.environ.get("QWEN_ALIGN_LIFELINE"):
        _end_with_stdin()
    if rank > 0:
        run_folder.read_only = True
        _own_log(folder, rank)
    code = run_stage(folder, rank)
    # A launcher that sees a failure kills the rest, and rank 0 may be saving still.
    return 0 if rank > 0 and code == INTERRUPTED else code


def _own_log(folder: Path, rank: int) -> None:
    """The output of C libraries too."""
    with (folder / f"log-rank{rank}.txt").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def work(folder: Path) -> dict[str, Any]:
    """Do what config.yaml says; returns what metrics.json holds."""
    if not os.environ.get("QWEN_ALIGN_LAUNCHER"):
        imports.defer()
    import torch
    from transformers import set_seed
    from transformers.utils import logging

    from qwen_align import data
    from qwen_align.config import component, job
    from qwen_align.device import on_gpu

    config: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))  # type: ignore[assignment]
    asked = job.read(run_folder.read_json(folder / "run.json")["method"], config)
    logging.disable_progress_bar()  # loading and saving; training and sampling keep theirs
    set_seed(asked.seed)
    if (processes := ranks.place()[1]) != asked.hardware.processes:
        raise RuntimeError(f"hardware.processes={asked.hardware.processes}, but {processes} were started")
    device = torch.cuda.get_device_name() if on_gpu(asked.hardware) else "cpu"
    run_folder.update(folder, device=device, threads=torch.get_num_threads(), zero_stage=asked.hardware.zero_stage)
    rows = data.load(config["data"])
    tracking: Tracking = component.construct(config["tracking"], "tracking")
    tracking.start(folder)
    metrics: dict[str, Any] = {}
    try:
        method = component.locate(asked.method["_target_"], "method._target_")
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        metrics = method(asked, rows, folder)
    finally:
        tracking.finish({k: v for k, v in metrics.get("headline", {}).items() if isinstance(v, float)})
    return metrics


def peak_memory_mb() -> float:
    """The most main memory that this process has held; getrusage would count the program too that started it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_stage(folder: Path, rank: int | None = None) -> int:
    """Run one stage and record how it ended; the exit code tells the parent. `rank` is of a process that a launcher started."""
    processes = ranks.place()[1]
    run_folder.update(folder, state="running", pid=os.getpid(), started=round(time.time()), world_size=processes, error=None)
    ended: dict[str, Any] = {"state": "failed", "error": None}
    try:
        run_folder.write_json(folder / "metrics.json", work(folder))
        run = {"finished": round(time.time()), "peak_memory_mb": round(peak_memory_mb())}
        code, ended = 0, {"state": "finished", "error": None, **run}
    except interrupt.Interrupted:
        code, ended["state"] = INTERRUPTED, "interrupted"
    except ConfigError as error:
        code, ended["error"] = USER_ERROR, str(error)
    except Exception as error:
        traceback.print_exc()
        if interrupt.asked():  # to this rank another one that stopped at once is an error
            code, ended["state"] = INTERRUPTED, "interrupted"
        else:
            code, ended["error"] = 1, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    run_folder.update(folder, **ended)
    if rank is not None:
        ranks.write_status(folder, rank, ended=time.time(), error=ended["error"], code=code)
    return code


def main() -> int:
    """A process of its own."""
    begin()
    end_with_parent()
    return run(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
