"""Direct preference optimisation (arXiv 2305.18290) on the preferences view with TRL's DPOTrainer.

Its relatives (ipo, hinge, robust, sigmoid_norm, ...) are TRL's `loss_type`. Pairs are rendered and tokenised here in batches,
as for sft, so that what is cut or left out is counted aloud (TRL drops pairs whose prompt is too long without a word) and
further columns can't get in the way. The reference is the policy that training starts from: an adapter switched off, log-probs
computed before the first step, or a copy in memory. Left out: references other than the start.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, List, Value
from hydra.utils import instantiate
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from qwen_align import chat
from qwen_align.data import cached
from qwen_align.errors import ConfigError
from qwen_align.method import evaluate, health, policy, reference
from qwen_align.method.fit import arguments, fit
from qwen_align.stage import ranks, run_folder

COLUMNS = ("prompt", "chosen", "rejected")


class TokenisedDPOTrainer(DPOTrainer):
    """DPOTrainer on rows that are tokenised already, whose reference log-probs outlive an interrupt."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if self.is_deepspeed_enabled:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        return reference.with_log_probs(self, dataset, batch_size)

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        if self.precompute_ref_logps and inputs["ref_chosen_logps"].isnan().any():
            raise RuntimeError(f"a pair without reference log-probs was drawn; delete {reference.FILE} and report this")
        return super()._compute_loss(model, inputs, return_outputs)


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


@dataclass
class _Tokenised:
    """Columns of pairs -> prompt_ids, chosen_ids, rejected_ids; a pair without two different answers is left out."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        kept: dict[str, list[Any]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": [], "cut": []}
        sides = batch["chosen"], batch["rejected"]
        for prompt, *whole in chat.encode_answers(self.tokenizer, batch["prompt"], *sides):
            room = None if self.max_length is None else max(self.max_length - len(prompt), 0)
            chosen, rejected = (answer[:room] for answer in whole)
            if chosen != rejected and chosen and rejected:
                cut = (chosen, rejected) != tuple(whole)
                for name, value in zip(kept, (prompt, chosen, rejected, cut), strict=True):
                    kept[name].append(value)
        return kept


def tokenise(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """prompt_ids, chosen_ids and rejected_ids, prompt and answer together cut at max_length tokens.

    A pair whose prompt fills max_length, or whose answers are the same up to there, has nothing to learn from and is left out.

    Raises:
        ConfigError: a chat template that renders a prompt differently once an answer follows, or no pair is left.
    """
    types = {name: List(Value("int32")) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    settings, work = [chat.identity(tokenizer), max_length], _Tokenised(tokenizer, max_length)
    found = cached.mapped(rows, work, settings, types | {"cut": Value("bool")}, "tokenising")
    cut, left_out = sum(found["cut"][:]), len(rows) - len(found)
    if cut or left_out:
        print(
            f"{cut} of {len(rows)} pairs are longer than max_length={max_length} and are cut; {left_out} more have no two "
            "different answers left and are left out",
            flush=True,
        )
    if not len(found):
        raise ConfigError(
            f"method.args.max_length={max_length}: no pair has two different answers left; expected more tokens, or pairs that "
            "differ"
        )
    return found.remove_columns("cut")


@evaluate.then_measured
def train(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Train on the preferences view, then measure on the evaluation view."""
    given = config["method"]["args"]
    rows = data.preferences()
    check_rows(rows)
    rows = rows.select_columns(list(COLUMNS))
    run_folder.record_view(folder, "preferences", rows)
    tokens = tokenise(rows, policy.load_tokenizer(config), given.get("max_length"))
    learner, tokenizer = policy.load(config)
    adapter = instantiate(config["adapter"], _convert_="object")
    # In one process: in several, TRL's ranks would each look for the file that rank 0 wrote under another name.
    before = adapter is None and ranks.place()[1] == 1 and not given.get("sync_ref_model", False)
    args = arguments(config, folder, precompute_ref_log_probs=before)
    # TRL would load the reference by the name that the policy came from, which one built in memory lacks.
    copied = adapter is None and not args.precompute_ref_log_probs
    trainer = TokenisedDPOTrainer(
        model=learner,
        ref_model=copy.deepcopy(learner) if copied else None,
        args=args,
        train_dataset=tokens,
        processing_class=tokenizer,
        peft_config=adapter,
    )
    watch = health.Health(folder, health.of_dpo(given), pause=None)
    trainer.add_callback(watch)
    metrics = fit(trainer, folder, [row["prompt"] + row["chosen"] for row in rows.select(range(min(32, len(rows))))])
    return metrics | {"warnings": watch.warnings}
