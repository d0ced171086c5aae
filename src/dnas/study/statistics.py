"""The statistics of a comparison of methods: estimates, paired differences, rank correlation, the reporting checklist.

This module knows numbers, not runs. What cannot be estimated from the numbers given is None, never NaN, and never a
figure that claims more certainty than they hold. All intervals are of 95 %.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # whose part `stats` comes at its first use, since it takes most of a second
from numpy.typing import ArrayLike, NDArray

from dnas.rng import numpy_stream

CONFIDENCE = 0.95
LEVEL = 0.05  # of a test: 1 - CONFIDENCE
MOST_SEEDS = 100_000
"""More seeds than these are never said to be needed: nobody runs them, and the effect is as good as none."""
Floats = NDArray[np.float64]

# --- estimates and differences ---


@dataclass(frozen=True)
class Estimate:
    """A mean and how well it is known."""

    mean: float | None
    """None where count is 0."""
    sd: float | None
    """The sample's standard deviation (n - 1 in the denominator); None for fewer than two values, 0 if all equal."""
    count: int
    low: float | None
    """The interval's lower end; None where sd is None or 0."""
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean difference of two methods over the search seeds that both have, and its paired t-test."""

    p: float | None
    """Two-sided; None where sd is None or 0."""
    p_adjusted: float | None
    """What `adjusted` makes of p, in the company of a table's other differences; None before."""
    seeds_needed: int | None


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, standard deviation and t-interval of independent values.

    The interval is that of Student's t: exact for normal values, and for few others too narrow or too wide. Values that
    are all equal (up to rounding) have sd 0 and no interval: they show that the measure is too coarse to see a spread
    (few test images, or every seed found one architecture), not that there is none.

    Raises:
        ValueError: A value is not finite.
    """
    array = _finite(list(values))
    return _estimate(array, np.abs(array).max(initial=0.0))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Difference:
    """The difference a - b over the search seeds that both have, by the paired t-test.

    Runs of one search seed share its random streams, such as the split of the images, so they are compared with each
    other; a seed that only one method has is left out. With fewer than two common seeds there are no sd, interval, p
    and seeds_needed, and without any no mean. Where all differences are equal up to rounding, sd is 0 and the others
    are None, too: the statistic is infinite or 0/0, and a p of 0 from two seeds would be no evidence (see `estimate`).

    Args:
        a: Search seed → figure. A seed that was trained several times has the mean over its trainings here: these are
            not independent searches.
        b: The same of the method that is subtracted.

    Raises:
        ValueError: A figure is not finite.
    """
    seeds = sorted(a.keys() & b.keys())
    left, right = _finite([a[seed] for seed in seeds]), _finite([b[seed] for seed in seeds])
    known = _estimate(left - right, np.abs([left, right]).max(initial=0.0))
    p = float(scipy.stats.ttest_rel(left, right).pvalue) if known.sd else None
    return Difference(**vars(known), p=p, p_adjusted=None, seeds_needed=seeds_needed(known.mean, known.sd))


def adjusted(differences: Iterable[Difference]) -> list[Difference]:
    """The differences of a table with p_adjusted, by which the false discovery rate is controlled over the table.

    By the procedure of Benjamini and Yekutieli (2001): if those with p_adjusted < q are called differences, a share of
    at most q of them is expected to be none. It holds under any dependence. That of Benjamini and Hochberg needs tests
    that are independent or depend positively; those of a table share seeds and references, and in a table of all pairs
    a - b and b - c depend negatively. The price is a factor of 1 + 1/2 + … + 1/m in every p. A difference without a p
    is not one of the m and keeps None.
    """
    table = list(differences)
    tested = [difference.p for difference in table if difference.p is not None]
    if not tested:
        return table
    controlled = iter(scipy.stats.false_discovery_control(tested, method="by").tolist())
    return [replace(each, p_adjusted=None if each.p is None else next(controlled)) for each in table]


def t_power(effect: float, count: int, level: float = LEVEL) -> float:
    """The probability that a two-sided paired t-test of `count` normal differences gives p < level.

    Args:
        effect: The differences' true mean over their true standard deviation.
        count: At least 2.
    """
    # scipy's noncentral t is NaN beyond shifts of 1e9; at 1e8 a test at any level in use sees the effect surely.
    df, shift = count - 1, min(abs(effect) * count**0.5, 1e8)
    critical = scipy.stats.t.isf(level / 2, df)
    with np.errstate(all="ignore"):  # scipy 1.11 divides by 0 on the way to right values.
        seen, opposite = scipy.stats.nct.sf(critical, df, shift), scipy.stats.nct.cdf(-critical, df, shift)
    # The lower tail is NaN, too, where it is smaller than 2e-16 (found by quadrature).
    return float(seen + np.nan_to_num(opposite))


def seeds_needed(mean: float | None, sd: float | None, power: float = 0.8, level: float = LEVEL) -> int | None:
    """The fewest seeds with which a two-sided paired t-test sees a difference with this power, by the noncentral t.

    It answers a plan: if differences had this true mean and sd. Of observed ones it says less than it seems to. It is
    then a function of p and the seeds alone, and adds nothing to p (Hoenig and Heisey 2001). With few seeds it is
    wrong by a large factor in either direction. An effect that was picked because its p was small is too large, so that
    the seeds are too few. And it never says that there is, or is not, an effect. A study is better planned from the
    smallest mean that would matter, with the observed sd.

    Returns:
        At least 2; None where mean is 0, sd is 0, or either is None, and where more than MOST_SEEDS would be needed.

    Raises:
        ValueError: Not 0 < level < power < 1, or a negative sd.
    """
    if not 0 < level < power < 1:
        raise ValueError(f"0 < level < power < 1 must hold, but got level={level}, power={power}")
    if sd is not None and sd < 0:
        raise ValueError(f"sd must not be negative, but is {sd}")
    if not mean or not sd:
        return None
    counts = range(2, MOST_SEEDS + 1)
    effect = abs(mean) / sd
    place = bisect_left(counts, power, key=lambda count: t_power(effect, count, level))
    return counts[place] if place < len(counts) else None


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"statistics need finite values, but got {array[~np.isfinite(array)][0]}")
    return array


def _estimate(values: Floats, scale: float) -> Estimate:
    """Of values that carry the rounding errors of numbers as large as `scale`."""
    count = len(values)
    if count == 0:
        return Estimate(None, None, 0, None, None)
    mean = float(values.mean())
    if count == 1:
        return Estimate(mean, None, 1, None, None)
    # 0.3 - 0.2 and 0.2 - 0.1 are equal differences, but not as floating-point numbers.
    if np.abs(values - mean).max() <= 32 * np.finfo(np.float64).eps * scale:
        return Estimate(mean, 0.0, count, None, None)
    sd = float(values.std(ddof=1))
    low, high = scipy.stats.t.interval(CONFIDENCE, count - 1, loc=mean, scale=sd / count**0.5)
    return Estimate(mean, sd, count, float(low), float(high))


# --- rank correlation ---


@dataclass(frozen=True)
class Correlation:
    """Kendall's τ-b of two figures of the same items."""

    tau: float | None
    """-1 (opposite order) to 1 (same order); None where either figure is the same for all items."""
    low: float | None
    """The interval's lower end; None where tau is None, 1 or -1, or all resamples have one."""
    high: float | None
    p: float | None
    """Of the null hypothesis that the orders are independent; two-sided."""
    count: int


