"""Direct preference optimisation (arXiv 2305.18290) on the preferences view with TRL's DPOTrainer.

Its relatives (ipo, hinge, robust, sigmoid_norm, ...) are TRL's `loss_type`. Pairs are rendered and tokenised here in batches,
as for sft, so that what is cut or left out is counted aloud (TRL drops pairs whose prompt is too long without a word) and
further columns can't get in the way. The reference is the policy that training starts from: an adapter switched off, log-probs
computed before the first step, or a copy in memory. Left out: references other than the start.
"""

import copy
from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from qwen_align import ranks, run_folder
from qwen_align.errors import ConfigError
from qwen_align.method import evaluate, health, policy
from qwen_align.method.fit import arguments, fit
from qwen_align.model import prompt_ids, whole_ids

COLUMNS = ("prompt", "chosen", "rejected")


class TokenisedDPOTrainer(DPOTrainer):
    """DPOTrainer on rows that are tokenised already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def check_rows(rows: Dataset) -> None:
    """Raise ConfigError unless there are pairs with a prompt."""
    missing = [name for name in COLUMNS if name not in rows.column_names]
    if missing:
        raise ConfigError(
            f"data: the preferences view has no column {missing[0]}, only {', '.join(rows.column_names) or 'none'}; "
            f"expected {', '.join(COLUMNS)}"
        )
    if not len(rows):
        raise ConfigError("data: the preferences view is empty; expected pairs")


def tokenise(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """prompt_ids, chosen_ids and rejected_ids, prompt and answer together cut at max_length tokens.

    A pair whose prompt fills max_length, or whose answers are the same up to there, has nothing to learn from and is left out.

    Raises:
        ConfigError: a chat template that renders a prompt differently once an answer follows, or no pair is left.
    """
    prompts = list(rows["prompt"])
    before = prompt_ids(tokenizer, prompts)
    sides = [
        whole_ids(tokenizer, [p + answer for p, answer in zip(prompts, rows[name], strict=True)])
        for name in ("chosen", "rejected")
    ]
    kept: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    cut = 0
    for prompt, chosen, rejected in zip(before, *sides, strict=True):
        if chosen[: len(prompt)] != prompt or rejected[: len(prompt)] != prompt:
            raise ConfigError(
                "model.chat_template: renders a prompt differently when a completion follows; expected one like ChatML"
            )
        cut += max_length is not None and max(len(chosen), len(rejected)) > max_length
        answers = chosen[len(prompt) : max_length], rejected[len(prompt) : max_length]
        if answers[0] != answers[1] and all(answers):
            for name, ids in zip(kept, (prompt, *answers), strict=True):
                kept[name].append(ids)
    left_out = len(before) - len(kept["prompt_ids"])
    if cut or left_out:
        print(
            f"{cut} of {len(before)} pairs are longer than max_length={max_length} and are cut; {left_out} have no two "
            "different answers left and are left out",
            flush=True,
        )
    if left_out == len(before):
        raise ConfigError(
            f"method.args.max_length={max_length}: no pair has two different answers left; expected more tokens, or pairs that "
            "differ"
        )
    return Dataset.from_dict(kept)


def train(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Train on the preferences view, then measure on the evaluation view."""
    given = config["method"]["args"]
    rows = data.preferences()
    check_rows(rows)
    rows = rows.select_columns(list(COLUMNS))
    run_folder.record_view(folder, "preferences", rows)
    learner, tokenizer = policy.load(config)
    adapter = instantiate(config["adapter"], _convert_="object")
    # Of several processes each would look for the file that rank 0 wrote under another name.
    before = adapter is None and ranks.place()[1] == 1 and not given.get("sync_ref_model", False)
    args = arguments(config, folder, precompute_ref_log_probs=before)
    # TRL would load the reference by the name that the policy came from, which one built in memory lacks.
    copied = adapter is None and not args.precompute_ref_log_probs
    trainer = TokenisedDPOTrainer(
        model=learner,
        ref_model=copy.deepcopy(learner) if copied else None,
        args=args,
        train_dataset=tokenise(rows, tokenizer, args.max_length),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    watch = health.Health(folder, health.of_dpo(given), pause=None)
    trainer.add_callback(watch)
    metrics = fit(trainer, folder, [row["prompt"] + row["chosen"] for row in rows.select(range(min(32, len(rows))))])
    return evaluate.after_training(config, data, folder, metrics | {"warnings": watch.warnings})
