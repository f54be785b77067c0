"""What a user would write with TRL alone, as the yardstick of suite=speed.

python -m qwen_align.bench.plain '{"method": "rloo", "model": FOLDER, "rows": FILE, "args": {...}}'
"""

import json
import sys
from typing import Any

from datasets import load_dataset
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from qwen_align.verifier.countdown import verify


def countdown(completions, nums, target, **_):  # type: ignore[no-untyped-def]
    """1.0, 0.1 or 0.0, as reward=countdown."""
    values = {"correct": 1.0, "wellformed_wrong": 0.1, "malformed": 0.0}
    return [values[verify(c[0]["content"], *problem)] for c, *problem in zip(completions, nums, target, strict=True)]


def letters(completions, **_):  # type: ignore[no-untyped-def]
    """How many letters an answer has, for policies with random weights: every group has advantages."""
    return [float(len(completion[0]["content"])) for completion in completions]


def trainer_of(method: str, model: str, rows: str, args: dict[str, Any], reward: str = "countdown") -> Any:
    """The trainer; `args` are TRL's."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model, padding_side="left" if method == "rloo" else "right")
    data = load_dataset("json", data_files=rows, split="train")
    shared: dict[str, Any] = {"model": model, "train_dataset": data, "processing_class": tokenizer}
    if method == "sft":
        return SFTTrainer(args=SFTConfig(**args), **shared)
    if method == "dpo":
        return DPOTrainer(args=DPOConfig(**args), **shared)
    rewards: dict[str, Any] = {"countdown": countdown, "letters": letters}
    return RLOOTrainer(args=RLOOConfig(**args), reward_funcs=[rewards[reward]], **shared)


if __name__ == "__main__":
    result = trainer_of(**json.loads(sys.argv[1])).train()
    print(json.dumps(result.metrics), flush=True)
