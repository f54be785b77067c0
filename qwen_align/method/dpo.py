"""Direct preference optimisation (arXiv 2305.18290) with TRL's DPOTrainer; its relatives (ipo, hinge ...) are `loss_type`."""

from pathlib import Path
from typing import Any

from trl import DPOTrainer

from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.method import preferences
from qwen_align.method.evaluate import then_measured


class DPO(preferences.OnPreferences, DPOTrainer):
    """DPOTrainer with what all trainers on preference pairs share."""

    answers = ("chosen", "rejected")
    reference_columns = ("ref_chosen_logps", "ref_rejected_logps")


@then_measured
def train(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the preferences view, then measure on the evaluation view."""
    return preferences.train(DPO, job, data, folder)
