"""A stage -> its processes: argv, environment, output on the terminal and in log.txt, their end.

They have a session of their own, so Ctrl-C reaches them once, through the parent, as SIGTERM; a second Ctrl-C kills them. Of
several processes the launcher ends all when one fails, and this module says which one it was. The first of them writes to
log.txt, the others to log-rank1.txt and so on.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import IO

import yaml

from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware, find, has_gpu, search_path
from qwen_align.stage import ranks, run_folder

__all__ = ["INTERRUPTED", "USER_ERROR", "Hardware", "has_gpu", "run"]
INTERRUPTED, USER_ERROR = 130, 2  # exit codes of a worker
# glibc gives a step's memory back to the kernel, which clears it anew for the next: up to a tenth of a step on a CPU.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
_VLLM = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
_VLLM_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB; a share of all memory otherwise, which takes a minute to clear


def environment(hardware: Hardware) -> dict[str, str]:
    """The children's environment. One process alone sees one GPU: TRL refuses several in one process."""
    around = ranks.PLACE if hardware.launcher != "srun" else ()  # of a launcher around this program
    dropped = ("HYDRA_FULL_ERROR", *around)
    values = {"TOKENIZERS_PARALLELISM": "false"} | {k: v for k, v in os.environ.items() if k not in dropped} | {
        "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # else transformers asks the Hub to convert each pickle that it loads
        "TQDM_MININTERVAL": "1", "DS_LOG_LEVEL": "error", "TRANSFORMERS_VERBOSITY": "error",
        "QWEN_ALIGN_LAUNCHER": hardware.launcher if hardware.distributed else "",
        "QWEN_ALIGN_LIFELINE": "stdin" if hardware.distributed and hardware.local else "",
        "PATH": search_path(),
    }  # fmt: skip
    values = _VLLM | values
    if not hardware.on_gpu:
        values["CUDA_VISIBLE_DEVICES"] = ""
        values["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks for one otherwise, and says so
        values = _KEEP_MEMORY | _VLLM_ON_CPU | values
    elif hardware.local:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(hardware.processes)))
        values["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[: hardware.processes])
    if hardware.threads:
        values["OMP_NUM_THREADS"] = str(hardware.threads)
    return values


@cache
def _say_once(text: str) -> None:
    print(text, flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(hardware: Hardware, folder: Path) -> list[str]:
    """What starts the workers; `python -m deepspeed.launcher.runner` is the `deepspeed` command."""
    worker = ["qwen_align.stage.worker", str(folder)]
    if not hardware.distributed:
        return [sys.executable, "-m", *worker]
    if hardware.launcher == "srun":
        tasks = f"--ntasks={hardware.processes}"
        return ["srun", tasks, "--kill-on-bad-exit=1", "--export=ALL", sys.executable, "-u", "-m", *worker]
    if hardware.hostfile is not None:
        where = ["--hostfile", str(find(hardware.hostfile))]
    else:
        where = ["--master_port", str(_free_port())]  # two runs on one machine would share the default
        if not hardware.on_gpu:
            where += ["--num_accelerators", str(hardware.processes)]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", "--log_level", "error"]
    return [*runner, *where, "--module", *worker]


def _ask_to_stop(folder: Path, child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the workers, not to their launcher, which would kill them before they could save."""
    words = ranks.words(folder).values()
    here = [word for word in words if word["host"] == socket.gethostname() and not word.get("ended")]
    for word in here:
        try:
            os.kill(word["pid"], signal.SIGTERM)
        except ProcessLookupError:
            continue
    if not here:
        os.killpg(child.pid, signal.SIGTERM)


@contextmanager
def _forwarded(child: "subprocess.Popen[bytes]", politely: Callable[[], None]) -> Iterator[None]:
    """Pass SIGINT, SIGTERM and SIGHUP on to the child: politely once, then for good."""
    asked = 0

    def forward(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if child.poll() is None and asked == 1:
            politely()
        elif child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stream(source: IO[bytes], log: FileIO) -> None:
    """Copy output to the terminal as it comes, and to the log without the steps of progress bars.

    A log that can't be written, on a full disk, ends no stage: the worker says what happened, and the terminal shows it.
    """
    line, lost = b"", False
    while chunk := os.read(source.fileno(), 65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        *complete, line = (line + chunk).split(b"\n")
        try:
            for text in complete if not lost else []:
                log.write(text.rstrip(b"\r").rpartition(b"\r")[2] + b"\n")
        except OSError as error:
            lost = True
            print(f"log.txt ends here: {error.strerror}", flush=True)
    with suppress(OSError):
        log.write(line.rpartition(b"\r")[2])


def _blame(folder: Path, processes: int, code: int) -> int:
    """Write into run.json why several processes ended, and show the log of the first that did; returns the exit code."""
    found = ranks.first_failure(ranks.words(folder), processes)
    if found is None:
        run_folder.update(
            folder, state="failed", error=f"the launcher ended with exit code {code} before a process began"
        )
        return 1
    rank, error, code = found
    if rank:
        name = f"log-rank{rank}.txt"
        path = folder / name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:] if path.is_file() else []
        tail = "".join(
            f"    {line}\n" for line in (f"rank {rank} of {processes} ended first; the end of {name}:", *lines)
        )
        print(tail, end="", flush=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(tail)
        error = error if code == USER_ERROR else f"rank {rank} of {processes}: {error}"
    run_folder.update(folder, state="failed", error=error)
    return code


def _same_as_before(folder: Path, hardware: Hardware) -> None:
    """Raise unless the checkpoints to go on from were written by as many processes, split in the same way."""
    before = run_folder.read_json(folder / "run.json")
    was = (before.get("world_size", 1), before.get("zero_stage"))
    if run_folder.checkpoints(folder) and was != (hardware.processes, hardware.zero_stage):
        zero = f" with ZeRO-{was[1]}" if was[1] else ""
        raise ConfigError(
            f"hardware.processes={hardware.processes}, hardware.deepspeed={hardware.deepspeed}: this run was interrupted with "
            f"{was[0]} process(es){zero} and its checkpoints resume only so; expected the same hardware, or force=true"
        )


def run(folder: Path, hardware: Hardware, lock: int) -> int:
    """Run the workers on a run folder and wait for them. Returns the exit code, negative for a signal.

    `lock` is the open lock of the folder: the child inherits it, so an orphan keeps others out until it is gone.
    """
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "args" not in config.get("method", {}):
        hardware = hardware.in_one_process()
    _same_as_before(folder, hardware)
    ranks.forget(folder)
    if reason := hardware.idle_gpu:
        _say_once(f"this runs on the CPU: {reason}")
    sys.stdout.flush()
    with (folder / "log.txt").open("ab", buffering=0) as log:
        child = subprocess.Popen(
            command(hardware, folder),
            # The launcher hands its stdin on: workers see it end when this program is gone.
            stdin=subprocess.PIPE if hardware.distributed else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(hardware), start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
        with _forwarded(child, lambda: _ask_to_stop(folder, child)):
            assert child.stdout is not None
            _stream(child.stdout, log)
            code = child.wait()
    return _blame(folder, hardware.processes, code) if hardware.distributed and code not in (0, INTERRUPTED) else code
