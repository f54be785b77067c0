"""RLOO (REINFORCE leave-one-out, arXiv 2402.14740) with TRL's RLOOTrainer on our reward objects.

What sampling optimises is the reward of one sample: it sharpens the policy, so best-of-N with many samples can get worse while
pass@1 rises. The evaluation reports both.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch.utils.data import Sampler
from trl import RLOOTrainer

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.method import evaluate, policy
from qwen_align.method.fit import arguments, fit
from qwen_align.reward import Reward, to_trl

RESERVED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def build_rewards(node: dict[str, Any]) -> list[Reward]:
    """The reward objects of a config: one component, or several by name."""
    nodes = [node] if "_target_" in node else list(node.values())
    return [instantiate(n, _convert_="object") for n in nodes]


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


class ResumableRLOOTrainer(RLOOTrainer):
    """RLOOTrainer that reads its prompts in the same order after a resume."""

    def _get_train_sampler(self, dataset: Any = None) -> EpochOrder:
        return EpochOrder(super()._get_train_sampler(dataset), self)


def train(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Train on the prompts view with the configured reward, then measure on the evaluation view."""
    rewards = build_rewards(config["method"]["reward"])
    functions = to_trl(rewards)
    rows = data.prompts()
    check_rows(rows, rewards, config["method"])
    run_folder.record_view(folder, "prompts", rows)
    learner, tokenizer = policy.load(config)
    trainer = ResumableRLOOTrainer(
        model=learner,
        reward_funcs=list(functions),
        args=arguments(config, folder, reward_weights=[reward.weight for reward in rewards]),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=instantiate(config["adapter"], _convert_="object"),
    )
    metrics = fit(trainer, folder, [row["prompt"] for row in rows.select(range(min(32, len(rows))))])
    return evaluate.after_training(config, data, folder, metrics)
