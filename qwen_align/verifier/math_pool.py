"""Math-Verify in a few killable processes: an answer in bounded wall-clock time, from any thread.

Math-Verify guards itself with SIGALRM, which only works on the main thread and can't stop every C loop; off it, scores have
silently become 0 (verl pull request 5635). Here a worker that is late is killed with SIGKILL and replaced, and the question
counted and logged. Plain `subprocess` and not `multiprocessing`: it neither imports the caller's `__main__` again nor forks a
process that has threads. Workers start when they are first needed, and end with the interpreter: their standard input closes.
"""

import atexit
import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

TIME_LIMIT = 3.0  # seconds for one comparison
START_LIMIT = 60.0  # seconds for a worker to import sympy, on a busy machine
SIZE = max(1, min(4, os.cpu_count() or 1))  # workers

_WORKER = Path(__file__).with_name("math_worker.py")
_logger = logging.getLogger(__name__)


class _Worker:
    """One process that answers one question at a time."""

    def __init__(self) -> None:
        # -P keeps this folder, which has a math.py, off the worker's path; a session of its own keeps Ctrl-C away.
        command = [sys.executable, "-P", str(_WORKER), str(TIME_LIMIT)]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=none, start_new_session=True)
        greeting = self._read_line(START_LIMIT)
        if greeting is None or "ready" not in greeting:
            self.kill()
            reason = json.loads(greeting)["error"] if greeting else "no sign of life"
            raise RuntimeError(f"the worker for Math-Verify did not start ({reason}); is math-verify installed?")

    def ask(self, gold: str, candidate: str) -> bool | None:
        """Whether the two are equal; None if the worker died of the question or ran out of time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([gold, candidate]).encode() + b"\n")
        except OSError:
            return None
        answer = self._read_line(TIME_LIMIT)
        return None if answer is None else json.loads(answer)

    def _read_line(self, limit: float) -> str | None:
        assert self.process.stdout is not None
        descriptor, deadline, received = self.process.stdout.fileno(), time.monotonic() + limit, b""
        poll = select.poll()  # unlike select(), not limited to descriptors below 1024
        poll.register(descriptor, select.POLLIN)
        while not received.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            if not (part := os.read(descriptor, 65536)):
                return None
            received += part
        return received.decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


class _Pool:
    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self.places = threading.BoundedSemaphore(SIZE)
        self.lock = threading.Lock()
        self.undecided = 0

    def ask(self, gold: str, candidate: str) -> bool | None:
        with self.places:
            with self.lock:
                worker = self.idle.pop() if self.idle else None
            if worker is not None and worker.process.poll() is not None:
                worker.kill()  # somebody else ended it while it was idle
                worker = None
            worker = worker or _Worker()
            answer = None
            try:
                answer = worker.ask(gold, candidate)
            finally:
                if answer is None:
                    worker.kill()
                else:
                    with self.lock:
                        self.idle.append(worker)
        if answer is None:
            with self.lock:
                self.undecided += 1
            _logger.warning("Math-Verify gave no verdict within %s s on %.200r against %.200r", TIME_LIMIT, candidate, gold)
        return answer

    def close(self) -> None:
        while self.idle:
            self.idle.pop().kill()


_pool = _Pool()


def equal(gold: str, candidate: str) -> bool | None:
    """Whether Math-Verify holds two LaTeX expressions equal; None, counted, if it doesn't say within TIME_LIMIT."""
    return _pool.ask(gold, candidate)


def timeouts() -> int:
    """How many questions of this process got no verdict: out of time, or the worker died of them."""
    return _pool.undecided


def _reset_after_fork() -> None:
    """A forked child must not talk over its parent's pipes, nor hold them open."""
    global _pool
    inherited, _pool = _pool, _Pool()
    for worker in inherited.idle:
        worker.close()
        worker.process.returncode = 0  # not this process's child: nothing to wait for


def _close(process: int = os.getpid()) -> None:
    if os.getpid() == process:
        _pool.close()


atexit.register(_close)
os.register_at_fork(after_in_child=_reset_after_fork)
