"""The statistics of a comparison of methods: estimates, paired differences and rank correlation.

This module works on numbers, not runs. A quantity that cannot be estimated from the given numbers is None, never NaN,
and never a figure that suggests more certainty than they contain. All intervals are 95% confidence intervals.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # loads `stats` at its first use, which takes most of a second
from numpy.typing import ArrayLike, NDArray

from dnas.rng import numpy_stream

CONFIDENCE = 0.95
LEVEL = 0.05  # significance level of a test: 1 - CONFIDENCE
MOST_SEEDS = 100_000
"""The upper bound of reported seed counts: larger studies are impractical, and the effect is negligible."""
Floats = NDArray[np.float64]

# --- estimates and differences ---


@dataclass(frozen=True)
class Estimate:
    """A mean and its uncertainty."""

    mean: float | None
    """None if count is 0."""
    sd: float | None
    """Sample standard deviation (n - 1 in the denominator); None for fewer than two values, 0 if all are equal."""
    count: int
    low: float | None
    """Lower end of the interval; None if sd is None or 0."""
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean difference of two methods over their common search seeds, and its paired t-test."""

    p: float | None
    """Two-sided; None if sd is None or 0."""
    p_adjusted: float | None
    """p after the adjustment for all differences of a table (`adjusted`); None before."""
    seeds_needed: int | None


def estimate(values: Iterable[float]) -> Estimate:
    """Return mean, standard deviation and t-interval of independent values.

    The interval is that of Student's t: exact for normal values, and possibly too narrow or too wide for a few
    non-normal ones. If all values are equal (up to rounding), sd is 0 and there is no interval: this only shows that
    the measure is too coarse to resolve a spread (few test images, or one architecture for all seeds).

    Raises:
        ValueError: A value is non-finite.
    """
    array = _finite(list(values))
    return _estimate(array, np.abs(array).max(initial=0.0))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Difference:
    """Return the difference a - b over the common search seeds, with a paired t-test.

    Runs with the same search seed share its random streams, such as the split of the images, so they are compared with
    each other. A seed of only one method is omitted. With fewer than two common seeds, sd, interval, p and seeds_needed
    are None, and with none the mean also. If all differences are equal up to rounding, sd is 0 and the other ones are
    None: the statistic is infinite or 0/0, and a p of 0 from two seeds would not be evidence (see `estimate`).

    Args:
        a: Search seed → figure. For a seed with several trainings, this is their mean, since they are not independent
            searches.
        b: The same for the method to subtract.

    Raises:
        ValueError: A figure is non-finite.
    """
    seeds = sorted(a.keys() & b.keys())
    left, right = _finite([a[seed] for seed in seeds]), _finite([b[seed] for seed in seeds])
    known = _estimate(left - right, np.abs([left, right]).max(initial=0.0))
    p = float(scipy.stats.ttest_rel(left, right).pvalue) if known.sd else None
    return Difference(**vars(known), p=p, p_adjusted=None, seeds_needed=seeds_needed(known.mean, known.sd))


def adjusted(differences: Iterable[Difference]) -> list[Difference]:
    """Return the differences of a table with p_adjusted, which controls the false discovery rate over the table.

    The procedure is that of Benjamini and Yekutieli (2001): among differences with p_adjusted < q, the expected share
    of false discoveries is at most q, under any dependence. The procedure of Benjamini and Hochberg requires
    independent or positively dependent tests. Those of a table share seeds and references, and in a table of all pairs
    a - b and b - c depend negatively. The cost is a factor of 1 + 1/2 + … + 1/m in every p. A difference without p is
    not one of the m tests and keeps None.
    """
    table = list(differences)
    tested = [difference.p for difference in table if difference.p is not None]
    if not tested:
        return table
    controlled = iter(scipy.stats.false_discovery_control(tested, method="by").tolist())
    return [replace(each, p_adjusted=None if each.p is None else next(controlled)) for each in table]


def t_power(effect: float, count: int, level: float = LEVEL) -> float:
    """Return the probability that a two-sided paired t-test of `count` normal differences gives p < level.

    Args:
        effect: True mean of the differences, divided by their true standard deviation.
        count: At least 2.
    """
    # scipy's noncentral t is NaN beyond shifts of 1e9; at 1e8 a test at any usual level has a power of 1.
    df, shift = count - 1, min(abs(effect) * count**0.5, 1e8)
    critical = scipy.stats.t.isf(level / 2, df)
    with np.errstate(all="ignore"):  # scipy 1.11 divides by 0 on the way to correct values.
        seen, opposite = scipy.stats.nct.sf(critical, df, shift), scipy.stats.nct.cdf(-critical, df, shift)
    # The lower tail is also NaN if it is smaller than 2e-16 (checked by quadrature).
    return float(seen + np.nan_to_num(opposite))


