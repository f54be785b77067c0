"""What the entrypoint costs: the same sft and rloo job through it and through a plain TRL script, side by side.

Both start from one policy and one file of rows, train as many steps and save the model. Counted are the training loop as the
trainer itself reports it, and the whole process with start-up. Each run has an empty datasets cache, so both tokenise. The
first pair of each method warms the disk's cache and is left out. The two of a pair run at the same time, each on one core, and
change cores from pair to pair: one after the other, equal runs differ by 10 % and more on a shared machine.
"""

import filecmp
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from qwen_align import run_folder
from qwen_align.bench import Row
from qwen_align.config import groups
from qwen_align.data import load

STEPS = {"sft": 100, "rloo": 20}
_VIEWS = {"sft": "demonstrations", "rloo": "prompts"}
_COMMON = """model=countdown_tiny data=local data.verifier=countdown reward=countdown hardware=cpu name=null
    max_completion_length=28 method.args.activation_checkpointing=false method.args.lr_scheduler_type=linear
    method.args.warmup_steps=0"""
_OWN = {
    "sft": """method.batch_size=64 method.args.per_device_train_batch_size=64 method.args.learning_rate=1e-3
        method.args.max_length=64""",
    "rloo": """method.prompts_per_step=16 method.args.per_device_train_batch_size=128 method.args.num_generations=8
        method.args.beta=0.0 method.args.learning_rate=5e-5 method.held_out_every=null""",
}


def overrides(method: str, start: str | Path, rows: Path, out: Path, steps: int) -> list[str]:
    """The job of the plain script as the entrypoint is asked for it."""
    own = [f"method={method}", f"init={start}", f"data.{_VIEWS[method]}_path={rows}", f"runs_dir={out}"]
    own += [f"method.args.max_steps={steps}", f"method.args.save_steps={10 * steps}"]
    return [*_COMMON.split(), *_OWN[method].split(), *own]


def _run(command: list[str]) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": cache, "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return seconds, done.stdout


def ours(method: str, start: Path, rows: Path, out: Path) -> tuple[float, float]:
    """(seconds of the training loop, of the whole process) through the entrypoint."""
    seconds, _ = _run([sys.executable, "-m", "qwen_align", *overrides(method, start, rows, out, STEPS[method])])
    (metrics,) = out.glob(f"{method}-*/metrics.json")
    return float(run_folder.read_json(metrics)["train"]["train_seconds"]), seconds


def plain(method: str, start: Path, rows: Path, out: Path) -> tuple[float, float]:
    """The same of the plain script."""
    command = [sys.executable, "-m", "qwen_align.bench.plain", method, start / "model", rows, out, STEPS[method]]
    seconds, output = _run([str(argument) for argument in command])
    return float(json.loads(output.splitlines()[-1])["train_runtime"]), seconds


def _side_by_side(works: Sequence[Callable[[], tuple[float, float]]], turn: int) -> list[tuple[float, float]]:
    """What each gives, all at the same time; on Linux each on a core of its own, which children inherit from their thread."""

    def placed(index: int) -> tuple[float, float]:
        if sys.platform == "linux":
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[(index + turn) % len(cores)]})
        return works[index]()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(placed, range(len(works))))


def _prepared(folder: Path) -> tuple[Path, dict[str, Path]]:
    """A policy that was trained for some steps, and the rows of each method."""
    small = {"problems": 8000, "evaluation_problems": 100, "count": [3, 3], "numbers": [1, 20], "target": [1, 100]}
    small |= {"largest": 100, "prompt": "Numbers {numbers} target {target}"}
    data = load(groups.read("data", "countdown") | small)
    files = {"sft": folder / "demonstrations.jsonl", "rloo": folder / "prompts.jsonl"}
    for method, path in files.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in data.rows(_VIEWS[method])), encoding="utf-8")
    _run([sys.executable, "-m", "qwen_align", *overrides("sft", "base", files["sft"], folder, 300)])
    (start,) = folder.glob("sft-*")
    return start, files


def row_of(name: str, mine: list[float], theirs: list[float], note: str) -> Row:
    """One row of the seconds of each pair; the spread is the whole range of their ratios."""
    ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
    one, other = (1 / statistics.median(values) for values in (mine, theirs))
    return Row(name, "runs", one, other, statistics.median(ratios), ratios[0], ratios[-1], len(ratios), note)


def run(rounds: int) -> list[Row]:
    """Two rows a method; the spread is the whole range of the pairs' ratios."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        start, files = _prepared(Path(name))
        for method, rows in files.items():
            times, same = [], 0
            for turn in tqdm(range(rounds + 1), desc=method):
                out = Path(name) / f"{method}-{turn}"
                works = [partial(way, method, start, rows, out / way.__name__) for way in (ours, plain)]
                times.append(_side_by_side(works, turn))
                (mine,) = (out / "ours").glob("*/model/model.safetensors")
                same += filecmp.cmp(mine, out / "plain" / "model.safetensors", shallow=False)
            for i, what in enumerate(("training loop", "whole process")):
                first, other = ([pair[way][i] for pair in times[1:]] for way in (0, 1))
                note = (
                    f"{STEPS[method]} steps; median {statistics.median(first):.1f} s and {statistics.median(other):.1f} s; "
                    f"bit for bit the same weights in {same} of {len(times)}"
                )
                found.append(row_of(f"{method}, {what}", first, other, note))
    return found
