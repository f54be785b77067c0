"""pass@k and best-of-N from one pool of verified samples a problem.

pass@k is the unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374). Best-of-N takes the first N
samples as they came and counts a problem as solved when the verifier accepts one of them: what a user of best-of-N would see.
"""

from math import comb
from typing import Any

import datasets
import evaluate

from qwen_align.metric import interval


def estimate(samples: int, correct: int, k: int) -> float:
    """The chance that one of k samples drawn without replacement from the pool is correct."""
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def ks(samples: int) -> list[int]:
    """1, 2, 4, ... up to the pool's size."""
    return [1 << i for i in range(samples.bit_length()) if 1 << i <= samples]


class PassAtK(evaluate.Metric):
    """predictions: for each problem whether each sample is correct, in the order the samples came."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("bool"))})
        return evaluate.MetricInfo(description=__doc__, citation="arXiv 2107.03374", features=features)

    def _compute(self, predictions: list[list[bool]], **_: Any) -> dict[str, Any]:
        pool = len(predictions[0])
        result: dict[str, Any] = {}
        for k in ks(pool):
            result[f"pass@{k}"] = interval.mean([estimate(pool, sum(row), k) for row in predictions], shares=True)
        for n in ks(pool):
            result[f"best_of_{n}"] = interval.share([any(row[:n]) for row in predictions])
        return result