def seeds_needed(mean: float | None, sd: float | None, power: float = 0.8, level: float = LEVEL) -> int | None:
    """Return the fewest seeds for which a two-sided paired t-test has this power, by the noncentral t distribution.

    The number is for planning, assuming that differences have this true mean and sd. Computed from observed ones, it is
    less informative than it seems. It is then a function of p and the number of seeds only, and adds nothing to p
    (Hoenig and Heisey 2001). With few seeds it is wrong by a large factor in either direction. An effect selected for
    its small p is overestimated, so the number is too small. It is never evidence for or against an effect. It is
    better to plan a study with the smallest relevant mean and the observed sd.

    Returns:
        At least 2; None if mean is 0, sd is 0, or either is None, or if more than MOST_SEEDS would be needed.

    Raises:
        ValueError: Not 0 < level < power < 1, or a negative sd.
    """
    if not 0 < level < power < 1:
        raise ValueError(f"level and power must satisfy 0 < level < power < 1, got level={level}, power={power}")
    if sd is not None and sd < 0:
        raise ValueError(f"sd must be at least 0, got {sd}")
    if not mean or not sd:
        return None
    counts = range(2, MOST_SEEDS + 1)
    effect = abs(mean) / sd
    place = bisect_left(counts, power, key=lambda count: t_power(effect, count, level))
    return counts[place] if place < len(counts) else None


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"values must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _estimate(values: Floats, scale: float) -> Estimate:
    """Return the estimate for values with the rounding errors of numbers as large as `scale`."""
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
    """Kendall's τ-b of two figures for the same items."""

    tau: float | None
    """-1 (opposite order) to 1 (same order); None if either figure is constant."""
    low: float | None
    """Lower end of the interval; None if tau is None, 1 or -1, or the same for all resamples."""
    high: float | None
    p: float | None
    """Two-sided, for the null hypothesis that the orders are independent."""
    count: int


def kendall(x: Sequence[float], y: Sequence[float], seed: int, resamples: int = 9999) -> Correlation:
    """Return the rank correlation of x and y, such as accuracies in a supernet and after training from scratch.

    τ and p are those of scipy.stats.kendalltau. The interval is a bootstrap interval over items: bias-corrected and
    accelerated (BCa; Efron 1987), or the percentile interval if BCa is undefined. It is a pure function of the
    arguments, and applies to items drawn in the same way: for example, to the best ones of a search. With ten items or
    fewer it is wide, since most resamples have ties. Identical or opposite orders have no interval, since all their
    resamples have the same τ.

    Raises:
        ValueError: x and y differ in length, or a value is non-finite.
    """
    left, right = _finite(x), _finite(y)
    if len(left) != len(right):
        raise ValueError(f"x and y must have the same length, got {len(left)} and {len(right)} values")
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
    # If omitting any one item gives the same τ, scipy divides 0 by 0; the code below handles that.
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
            batch=max(1, 2**21 // len(x) ** 2),  # The pairs in a batch of resamples: about 16 MB per array.
            random_state=numpy_stream(seed, "bootstrap"),
        )
    low, high = drawn.confidence_interval
    if not np.isfinite([low, high]).all():
        share = (1 - CONFIDENCE) / 2
        low, high = np.quantile(drawn.bootstrap_distribution, [share, 1 - share])
    return (float(low), float(high)) if low < high else (None, None)


def _tau(x: Floats, y: Floats, axis: int = -1) -> Floats:
    """Return τ-b along the last axis; 0 if either is constant, as in some resamples of few items.

    With scipy.stats.kendalltau, a loop over the resamples would take seconds.
    """
    first, second = np.triu_indices(x.shape[-1], 1)
    of_x, of_y = np.sign(x[..., first] - x[..., second]), np.sign(y[..., first] - y[..., second])
    untied = np.sqrt((of_x**2).sum(-1) * (of_y**2).sum(-1))
    tau: Floats = (of_x * of_y).sum(-1) / np.where(untied > 0, untied, 1)
    return tau
