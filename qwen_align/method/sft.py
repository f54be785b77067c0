"""Supervised fine-tuning on demonstrations with TRL's SFTTrainer; the loss is on the completion only.

Rows are rendered and tokenised here in batches, an order of magnitude faster than row by row in the trainer, and what is cut or
left out is counted aloud. With packing TRL prepares the rows, since it has to join them.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.method import evaluate, policy
from qwen_align.method.fit import arguments, fit
from qwen_align.model import prompt_ids, whole_ids


def tokenise(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """input_ids and labels (-100 on the prompt) of prompt/completion rows, cut at max_length tokens.

    Raises:
        ConfigError: a chat template that renders a prompt differently once an answer follows, or nothing left to learn.
    """
    prompts, answers = list(rows["prompt"]), list(rows["completion"])
    before = prompt_ids(tokenizer, prompts)
    whole = whole_ids(tokenizer, [p + a for p, a in zip(prompts, answers, strict=True)])
    kept: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    cut = 0
    for prompt, ids in zip(before, whole, strict=True):
        if ids[: len(prompt)] != prompt:
            raise ConfigError(
                "model.chat_template: renders a prompt differently when a completion follows; expected one like ChatML"
            )
        cut += max_length is not None and len(ids) > max_length
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        if any(label != -100 for label in labels[:max_length]):
            kept["input_ids"].append(ids[:max_length])
            kept["labels"].append(labels[:max_length])
    left_out = len(whole) - len(kept["input_ids"])
    if cut:
        print(
            f"{cut} of {len(whole)} demonstrations are longer than max_length={max_length} and are cut; "
            f"{left_out} have no answer left"
        )
    if left_out == len(whole):
        raise ConfigError(
            f"method.args.max_length={max_length}: every prompt fills it, nothing is left to learn; expected more"
        )
    return Dataset.from_dict(kept)


def train(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Train on the demonstrations view, then measure on the evaluation view."""
    rows = data.demonstrations().select_columns(["prompt", "completion"])
    run_folder.record_view(folder, "demonstrations", rows)
    learner, tokenizer = policy.load(config)
    args = config["method"]["args"]
    ours = not args.get("packing") and not args.get("assistant_only_loss") and "dataset_kwargs" not in args
    prepared = {"dataset_kwargs": {"skip_prepare_dataset": True}} if ours else {}
    trainer = SFTTrainer(
        model=learner,
        args=arguments(config, folder, **prepared),
        train_dataset=tokenise(rows, tokenizer, args["max_length"]) if ours else rows,
        processing_class=tokenizer,
        peft_config=instantiate(config["adapter"], _convert_="object"),
    )
    metrics = fit(
        trainer, folder, [row["prompt"] + row["completion"] for row in rows.select(range(min(32, len(rows))))]
    )
    return evaluate.after_training(config, data, folder, metrics)
