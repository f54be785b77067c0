"""Kahneman-Tversky optimisation (arXiv 2402.01306) with TRL's KTOTrainer: answers that are good or bad, each for itself.

Both answers of a pair become examples of their own, in one shuffled order. The loss compares each with a KL term that TRL
estimates from mismatched prompts and answers: those of the rows that are in memory together, so these have to be two at least
and the same in every epoch (TRL reads them in order). Left out: data that has single labelled answers and no pairs.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from trl import KTOTrainer

from qwen_align.config.job import Job
from qwen_align.data import Data
from qwen_align.method import preferences
from qwen_align.method.evaluate import then_measured


class KTO(preferences.OnPreferences, KTOTrainer):
    """KTOTrainer with what all trainers on preference pairs share."""

    answers = ("completion",)
    reference_columns = ("ref_logps", "ref_KL_logps")

    @classmethod
    def examples(cls, pairs: Dataset, seed: int) -> Dataset:
        """prompt, completion and label of both answers of each pair, shuffled."""
        sides = [
            pairs.select_columns(["prompt", side]).rename_column(side, "completion").add_column("label", [label] * len(pairs))
            for side, label in (("chosen", True), ("rejected", False))
        ]
        return concatenate_datasets(sides).shuffle(seed=seed)

    @classmethod
    def batched(cls, rows: Dataset, batch_size: int) -> Dataset:
        """With KL_completion_ids: each batch's answers, moved on by one row."""
        ids = rows["completion_ids"][:]
        batches = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
        moved = [one for batch in batches for one in (batch[-1], *batch[:-1])]
        return rows.add_column("KL_completion_ids", moved)


@then_measured
def train(job: Job, data: Data, folder: Path) -> dict[str, Any]:
    """Train on the preferences view, then measure on the evaluation view."""
    return preferences.train(KTO, job, data, folder)
