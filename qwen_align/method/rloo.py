"""RLOO (REINFORCE leave-one-out, arXiv 2402.14740) with TRL's RLOOTrainer on our reward objects.

What sampling optimises is the reward of one sample: it sharpens the policy, so best-of-N with many samples can get worse while
pass@1 rises. The evaluation reports both. On a reward model it optimises what that model likes; `health` compares with an exact
judge on the way, where the data has one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, Value
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase
from trl import RLOOConfig, RLOOTrainer

from qwen_align import chat
from qwen_align.data import cached
from qwen_align.errors import ConfigError
from qwen_align.method import audit, evaluate, health, policy, rollouts
from qwen_align.method.fit import arguments, fit
from qwen_align.reward import Reward, to_trl
from qwen_align.stage import run_folder

RESERVED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def build_rewards(node: dict[str, Any]) -> list[Reward]:
    """The reward objects of a config: one component, or those of one that holds several."""
    nodes = [node] if "_target_" in node else list(node.values())
    built = [instantiate(n, _convert_="object") for n in nodes]
    return [reward for one in built for reward in (one if isinstance(one, list) else [one])]


def check_rows(rows: Any, rewards: list[Reward], method: dict[str, Any]) -> None:
    """Raise ConfigError for what TRL would only notice while training, or not at all."""
    for name in sorted(set(RESERVED) & set(rows.column_names)):
        raise ConfigError(f"data: the column {name} has a name that TRL gives to rewards itself; rename it")
    for reward in rewards:
        missing = sorted(set(reward.needs) - set(rows.column_names))
        if missing:
            raise ConfigError(
                f"reward={reward.name}: needs the column {missing[0]}; the data has {', '.join(rows.column_names)}"
            )
    if len(rows) < method["prompts_per_step"]:
        raise ConfigError(
            f"method.prompts_per_step={method['prompts_per_step']}: the data has only {len(rows)} prompts, so no step would be "
            "trained; expected at most that many"
        )


@dataclass
class _Lengths:
    """The column prompt -> how many tokens each has."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"tokens": [len(ids) for ids in chat.prompt_ids(self.tokenizer, batch["prompt"])]}


def short_enough(rows: Dataset, tokenizer: PreTrainedTokenizerBase, method: dict[str, Any]) -> Dataset:
    """The rows whose prompt has at most `max_prompt_tokens`; how many have more is said.

    All completions of an update are drawn at once, padded to its longest prompt: a long one costs the memory of them all.

    Raises:
        ConfigError: too few are left for one update.
    """
    most = method["max_prompt_tokens"]
    if most is None:
        return rows
    prompts, work, types = rows.select_columns(["prompt"]), _Lengths(tokenizer), {"tokens": Value("int32")}
    lengths = cached.mapped(prompts, work, chat.identity(tokenizer), types, "measuring prompts")
    kept = [i for i, tokens in enumerate(lengths["tokens"][:]) if tokens <= most]
    if len(kept) < method["prompts_per_step"]:
        raise ConfigError(
            f"method.max_prompt_tokens={most}: {len(kept)} of {len(rows)} prompts are so short, and an update needs "
            f"prompts_per_step={method['prompts_per_step']}; expected more tokens"
        )
    if longer := len(rows) - len(kept):
        print(f"{longer} of {len(rows)} prompts have more than max_prompt_tokens={most} and are left out", flush=True)
    return rows.select(kept) if longer else rows


class EpochOrder(Sampler[int]):
    """TRL's sampler with an order that follows from seed and epoch alone.

    TRL draws every epoch's order from one generator that no checkpoint holds, so a run resumed after its first epoch would read
    that epoch's order again.
    """

    def __init__(self, inner: Any, trainer: RLOOTrainer) -> None:
        self.inner, self.trainer = inner, trainer

    def __iter__(self) -> Iterator[int]:
        if self.inner.shuffle:
            self.inner.generator.manual_seed(self.inner.seed + int(self.trainer.state.epoch or 0))
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def alike(rewards: Tensor, num_generations: int) -> float:
    """The share of groups whose rewards (completions,), NaN for none, are all the same: leave-one-out gives them nothing."""
    groups, nothing = rewards.view(-1, num_generations), rewards.isnan().view(-1, num_generations)
    spread = groups.masked_fill(nothing, -torch.inf).amax(dim=1) - groups.masked_fill(nothing, torch.inf).amin(dim=1)
    return (spread < 1e-6).float().mean().item()


