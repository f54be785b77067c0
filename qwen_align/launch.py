"""A stage -> a child process: its argv, its environment, its output on the terminal and in log.txt, its end.

The child has a session of its own, so Ctrl-C reaches it once, through the parent, as SIGTERM; a second Ctrl-C kills it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, BinaryIO

from qwen_align.errors import ConfigError

INTERRUPTED, USER_ERROR = 130, 2  # exit codes of a worker


def has_gpu() -> bool:
    """Whether an NVIDIA device is there and visible, asked without importing torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and Path("/dev/nvidia0").exists()


@dataclass
class Hardware:
    """Where a stage runs."""

    device: str = "auto"
    processes: int = 1
    precision: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("device", self.device, ("auto", "cpu", "gpu")),
            ("precision", self.precision, ("auto", "fp32", "bf16", "fp16")),
        ):
            if value not in allowed:
                raise ConfigError(f"hardware.{key}={value}: expected one of {', '.join(allowed)}")
        if self.processes != 1:
            raise ConfigError(f"hardware.processes={self.processes}: this version starts one process; expected 1")
        if self.device == "gpu" and not has_gpu():
            raise ConfigError(
                "hardware.device=gpu: no NVIDIA device is visible here; hardware=cpu or hardware=auto works"
            )

    @property
    def on_gpu(self) -> bool:
        return self.device == "gpu" or (self.device == "auto" and has_gpu())

    def environment(self) -> dict[str, str]:
        """What the child's environment gets. One process sees one GPU: TRL refuses several in one process."""
        values = {
            "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1",
            "TQDM_MININTERVAL": "1", "DS_LOG_LEVEL": "error", "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        values["CUDA_VISIBLE_DEVICES"] = visible if self.on_gpu else ""
        if not self.on_gpu:
            values["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks for one otherwise, and says so
        if self.threads:
            values["OMP_NUM_THREADS"] = str(self.threads)
        return values


@contextmanager
def _forwarded(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Pass SIGINT, SIGTERM and SIGHUP on to the child: politely once, then for good."""
    asked = 0

    def forward(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM if asked == 1 else signal.SIGKILL)

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stream(source: IO[bytes], log: BinaryIO) -> None:
    """Copy output to the terminal as it comes, and to the log without the steps of progress bars."""
    line = b""
    while chunk := os.read(source.fileno(), 65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        *complete, line = (line + chunk).split(b"\n")
        for text in complete:
            log.write(text.rstrip(b"\r").rpartition(b"\r")[2] + b"\n")
        log.flush()
    log.write(line.rpartition(b"\r")[2])


def run(folder: Path, hardware: Hardware, lock: int) -> int:
    """Run the worker on a run folder and wait for it. Returns its exit code, negative for a signal.

    `lock` is the open lock of the folder: the child inherits it, so an orphan keeps others out until it is gone.
    """
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | hardware.environment()
    sys.stdout.flush()
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "qwen_align.worker", str(folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
        with _forwarded(child):
            assert child.stdout is not None
            _stream(child.stdout, log)
            return child.wait()
