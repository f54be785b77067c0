"""What trainers that sample while they train share: RLOO and GRPO, each a class in a module of its own beside its YAML.

What sampling optimises is the reward of one sample: it sharpens the policy, so best-of-N with many samples can get worse while
pass@1 rises. The evaluation reports both. On a reward model it optimises what that model likes; `HeldOut` measures by the
data's verifier on the way, where there is one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from datasets import Dataset, Value
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from qwen_align import chat, reward, run_folder
from qwen_align.compat.trl import RolloutSteps
from qwen_align.compat.vllm import engine_like_trainer
from qwen_align.config.job import Job, plain
from qwen_align.data import Data, cached
from qwen_align.errors import ConfigError
from qwen_align.method import audit, health, micro_batches, policy, rollouts
from qwen_align.method.callbacks import HealthWarnings, HeldOut, same_random_numbers
from qwen_align.method.fit import adapter, arguments, fit
from qwen_align.method.speed import Speed
from qwen_align.reward import Reward
from qwen_align.verifier import Verifier


def check_rows(rows: Dataset, rewards: Sequence[Reward], method: DictConfig) -> None:
    """Raise ConfigError for what TRL would only notice while training, or not at all."""
    for name in sorted(set(reward.GIVEN) & set(rows.column_names)):
        raise ConfigError(f"data: the column {name} has a name that TRL gives to rewards itself; rename it")
    for one in rewards:
        one.check_columns(rows.column_names)
    if len(rows) < method.prompts_per_step:
        raise ConfigError(
            f"method.prompts_per_step={method.prompts_per_step}: the data has only {len(rows)} prompts, so no step would be "
            "trained; expected at most that many"
        )


@dataclass
class _Lengths:
    """The column prompt -> how many tokens each has."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"tokens": [len(ids) for ids in chat.prompt_ids(self.tokenizer, batch["prompt"])]}


def short_enough(rows: Dataset, tokenizer: PreTrainedTokenizerBase, method: DictConfig) -> Dataset:
    """The rows whose prompt has at most `max_prompt_tokens`; prints how many have more.

    All completions of an update are drawn at once, padded to its longest prompt: a long one costs the memory of them all.

    Raises:
        ConfigError: too few are left for one update.
    """
    most = method.max_prompt_tokens
    if most is None:
        return rows
    prompts, work, types = rows.select_columns(["prompt"]), _Lengths(tokenizer), {"tokens": Value("int32")}
    lengths = cached.mapped(prompts, work, chat.identity(tokenizer), types, "measuring prompts")
    kept = [i for i, tokens in enumerate(lengths["tokens"][:]) if tokens <= most]
    if len(kept) < method.prompts_per_step:
        raise ConfigError(
            f"method.max_prompt_tokens={most}: {len(kept)} of {len(rows)} prompts are so short, and an update needs "
            f"prompts_per_step={method.prompts_per_step}; expected more tokens"
        )
    if longer := len(rows) - len(kept):
        print(f"{longer} of {len(rows)} prompts have more than max_prompt_tokens={most} and are left out", flush=True)
    return rows.select(kept) if longer else rows


class EpochOrder(Sampler[int]):
    """TRL's sampler with an order that follows from seed and epoch alone.

    TRL draws every epoch's order from one generator that no checkpoint holds, so a run resumed after its first epoch would read
    that epoch's order again.
    """

    def __init__(self, inner: Any, trainer: "OnPolicy") -> None:
        self.inner, self.trainer = inner, trainer

    def __iter__(self) -> Iterator[int]:
        if self.inner.shuffle:
            self.inner.generator.manual_seed(self.inner.seed + int(self.trainer.state.epoch or 0))
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def without_variance(rewards: Tensor, num_generations: int) -> float:
    """The share of groups whose rewards (completions,), NaN for none, are all the same, so that none has an advantage."""
    groups, nothing = rewards.view(-1, num_generations), rewards.isnan().view(-1, num_generations)
    spread = groups.masked_fill(nothing, -torch.inf).amax(dim=1) - groups.masked_fill(nothing, torch.inf).amin(dim=1)
    return (spread < 1e-6).float().mean().item()


