"""What a user would write with TRL alone, as a yardstick for suite=overhead.

python -m qwen_align.bench.plain METHOD MODEL ROWS OUT STEPS
"""

import json
import sys
from typing import Any

from datasets import load_dataset
from transformers import PreTrainedTokenizerFast
from trl import RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from qwen_align.verifier.countdown import verify


def countdown(completions, nums, target, **_):  # type: ignore[no-untyped-def]
    """1.0, 0.1 or 0.0, as reward=countdown."""
    values = {"correct": 1.0, "wellformed_wrong": 0.1, "malformed": 0.0}
    return [values[verify(c[0]["content"], *problem)] for c, *problem in zip(completions, nums, target, strict=True)]


def main() -> None:
    """Train, save, and print how long the training loop took."""
    method, folder, rows, out, steps = sys.argv[1:]
    shared: dict[str, Any] = {"output_dir": out, "max_steps": int(steps), "report_to": "none", "seed": 0}
    shared |= {"use_cpu": True, "bf16": False, "activation_checkpointing": False}
    shared["save_steps"] = 1000  # saves at its last step, as TRL's defaults do
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left" if method == "rloo" else "right")
    data = load_dataset("json", data_files=rows, split="train")
    trainer: SFTTrainer | RLOOTrainer
    if method == "sft":
        sft = SFTConfig(per_device_train_batch_size=64, learning_rate=1e-3, max_length=64, logging_steps=10, **shared)
        trainer = SFTTrainer(model=folder, args=sft, train_dataset=data, processing_class=tokenizer)
    else:
        shared |= {"num_generations": 8, "max_completion_length": 28, "beta": 0.0}
        rloo = RLOOConfig(per_device_train_batch_size=128, learning_rate=5e-5, logging_steps=1, **shared)
        trainer = RLOOTrainer(model=folder, reward_funcs=[countdown], args=rloo, train_dataset=data, processing_class=tokenizer)
    result = trainer.train()
    trainer.save_model(out)
    print(json.dumps({"train_runtime": result.metrics["train_runtime"]}))


if __name__ == "__main__":
    main()