def kendall(x: Sequence[float], y: Sequence[float], seed: int, resamples: int = 9999) -> Correlation:
    """How well x ranks items as y does, such as a supernet's accuracies of architectures against those after training.

    τ and p are those of scipy.stats.kendalltau. The interval is of the bootstrap over items: bias-corrected and
    accelerated (BCa; Efron 1987), or of the percentiles where BCa is not defined. It is a pure function of the
    arguments, and speaks of items drawn as these were: if they are the best of a search, then of such. Of ten
    items or fewer it is wide, since most resamples have ties. Two orders that agree wholly, or are opposite, have none:
    so do all their resamples.

    Raises:
        ValueError: x and y differ in length, or a value is not finite.
    """
    left, right = _finite(x), _finite(y)
    if len(left) != len(right):
        raise ValueError(f"x and y are figures of the same items, but have {len(left)} and {len(right)} values")
    count = len(left)
    if count < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Correlation(None, None, None, None, count)
    test = scipy.stats.kendalltau(left, right)
    tau, p = float(test.statistic), float(test.pvalue)
    low = high = None
    if abs(tau) < 1 - 1e-12:
        low, high = _bootstrapped(left, right, seed, resamples)
    return Correlation(tau, low, high, p, count)


def _bootstrapped(x: Floats, y: Floats, seed: int, resamples: int) -> tuple[float | None, float | None]:
    # Where leaving out any one item gives the same τ, scipy divides 0 by 0; what follows is for that.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        drawn = scipy.stats.bootstrap(
            (x, y),
            _tau,
            paired=True,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="BCa",
            n_resamples=resamples,
            batch=max(1, 2**21 // len(x) ** 2),  # The pairs of a batch's resamples: some 16 MB an array.
            random_state=numpy_stream(seed, "bootstrap"),
        )
    low, high = drawn.confidence_interval
    if not np.isfinite([low, high]).all():
        share = (1 - CONFIDENCE) / 2
        low, high = np.quantile(drawn.bootstrap_distribution, [share, 1 - share])
    return (float(low), float(high)) if low < high else (None, None)


def _tau(x: Floats, y: Floats, axis: int = -1) -> Floats:
    """τ-b along the last axis; 0 where either is constant, as a resample of few items may be: it ranks nothing.

    scipy.stats.kendalltau would be a loop over the resamples, which takes seconds.
    """
    first, second = np.triu_indices(x.shape[-1], 1)
    of_x, of_y = np.sign(x[..., first] - x[..., second]), np.sign(y[..., first] - y[..., second])
    untied = np.sqrt((of_x**2).sum(-1) * (of_y**2).sum(-1))
    tau: Floats = (of_x * of_y).sum(-1) / np.where(untied > 0, untied, 1)
    return tau
