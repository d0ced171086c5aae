"""Estimates, paired differences and rank correlation against scipy and simulation; the checklist against its facts."""

import itertools
import math
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from dnas.study import statistics
from dnas.study.statistics import (
    MOST_SEEDS,
    Correlation,
    Difference,
    Estimate,
    adjusted,
    estimate,
    kendall,
    paired,
    seeds_needed,
    t_power,
)

pytestmark = pytest.mark.filterwarnings("error")

# Accuracies in percent of a test set of 10 000 images.
ACCURACY = st.integers(0, 10_000).map(lambda right: right / 100)
RUNS = st.dictionaries(st.integers(0, 20), ACCURACY, max_size=12)


def by_seed(values):
    return dict(enumerate(values.tolist()))


def difference(p):
    return Difference(1.0, 1.0, 5, 0.0, 2.0, p=p, p_adjusted=None, seeds_needed=None)


@pytest.fixture
def no_plan(monkeypatch):
    """Where rates are measured over thousands of tables, nobody asks how many seeds each would need."""
    monkeypatch.setattr(statistics, "seeds_needed", lambda mean, sd: None)


def within(share, nominal, trials, errors=3.5):
    return abs(share - nominal) <= errors * math.sqrt(nominal * (1 - nominal) / trials)


# --- estimates ---


def test_an_estimate_by_hand():
    found = estimate([1.0, 2.0, 3.0])
    half = 4.302652729749464 / math.sqrt(3)  # The 97.5 % quantile of t with two degrees of freedom, from a table.
    assert (found.mean, found.sd, found.count) == (2.0, 1.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-9)


@given(st.lists(ACCURACY, min_size=2, max_size=20))
@settings(deadline=None)
def test_an_estimate_is_what_scipy_says_of_one_sample(values):
    found = estimate(values)
    if len(set(values)) == 1:
        assert found == Estimate(pytest.approx(values[0]), 0.0, len(values), None, None)
        return
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.low < found.mean < found.high


