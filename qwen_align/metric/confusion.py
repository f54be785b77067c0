"""Which labels were answered where which was right: a table, and each label's accuracy (its recall) with a 95 % interval.

Several samples of a problem are counted one by one in the table; intervals are over problems.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from qwen_align.metric import interval

NONE = "none"  # the last column: no label was answered


def confusion(labels: Sequence[str], expected: Sequence[str], answered: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    """{"table": counts (labels, labels and none), "accuracy": {label: {n problems, mean, low, high}}}.

    Each problem has one expected label and an answered one a sample; one that is none of `labels`, the rows, counts as none.
    """
    counts = Counter((right, label) for right, pool in zip(expected, answered, strict=True) for label in pool)
    table = [[counts[right, label] for label in labels] for right in labels]
    for right, row in zip(labels, table, strict=True):
        row.append(sum(n for (owner, _), n in counts.items() if owner == right) - sum(row))
    accuracy: dict[str, Any] = {}
    for right in labels:
        pools = [pool for owner, pool in zip(expected, answered, strict=True) if owner == right]
        if pools:
            hits = [fmean(label == right for label in pool) for pool in pools]
            one_each = all(len(pool) == 1 for pool in pools)
            found = interval.share([bool(hit) for hit in hits]) if one_each else interval.mean(hits, shares=True)
            accuracy[right] = {"n": len(pools), **vars(found)}
    return {"table": table, "accuracy": accuracy}


def by_label(expected: Sequence[str], greedy: Sequence[str | None], samples: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    """The labels that were right somewhere; the confusions of the greedy answers, where there are some, and of the samples."""
    labels = sorted(set(expected))
    found: dict[str, Any] = {"labels": labels}
    if greedy:
        found["greedy"] = confusion(labels, expected, [[label] for label in greedy])
    return found | {"samples": confusion(labels, expected, samples)}