class ResumableRLOOTrainer(RLOOTrainer):
    """RLOOTrainer that reads its prompts in the same order after a resume, and says how many groups have no variance.

    TRL's own frac_reward_zero_std looks after the KL term, which no two completions share, so with beta > 0 it is always 0.
    """

    def __init__(self, *, args: RLOOConfig, **given: Any) -> None:
        with rollouts.engine_like_trainer(args):
            super().__init__(args=args, **given)
        if self.use_vllm:
            self.vllm_generation: Any = rollouts.Rollouts(self.vllm_generation, self.eos_token_ids)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        found = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        # The first call after a generation is for the policy's own log-probs.
        if self.use_vllm and self.vllm_generation.drawn is not None:
            offs = self.vllm_generation.compare(found[0], attention_mask[:, -logits_to_keep:])
            for name, value in rollouts.drift(self.accelerator.gather(offs)).items():
                self.note(name, value)
        return found

    def stop_engine(self) -> None:
        """End the engine that draws completions, and give back its memory."""
        if self.use_vllm:
            self.vllm_generation.close()

    answers: Callable[[str], list[str]] | None = None  # of the data: what a completion answers

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """As everywhere else: a special token in a prompt's text is text."""
        return chat.prompt_ids(self._tokenizer, prompts), None, {}

    def _get_train_sampler(self, dataset: Any = None) -> EpochOrder:
        return EpochOrder(super()._get_train_sampler(dataset), self)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = super()._calculate_rewards(*args, **kwargs)  # (completions of all processes, rewards)
        total = (found * self.reward_weights.to(found.device)).nansum(dim=1)
        if self.reward_clip_range:
            total = total.clamp(*self.reward_clip_range)
        total = total.masked_fill(found.isnan().all(dim=1), torch.nan)
        self._log_metric("groups_without_variance", alike(total, cast(int, self.num_generations)))
        for name, value in audit.of_rollouts(self.answers, args[2]).items():
            self._log_metric(name, value)
        return found

    def note(self, name: str, value: float) -> None:
        """Take a number into the next logged line."""
        self._metrics["train"][name].append(value)


@evaluate.then_measured
def train(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Train on the prompts view with the configured reward, then measure on the evaluation view."""
    rewards = build_rewards(config["method"]["reward"])
    functions = to_trl(rewards)
    rows = data.prompts()
    check_rows(rows, rewards, config["method"])
    run_folder.record_view(folder, "prompts", rows)
    learner, tokenizer = policy.load(config)
    rows = short_enough(rows, tokenizer, config["method"])
    revision = config["model"].get("revision") if config["init"] == "base" else None
    trainer = ResumableRLOOTrainer(
        model=learner,
        reward_funcs=list(functions),
        args=arguments(
            config,
            folder,
            reward_weights=[reward.weight for reward in rewards],
            # TRL says that they are ignored; its reference model is loaded with them
            model_init_kwargs={"revision": revision} if revision else None,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=instantiate(config["adapter"], _convert_="object"),
    )
    trainer.answers = getattr(data, "answers", None)
    watch = health.Health(folder, health.of_rloo(vars(trainer.args)) | {"sampling_drift": rollouts.drifted})
    trainer.add_callback(health.HeldOut(config, data, trainer.note))
    trainer.add_callback(watch)
    metrics = fit(trainer, folder, [row["prompt"] for row in rows.select(range(min(32, len(rows))))])
    return metrics | {"warnings": watch.warnings}
