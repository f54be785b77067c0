"""Reward models from pairs: Bradley-Terry (arXiv 2203.02155, section 3.5) on TRL's RewardTrainer, full or LoRA.

TRL's trainer gets token ids that our own encode() made, the one that scores later: given text it would drop over-long pairs,
glue prompt to answer, and fail on tokenizers without an eos. Held-out pairs are chosen by a hash of their first question, so
pairs that share a prompt stay on one side. The accuracy on them stands beside that of "the longer one is chosen", which a
reward model has to beat to be worth anything, and it is measured on the saved folder, as anybody else will load it.

Beside TRL's own center_rewards_coefficient (arXiv 2312.09244): label smoothing for labels that are wrong at a known rate, a
margin column (arXiv 2307.09288, section 3.2.2), and centring after training. Left out: ties, decoders as reward models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardTrainer

from qwen_align import reward, run_folder
from qwen_align.config.job import Job, plain
from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.method import pairs
from qwen_align.method.fit import adapter, arguments, fit, free_memory
from qwen_align.metric import interval
from qwen_align.reward import model as reward_model
from qwen_align.reward import text_of
from qwen_align.reward.encode import flatten
from qwen_align.reward.model import RewardModel
from qwen_align.reward.network import fresh, pair_encoder, saved_tokenizer

_COLLAPSED = 1e-4  # standard deviation of scores below which nothing is told apart
_CENTRED_ON = 1000  # training pairs that the mean score is taken of, at most


class BradleyTerryTrainer(RewardTrainer):
    """RewardTrainer with label smoothing: with probability e a pair is the other way round."""

    label_smoothing = 0.0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """(1 - e) * softplus(-d) + e * softplus(d) is softplus(-d) + e * d, d the difference less the margin."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.label_smoothing:
            chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
            loss = loss + self.label_smoothing * (chosen - rejected - inputs.get("margin", 0.0)).mean()
        return (loss, outputs) if return_outputs else loss


def adapter_for(peft: LoraConfig | None, network: PreTrainedModel) -> LoraConfig | None:
    """The adapter for a network with a score: the layers after the encoder start at random, so they are trained whole."""
    if peft is None:
        return None
    heads = [name for name, child in network.named_children() if name != network.base_model_prefix]
    trained = [name for name in heads if any(True for _ in network.get_submodule(name).parameters())]
    peft.task_type = TaskType.SEQ_CLS
    peft.modules_to_save = sorted({*(peft.modules_to_save or []), *trained})
    if peft.target_modules == "all-linear":
        layers = [n for n, m in network.base_model.named_modules() if isinstance(m, torch.nn.Linear)]
        peft.target_modules = sorted({f"{network.base_model_prefix}.{name}" for name in layers})
    return peft


def save(
    model: RewardModel,
    network: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    probes: Sequence[list[dict[str, str]]] = (),
) -> None:
    """Save a plain model folder with the settings of scoring beside it; an adapter is merged in and also kept in adapter/.

    Raises:
        RuntimeError: the saved tokenizer reads the probes, conversations that end with an answer, in another way.
    """
    if isinstance(network, PeftModel):
        network.save_pretrained(str(folder.with_name("adapter")))
        network = cast(PreTrainedModel, network.merge_and_unload())
    network.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    reward_model.save(model, folder)
    prompts, answers = [probe[:-1] for probe in probes], [text_of(probe) for probe in probes]
    readers = tokenizer, saved_tokenizer(str(folder))
    here, there = (pair_encoder(network, reader, model.architecture, model.max_length) for reader in readers)
    if (here.typed, here.encode(prompts, answers)) != (there.typed, there.encode(prompts, answers)):
        raise RuntimeError(f"the tokenizer saved in {folder} reads pairs otherwise than in training: scores would be wrong")


def build(node: Mapping[str, Any]) -> RewardModel:
    """The reward model that is to be trained; ConfigError for a reward that isn't one."""
    model = reward.build(node)[0].function
    if not isinstance(model, RewardModel):
        raise ConfigError("reward: method=reward trains one reward model; expected reward=deberta, distilbert or minilm")
    return model


