"""What two policies differ by on the same problems, metric by metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from qwen_align.metric import interval
from qwen_align.metric.interval import Interval


@dataclass(frozen=True)
class Difference:
    """after minus before, each metric with its paired interval over problems."""

    after: str
    before: str
    metrics: dict[str, Interval]


def differences(policies: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Difference]:
    """Every pair of policies (name -> metric -> a value a problem; all have the same metrics), the earlier one as `before`."""
    return [
        Difference(
            after, before, {key: interval.paired(policies[after][key], values) for key, values in policies[before].items()}
        )
        for before, after in combinations(policies, 2)
    ]
