"""Kill training runs with SIGKILL at random moments, start them again, and compare their weights with undisturbed ones.

    python tests/kills.py [kills=20] [seed=0] [runs_dir=FOLDER] [cases=sft,rloo] [hardware=cpu_ddp ...]

A test kills at a chosen moment. Here it is drawn, from the first logged step to the end of the stage, so it
also falls into saving, into what follows the last step, and into a run that was killed before. So is the victim: one worker, or
the program with all that it started. A kill after the end does not count and is drawn again. Exit code 1 if any weight differs;
such run folders stay. Further overrides go to every run. Left out: power failures, which lose what is not on the disk yet.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
from conftest import planned
from processes import Program, finish, gone, logged, once, same_weights, start
from tiny import TINY, TINY_MODEL, under

from qwen_align import run_folder
from qwen_align.stage import ranks
from qwen_align.stage.text import table

_SHORT = ("hardware.threads=1", "evaluation.problems=2", "evaluation.samples=1")
_COUNTDOWN = (
    *(*TINY, *_SHORT, "data.problems=2000", "stages.sft.batch_size=32"),
    *under("stages.sft.args", "max_steps=160 per_device_train_batch_size=16 save_steps=1 logging_steps=1"),
    *under("stages.rloo.args", "max_steps=40 per_device_train_batch_size=32 save_steps=1"),
)
_INSTRUCT = (
    *("experiment=quickstart_instruct", *_SHORT, *TINY_MODEL, "data.problems=1600", "data.pairs=1600"),
    *("method.batch_size=16", *under("method.args", "max_steps=120 per_device_train_batch_size=8")),
    *under("method.args", "save_steps=1 logging_steps=1"),
)
START = (*_COUNTDOWN, "method=sft", "stages.sft.args.max_steps=400", "stages.sft.args.save_steps=400")  # of RLOO
CASES = {
    "sft": (*_COUNTDOWN, "method=sft"),
    "sft_lora": (*_COUNTDOWN, "method=sft", "adapter=lora"),
    "rloo": (*_COUNTDOWN, "method=rloo"),
    "rloo_lora": (*_COUNTDOWN, "method=rloo", "adapter=lora"),
    "dpo": (*_INSTRUCT, "method=dpo", "init=base"),
    "reward": (*_INSTRUCT, "method=reward", "reward=deberta_tiny"),
}


def trains(folder: Path, began: float) -> bool:
    """Whether a program that began then has logged a step; a resume writes the log anew before its first."""
    log = folder / "metrics.jsonl"
    return log.is_file() and log.stat().st_mtime > began and log.stat().st_size > 0


def undisturbed(name: str, overrides: tuple[str, ...], runs: Path) -> tuple[Path, float]:
    """Run in peace: the run folder, and the seconds from its first logged step to its end."""
    began, program, folder = time.time(), start(runs, *overrides), planned(*overrides, f"runs_dir={runs}")[-1].folder
    once(lambda: trains(folder, began), program)
    first = time.time()
    once(lambda: run_folder.state(folder) == "finished", program)
    seconds = time.time() - first
    assert (ended := finish(program))[0] == 0, ended[1]
    norms = logged(folder, "grad_norm")
    moving = sum(norm > 0 for norm in norms)
    assert moving > len(norms) / 2, f"{name}: {moving} of {len(norms)} steps move a weight; where none does, all is equal"
    print(f"{name}: {moving} of {len(norms)} logged steps have a gradient, {seconds:.1f} s undisturbed", flush=True)
    return folder, seconds


def kill(program: Program, folder: Path, everything: bool, rank: int) -> None:
    """SIGKILL to the program and all that it started, or to one worker; waits until all are gone."""
    family = [program.pid, *(child.pid for child in psutil.Process(program.pid).children(recursive=True))]
    of_ranks = [status["pid"] for _, status in sorted(ranks.read_statuses(folder).items())]
    workers = of_ranks or [run_folder.read_json(folder / "run.json")["pid"]]
    for pid in family if everything else [workers[rank % len(workers)]]:
        with suppress(ProcessLookupError):  # it ended with another one
            os.kill(pid, signal.SIGKILL)
    finish(program)
    once(lambda: all(map(gone, family)))


def found(folder: Path) -> str:
    """What a kill left: the last logged step, the newest checkpoint, and whether model/ was begun."""
    step = run_folder.read_jsonl(folder / "metrics.jsonl")[-1]["step"]
    steps = [int(path.name.rpartition("-")[2]) for path in (folder / "checkpoints").glob("checkpoint-*")]
    newest = folder / "checkpoints" / f"checkpoint-{max(steps, default=0)}"
    torn = " (incomplete)" if steps and newest not in run_folder.checkpoints(folder) else ""
    begun = ", model/ begun" if (folder / "model").exists() else ""
    return f"at step {step}, newest {newest.name if steps else 'none'}{torn}{begun}"


def disturbed(overrides: tuple[str, ...], runs: Path, moments: list[float], rng: random.Random) -> tuple[Path, list[str]]:
    """Run, killed after so many seconds of training: the run folder, and what each kill met."""
    folder, met, ends = planned(*overrides, f"runs_dir={runs}")[-1].folder, [], []
    for wait in [b - a for a, b in pairwise([0.0, *moments])]:
        everything, rank = rng.random() < 0.5, rng.randrange(2)
        began, program = time.time(), start(runs, *overrides)
        once(lambda began=began: trains(folder, began), program)
        time.sleep(wait)
        if run_folder.state(folder) != "finished":
            kill(program, folder, everything, rank)
        if run_folder.state(folder) == "finished":
            program.wait()
            break
        met.append(f"{'all' if everything else 'a worker'} killed {found(folder)}")
        ends.append((folder / "log.txt").stat().st_size)
    code, output = finish(start(runs, *overrides))
    assert code == 0, f"{folder}: {output[-3000:]}"
    log = (folder / "log.txt").read_bytes()
    texts = [log[a:b].decode(errors="replace") for a, b in pairwise([*ends, None])]
    origins = [text.partition("resuming from ")[2].partition("\n")[0] or "nothing" for text in texts]
    return folder, [f"{one}, resumed from {origin}" for one, origin in zip(met, origins, strict=True)]


def main() -> int:
    given = dict(text.partition("=")[::2] for text in sys.argv[1:])
    kills, rng = int(given.pop("kills", 20)), random.Random(int(given.pop("seed", 0)))
    runs = Path(given.pop("runs_dir", None) or tempfile.mkdtemp(prefix="kills-")).resolve()
    names = given.pop("cases", "sft,sft_lora,rloo,rloo_lora").split(",")
    policy, rows = "", [("case", "kills", "equal")]
    for index, name in enumerate(names):
        command = (*CASES[name], *(f"{key}={value}" for key, value in given.items()))
        if name.startswith("rloo"):  # from a policy that is sometimes right, else all rewards are alike
            policy = policy or str(undisturbed("start of rloo", START, runs / "start")[0])
            command = (*command, f"init={policy}")
        reference, seconds = undisturbed(name, command, runs / name)
        wanted, done, equal = (kills + len(names) - 1 - index) // len(names), 0, 0
        while done < wanted:
            number = min(rng.choice((1, 1, 1, 2)), wanted - done)
            place = runs / f"{name}_killed_{done}"
            folder, met = disturbed(command, place, sorted(rng.uniform(0, seconds) for _ in range(number)), rng)
            same = same_weights(reference, folder)
            for one in met:
                print(f"{name}: {one}: {'equal' if same else f'DIFFERENT, see {folder}'}", flush=True)
            done, equal = done + len(met), equal + same * len(met)
            if same:
                shutil.rmtree(place)
        rows.append((name, str(done), str(equal)))
    print(table(rows))
    return int(any(done != equal for _, done, equal in rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