def trainer_of(job: Job, folder: Path, model: RewardModel, rows: tuple[Dataset, Dataset]) -> Any:
    """The trainer on (training pairs, held-out pairs), and what encoding found in each."""
    method = job.method
    texts = (text for row in rows[0] for text in (flatten(row["prompt"]), text_of(row["chosen"]), text_of(row["rejected"])))
    network, tokenizer = fresh(model.base or "", model.architecture, model.revision, texts)
    encoder = pair_encoder(network, tokenizer, model.architecture, model.max_length)
    train_rows, train_counts = pairs.tokenise(rows[0], encoder, method.margin, "training")
    held_rows, held_counts = pairs.tokenise(rows[1], encoder, method.margin, "held-out")
    trainer = BradleyTerryTrainer(
        model=network,
        args=arguments(job, folder, max_length=None, remove_unused_columns=False),
        train_dataset=train_rows,
        eval_dataset=held_rows,
        processing_class=tokenizer,
        data_collator=partial(pairs.collate, encoder),
        peft_config=adapter_for(adapter(job), network),
    )
    trainer.label_smoothing = method.label_smoothing
    return trainer, {"training": train_counts, "held_out": held_counts}


def loaded(model: RewardModel, folder: Path) -> RewardModel:
    """What was saved, as anybody else will load it, where and how the config says."""
    return RewardModel.from_run(folder, device=model.device, dtype=model.dtype, batch_tokens=model.batch_tokens)


def centred(model: RewardModel, rows: Dataset, folder: Path) -> RewardModel:
    """The trained reward model with the mean score of its training pairs at 0."""
    some = rows.select(range(min(_CENTRED_ON, len(rows))))
    values = [v for side in ("chosen", "rejected") for v in _scored(model, some, side)]
    reward_model.save(model, folder / "model", fmean(values))
    return loaded(model, folder)


def _scored(model: RewardModel, rows: Dataset, side: str) -> list[float]:
    return model.score(rows["prompt"][:], [text_of(answer) for answer in rows[side]])


def measure(model: RewardModel, rows: Dataset) -> dict[str, Any]:
    """How often the chosen answer scores higher, beside how often it is the longer one; ties count against both."""
    scores = [_scored(model, rows, side) for side in ("chosen", "rejected")]
    gaps = [chosen - rejected for chosen, rejected in zip(*scores, strict=True)]
    right = [gap > 0 for gap in gaps]
    longer = [len(text_of(row["chosen"])) > len(text_of(row["rejected"])) for row in rows]
    return {
        "n": len(gaps),
        "pair_accuracy": interval.share(right),
        "length_baseline": interval.share(longer),
        "accuracy_minus_length": interval.paired(right, longer),
        "margin": interval.mean(gaps),
        "mean_score": fmean([value for side in scores for value in side]),
        "spread": pstdev([value for side in scores for value in side]),
    }


def train(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train the configured reward model on the preferences view, then measure what was saved on held-out pairs."""
    method, model = job.method, build(plain(job.reward))
    rows = data.rows("preferences")
    run_folder.record_view(folder, "preferences", rows)
    parts = pairs.split(rows, method.held_out)
    trainer, counts = trainer_of(job, folder, model, parts)
    keep: Callable[..., None] = partial(save, model)
    probes = [row["prompt"] + row["chosen"] for row in rows.select(range(min(32, len(rows))))]
    metrics = fit(trainer, folder, probes, keep)
    del trainer  # and its optimizer: what is measured is loaded beside it otherwise
    free_memory()
    trained = loaded(model, folder)
    if method.center_scores:
        trained = centred(trained, parts[0], folder)
    measured = measure(trained, parts[1]) | {"truncated": counts["held_out"]["truncated"]}
    if measured["spread"] < _COLLAPSED:
        text = (
            f"the reward model gives all texts nearly the same score (standard deviation {measured['spread']:.1g}): it has "
            "collapsed and can drive nothing; lower method.args.learning_rate"
        )
        print(f"warning: {text}", flush=True)
        metrics["warnings"] = [{"step": metrics["steps"], "kind": "collapsed", "text": text}]
    found = measured["pair_accuracy"]
    named = {"name": "pair_accuracy", "policy": None, "n": measured["n"], **asdict(found)}
    return {"train": metrics | {"pairs": counts["training"]}, "pairs": measured, "headline": named}
