"""Supervised fine-tuning on demonstrations with TRL's SFTTrainer: the loss is on every answer and its stop token alone.

Rows are rendered and tokenised here, in chunks on all cores and once for all resumes, seeds and jobs that read them; what is
cut or left out is counted aloud. TRL gets token ids and labels, and packs them where packing=true.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, List, Value
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer

from qwen_align import chat, run_folder
from qwen_align.compat.trl import head_on_labels
from qwen_align.config.job import Job, plain
from qwen_align.data import Data, cached
from qwen_align.data.conversation import completion_of, prompt_of
from qwen_align.errors import ConfigError
from qwen_align.method import audit, micro_batches, policy
from qwen_align.method.evaluate import then_measured
from qwen_align.method.fit import adapter, arguments, fit

_IGNORED = -100  # the label of a token that is not trained


@dataclass
class _Tokenised:
    """Columns of conversations -> input_ids and labels; a conversation with no answer left is left out."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    everything: bool

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "messages" in batch:
            talks, first = batch["messages"], [0] * len(batch["messages"])
        else:
            talks = [p + a for p, a in zip(batch["prompt"], batch["completion"], strict=True)]
            first = [len(prompt) for prompt in batch["prompt"]]
        kept: dict[str, list[Any]] = {"input_ids": [], "labels": [], "cut": []}
        for ids, trained, cut in chat.encode(self.tokenizer, talks, first, self.max_length):
            labels = [_IGNORED] * len(ids)
            for begin, end in trained:
                labels[begin:end] = ids[begin:end]
            if trained:
                for name, value in zip(kept, (ids, ids if self.everything else labels, cut), strict=True):
                    kept[name].append(value)
        return kept


def tokenise(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, everything: bool = False) -> Dataset:
    """input_ids and labels (-100 where nothing is trained) of conversations, cut at max_length tokens.

    Args:
        rows: messages, every answer of which is trained, or prompt and completion.
        everything: train prompts too, as TRL's completion_only_loss=false says.

    Raises:
        ConfigError: a chat template that renders a prompt differently once an answer follows, or nothing left to learn.
    """
    columns = ["messages"] if "messages" in rows.column_names else ["prompt", "completion"]
    types = {"input_ids": List(Value("int32")), "labels": List(Value("int32")), "cut": Value("bool")}
    settings = [chat.identity(tokenizer), max_length, everything]
    work = _Tokenised(tokenizer, max_length, everything)
    found = cached.mapped(rows.select_columns(columns), work, settings, types, "tokenising")
    left_out, cut = len(rows) - len(found), sum(found["cut"][:])
    if cut or left_out:
        print(
            f"{cut} of {len(rows)} demonstrations are longer than max_length={max_length} and are cut; {left_out} more have "
            "no answer left and are left out",
            flush=True,
        )
    if not len(found):
        raise ConfigError(
            f"method.args.max_length={max_length}: every prompt fills it, nothing is left to learn; expected more"
        )
    return found.remove_columns("cut")


class SFT(SFTTrainer):
    """SFTTrainer whose micro-batches hold rows like in length, and whose head computes trained tokens alone."""

    def __init__(self, *, speed: Mapping[str, bool], **given: Any) -> None:
        super().__init__(**given)
        self.speed = speed
        head_on_labels(speed.get("completion_head", False))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loss of an update is a mean over its trained tokens, whichever micro-batch they are in."""
        loader = super().get_train_dataloader()
        sorts = self.speed.get("by_length") and not cast(Any, self.args).packing
        return micro_batches.sort_updates(loader, self.train_dataset, self.args) if sorts else loader


@then_measured
def train(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the demonstrations view, then measure on the evaluation view."""
    rows, args = data.rows("demonstrations"), job.method.args
    run_folder.record_view(folder, "demonstrations", rows)
    everything = args.get("completion_only_loss") is False and not args.get("assistant_only_loss")
    tokens = tokenise(rows, policy.load_tokenizer(job), args.get("max_length"), everything)
    learner, tokenizer = policy.load(job)
    # Both are done by now, and TRL would ask for columns that are gone.
    done = {name: None for name in ("assistant_only_loss", "completion_only_loss") if name in args}
    skipped = {} if args.get("packing") else {"dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = SFT(
        model=learner,
        args=arguments(job, folder, done, **skipped),
        train_dataset=tokens,
        processing_class=tokenizer,
        peft_config=adapter(job),
        speed=plain(job.method.speed),
    )
    found = audit.of_demonstrations(trainer.train_dataset, tokenizer.eos_token_id)
    return found | fit(trainer, folder, [prompt_of(row) + completion_of(row) for row in rows.select(range(min(32, len(rows))))])
