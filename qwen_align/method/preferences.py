"""What trainers on preference pairs share: DPO and KTO, each a class in a module of its own beside its YAML.

Pairs are rendered and tokenised here in batches, as for sft, so that what is cut or left out is counted aloud (TRL drops rows
whose prompt is too long without a word) and further columns can't get in the way. The reference is the policy that training
starts from: an adapter switched off, log-probs computed before the first step, or a copy in memory. Left out: references other
than the start.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from datasets import Dataset, List, Value
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from qwen_align import chat, run_folder
from qwen_align.compat.trl import PreferenceSteps, head_on_labels
from qwen_align.config.job import Job, plain
from qwen_align.data import Data, cached
from qwen_align.errors import ConfigError
from qwen_align.method import health, micro_batches, policy, reference
from qwen_align.method.callbacks import HealthWarnings
from qwen_align.method.fit import adapter, arguments, fit
from qwen_align.method.shared_prompts import can_share, share_prompts
from qwen_align.stage import ranks

COLUMNS = ("prompt", "chosen", "rejected")
_BETWEEN_PAIRS = {"aot", "aot_unpaired", "sft"}  # losses that sort pairs among each other, or count tokens of a micro-batch


class OnPreferences(PreferenceSteps):
    """A trainer on rows that are tokenised already, whose reference log-probs outlive an interrupt."""

    answers: ClassVar[tuple[str, ...]]  # the columns that hold answers to a row's prompt
    reference_columns: ClassVar[tuple[str, ...]]  # TRL's names for the reference's log-probs

    def __init__(self, *, speed: Mapping[str, bool], **given: Any) -> None:
        self.speed, self.shares = speed, False
        head_on_labels(speed.get("completion_head", False))
        super().__init__(**given)
        self._share_prompts()

    def _share_prompts(self) -> None:
        if not self.shares and self.speed.get("shared_prompts") and can_share(self):
            share_prompts(self)
            self.shares = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loss of an update is a mean over its pairs, whichever micro-batch they are in, unless it compares pairs."""
        loader = super().get_train_dataloader()
        sorts = self.speed.get("by_length") and not set(cast(Any, self.args).loss_type) & _BETWEEN_PAIRS
        return micro_batches.sort_updates(loader, self.train_dataset, self.args) if sorts else loader

    @classmethod
    def examples(cls, pairs: Dataset, seed: int) -> Dataset:
        """The rows that are trained on, from pairs."""
        return pairs

    @classmethod
    def batched(cls, rows: Dataset, batch_size: int) -> Dataset:
        """Tokenised rows with the columns that depend on which of them are in memory together."""
        return rows

    def reference_log_probs(self, rows: Dataset, batch_size: int) -> Dataset:
        """Computed for the rows that will be trained, and written down as they come; TRL's constructor calls it."""
        self._share_prompts()
        return reference.with_log_probs(self, rows, batch_size, self.reference_columns)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's; RuntimeError for a row whose reference log-probs were not expected to be needed."""
        first = self.reference_columns[0]
        if first in inputs and inputs[first].isnan().any():
            raise RuntimeError(f"a row without reference log-probs was drawn; delete {reference.FILE} and report this")
        return super().compute_loss(model, inputs, *args, **kwargs)


@dataclass
class _Tokenised:
    """Columns of prompts and answers -> prompt_ids and ids of each answer; further columns stay.

    A row without an answer left, or with two that are the same, is left out.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    answers: tuple[str, ...]

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        others = [name for name in batch if name not in ("prompt", *self.answers)]
        names = ["prompt_ids", *(f"{answer}_ids" for answer in self.answers), "cut", *others]
        kept: dict[str, list[Any]] = {name: [] for name in names}
        encoded = chat.encode_answers(self.tokenizer, batch["prompt"], *(batch[answer] for answer in self.answers))
        for row, (prompt, *whole) in enumerate(encoded):
            room = None if self.max_length is None else max(self.max_length - len(prompt), 0)
            answers = [answer[:room] for answer in whole]
            if all(answers) and len(set(map(tuple, answers))) == len(answers):
                values = (prompt, *answers, answers != whole, *(batch[name][row] for name in others))
                for name, value in zip(names, values, strict=True):
                    kept[name].append(value)
        return kept


def tokenise(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, answers: tuple[str, ...] = COLUMNS[1:]
) -> Dataset:
    """prompt_ids and the ids of each answer, prompt and answer together cut at max_length tokens.

    A row whose prompt fills max_length, or whose answers are the same up to there, has nothing to learn from and is left out.

    Raises:
        ConfigError: a chat template that renders a prompt differently once an answer follows, or no row is left.
    """
    one, left = ("pairs", "two different answers") if len(answers) > 1 else ("answers", "answer")
    ids = {f"{name}_ids": List(Value("int32")) for name in ("prompt", *answers)}
    others = {name: kind for name, kind in rows.features.items() if name not in ("prompt", *answers)}
    settings, work = [chat.identity(tokenizer), max_length], _Tokenised(tokenizer, max_length, answers)
    found = cached.mapped(rows, work, settings, {**ids, "cut": Value("bool"), **others}, "tokenising")
    cut, left_out = sum(found["cut"][:]), len(rows) - len(found)
    if cut or left_out:
        print(
            f"{cut} of {len(rows)} {one} are longer than max_length={max_length} and are cut; {left_out} more have no {left} "
            "left and are left out",
            flush=True,
        )
    if not len(found):
        raise ConfigError(
            f"method.args.max_length={max_length}: no row has {left} left; expected more tokens, or pairs that differ"
        )
    return found.remove_columns("cut")


def pairs_of(data: Data) -> Dataset:
    """The pairs of the preferences view; ConfigError where a column is missing."""
    rows = data.rows("preferences")
    for name in COLUMNS:
        if name not in rows.column_names:
            raise ConfigError(
                f"data: the preferences view has no column {name}, only {', '.join(rows.column_names)}; "
                f"expected {', '.join(COLUMNS)}"
            )
    return rows.select_columns(list(COLUMNS))


def train(trainer_class: type[OnPreferences], job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the preferences view."""
    given, rows = job.method.args, pairs_of(data)
    run_folder.record_view(folder, "preferences", rows)
    examples = trainer_class.examples(rows, job.seed)
    tokens = tokenise(examples, policy.load_tokenizer(job), given.get("max_length"), trainer_class.answers)
    learner, tokenizer = policy.load(job)
    peft = adapter(job)
    # In one process: in several, TRL's ranks would each look for the file that rank 0 wrote under another name.
    before = peft is None and ranks.place()[1] == 1 and not given.get("sync_ref_model", False)
    args = arguments(job, folder, precompute_ref_log_probs=before)
    # TRL would load the reference by the name that the policy came from, which one built in memory lacks.
    copied = peft is None and not args.precompute_ref_log_probs
    trainer = trainer_class(
        model=learner,
        ref_model=copy.deepcopy(learner) if copied else None,
        args=args,
        train_dataset=trainer_class.batched(tokens, args.per_device_train_batch_size),
        processing_class=tokenizer,
        peft_config=peft,
        speed=plain(job.method.speed),
    )
    watch = HealthWarnings(folder, health.load(job.method.health))
    trainer.add_callback(watch)
    metrics = fit(trainer, folder, [row["prompt"] + row["chosen"] for row in rows.select(range(min(32, len(rows))))])
    return metrics | {"warnings": watch.warnings}
