"""RLOO (REINFORCE leave-one-out, arXiv 2402.14740) with TRL's RLOOTrainer."""

from pathlib import Path
from typing import Any

from trl import RLOOTrainer

from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.method import on_policy
from qwen_align.method.evaluate import then_measured


class RLOO(on_policy.OnPolicy, RLOOTrainer):
    """RLOOTrainer with what all trainers that sample share."""

    reorders = True

    @property
    def old_log_probs_are_new(self) -> bool:
        """TRL's GRPO leaves the pass out by itself."""
        return self.speed.skips_old_log_probs


@then_measured
def train(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the prompts view with the configured rewards, then measure on the evaluation view."""
    return on_policy.train(RLOO, job, data, folder)
