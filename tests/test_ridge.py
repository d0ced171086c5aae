"""Ridge regression as a posterior: against plain linear algebra with explicit priors, and the slow way of leaving out."""

import numpy as np
import pytest

from dnas.supernet.ridge import fit

PENALTIES = (0.5, 5.0, 50.0)


class Directions:
    """In place of a generator: one draw for each direction, each of unit length."""

    def standard_normal(self, shape):
        assert shape[0] == shape[1]
        return np.eye(shape[0])


def examples(count, features, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (count, features)).astype(float)
    return x, x @ rng.standard_normal(features) + 2 * rng.standard_normal(count) + 7


def posterior(x, y, penalty, variance):
    """Mean and covariance of (intercept, weights): a flat prior for the intercept, nothing centred."""
    design = np.column_stack([np.ones(len(y)), x])
    precision = (design.T @ design + penalty * np.diag([0.0, *np.ones(x.shape[1])])) / variance
    covariance = np.linalg.inv(precision)
    return covariance @ design.T @ y / variance, covariance


@pytest.mark.parametrize("shape", [(30, 6), (12, 20)])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_it_is_the_posterior_of_a_linear_model(shape, penalty):
    x, y = examples(*shape)
    made = fit(x, y, (penalty,))
    mean, covariance = posterior(x, y, penalty, made.variance)
    assert made.weights == pytest.approx(mean[1:])
    assert made.errors == pytest.approx(np.sqrt(np.diag(covariance)[1:]))
    queries = examples(5, shape[1], seed=1)[0]
    design = np.column_stack([np.ones(5), queries])
    expected, variance = made.predicted(queries)
    assert expected == pytest.approx(design @ mean)
    assert variance == pytest.approx(np.einsum("ni,ij,nj->n", design, covariance, design))


@pytest.mark.parametrize("shape", [(30, 6), (12, 20)])
def test_draws_have_the_mean_and_the_whole_covariance(shape):
    x, y = examples(*shape)
    made = fit(x, y, (3.0,))
    root = made.draws(Directions(), shape[1]) - made.weights
    assert root.T @ root == pytest.approx(posterior(x, y, 3.0, made.variance)[1][1:, 1:], abs=1e-9)


@pytest.mark.parametrize("shape", [(15, 4), (8, 12)])
def test_the_penalty_is_the_one_that_predicts_best_what_is_left_out(shape):
    x, y = examples(*shape)

    def off(penalty):
        errors = []
        for i in range(len(y)):
            others = np.arange(len(y)) != i
            mean, _ = posterior(x[others], y[others], penalty, 1.0)
            errors.append(y[i] - mean[0] - x[i] @ mean[1:])
        return np.mean(np.square(errors))

    slow = {penalty: off(penalty) for penalty in PENALTIES}
    made = fit(x, y, PENALTIES)
    assert made.penalty == min(slow, key=slow.get) and made.variance == pytest.approx(slow[made.penalty])


def test_equal_targets_leave_something_to_rank_by():
    made = fit(examples(6, 4)[0], np.full(6, 3.0), PENALTIES)
    mean, variance = made.predicted(np.eye(4))
    assert mean == pytest.approx([3.0] * 4) and (variance > 0).all()
