"""Training and sampling against what a user would run instead: a plain TRL script with TRL's own batch settings, or with ours.

Each part is a few rows; `parts=[...]` chooses. Of a training part both sides run at the same time (side_by_side.py), from the
same weights and rows (training.py), and each says where its step went (budget.py). The older suites are parts by their names.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from qwen_align.bench import output, start
from qwen_align.bench.growth import of_sampling, of_steps
from qwen_align.bench.row import Row
from qwen_align.bench.training import Job, Prepared, compared
from qwen_align.config import component, groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.hardware import has_gpu

MIDDLE = (
    "model.hidden_size=512", "model.num_hidden_layers=8", "model.intermediate_size=1024", "model.num_attention_heads=8",
    "model.num_key_value_heads=8", "max_completion_length=128", "method.prompts_per_step=4",
    "method.args.per_device_train_batch_size=16",
)  # fmt: skip
FEWER = "data.problems=4000"  # than the quickstart's: both sides read all rows before their first step
RLOO = Job("rloo", ("experiment=quickstart", "method=rloo", "method.held_out_every=null", FEWER))
RANDOM = RLOO.given("reward=qwen_align.bench.plain.letters", reward="letters")  # random weights earn no other reward
JOBS = {
    "rloo": RLOO,
    "rloo_middle": RANDOM.given(*MIDDLE, name="rloo, 512 x 8 layers, 128 tokens"),
    "sft": Job("sft", ("experiment=quickstart", "method=sft", FEWER)),
    "dpo": Job("dpo", ("experiment=quickstart_instruct", "method=dpo", FEWER, "data.pairs=2000")),
    "study": Job(
        "rloo, Qwen2.5-0.5B, 128 prompts x 8, 1,024 tokens",
        ("experiment=study_countdown", "data=countdown", "method=rloo", "method.held_out_every=null"),
    ),
}
OLDER = ("verifier", "reward", "generation")
PARTS = (*JOBS, "start", "growth", "best_of_n", *OLDER)
AGAINST = {"defaults": "TRL's defaults", "batch": "TRL, our batch"}


def trained_policy(folder: Path, policy: str | None) -> Path:
    """The run folder that rloo starts from: the user's, or the quickstart's SFT after 200 steps, when its answers end."""
    if policy:
        if not (Path(policy) / "model").is_dir():
            raise ConfigError(f"policy={policy}: expected a finished run folder of a training method")
        return Path(policy).resolve()
    return start.trained(folder, "experiment=quickstart", "method=sft", "name=null", "method.args.max_steps=200")


def training(job: Job, folder: Path, hardware: str, pairs: int) -> list[Row]:
    """The rows of one job: against the script with TRL's batch settings, and with ours."""
    rows = []
    for against, what in AGAINST.items():
        place = folder / f"{job.name.partition(',')[0]}-{against}"
        rows += compared([Prepared(job, place, hardware)], [f"{job.name}, against {what}"], against, place, pairs)
    return rows


def study(folder: Path, hardware: str, pairs: int) -> list[Row]:
    """The study's step on its own policy, without vLLM and with it where it is installed; nothing without a GPU."""
    if not has_gpu():
        print("study: left out, no GPU is here", flush=True)
        return []
    rounds, job = min(pairs, 2), JOBS["study"]  # a step takes minutes
    rows = training(job, folder / "study", hardware, rounds)
    if importlib.util.find_spec("vllm"):
        rows += training(job.given("method.args.use_vllm=true", name=f"{job.name}, vLLM"), folder / "vllm", hardware, rounds)
    return [replace(row, note=f"{row.note}; published: 194 s a step") for row in rows]


def check(pairs: int, parts: Sequence[str], hardware: str) -> None:
    """Raise ConfigError for settings that name nothing."""
    if pairs < 1:
        raise ConfigError(f"pairs={pairs}: expected a whole number from 1 on")
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"parts={part}: expected some of {', '.join(PARTS)}{nearest(str(part), PARTS)}")
    if hardware not in (known := groups.options("hardware")):
        raise ConfigError(f"hardware={hardware}: expected one of {', '.join(known)}{nearest(hardware, known)}")


def run(pairs: int, parts: str | list[str], growth: bool, policy: str | None, hardware: str) -> list[Row]:
    """The rows of the chosen parts; `growth` adds the curves."""
    chosen = [parts] if isinstance(parts, str) else [*parts]
    check(pairs, chosen, hardware)
    chosen += [part for part in ("growth", "best_of_n") if growth and part not in chosen]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        needs_trained = {"rloo", "growth", "best_of_n"} & set(chosen)
        begin = trained_policy(folder, policy) if needs_trained else folder
        for part in tqdm(chosen, desc="speed", mininterval=1.0):
            rows += (found := _part(part, folder / part, begin, pairs, hardware))
            tqdm.write(output.table(found))
    return rows


def _part(part: str, folder: Path, begin: Path, pairs: int, hardware: str) -> list[Row]:
    if part in OLDER:
        found: list[Row] = component.construct(groups.read("bench", part))
        return found
    if part in JOBS and part != "study":
        return training(JOBS[part].given(start=begin if part == "rloo" else None), folder, hardware, pairs)
    others: dict[str, Callable[[], list[Row]]] = {
        "study": lambda: study(folder, hardware, pairs),
        "start": lambda: start.run([JOBS["rloo"], JOBS["sft"]], folder, pairs, hardware),
        "growth": lambda: of_steps(RLOO.given(start=begin), RANDOM, folder, hardware),
        "best_of_n": lambda: of_sampling(begin),
    }
    return others[part]()
