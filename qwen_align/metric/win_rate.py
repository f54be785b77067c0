"""Win rate: how often one policy's completion of a prompt scores higher than another's, ties counting half.

Every sample of one policy meets every sample of the other on the same prompt, which has less chance in it than pairing them as
they came. 0.5 means neither wins. The interval is over prompts. Whoever scores decides what winning means: an exact judge, or a
reward model, which a policy that was trained on it can please without being better.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from qwen_align.metric import interval


def wins(ours: list[float], theirs: list[float]) -> float:
    """The share of pairs of one prompt's samples that ours wins."""
    difference = np.asarray(ours)[:, None] - np.asarray(theirs)[None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


class WinRate(evaluate.Metric):
    """predictions, references: for each prompt the scores of one policy's samples, and of the other's."""

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.Sequence(datasets.Value("float64"))
        features = datasets.Features({"predictions": scores, "references": scores})
        return evaluate.MetricInfo(description=__doc__, citation="arXiv 2506.21560", features=features)

    def _compute(self, predictions: list[list[float]], references: list[list[float]], **_: Any) -> dict[str, Any]:
        return {"win_rate": interval.mean([wins(*pair) for pair in zip(predictions, references, strict=True)])}
