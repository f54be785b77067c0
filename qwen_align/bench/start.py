"""From the command to the end of the first step: the whole entrypoint against a plain TRL script, side by side.

Both tokenise, since each run has an empty datasets cache. The first pair of a method warms the disk's cache and is left out.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwen_align.bench.row import Row
from qwen_align.bench.side_by_side import place
from qwen_align.bench.training import Job, Prepared, environments

_POLL = 0.02  # seconds


def trained(folder: Path, *overrides: str) -> Path:
    """The run folder of a stage that the entrypoint trained, all its needs first."""
    command = [sys.executable, "-m", "qwen_align", *overrides, f"runs_dir={folder / 'start'}", "evaluation.problems=1"]
    # One thread: two that wait for each other take four times as long on a machine that is busy.
    done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"} | dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return max((path.parent for path in (folder / "start").glob("*/model")), key=lambda path: path.stat().st_mtime)


def _seconds(command: list[str], environment: dict[str, str], log: Path, core: int, done: Callable[[], bool]) -> float:
    """Until `done`, or until it is over."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        place([child.pid], core)
        while child.poll() is None and not done():
            time.sleep(_POLL)
        seconds = time.monotonic() - began
        if child.wait() or not done():
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    return seconds


def _pair(prepared: Prepared, overrides: list[str], folder: Path, turn: int) -> tuple[float, float]:
    """(ours, theirs) in seconds, at the same time."""
    kinds = environments(prepared.hardware, folder / "cache")
    kinds["ours"] = dict(os.environ) | {k: v for k, v in kinds["ours"].items() if k in kinds["theirs"]}
    script = prepared.cases("batch")["theirs"]["plain"]
    script["args"] |= {"max_steps": 1, "output_dir": str(folder / "plain")}
    log = folder / "theirs.txt"
    ours = [sys.executable, "-m", "qwen_align", *overrides, f"runs_dir={folder}", "method.args.max_steps=1"]
    theirs = [sys.executable, "-m", "qwen_align.bench.plain", json.dumps(script)]
    logged = lambda: any(path.stat().st_size for path in folder.glob("*-*/metrics.jsonl"))  # noqa: E731
    trained = lambda: b"train_runtime" in log.read_bytes()  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(_seconds, ours, kinds["ours"], folder / "ours.txt", turn, logged)
        other = pool.submit(_seconds, theirs, kinds["theirs"], log, turn + 1, trained)
        return one.result(), other.result()


def run(jobs: list[Job], folder: Path, pairs: int, hardware: str) -> list[Row]:
    """A row for each job; a row is one start a second."""
    rows = []
    for job in jobs:
        prepared = Prepared(job.given("method.args.logging_steps=1"), folder / job.name, hardware)
        overrides = [
            *job.overrides,
            "method.args.logging_steps=1",
            f"init={prepared.start}",
            "name=null",
            f"hardware={hardware}",
        ]
        overrides += ["evaluation.problems=1", "evaluation.samples=1"]
        times = [_pair(prepared, overrides, folder / f"{job.name}-{turn}", turn) for turn in range(pairs + 1)][1:]
        mine, others = (statistics.median(side) for side in zip(*times, strict=True))
        ratios = sorted(b / a for a, b in times)
        note = f"from the command to the end of the first step: {mine:.1f} and {others:.1f} s"
        name = f"{job.name}, start, against TRL, our batch"
        ratio = statistics.median(ratios)
        rows.append(Row(name, "starts", 1 / mine, 1 / others, ratio, ratios[0], ratios[-1], len(ratios), note))
    return rows
