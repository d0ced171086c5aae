"""`DNASClassifier` against scikit-learn's own checks, and what they do not know: pictures."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils import estimator_checks

import dnas
from dnas.api.estimator import DNASClassifier

TINY: dict = {"method": "random", "layers": 3, "channels": 8, "epochs": 1, "batch_size": 32, "finals": 0, "flip": "off"}
TINY["option"] = {"search.trials": 1}
SIDE = 8


class OfRows(DNASClassifier):
    """Makes a picture of any row of numbers, as scikit-learn's checks have them."""

    def _images(self, X):  # noqa: N803
        images = np.asarray(X)
        if images.ndim != 2 or images.dtype.kind not in "buif" or not images.size:
            return super()._images(X)
        # Bytes around 128, so that every check's numbers are in range; the rest of the picture is gray.
        pixels = np.full((len(images), SIDE * SIDE), 128, np.uint8)
        count = min(images.shape[1], SIDE * SIDE)
        pixels[:, :count] = np.clip(128 + 16 * images[:, :count], 0, 255)
        return super()._images(pixels.reshape(-1, SIDE, SIDE))


CHECKS = (
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
    "check_no_attributes_set_in_init", "check_do_not_raise_errors_in_init_or_set_params", "check_mixin_order",
    "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
    "check_estimators_unfitted", "check_fit_score_takes_y", "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters", "check_estimators_fit_returns_self", "check_estimators_pickle",
    "check_dict_unchanged", "check_classifiers_one_label",
)  # fmt: skip
# Those that scikit-learn has for classifiers beside them, and why they do not apply.
NOT_APPLICABLE = {
    "check_n_features_in*, check_fit2d_*, check_fit1d, check_estimators_dtypes, check_complex_data, check_dtype_object":
        "rows of numbers are refused without image_shape, and with it every row has that many; see the tests below",
    "check_estimator_sparse_*": "pictures are dense; refused in a test below",
    "check_classifier_data_not_an_array": "needs pandas, whose frames are rows of numbers",
    "check_estimators_nan_inf, check_estimators_empty_data_messages": "in tests below, on pictures",
    "check_classifiers_train, check_supervised_y_2d, check_classifiers_regression_target": "demand an accuracy on points "
        "in a plane, and DataConversionWarning and a refusal of real labels, which are classes here",
    "check_methods_sample_order_invariance, check_methods_subset_invariance, check_fit_idempotent": "in a test below, "
        "once",
    "check_class_weight_*, check_sample_weights_*, check_decision_proba_consistency, check_*_transform": "of what this "
        "estimator does not have",
    "check_readonly_memmap_input, check_f_contiguous_array_estimator, check_positive_only_tag_during_fit": "arrays are "
        "copied to bytes, never written to",
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks(name):
    estimator = OfRows(**TINY)
    if name == "check_parameters_default_constructible":
        estimator = DNASClassifier()  # the class itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(estimator_checks, name)(type(estimator).__name__, estimator)


def test_every_other_check_has_a_reason():
    assert all(NOT_APPLICABLE.values()) and not {name for name in CHECKS if name in NOT_APPLICABLE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # scikit-learn itself runs one check of an estimator of pictures.
        estimator_checks.check_estimator(DNASClassifier(**TINY))


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return images[:240].reshape(-1, 8, 8), np.array(["even", "odd"])[labels[:240] % 2]


@pytest.fixture(scope="module")
def fitted(digits):
    return DNASClassifier(**TINY | {"epochs": 12, "batch_size": 16}, random_state=3).fit(
        digits[0][:180], digits[1][:180]
    )


def test_it_learns_classes_with_names(fitted, digits):
    images, labels = digits
    assert list(fitted.classes_) == ["even", "odd"] and fitted.n_features_in_ == 64
    assert fitted.score(images[180:], labels[180:]) > 0.6
    probabilities = fitted.predict_proba(images[:9])
    assert probabilities.shape == (9, 2) and np.allclose(probabilities.sum(1), 1)
    assert list(fitted.predict(images[:9])) == list(fitted.classes_[probabilities.argmax(1)])
    # One by one, and in another order, it is the same.
    order = np.random.default_rng(0).permutation(30)
    assert (fitted.predict(images[order]) == fitted.predict(images[:30])[order]).all()
    assert isinstance(fitted.architecture_, dnas.Architecture) and len(fitted.architecture_) == 3


def test_no_folder_is_left_and_a_pickle_answers_alike(fitted, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = clone(fitted).set_params(epochs=1)
    assert not hasattr(small, "network_") and small.get_params()["random_state"] == 3
    one = small.fit(digits[0][:60], digits[1][:60]).predict_proba(digits[0][:20])
    two = clone(small).fit(digits[0][:60], digits[1][:60]).predict_proba(digits[0][:20])
    assert np.array_equal(one, two) and not list(tmp_path.iterdir())
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(digits[0][:20]), fitted.predict_proba(digits[0][:20]))


def test_rows_with_image_shape_are_the_same_pictures(digits):
    images, labels = digits[0][:60], digits[1][:60]
    rows = DNASClassifier(**TINY, image_shape=(8, 8)).fit(images.reshape(60, 64), labels)
    square = DNASClassifier(**TINY).fit(images.astype(np.uint8)[..., None], labels)
    assert np.array_equal(rows.predict_proba(images.reshape(60, 64)), square.predict_proba(images[..., None]))
    assert is_classifier(rows)
    search = GridSearchCV(clone(rows), {"channels": [8]}, cv=2, refit=False).fit(images.reshape(60, 64), labels)
    assert len(search.cv_results_["mean_test_score"]) == 1


def test_the_scale_is_that_of_fit(digits):
    images, labels = digits[0][:60] / 16, digits[1][:60]
    fitted = DNASClassifier(**TINY).fit(images, labels)
    assert np.array_equal(fitted.predict_proba(images), fitted.predict_proba(np.rint(images * 255).astype(np.uint8)))
    with pytest.raises(dnas.InputError, match="X must contain values from 0 to 1, got 0 to 16"):
        fitted.predict(digits[0][:60])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (x.reshape(60, 64), y), "give image_shape for rows of numbers"),
        (lambda x, y: (x[:, :, :, None].repeat(2, 3), y), r"1, 3 or 4 channels"),
        (lambda x, y: (x - 5, y), "X must contain values from 0 to 255, got -5 to 11"),
        (lambda x, y: (np.where(x > 15, np.nan, x), y), "Input X contains NaN"),
        (lambda x, y: (x[:0], y[:0]), "a minimum of 1 is required"),
        (lambda x, y: (x.astype(str), y), "X must contain numbers, got"),
        (lambda x, y: (x, y[:5]), "give one label per image"),
        (lambda x, y: (x, np.zeros(60, int)), "belong to one class"),
    ],
)
def test_what_is_no_pictures_is_refused(digits, change, says):
    with pytest.raises(ValueError, match=says):
        DNASClassifier(**TINY).fit(*change(digits[0][:60], digits[1][:60]))


def test_wrong_uses(fitted, digits):
    from scipy.sparse import csr_array

    with pytest.raises(NotFittedError):
        DNASClassifier().predict(digits[0])
    with pytest.raises(ValueError, match="is expecting 64 features as input"):
        fitted.predict(np.zeros((3, 9, 9)))
    with pytest.raises(ValueError, match="got a sparse matrix"):
        fitted.predict(csr_array(np.eye(8)))
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        fitted.set_params(depth=3)
    with pytest.raises(ValueError, match="random_state must be a whole number"):
        DNASClassifier(**TINY, random_state=np.random.default_rng(0)).fit(*digits)
    with pytest.raises(ValueError, match=r"image_shape=\(9, 9\) does not match the 64 features of X"):
        DNASClassifier(**TINY, image_shape=(9, 9)).fit(digits[0].reshape(-1, 64), digits[1])


def test_ctrl_c_is_ctrl_c(digits, monkeypatch):
    import signal

    from dnas.api import estimator

    def stopped(**options):
        raise dnas.Interrupted(options["out"], signal.SIGINT)

    monkeypatch.setattr(estimator, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        DNASClassifier(**TINY).fit(*digits)
