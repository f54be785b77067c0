"""A process that has imported what stages need and forks one for each: a chain of stages pays its imports once.

The server forks twice, so that a stage becomes a child of the program itself, as a fresh process would be: the program waits
for it and signals it, and its death is a SIGTERM to the stage. A server that is killed takes no stage along; stages to come
start in fresh processes. It has no CUDA context and no Python thread, neither of which outlives a fork, and a stage gets no
random state of it that is not seeded anew. Left out, with fresh processes as before: GPUs, launchers, systems other than Linux,
and a stage whose environment is another one, since OMP_NUM_THREADS and MALLOC_* are read when a process starts.
"""

import ctypes
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_BECOME_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: an orphan among what this process started becomes its child
_MESSAGE = 65536
_FIRST, _LATER = "qwen_align.method.fit", ("qwen_align.metric.pass_at_k", "scipy.stats", "sympy")  # of any stage


class Forked:
    """A stage that the server forked, with what launch asks of a Popen."""

    stdin = None

    def __init__(self, pid: int, output: int) -> None:
        self.pid, self.stdout = pid, open(output, "rb", buffering=0)  # noqa: SIM115
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        code = self._ended(0)
        assert code is not None
        return code

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class ForkServer:
    """The server as the program sees it. It begins to import at once; `fork` waits for the end of that."""

    def __init__(self, environment: dict[str, str], modules: Iterable[str]) -> None:
        ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1)
        self._key, self._closed = (environment, os.getcwd()), False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *modules],
                stdin=theirs.fileno(),
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def fork(self, folder: Path, environment: dict[str, str], lock: int) -> Forked | None:
        """A process for the stage of a run folder, which holds its lock too; None where it has to be a fresh one."""
        if (environment, os.getcwd()) != self._key or self._closed:
            return None
        output, end = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps([str(folder), os.getpid()]).encode()], [end, lock])
            reply = self._socket.recv(_MESSAGE)
        except OSError:
            reply = b""
        except BaseException:  # Ctrl-C while it imports
            os.close(output)
            raise
        finally:
            os.close(end)
        pid, reason = json.loads(reply) if reply else (0, "")
        if pid:
            return Forked(pid, output)
        os.close(output)
        if not reply:
            with suppress(subprocess.TimeoutExpired):
                reason = f"it ended with exit code {self._process.wait(5)}"
        self.close()
        print(f"stages start in fresh processes, not from the fork server: {reason}", flush=True)
        return None

    def close(self) -> None:
        """End the server; stages that it forked go on."""
        self._closed = True
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _unusable() -> str:
    """Why this process must not fork; "" if it may."""
    open_files = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    if any(os.path.islink(path) and os.readlink(path).startswith("/dev/nvidia") for path in open_files):
        return "something that it imported opened the GPU"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return f"something that it imported runs threads ({', '.join(others)})" if others else ""


def _fork_twice() -> int | None:
    """The id of a process whose parent has ended, 0 if none could be made; None in that process itself."""
    read, write = os.pipe()
    between = os.fork()
    if not between:
        pid = -1
        try:
            os.setsid()
            if pid := os.fork():
                os.setpgid(pid, pid)  # before the program can want to signal all that the stage starts
                os.write(write, str(pid).encode())
        except OSError as error:
            print(f"no process for a stage: {error}", file=sys.stderr)
        if pid:
            os._exit(0)
        os.close(read)
        os.close(write)
        return None
    os.close(write)
    os.waitpid(between, 0)
    with open(read, "rb") as found:
        return int(found.read() or 0)


def _seed_anew() -> None:
    """Else stages of one server would give rows that no hash names the same file in the cache."""
    if "datasets" in sys.modules:
        from datasets import fingerprint

        fingerprint.fingerprint_rng.seed()


def _adopt(program: int, output: int) -> None:
    """Become a stage: with its output, and the program for a parent."""
    from qwen_align.stage import worker

    printed = os.pread(1, _MESSAGE, 0)  # while the server imported
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    with suppress(BrokenPipeError):
        os.write(1, printed)
    _seed_anew()
    deadline = time.monotonic() + 10
    while os.getppid() != program and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.end_with_parent(program)


def main() -> int:
    """Import, then fork for each request until there are none; in a stage, what the stage returns."""
    from qwen_align.compat import imports
    from qwen_align.stage import worker

    connection, modules = socket.socket(fileno=os.dup(0)), sys.argv[1:]
    worker.begin()
    worker.end_with_parent()
    imports.defer()
    importlib.import_module(modules[0] if modules else _FIRST)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE, 2)
        if not message:
            return 0
        (folder, program), reason = json.loads(message), _unusable()
        gc.freeze()
        pid = 0 if reason else _fork_twice()
        if pid is None:
            connection.close()
            _adopt(program, descriptors[0])
            return worker.run(Path(folder))
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(json.dumps([pid, reason or "no process could be made"]).encode())
        for name in (*modules, *_LATER):  # while the first stage works
            imports.run(importlib.import_module(name))


if __name__ == "__main__":
    sys.exit(main())
