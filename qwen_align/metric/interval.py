"""95 % intervals: Wilson for shares of yes and no, the percentile bootstrap over problems for everything else.

The light parent reads intervals back, so numpy and scipy are imported where something is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def share(values: Sequence[bool]) -> Interval:
    """The share of true values with Wilson's interval."""
    from scipy import stats

    low, high = stats.binomtest(sum(map(bool, values)), len(values)).proportion_ci(method="wilson")
    return Interval(sum(map(bool, values)) / len(values), float(low), float(high))


def mean(values: Sequence[float], seed: int = 0, shares: bool = False) -> Interval:
    """The mean of one value a problem; problems are what is drawn again.

    With `shares` the values lie in [0, 1]; if all are 0, or all 1, the interval is Wilson's: a bootstrap would claim certainty.
    """
    import numpy as np
    from scipy import stats

    array = np.asarray(values, dtype=float)
    centre = float(array.mean())
    if shares and centre in (0.0, 1.0):
        return share([bool(centre)] * len(array))
    if len(array) < 2 or np.all(array == array[0]):
        return Interval(centre, centre, centre)
    found = stats.bootstrap(
        (array,), np.mean, n_resamples=4000, batch=500, method="percentile", rng=np.random.default_rng(seed)
    )
    return Interval(centre, float(found.confidence_interval.low), float(found.confidence_interval.high))


def crossed(values: Sequence[Sequence[float]]) -> Interval:
    """The mean over training seeds and problems, values being (seeds, problems); its interval carries both.

    Half-widths add as squares: Student's t over the seeds' means, the bootstrap over the problems' means. What is left of the
    variance is counted in both, so the interval is rather too wide. One seed: problems alone.
    """
    import numpy as np
    from scipy import stats

    array = np.asarray(values, dtype=float)
    found = mean(array.mean(axis=0))
    if (seeds := len(array)) == 1:
        return found
    half = float(stats.t.ppf(0.975, seeds - 1)) * float(array.mean(axis=1).std(ddof=1)) / seeds**0.5
    below, above = (float(np.hypot(half, found.mean - side)) for side in (found.low, found.high))
    return Interval(found.mean, found.mean - below, found.mean + above)


def paired(after: Sequence[float], before: Sequence[float]) -> Interval:
    """The mean difference of two policies on the same problems, in the same order."""
    return mean([float(a) - float(b) for a, b in zip(after, before, strict=True)])
