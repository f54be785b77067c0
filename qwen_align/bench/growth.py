"""How an RLOO step grows with batch, length and size of the policy, and sampling with N and with problems.

The last row of a series says how its seconds grow: x^1 is linear, the slope of a straight line through log seconds over log x.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path

from qwen_align import model
from qwen_align.bench import generation
from qwen_align.bench.row import Row, interleaved
from qwen_align.bench.training import Job, Prepared, compared
from qwen_align.generator import Conversation

PROMPTS = (8, 16, 32, 64, 128)
LENGTHS = (28, 64, 128, 256, 512)
SIZES = {(128, 3): "0.4M", (256, 5): "3M", (384, 8): "12M", (576, 9): "30M"}  # hidden, layers -> parameters
SAMPLES = (1, 4, 16, 64)
AT_EACH_N = 100  # problems
PROBLEMS = (50, 200, 800)
_FEW = ("data.problems=2000", "method.args.per_device_train_batch_size=4096")  # problems, so that each start is short


def slope(x: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent of seconds ~ x^slope, by least squares on logarithms."""
    across, up = [log(value) for value in x], [log(value) for value in seconds]
    mean, height = sum(across) / len(across), sum(up) / len(up)
    return sum((a - mean) * (b - height) for a, b in zip(across, up, strict=True)) / sum((a - mean) ** 2 for a in across)


def with_slope(rows: list[Row], x: Sequence[float], work: Sequence[float]) -> list[Row]:
    """The rows of a series, the last one with both slopes; `work` is how many units one point of each row took."""
    ours = slope(x, [n / row.ours for n, row in zip(work, rows, strict=True)])
    theirs = slope(x, [n / row.theirs for n, row in zip(work, rows, strict=True)])
    grows = f"over the series seconds grow as x^{ours:.2f} and x^{theirs:.2f}"
    note = f"{rows[-1].note}; {grows}" if rows[-1].note else grows
    points = [
        replace(row, series=rows[0].name, point=float(at), units=float(n)) for row, at, n in zip(rows, x, work, strict=True)
    ]
    return [*points[:-1], replace(points[-1], note=note)]


def _shape(hidden: int, layers: int) -> tuple[str, ...]:
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 2 * hidden}
    shape |= {"num_attention_heads": hidden // 32, "num_key_value_heads": hidden // 32}
    return tuple(f"model.{key}={value}" for key, value in shape.items())


def of_steps(trained: Job, untrained: Job, folder: Path, hardware: str) -> list[Row]:
    """RLOO's step against the script with our batch settings, all points in one pair of processes."""
    few = untrained.given("method.prompts_per_step=8")
    longer = few.given("model.max_position_embeddings=1024")
    of_length = "rloo, 8 prompts x 8, {} tokens at most".format
    of_size = "rloo, 8 prompts x 8, {} parameters".format
    series: list[tuple[list[float], list[Job]]] = [
        ([*PROMPTS], [trained.given(f"method.prompts_per_step={n}", name=f"rloo, {n} prompts x 8") for n in PROMPTS]),
        ([*LENGTHS], [longer.given(f"max_completion_length={n}", name=of_length(n)) for n in LENGTHS]),
        ([], [few.given(*_shape(*at), name=of_size(size)) for at, size in SIZES.items()]),
    ]
    jobs = [job for _, some in series for job in some]
    prepared = [Prepared(job.given(*_FEW), folder / str(i), hardware) for i, job in enumerate(jobs)]
    rows = compared(prepared, [job.name for job in jobs], "batch", folder, rounds=2, seconds=1.0)
    found = []
    for x, some in series:
        mine, these = [rows.pop(0) for _ in some], [prepared.pop(0) for _ in some]
        found += with_slope(mine, x or [one.parameters for one in these], [one.rows_per_step for one in these])
    return found


def _sampling(policy: model.Policy, n: int, problems: int, rounds: int = 2) -> Row:
    """Answers a second, n to each of so many problems, by our generator and by the usual loop."""
    rng = random.Random(0)
    drawn = [[rng.randint(1, 20) for _ in range(4)] for _ in range(problems)]
    asked: list[Conversation] = [[{"role": "user", "content": "Numbers {} {} {} target {}".format(*four)}] for four in drawn]

    def answers(way: Callable[..., float]) -> float:
        way(policy, asked, n, generation.ROWS, LENGTHS[0])
        return float(n * problems)

    ours, theirs = (partial(answers, way) for way in (generation.ours, generation.plain))
    return interleaved(f"best-of-{n} of {problems} problems", "answers", ours, theirs, rounds)


def of_sampling(run: Path) -> list[Row]:
    """How long best-of-N samples."""
    policy = model.from_run(run)
    for _warm in range(2):
        _sampling(policy, 4, 50, rounds=1)
    by_n = [_sampling(policy, n, AT_EACH_N) for n in SAMPLES]
    by_problems = [_sampling(policy, 16, problems) for problems in PROBLEMS]
    return [
        *with_slope(by_n, SAMPLES, [n * AT_EACH_N for n in SAMPLES]),
        *with_slope(by_problems, PROBLEMS, [16 * problems for problems in PROBLEMS]),
    ]
