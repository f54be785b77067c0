"""Math-Verify in a few killable processes: an answer in bounded wall-clock time, from any thread.

Math-Verify guards itself with SIGALRM, which only works on the main thread and can't stop every C loop; off it, scores have
silently become 0 (verl pull request 5635). Here a worker that is late is killed with SIGKILL and replaced, and the question
counted and logged. Plain `subprocess` and not `multiprocessing`: it neither imports the caller's `__main__` again nor forks a
process that has threads. This file is the worker's script too, so it imports nothing of the package. A worker whose parent is
gone ends: its standard input closes, and SIGALRM keeps its default action, which ends a process even inside a C loop. Only
Math-Verify's LaTeX reading is used: its plain reading hands text to sympy's `parse_expr`, which calls `eval`.
"""

import contextlib
import json
import logging
import os
import queue
import select
import subprocess
import sys
from typing import Any

TIME_LIMIT = 3.0  # seconds for one comparison
START_LIMIT = 60.0  # seconds for a worker to import sympy, on a busy machine
SIZE = max(1, min(4, os.cpu_count() or 1))  # workers
MEMORY_LIMIT = 2 << 30  # bytes of address space
FLOAT_DIGITS = 12  # decimals compared where a float meets an irrational number; 0.333333 must not pass for 1/3

_SCRIPT = __file__
_logger = logging.getLogger(__name__)
Worker = subprocess.Popen[bytes]


def _answer(worker: Worker, limit: float) -> Any:
    """The JSON that a worker writes, a line that a pipe takes in one piece; None if it ends or takes too many seconds."""
    assert worker.stdout is not None
    poll = select.poll()  # unlike select(), not limited to descriptors below 1024
    poll.register(worker.stdout, select.POLLIN)
    line = os.read(worker.stdout.fileno(), select.PIPE_BUF) if poll.poll(limit * 1000) else b""
    return json.loads(line) if line else None


def _end(worker: Worker) -> None:
    with worker:  # closes its pipes and waits for it
        worker.kill()


def _started() -> Worker:
    # -P keeps this folder, which has a math.py, off the worker's path; a session of its own keeps Ctrl-C away.
    command, pipe, none = [sys.executable, "-P", _SCRIPT, str(TIME_LIMIT)], subprocess.PIPE, subprocess.DEVNULL
    worker = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=none, start_new_session=True)
    if (greeting := _answer(worker, START_LIMIT)) is not True:
        _end(worker)
        reason = greeting or "no sign of life"
        raise RuntimeError(f"the worker for Math-Verify did not start ({reason}); is math-verify installed?")
    return worker


_places: queue.LifoQueue[Worker | None]
_undecided: list[str]


def _reset() -> None:
    """So many places, each for an idle worker; a forked child has its own and drops its parent's pipes, which closes them."""
    global _places, _undecided
    _places, _undecided = queue.LifoQueue(), []
    for _ in range(SIZE):
        _places.put(None)


_reset()
os.register_at_fork(after_in_child=_reset)


def equal(gold: str, candidate: str) -> bool | None:
    """Whether Math-Verify holds two LaTeX expressions equal; None, counted, if it doesn't say within TIME_LIMIT."""
    worker, answer = _places.get(), None
    try:
        if worker is None or worker.poll() is not None:  # somebody else may end it while it is idle
            worker = None
            worker = _started()
        with contextlib.suppress(OSError):
            worker.stdin.write(json.dumps([gold, candidate]).encode() + b"\n")  # type: ignore[union-attr]
            answer = _answer(worker, TIME_LIMIT)
    finally:
        if worker is not None and answer is None:
            _end(worker)
            worker = None
        _places.put(worker)
    if answer is None:
        _undecided.append(candidate)
        _logger.warning("Math-Verify gave no verdict within %s s on %.200r against %.200r", TIME_LIMIT, candidate, gold)
    return answer


def timeouts() -> int:
    """How many questions of this process got no verdict: out of time, or the worker died of them."""
    return len(_undecided)


def _work(time_limit: float) -> None:
    """Reads pairs of answers as JSON lines, writes whether Math-Verify holds them equal."""
    import resource
    import signal

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # antlr prints warnings, which must not mix with the answers
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        from math_verify import LatexExtractionConfig, parse, verify
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"[:500]), file=channel, flush=True)
        return
    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    print("true", file=channel, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, time_limit + 1)
        gold, candidate = (parse(rf"$\displaystyle {text}$", config, parsing_timeout=None) for text in json.loads(line))
        equal = verify(gold, candidate, float_rounding=FLOAT_DIGITS, timeout_seconds=None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(bool(equal)), file=channel, flush=True)


if __name__ == "__main__":
    _work(float(sys.argv[1]))
