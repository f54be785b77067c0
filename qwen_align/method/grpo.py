"""GRPO (group-relative policy optimisation, arXiv 2402.03300) with TRL's GRPOTrainer.

Its relatives are TRL's fields: loss_type (dapo, dr_grpo, bnpo, cispo, sapo ...), importance_sampling_level=sequence (GSPO),
scale_rewards, multi_objective_aggregation, entropy_coef with use_adaptive_entropy. Left out: tools and environments.
"""

from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.method import on_policy
from qwen_align.method.evaluate import then_measured


class GRPO(on_policy.OnPolicy, GRPOTrainer):
    """GRPOTrainer with what all trainers that sample share."""


@then_measured
def train(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the prompts view with the configured rewards, then measure on the evaluation view."""
    return on_policy.train(GRPO, job, data, folder)
