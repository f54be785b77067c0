"""Two processes at the same time, each on a core of its own, and the steps that they took meanwhile.

One after the other, equal runs differ by 10 % and more on a shared machine; at the same time both see the same neighbours.
Both train all the while. In each round each takes some whole steps, then they change cores; a step in which the change happened
counts for neither round. On a GPU, where two would disturb each other, one runs after the other, anew in each round.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Case = dict[str, Any]
PROGRAM = ("-m", "qwen_align.bench.process")
_SLACK = 0.02  # a share of a step: one that began so shortly before the change of cores is one of the new round


@dataclass
class Measured:
    """What one process did in one case."""

    peak_flops: float = 0.0
    start_seconds: float = 0.0  # from the start of the process to the end of its first step
    saving_seconds: float | None = None  # of one checkpoint
    reference_seconds_per_row: float = 0.0  # before the first step
    steps: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[list[dict[str, Any]]] = field(default_factory=list)


class Process:
    """A process of `qwen_align.bench.process` and what it has said so far."""

    def __init__(self, cases: Sequence[Case], environment: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path, self.log = folder / "cases.json", folder / "log.txt"
        path.write_text(json.dumps(cases), encoding="utf-8")
        self.reading, writing = os.pipe()
        self.began, self.found, self._rest = time.monotonic(), Measured(), b""
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [sys.executable, *PROGRAM, str(writing), str(path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                pass_fds=(writing,),
            )
        os.close(writing)

    def read(self) -> bool:
        """Take what it has to say; False once it has ended."""
        chunk = os.read(self.reading, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in map(json.loads, lines):
            if "step" in line:
                if not self.found.steps:
                    self.found.start_seconds = line["end"] - self.began
                self.found.steps.append(line)
            else:
                for name, value in line.items():
                    setattr(self.found, name, value)
        return bool(chunk)

    def failure(self) -> RuntimeError:
        """That it ended too early, with the end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return RuntimeError(f"a measured process ended (exit code {self.child.wait()}):\n{text[-3000:]}")

    def since(self, moment: float) -> list[dict[str, Any]]:
        """The whole steps from then on."""
        return [s for s in self.found.steps if s["begin"] >= moment - _SLACK * (s["end"] - s["begin"])]

    def next_case(self) -> Measured:
        """Forget this case; what was measured in it."""
        found, self.found = self.found, Measured()
        self.began = time.monotonic()
        return found

    def close(self) -> None:
        """End it, whatever it does."""
        self.child.kill()
        self.child.communicate()
        os.close(self.reading)


def place(pids: Sequence[int], turn: int) -> None:
    """Each process on a core of its own, another one each turn, with all its threads; only Linux can."""
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        for index, pid in enumerate(pids):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):  # a thread that has ended since
                    os.sched_setaffinity(int(task.name), {cores[(index + turn) % len(cores)]})


def _until(processes: Sequence[Process], ready: Any) -> None:
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.reading, selectors.EVENT_READ, process)
        while not all(ready(process) for process in processes):
            for key, _ in selector.select():
                if not key.data.read():
                    selector.unregister(key.fd)
                    if not ready(key.data):
                        raise key.data.failure()


def _case(processes: Sequence[Process], rounds: int, steps: int, seconds: float, pinned: bool) -> list[Measured]:
    """One case of all processes: a first step that counts for nothing, then so many rounds."""
    _until(processes, lambda process: process.found.steps)
    for turn in range(rounds):
        if pinned:
            place([process.child.pid for process in processes], turn)
        began = time.monotonic()

        def enough(process: Process, began: float = began) -> bool:
            taken = process.since(began)
            return len(taken) >= steps and taken[-1]["end"] - began >= seconds

        _until(processes, enough)
        for process in processes:
            process.found.rounds.append(process.since(began))
    for process in processes:
        assert process.child.stdin is not None
        process.child.stdin.write(b"\n")
        process.child.stdin.flush()
    _until(processes, lambda process: process.found.saving_seconds is not None)
    return [process.next_case() for process in processes]


def measure(
    sides: Mapping[str, Sequence[Case]],
    environments: Mapping[str, Mapping[str, str]],
    rounds: int,
    steps: int,
    seconds: float,
    together: bool = True,
) -> list[dict[str, Measured]]:
    """Side -> Measured, of each case in their order; a round has at least so many whole steps of each side, and seconds."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        if not together:
            return _in_turns(sides, environments, rounds, steps, seconds, Path(name))
        processes = [Process(cases, environments[side], Path(name) / side) for side, cases in sides.items()]
        for process in processes:
            stack.callback(process.close)
        place([process.child.pid for process in processes], 0)
        number = len(next(iter(sides.values())))
        found = [_case(processes, rounds, steps, seconds, pinned=True) for _ in range(number)]
    return [dict(zip(sides, case, strict=True)) for case in found]


def _in_turns(
    sides: Mapping[str, Sequence[Case]],
    environments: Mapping[str, Mapping[str, str]],
    rounds: int,
    steps: int,
    seconds: float,
    folder: Path,
) -> list[dict[str, Measured]]:
    """The same, one process at a time: each round starts each side anew, the first one last in every second round."""
    found: list[dict[str, Measured]] = [{} for _ in next(iter(sides.values()))]
    for turn in range(rounds):
        for side in list(sides)[:: 1 if turn % 2 else -1]:
            process = Process(sides[side], environments[side], folder / f"{side}-{turn}")
            try:
                for case in found:
                    (new,) = _case([process], 1, steps, seconds, pinned=False)
                    if side in case:
                        new.rounds, new.steps = case[side].rounds + new.rounds, case[side].steps
                    case[side] = new
            finally:
                process.close()
    return found