class OnPolicy(RolloutSteps):
    """A trainer that reads its prompts in the same order after a resume, and logs how many groups have no variance.

    TRL's own frac_reward_zero_std looks after RLOO's KL term, which no two completions share, so with beta > 0 it is always 0.
    What `speed` names is done with less work than TRL's, for the same update; see conf/method/rloo.yaml.
    """

    verifier: Verifier | None = None
    reorders: ClassVar[bool] = False  # whether the loss of an update is the same however its rows lie in micro-batches

    def __init__(self, *, args: Any, speed: Mapping[str, bool] | None = None, **given: Any) -> None:
        with engine_like_trainer(args):
            super().__init__(args=args, **given)
        if self.use_vllm:
            self.vllm_generation: Any = rollouts.Rollouts(self.vllm_generation, self.eos_token_ids)
        self.speed = Speed(self, speed or {})

    def prompt_ids(self, prompts: list[Any]) -> list[list[int]]:
        """As everywhere else: a special token in a prompt's text is text."""
        return chat.prompt_ids(cast(PreTrainedTokenizerBase, self.processing_class), prompts)

    def order(self, sampler: Any) -> EpochOrder:
        """The same one after a resume."""
        return EpochOrder(sampler, self)

    def complete(self, prompt_ids: list[list[int]]) -> list[list[int]] | None:
        """By the decode loop that measures policies too, if the settings allow."""
        return self.speed.complete(prompt_ids) if self.speed.decode else None

    def arrange(self, batches: Sequence[micro_batches.Batch]) -> list[micro_batches.Batch]:
        """By length, without rows that change nothing."""
        return self.speed.arrange(batches)

    def rewarded(self, rewards: Tensor, completions: list[Any]) -> None:
        """Log what TRL does not: groups without variance, before any KL term, and how many answers completions hold."""
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        if clip := getattr(self, "reward_clip_range", None):
            total = total.clamp(*clip)
        total = total.masked_fill(rewards.isnan().all(dim=1), torch.nan)
        self.note_of_batch("groups_without_variance", without_variance(total, cast(int, self.num_generations)))
        answers = self.verifier.answers if self.verifier else None
        for name, value in audit.of_rollouts(answers, completions).items():
            self.note_of_batch(name, value)

    def scored(self, log_probs: Tensor, mask: Tensor) -> None:
        """Log vLLM's drift; the first call after a generation is for the policy's log-probs, unless GRPO corrects nothing."""
        compared = self.use_vllm and getattr(self, "vllm_importance_sampling_correction", True)
        if compared and self.vllm_generation.drawn is not None:
            offs = self.vllm_generation.compare(log_probs, mask)
            for name, value in rollouts.drift(self.accelerator.gather(offs)).items():
                self.note(name, value)

    def stop_engine(self) -> None:
        """End the engine that draws completions, and give back its memory."""
        if self.use_vllm:
            self.vllm_generation.close()


def train(trainer_class: type[OnPolicy], job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the prompts view with the configured rewards."""
    rewards = reward.build(plain(job.method.reward))
    rows = data.rows("prompts")
    check_rows(rows, rewards, job.method)
    with same_random_numbers():
        reward.rehearse(rewards, rows.select(range(min(2, len(rows)))).to_list())
    run_folder.record_view(folder, "prompts", rows)
    learner, tokenizer = policy.load(job)
    rows = short_enough(rows, tokenizer, job.method)
    revision = job.model.get("revision") if job.init == "base" else None
    args = arguments(
        job,
        folder,
        reward_weights=[one.weight for one in rewards],
        # TRL says that they are ignored; its reference model is loaded with them
        model_init_kwargs={"revision": revision} if revision else None,
    )
    trainer = trainer_class(
        model=learner,
        reward_funcs=[one.trl() for one in rewards],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapter(job),
        speed=plain(job.method.speed),
    )
    trainer.verifier = data.verifier
    watch = HealthWarnings(folder, health.load(job.method.health))
    trainer.add_callback(HeldOut(job, data, trainer.note))
    trainer.add_callback(watch)
    metrics = fit(trainer, folder, [row["prompt"] for row in rows.select(range(min(32, len(rows))))])
    return metrics | {"warnings": watch.warnings}
