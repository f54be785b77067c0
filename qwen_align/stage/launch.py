"""A stage -> its processes: argv, environment, output on the terminal and in log.txt, their end.

One process on a CPU is forked by a server that has its imports behind it, where there is one; else each is a fresh one.
They have a session of their own, so Ctrl-C reaches them once, through the parent, as SIGTERM; a second Ctrl-C kills them. A
launcher ends all processes when one fails, and this module says which one failed first. Rank 0 writes to log.txt, the others to
log-rank1.txt and so on.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from qwen_align import run_folder
from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware, find, search_path
from qwen_align.stage import ranks
from qwen_align.stage.fork_server import Forked, ForkServer
from qwen_align.stage.text import print_once

INTERRUPTED, USER_ERROR = 130, 2  # exit codes of a worker
_WORKER = "qwen_align.stage.worker"
_DEFAULTS = {"TOKENIZERS_PARALLELISM": "false", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
_FIXED = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # else transformers asks the Hub to convert each pickle that it loads
    "TQDM_MININTERVAL": "1",
    "DS_LOG_LEVEL": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
_ON_CPU = {
    # glibc gives a step's memory back to the kernel, which clears it anew for the next: up to a tenth of a step.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; a share of all memory otherwise, which takes a minute to clear
}


def environment(hardware: Hardware) -> dict[str, str]:
    """The children's environment. One process alone sees one GPU: TRL refuses several in one process."""
    around = ranks.PLACE if hardware.launcher != "srun" else ()  # of a launcher around this program
    inherited = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", *around)}
    # Modules beside a --config-dir are found as they are here; the children know no --config-dir.
    found = [*map(str, groups.extra), *filter(None, [os.environ.get("PYTHONPATH")])]
    values = _DEFAULTS | inherited | _FIXED | {"PATH": search_path(), "PYTHONPATH": os.pathsep.join(found)}
    values["QWEN_ALIGN_LAUNCHER"] = hardware.launcher if hardware.distributed else ""
    values["QWEN_ALIGN_LIFELINE"] = "stdin" if hardware.distributed and hardware.local else ""
    if not hardware.on_gpu:
        values = _ON_CPU | values | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}  # DeepSpeed would look for one
    elif hardware.local:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(hardware.processes)))
        values["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[: hardware.processes])
    if hardware.threads:
        values["OMP_NUM_THREADS"] = str(hardware.threads)
    return values


def command(hardware: Hardware, folder: Path) -> list[str]:
    """What starts the workers; `python -m deepspeed.launcher.runner` is the `deepspeed` command."""
    worker = [_WORKER, str(folder)]
    if not hardware.distributed:
        return [sys.executable, "-m", *worker]
    if hardware.launcher == "srun":
        tasks = f"--ntasks={hardware.processes}"
        return ["srun", tasks, "--kill-on-bad-exit=1", "--export=ALL", sys.executable, "-u", "-m", *worker]
    if hardware.hostfile is not None:
        where = ["--hostfile", str(find(hardware.hostfile))]
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:  # two runs on one machine would share the default port
            where = ["--master_port", str(free.getsockname()[1])]
        where += [] if hardware.on_gpu else ["--num_accelerators", str(hardware.processes)]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", "--log_level", "error"]
    return [*runner, *where, "--module", *worker]


def forkable(hardware: Hardware) -> bool:
    """Whether its one process may come from a fork server: on Linux, without a launcher and a GPU, which no fork can share."""
    return sys.platform == "linux" and not hardware.on_gpu and command(hardware, Path())[1:3] == ["-m", _WORKER]


class Child:
    """The processes of a stage, started; its output goes to log.txt, and to the terminal where `shown`.

    They inherit the open lock of the folder, so an orphan keeps others out until it is gone.
    """

    def __init__(
        self, folder: Path, hardware: Hardware, lock: int, shown: bool = True, server: ForkServer | None = None
    ) -> None:
        before = run_folder.read_json(folder / "run.json")
        was = (before.get("world_size", 1), before.get("zero_stage"))
        if run_folder.checkpoints(folder) and was != (hardware.processes, hardware.zero_stage):
            zero = f" with ZeRO-{was[1]}" if was[1] else ""
            raise ConfigError(
                f"hardware.processes={hardware.processes}, hardware.deepspeed={hardware.deepspeed}: this run was interrupted "
                f"with {was[0]} process(es){zero} and its checkpoints resume only so; expected the same hardware, or force=true"
            )
        ranks.clear_statuses(folder)
        if reason := hardware.idle_gpu:
            print_once(f"this runs on the CPU: {reason}")
        sys.stdout.flush()
        self.folder, self.hardware, self.shown = folder, hardware, shown
        self._log, self._line, self._log_failed = (folder / "log.txt").open("ab", buffering=0), b"", False
        values = environment(hardware)
        forked = server.fork(folder, values, lock) if server and forkable(hardware) else None
        self.process: Forked | subprocess.Popen[bytes] = forked or subprocess.Popen(
            command(hardware, folder),
            # DeepSpeed's launcher hands its stdin on: workers see it end when this program is gone.
            stdin=subprocess.PIPE if hardware.distributed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=values,
            start_new_session=True,
            pass_fds=(lock,),
        )

    def fileno(self) -> int:
        """Of its output, which becomes readable when there is some to copy."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def copy_output(self) -> bool:
        """Copy what it wrote, to the log without the steps of progress bars; whether there can be more."""
        chunk = os.read(self.fileno(), 65536)
        if self.shown:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        *complete, self._line = (self._line + chunk).split(b"\n")
        try:
            for text in complete if not self._log_failed else []:
                self._log.write(text.rstrip(b"\r").rpartition(b"\r")[2] + b"\n")
        except OSError as error:  # a full disk: the worker says what happened, and the terminal shows it
            self._log_failed = True
            print(f"log.txt ends here: {error.strerror}", flush=True)
        return bool(chunk)

    def wait(self) -> int:
        """Copy the rest of its output and wait for its end. Returns the exit code, negative for a signal."""
        while self.copy_output():
            pass
        with suppress(OSError):
            self._log.write(self._line.rpartition(b"\r")[2])
        code = self.process.wait()
        for stream in (self._log, self.process.stdout, self.process.stdin):
            if stream:
                stream.close()
        several = self.hardware.distributed and code not in (0, INTERRUPTED)
        return _first_error(self.folder, self.hardware.processes, code) if several else code

    def ask_to_stop(self) -> None:
        """SIGTERM to the workers, not to their launcher, which would kill them before they could save."""
        statuses = ranks.read_statuses(self.folder).values()
        here = [status for status in statuses if status["host"] == socket.gethostname() and not status.get("ended")]
        for status in here:
            with suppress(ProcessLookupError):
                os.kill(status["pid"], signal.SIGTERM)
        if not here:
            os.killpg(self.process.pid, signal.SIGTERM)


class Signals:
    """SIGINT, SIGTERM and SIGHUP, passed on to all children: as SIGTERM, then as SIGKILL; KeyboardInterrupt without a child."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.asked = False

    def __enter__(self) -> "Signals":
        watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._before = {number: signal.signal(number, self._forward) for number in watched}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, _signal: int, _frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        running = [child for child in self.children if child.process.poll() is None]
        if not self.children:
            raise KeyboardInterrupt
        for child in running:
            if again:
                os.killpg(child.process.pid, signal.SIGKILL)
            else:
                child.ask_to_stop()


def _first_error(folder: Path, processes: int, code: int) -> int:
    """Write into run.json why several processes ended, and show the log of the first that did; returns the exit code."""
    found = ranks.first_failure(ranks.read_statuses(folder), processes)
    if found is None:
        run_folder.update(folder, state="failed", error=f"the launcher ended with exit code {code} before a process began")
        return 1
    rank, error, code = found
    if rank:
        path = folder / f"log-rank{rank}.txt"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:] if path.is_file() else []
        title = f"rank {rank} of {processes} ended first; the end of {path.name}:"
        tail = "\n".join(f"    {line}" for line in (title, *lines))
        print(tail, flush=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            print(tail, file=log)
        error = error if code == USER_ERROR else f"rank {rank} of {processes}: {error}"
    run_folder.update(folder, state="failed", error=error)
    return code