def test_what_few_values_do_not_tell_is_none():
    assert estimate([]) == Estimate(None, None, 0, None, None)
    assert estimate([91.5]) == Estimate(91.5, None, 1, None, None)
    assert estimate([0.1, 0.1, 0.1]) == Estimate(pytest.approx(0.1), 0.0, 3, None, None)
    assert estimate([0.0, 0.0]) == Estimate(0.0, 0.0, 2, None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        estimate([1.0, bad])
    with pytest.raises(ValueError, match="finite"):
        paired({0: 1.0, 1: bad}, {0: 1.0, 1: 2.0})
    with pytest.raises(ValueError, match="finite"):
        kendall([1.0, bad], [1.0, 2.0], seed=0)


def test_the_interval_covers_the_mean_in_95_of_100_studies():
    studies = np.random.default_rng(0).normal(94, 0.3, (4000, 6))
    found = [estimate(study) for study in studies]
    assert within(np.mean([each.low <= 94 <= each.high for each in found]), 0.95, 4000)


# --- paired differences ---


@given(RUNS, RUNS)
@settings(deadline=None, max_examples=60)
def test_a_difference_is_what_scipy_says_of_the_common_seeds(a, b):
    found = paired(a, b)
    common = [seed for seed in a if seed in b]
    x, y = [a[seed] for seed in common], [b[seed] for seed in common]
    hundredths = {round(100 * i) - round(100 * j) for i, j in zip(x, y, strict=True)}
    assert found.count == len(common) and found.p_adjusted is None
    if len(common) < 2:
        assert found.sd is found.low is found.high is found.p is found.seeds_needed is None
        assert (found.mean is None) == (not common)
    elif len(hundredths) == 1:
        assert found.mean == pytest.approx(hundredths.pop() / 100, abs=1e-9)
        assert found.sd == 0 and found.low is found.high is found.p is found.seeds_needed is None
    else:
        test = stats.ttest_rel(x, y)
        interval = test.confidence_interval()
        assert found.p == pytest.approx(test.pvalue, rel=1e-9)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert found.mean == pytest.approx(np.mean(x) - np.mean(y), abs=1e-9) and found.low < found.mean < found.high
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        assert found.seeds_needed == seeds_needed(found.mean, found.sd)


@given(RUNS, RUNS)
@settings(deadline=None, max_examples=60)
def test_the_difference_of_the_other_way_round_has_the_other_sign(a, b):
    one, other = paired(a, b), paired(b, a)
    assert (one.count, one.sd, one.p, one.seeds_needed) == (other.count, other.sd, other.p, other.seeds_needed)
    for mine, its in [(one.mean, other.mean), (one.low, other.high), (one.high, other.low)]:
        assert mine is its is None or mine == pytest.approx(-its, abs=1e-12)


@given(RUNS, RUNS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_the_runs_does_not_matter(a, b, random):
    shuffled = dict(random.sample(sorted(a.items()), len(a)))
    assert paired(shuffled, b) == paired(a, b)


@given(RUNS, RUNS, st.integers(-100, 100))
@settings(deadline=None, max_examples=60)
def test_what_all_runs_of_a_seed_have_in_common_cancels(a, b, shift):
    """An easy split of the images is easy for both."""
    bonus = {seed: shift * (seed % 3) for seed in range(21)}
    shifted = paired({s: v + bonus[s] for s, v in a.items()}, {s: v + bonus[s] for s, v in b.items()})
    plain = paired(a, b)
    for field in fields(Difference):
        mine, its = getattr(plain, field.name), getattr(shifted, field.name)
        if field.name == "seeds_needed" and mine is not None and its is not None:
            assert abs(mine - its) <= 1  # An effect exactly at a step may fall to either side by rounding.
        elif field.name != "seeds_needed" or abs(plain.mean or 0) > 1e-9:
            assert mine == (None if mine is None else pytest.approx(its, rel=1e-6, abs=1e-9))


def test_equal_differences_have_no_p():
    assert paired({0: 0.3, 1: 0.2, 2: 0.9}, {0: 0.2, 1: 0.1, 2: 0.8}) == Difference(
        pytest.approx(0.1), 0.0, 3, None, None, p=None, p_adjusted=None, seeds_needed=None
    )
    assert paired({0: 0.3, 1: 0.2}, {0: 0.3, 1: 0.2}).p is None
    # A difference of one test image in ten thousand is not taken for rounding.
    assert paired({0: 91.01, 1: 91.0}, {0: 91.0, 1: 91.0}).sd > 0


def test_no_difference_is_found_in_95_of_100_studies_without_one(no_plan):
    generator = np.random.default_rng(1)
    splits = generator.normal(94, 2.0, (2000, 6))  # What seeds share is much larger than what methods add.
    a, b = (splits + generator.normal(0, 0.3, splits.shape) for _ in range(2))
    found = [paired(by_seed(x), by_seed(y)) for x, y in zip(a, b, strict=True)]
    assert within(np.mean([each.p < 0.05 for each in found]), 0.05, 2000)
    assert stats.kstest([each.p for each in found], "uniform").pvalue > 0.01


# --- many differences ---


def adjusted_by_definition(p):
    """The smallest level of FDR at which the step-up procedure of Benjamini and Yekutieli rejects each."""
    m = len(p)
    price = sum(1 / i for i in range(1, m + 1))
    order = sorted(p)
    return [min(1, *(m * price * order[k] / (k + 1) for k in range(m) if order[k] >= each), 1) for each in p]


@given(st.lists(st.none() | st.floats(0, 1), max_size=12))
@settings(deadline=None)
def test_adjusted_p_are_those_of_the_step_up_procedure(p):
    table = adjusted([difference(each) for each in p])
    assert [each.p for each in table] == p
    assert [each.p_adjusted is None for each in table] == [each is None for each in p]
    tested = [each for each in p if each is not None]
    assert [each.p_adjusted for each in table if each.p is not None] == pytest.approx(adjusted_by_definition(tested))


def test_only_the_adjusted_p_changes():
    table = [difference(0.01), difference(None), difference(0.5)]
    assert [replace(each, p_adjusted=None) for each in adjusted(iter(table))] == table


def tables(generator, count, effects, seeds=6):
    """`count` tables of p: every method against the first, then all others against each other, on the same seeds."""
    pairs = list(itertools.combinations(range(len(effects)), 2))
    runs = np.asarray(effects)[:, None] + generator.normal(0, 1, (count, len(effects), seeds))
    p = np.stack([stats.ttest_rel(runs[:, i], runs[:, j], axis=-1).pvalue for i, j in pairs], axis=1)
    return p, np.array([effects[i] != effects[j] for i, j in pairs])


@pytest.mark.parametrize("references", ["one", "all"])
def test_no_table_without_differences_shows_one_too_often(references):
    """Against one reference the differences depend positively, in a table of all pairs in both ways."""
    count = 1000
    p, _ = tables(np.random.default_rng(2), count, [0.0] * 6)
    p = p[:, :5] if references == "one" else p
    shown = [any(each.p_adjusted < 0.05 for each in adjusted(map(difference, row))) for row in p.tolist()]
    raw = (p < 0.05).any(axis=1)
    assert raw.mean() > 0.15, "without adjustment there is nothing to guard against"
    assert np.mean(shown) <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / count)
    assert any(shown), "a rule that never shows a difference controls nothing"


def test_of_the_differences_shown_few_are_none():
    p, real = tables(np.random.default_rng(3), 500, [0.0, 0.0, 0.0, 4.0, 4.0])
    false, found = [], []
    for row in p.tolist():
        shown = np.array([each.p_adjusted < 0.05 for each in adjusted(map(difference, row))])
        false.append((shown & ~real).sum() / max(1, shown.sum()))
        found.append((shown & real).sum() / real.sum())
    assert np.mean(false) <= 0.05 + 3.5 * np.std(false) / math.sqrt(500)
    assert np.mean(found) > 0.5


# --- seeds needed ---


def test_seeds_needed_of_published_tables():
    """Cohen (1988), table 2.4: a two-sided test at 0.05 with power 0.8; for one sample, as G*Power gives them."""
    assert [seeds_needed(effect, 1.0) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert seeds_needed(0.5, 1.0, power=0.95) == 54


@given(st.floats(0.05, 20), st.floats(0.01, 100), st.floats(0.1, 0.99), st.sampled_from([0.001, 0.01, 0.05]))
@settings(deadline=None, max_examples=40)
def test_seeds_needed_are_the_fewest(effect, sd, power, level):
    count = seeds_needed(-effect * sd, sd, power, level)
    assert count >= 2 and t_power(effect, count, level) >= power - 1e-9
    assert count == 2 or t_power(effect, count - 1, level) < power + 1e-9


@pytest.mark.parametrize("effect", [0.3, 0.9, 2.5])
def test_a_study_with_the_seeds_needed_has_the_power_asked_for(effect):
    count, studies = seeds_needed(effect, 1.0), 20_000
    runs = np.random.default_rng(4).normal(effect, 1, (studies, count))
    seen = (stats.ttest_1samp(runs, 0, axis=1).pvalue < 0.05).mean()
    # It is the fewest seeds, so the power is a little above what was asked.
    assert within(seen, t_power(effect, count), studies)
    assert seen >= 0.8 - 0.01 and t_power(effect, count - 1) < 0.8


def power_by_quadrature(effect, count, level):
    """T = (Z + δ) / V, with V² of the χ² distribution over its degrees of freedom: integrated over V."""
    df, shift = count - 1, effect * math.sqrt(count)
    critical = stats.t.isf(level / 2, df)

    def seen(chi):
        bound = critical * chi / math.sqrt(df)
        return (stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)) * stats.chi.pdf(chi, df)

    middle = math.sqrt(df)
    return integrate.quad(seen, max(0, middle - 10), middle + 10, points=[middle], limit=200)[0]


@pytest.mark.parametrize("effect", [0.0, 0.1, 1.0, 3.0, 8.0, 50.0])
@pytest.mark.parametrize("count", [2, 3, 6, 40])
@pytest.mark.parametrize("level", [0.001, 0.05])
def test_the_power_is_that_by_quadrature(effect, count, level):
    assert t_power(effect, count, level) == pytest.approx(power_by_quadrature(effect, count, level), abs=1e-7)
    assert t_power(-effect, count, level) == t_power(effect, count, level)


def test_the_power_without_an_effect_is_the_level():
    assert [t_power(0.0, count, 0.03) for count in (2, 6, 500)] == pytest.approx([0.03] * 3)


def test_what_no_number_of_seeds_shows():
    assert (
        seeds_needed(0.0, 1.0) is seeds_needed(1.0, 0.0) is seeds_needed(1.0, None) is seeds_needed(None, 1.0) is None
    )
    assert seeds_needed(1e6, 1.0) == seeds_needed(1e300, 1.0) == seeds_needed(1.0, 1e-300) == 2
    # By the normal approximation, which is as good as exact here, the effect that needs just the cap.
    edge = (stats.norm.isf(0.025) + stats.norm.isf(0.2)) / math.sqrt(MOST_SEEDS)
    assert seeds_needed(edge * 0.99, 1.0) is None
    assert 0.97 * MOST_SEEDS < seeds_needed(edge * 1.01, 1.0) <= MOST_SEEDS


@pytest.mark.parametrize("wrong", [{"power": 1.0}, {"level": 0.0}, {"power": 0.04}, {"sd": -1.0}])
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(ValueError):
        seeds_needed(**({"mean": 1.0, "sd": 1.0} | wrong))


# --- rank correlation ---


ITEMS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(ITEMS, st.integers(0, 2**32))
@example([(0, 2), (0, 3), (1, 0), (1, 1)], 0)  # without any one of them τ is the same
@settings(deadline=None, max_examples=40)
def test_tau_and_p_are_those_of_scipy_and_the_interval_is_defined(items, seed):
    x, y = [a for a, _ in items], [b for _, b in items]
    found = kendall(x, y, seed, resamples=200)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert found == Correlation(None, None, None, None, len(items))
        return
    test = stats.kendalltau(x, y)
    assert (found.tau, found.p) == pytest.approx((test.statistic, test.pvalue))
    assert statistics._tau(np.array(x, float), np.array(y, float)) == pytest.approx(test.statistic)
    if found.low is None:
        assert found.high is None
    else:
        assert -1 <= found.low < found.high <= 1 and abs(found.tau) < 1
    assert kendall(x, y, seed, resamples=200) == found


def test_the_interval_is_that_of_scipys_bootstrap_of_its_own_tau():
    generator = np.random.default_rng(5)
    x = generator.normal(size=15)
    y = x + generator.normal(size=15)
    oracle = stats.bootstrap(
        (x, y),
        lambda a, b: stats.kendalltau(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="BCa",
        random_state=statistics.numpy_stream(7, "bootstrap"),
    ).confidence_interval
    found = kendall(x, y, seed=7, resamples=999)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
    assert kendall(x, y, seed=8, resamples=999) != found


def test_orders_that_agree_have_no_interval():
    assert kendall([1, 2, 3, 4], [10, 20, 30, 40], seed=0) == Correlation(1.0, None, None, pytest.approx(1 / 12), 4)
    assert kendall([1, 2, 3, 4], [4, 3, 2, 1], seed=0).tau == -1.0
    # Both have the same ties.
    assert kendall([1, 1, 2, 3], [5, 5, 6, 7], seed=0).low is None


def test_the_interval_falls_back_on_percentiles_where_bca_is_not_defined(monkeypatch):
    class Drawn:
        confidence_interval = (math.nan, math.nan)
        bootstrap_distribution = np.linspace(-1, 1, 1001)

    monkeypatch.setattr(stats, "bootstrap", lambda *_, **__: Drawn)
    found = kendall([1, 2, 3, 4], [1, 3, 2, 4], seed=0)
    assert (found.low, found.high) == pytest.approx((-0.95, 0.95))


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_interval_covers_tau_of_the_normal_distribution(correlation):
    """τ of two normal figures with correlation r is 2 asin(r) / π. The bootstrap is only nearly of 95 %."""
    tau, studies = 2 * math.asin(correlation) / math.pi, 300
    generator = np.random.default_rng(6)
    covered = 0
    for study in range(studies):
        x, noise = generator.normal(size=(2, 30))
        found = kendall(x, correlation * x + math.sqrt(1 - correlation**2) * noise, seed=study, resamples=499)
        covered += found.low <= tau <= found.high
    assert 0.91 <= covered / studies <= 0.985


def test_items_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="3 and 2"):
        kendall([1, 2, 3], [1, 2], seed=0)


def test_degenerate_input_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paired({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})
        kendall([0, 0, 1], [0, 1, 0], seed=0)
        kendall([0, 0, 0, 1], [0, 0, 1, 1], seed=0)
        seeds_needed(1e-300, 1.0)
        seeds_needed(1e300, 1.0)
