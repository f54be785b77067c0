"""Stages that train in this process, and a file of pairs to train on."""

import json
from pathlib import Path
from typing import Any

from tiny import TINY_MODEL

from qwen_align import run_folder
from qwen_align.stage import run, worker
from qwen_align.stage.plan import Stage


def finished(stage: Stage) -> Path:
    """The folder of a stage after it has run; AssertionError with its error if it failed."""
    run.prepare(stage, afresh=False)
    code = worker.run_stage(stage.folder)
    assert code == 0, run_folder.read_json(stage.folder / "run.json").get("error")
    return stage.folder


def steps(stage: Stage) -> list[dict[str, Any]]:
    """The logged steps of a stage after it has run."""
    return [line for line in run_folder.read_jsonl(finished(stage) / "metrics.jsonl") if "loss" in line]


def says(text: str) -> list[dict[str, str]]:
    """An answer."""
    return [{"role": "assistant", "content": text}]


def on_pairs(folder: Path, method: str, n: int = 32) -> list[str]:
    """Overrides of a stage on a file of pairs, from a policy built in memory; the file has columns that TRL would trip over."""
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for i in range(n):
            row = {"prompt": [{"role": "user", "content": f"Numbers {i} 2 target {i + 2}"}]}
            row |= {"chosen": says(f"{i} + 2"), "rejected": says(f"{i} - 2 - {i}")}
            file.write(json.dumps(row | {"chosen_score": 1.0, "margin": 0.5, "images": None}) + "\n")
    return [
        *TINY_MODEL, "model=countdown_tiny", "hardware=cpu", f"method={method}",
        "init=base", f"runs_dir={folder}/runs", "data=local", f"data.preferences_path={path}", "checkpoints.keep=2",
        "method.batch_size=8", "method.args.max_length=64", "method.args.learning_rate=1e-3",
        "method.args.logging_steps=1", "method.args.activation_checkpointing=false",
    ]  # fmt: skip
