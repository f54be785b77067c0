"""One training job, through the entrypoint's worker and as plain TRL scripts: what is started, and a row of what was measured.

Scripts get the fields of TRL's config that the job resolves to, and the same weights and rows: `batch` as they are, `defaults`
with 8 rows a device (accumulated to the same batch) and activation checkpointing, as TRL leaves them. The learning rate is 0:
lengths and rewards stay what they are at the start however many steps each side takes, and losses of equal rows compare.

Model FLOPs of a step, the same for both sides: 2 a parameter and token forward and the attention scores, by TRL's
compute_flops_per_token, three times that with backward; the head where a token is predicted; in rloo a forward pass of each
completion, and of each prompt once, to draw them; where there is a reference, one of all tokens. Padding, old log-probs and
recomputed activations count for nothing.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qwen_align import data, model, run_folder
from qwen_align.__main__ import planned
from qwen_align.bench import side_by_side
from qwen_align.bench.row import Row
from qwen_align.bench.side_by_side import Case, Measured
from qwen_align.config import component, rules
from qwen_align.device import precision
from qwen_align.hardware import Hardware
from qwen_align.stage import launch, run
from qwen_align.stage.plan import Stage

_ENDLESS = 100_000  # steps; a run is ended from outside
_SHARED = ("name=null", "evaluation.problems=1", "evaluation.samples=1", "method.args.learning_rate=0")
TRL_BATCH = 8  # TRL's per_device_train_batch_size


@dataclass(frozen=True)
class Job:
    """A job by the entrypoint's overrides; `start` is a model's folder, None for what its group `model` gives."""

    name: str
    overrides: tuple[str, ...]
    start: Path | None = None
    reward: str = "countdown"  # of the plain script

    def given(self, *overrides: str, **changes: Any) -> "Job":
        """The job with more overrides."""
        return replace(self, overrides=(*self.overrides, *overrides), **changes)


class Prepared:
    """A job, planned, with its start weights and rows on disk."""

    def __init__(self, job: Job, folder: Path, hardware: str) -> None:
        self.job, self.folder, self.parameters = job, folder, 0  # parameters: of random weights
        given = [*job.overrides, *_SHARED, f"hardware={hardware}", f"runs_dir={folder}", f"method.args.max_steps={_ENDLESS}"]
        start = job.start or self._saved_start(planned([*given, "init=base"])[-1])
        self.stage: Stage = planned([*given, f"init={start}"])[-1]
        self.start = start / "model" if (start / "model").is_dir() else start
        self.method = self.stage.config["method"]
        self.args: dict[str, Any] = {k: v for k, v in self.method["args"].items() if k != "_target_"}
        self.save_steps: int = self.args["save_steps"]
        self.args["save_steps"] = self.method["args"]["save_steps"] = _ENDLESS
        run.prepare(self.stage, afresh=True)
        rows = data.load(self.stage.config["data"]).rows(self.method["view"])
        self.sample = rows.select(range(min(512, len(rows))))
        self.rows_file = folder / "rows.jsonl"
        self.rows_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _saved_start(self, stage: Stage) -> Path:
        import torch

        torch.manual_seed(0)
        policy, tokenizer = component.construct(stage.config["model"], "model")
        self.parameters = policy.num_parameters()
        model.save(policy, tokenizer, self.folder / "start", [])
        return self.folder / "start"

    @property
    def hardware(self) -> Hardware:
        """Where its stage runs."""
        return Hardware(**component.settings(self.stage.config["hardware"]))

    @cached_property
    def batch(self) -> tuple[int, int]:
        """(rows a device, accumulation); an update has so many rows, pairs or completions in all."""
        return rules.batch(self.method, 1)

    @property
    def rows_per_step(self) -> int:
        """Demonstrations, pairs or completions an update."""
        return self.batch[0] * self.batch[1]

    def cases(self, against: str) -> dict[str, Case]:
        """What each side does: ours, and the script with our batch settings (`batch`) or with TRL's (`defaults`)."""
        flags = {k: v for k, v in precision(self.hardware).items() if v or k != "fp16"}
        args = {
            "output_dir": str(self.folder / "plain"),
            "report_to": "none",
            "seed": 0,
            "disable_tqdm": False,
            **flags,
            **self.args,
        }
        per_device, accumulation = self.batch
        if against == "defaults":
            per_device = min(TRL_BATCH, self.rows_per_step)
            accumulation = self.rows_per_step // per_device
            args["activation_checkpointing"] = True
        args |= {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": accumulation}
        script = {"method": self.stage.method, "model": str(self.start), "rows": str(self.rows_file), "args": args}
        return {"ours": {"folder": str(self.stage.folder)}, "theirs": {"plain": script | {"reward": self.job.reward}}}

    @cached_property
    def tokens(self) -> tuple[float, float, int]:
        """Mean tokens of (all prompts, all answers) of a row, and how many sequences it is; answers of rloo are drawn."""
        from qwen_align import chat
        from qwen_align.method import preferences, sft

        tokenizer, length = model.load_tokenizer(self.start), self.args.get("max_length")
        if self.stage.method == "sft":
            found = sft.tokenise(self.sample, tokenizer, length)
            trained = statistics.fmean(sum(label != -100 for label in row) for row in found["labels"])
            return statistics.fmean(map(len, found["input_ids"])) - trained, trained, 1
        if self.stage.method == "dpo":
            found = preferences.tokenise(self.sample.select_columns(list(preferences.COLUMNS)), tokenizer, length)
            answers = statistics.fmean(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in found)
            return 2 * statistics.fmean(map(len, found["prompt_ids"])), answers, 2
        return statistics.fmean(map(len, chat.prompt_ids(tokenizer, self.sample["prompt"]))), 0.0, 1

    def flops(self, completion: float) -> float:
        """Model FLOPs of a step whose completions have so many tokens each; not asked for sft and dpo."""
        from transformers import AutoConfig
        from trl.trainer.utils import compute_flops_per_token

        config, (prompt, answer, sequences) = AutoConfig.from_pretrained(self.start), self.tokens
        answer = answer or completion
        whole = compute_flops_per_token(config, round((prompt + answer) / sequences)) / 3
        head = 2 * config.vocab_size * config.hidden_size
        forward = (whole - head) * (prompt + answer) + head * answer
        passes = 3 + (self.stage.method == "dpo" or self.args.get("beta", 0.0) > 0)
        drawn = 0.0
        if self.stage.method == "rloo":
            drawn = (whole - head) * (prompt / self.args["num_generations"] + answer) + head * answer
        return self.rows_per_step * (passes * forward + drawn)


def environments(hardware: Hardware, cache: Path) -> dict[str, dict[str, str]]:
    """Of ours, as the entrypoint starts its worker, and of a script; on a CPU each has one thread."""
    shared = {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"), "TQDM_MININTERVAL": "1"}
    shared |= {} if hardware.on_gpu else {"OMP_NUM_THREADS": "1"}
    own = {side: {"HF_DATASETS_CACHE": str(cache / side)} for side in ("ours", "theirs")}
    return {"ours": launch.environment(hardware) | shared | own["ours"], "theirs": dict(os.environ) | shared | own["theirs"]}


def summary(prepared: Prepared, found: Measured, peak_flops: float) -> tuple[dict[str, Any], list[float]]:
    """(what a step of one side is like, seconds of a step in each round); budget and total have all costs of a step."""
    rows, steps = prepared.rows_per_step, [step for taken in found.rounds for step in taken]
    before = found.reference_seconds_per_row * rows
    saving = (found.saving_seconds or 0.0) / prepared.save_steps
    seconds = [statistics.fmean(s["end"] - s["begin"] for s in taken) + before + saving for taken in found.rounds]
    parts = dict.fromkeys((part for step in steps for part in step["budget"]), 0.0)
    budget = {part: statistics.fmean(step["budget"].get(part, 0.0) for step in steps) for part in parts}
    budget["saving"] = budget.get("saving", 0.0) + saving
    if before:
        budget["reference"] = budget.get("reference", 0.0) + before
    total = sum(budget.values())
    drawn = statistics.fmean(step["completion_tokens"] for step in steps) / rows
    prompt, answer, _ = prepared.tokens
    flops = prepared.flops(drawn)
    return {
        "ms_per_step": 1000 * total,
        "samples_per_s": rows / total,
        "tokens_per_s": rows * (prompt + (answer or drawn)) / total,
        "completion_tokens_per_s": rows * (answer or drawn) / total,
        "tokens_a_completion": answer or drawn,
        "budget_ms": {part: 1000 * value for part, value in budget.items()},
        "peak_memory_mb": max(step["peak_memory_mb"] for step in steps),
        "model_flops_per_step": flops,
        "peak_flops": peak_flops,
        "model_flop_utilisation": flops / total / peak_flops,
        "start_seconds": found.start_seconds,
        "steps": len(steps),
    }, seconds


def _difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """How far loss and gradient norm differ, over theirs, in the steps that both sides took on the same rows."""
    pairs = list(zip(ours, theirs, strict=False))
    loss, norm = (max(abs(a[key] - b[key]) / abs(b[key]) for a, b in pairs) for key in ("loss", "gradient_norm"))
    return f"{len(pairs)} equal steps: losses differ by {loss:.0e} at most, gradient norms by {norm:.0e}"


def row_of(name: str, prepared: Prepared, found: Mapping[str, Measured]) -> Row:
    """The row of a case; its spread is the whole range of the rounds' ratios."""
    peak = max(one.peak_flops for one in found.values())  # each was measured beside the other
    (ours, mine), (theirs, others) = (summary(prepared, found[side], peak) for side in ("ours", "theirs"))
    ratios = sorted(b / a for a, b in zip(mine, others, strict=True))
    note = f"{prepared.rows_per_step} rows a step; {ours['ms_per_step']:,.0f} and {theirs['ms_per_step']:,.0f} ms a step"
    if prepared.stage.method == "rloo":
        note += f"; {ours['tokens_a_completion']:.1f} and {theirs['tokens_a_completion']:.1f} tokens a completion"
        logged = run_folder.read_jsonl(prepared.stage.folder / "metrics.jsonl")
        equal = [line["groups_without_variance"] for line in logged if "groups_without_variance" in line]
        note += f"; {statistics.fmean(equal):.0%} of groups without advantage" if equal else ""
    else:
        note += "; " + _difference(found["ours"].steps, found["theirs"].steps)
    rates = ours["samples_per_s"], theirs["samples_per_s"]
    ratio = statistics.median(ratios)
    return Row(name, "rows", *rates, ratio, ratios[0], ratios[-1], len(ratios), note, {"ours": ours, "theirs": theirs})


def compared(
    prepared: Sequence[Prepared], names: Sequence[str], against: str, folder: Path, rounds: int, seconds: float = 3.0
) -> list[Row]:
    """A row for each job, measured in one pair of processes; a round has so many seconds, and a whole step of each side."""
    hardware = prepared[0].hardware
    cases = [one.cases(against) for one in prepared]
    sides = {side: [case[side] for case in cases] for side in ("ours", "theirs")}
    kinds = environments(hardware, folder / "cache")
    found = side_by_side.measure(sides, kinds, rounds, 1, seconds, together=not hardware.on_gpu)
    return [row_of(name, one, case) for name, one, case in zip(names, prepared, found, strict=True)]
