"""A search and its trained network as a classifier for scikit-learn: fit, predict, score.

scikit-learn recognizes estimators by their methods, so nothing is inherited, and it is only imported when needed.
"""

from __future__ import annotations

import inspect
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dnas.api.runs import run
from dnas.errors import InputError, Interrupted, shown
from dnas.space.architecture import Architecture

if TYPE_CHECKING:
    from typing_extensions import Self

    from dnas.pipeline.classifier import Classifier

_WHITES = (1.0, 255.0)


class DNASClassifier:
    """An image classifier that searches its own network, for pipelines and model selection of scikit-learn.

    Search and training use all of `X`; test with `score` or cross-validation. `fit` leaves no run folder: for a run
    that can be resumed, has a baseline or streams its images, use `dnas.run`. Parameters that are None depend on the
    preset.

    `X` is [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, or [N, H·W·C] with `image_shape`. Its values are
    between 0 and 255, or between 0 and 1 if all floating-point values in `fit` are; they are rounded to bytes.

    Args:
        method, mapping, preset, option, budget, finals, layers, channels, epochs, batch_size, image_size, flip,
            device: As for `dnas.run`.
        image_shape: (H, W) or (H, W, C) of the images, if each of them is a row of numbers.
        random_state: The seed, an integer.

    Attributes:
        classes_: The classes, sorted [K].
        architecture_: The searched architecture.
        network_: The trained network, as `dnas.load` returns it; its classes are indices into `classes_`.
        n_features_in_: Number of values per image.
    """

    classes_: npt.NDArray[Any]
    architecture_: Architecture
    network_: Classifier
    n_features_in_: int

    def __init__(
        self,
        *,
        method: str = "dnas",
        mapping: Literal["shared", "full", "decoupled"] | None = None,
        preset: Literal["quick", "paper", "shared"] = "quick",
        option: Mapping[str, object] | None = None,
        budget: float | str | None = None,
        finals: int | None = None,
        layers: int | None = None,
        channels: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        image_size: int | None = None,
        image_shape: Sequence[int] | None = None,
        flip: Literal["auto", "on", "off"] | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.mapping = mapping
        self.preset = preset
        self.option = option
        self.budget = budget
        self.finals = finals
        self.layers = layers
        self.channels = channels
        self.epochs = epochs
        self.batch_size = batch_size
        self.image_size = image_size
        self.image_shape = image_shape
        self.flip = flip
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Search for an architecture and train its network.

        Args:
            X: Images, see the class.
            y: A label for each: numbers or texts.

        Raises:
            InputError: Invalid images, labels or parameters.
            RunError: The search or the training failed.
        """
        images = self._images(X)
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or len(labels) != len(images):
            raise InputError(f"y has the shape {labels.shape} for {len(images)} images; give one label per image")
        white = _WHITES[bool(images.max() > 1)] if images.dtype.kind == "f" else _WHITES[1]
        pixels = _bytes(images, white)
        classes, numbers = np.unique(labels, return_inverse=True)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            raise InputError(f"random_state must be a whole number, got {shown(seed)}")
        own = ("image_shape", "random_state")
        options = {name: value for name, value in self.get_params().items() if name not in own}
        # Nothing is held out, so the test result of the run is meaningless and not shown.
        held = {"train": (pixels, numbers), "test": (pixels, numbers)}
        with TemporaryDirectory() as folder:
            try:
                found = run(data=held, seed=int(seed), baseline=False, out=Path(folder) / "run", **options)
            except Interrupted as stop:
                if stop.signum == signal.SIGINT:  # the run folder, which could be resumed, is removed
                    raise KeyboardInterrupt from None
                raise
            self.network_, self.architecture_ = found.model(), found.architecture
        self.classes_ = classes
        self.n_features_in_ = int(np.prod(images.shape[1:]))
        self._white, self._shape = white, images.shape[1:]
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return the most probable class of each image [N]. Raises InputError, and NotFittedError before `fit`."""
        best = self.predict_proba(X).argmax(1)
        chosen: npt.NDArray[Any] = self.classes_[best]
        return chosen

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class [N, K], in the order of `classes_`. Raises the errors of `predict`."""
        if not hasattr(self, "network_"):
            from sklearn.exceptions import NotFittedError  # type: ignore[import-untyped,unused-ignore]

            raise NotFittedError("this DNASClassifier is not fitted yet; call fit first")
        images = self._images(X)
        if images.shape[1:] != self._shape:
            raise InputError(
                f"X has {int(np.prod(images.shape[1:]))} features in images of the shape {images.shape[1:]}, but "
                f"DNASClassifier is expecting {self.n_features_in_} features as input, in images of the shape "
                f"{self._shape}"
            )
        answers = self.network_.predict(list(_bytes(images, self._white)))
        return np.array([answer.probabilities for answer in answers], np.float64)

    def score(self, X: Any, y: Any) -> float:  # noqa: N803
        """Return the share of images whose predicted class is the label. Raises the errors of `predict`."""
        return float(np.mean(self.predict(X) == np.asarray(y).reshape(-1)))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def set_params(self, **parameters: Any) -> Self:
        """Set some parameters. Raises InputError for an unknown one."""
        for name, value in parameters.items():
            if name not in _parameters(type(self)):
                raise InputError(
                    f"Invalid parameter {name!r} for estimator {self}. Valid parameters are: "
                    f"{', '.join(_parameters(type(self)))}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = _parameters(type(self))
        given = (f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name])
        return f"{type(self).__name__}({', '.join(given)})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import (  # type: ignore[import-untyped,unused-ignore]
            ClassifierTags,
            InputTags,
            Tags,
            TargetTags,
        )

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=self.image_shape is not None, three_d_array=True),
        )

    def _images(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Return images [N, H, W] or [N, H, W, C] of finite numbers."""
        if hasattr(X, "toarray"):
            raise InputError("X must be dense, got a sparse matrix; use X.toarray()")
        images = np.asarray(X)
        if images.dtype.kind not in "buif":
            raise InputError(f"X must contain numbers, got {images.dtype}; convert it")
        if self.image_shape is not None and images.ndim == 2:
            if int(np.prod(self.image_shape)) != images.shape[1]:
                raise InputError(
                    f"image_shape={tuple(self.image_shape)} does not match the {images.shape[1]} features of X"
                )
            images = images.reshape(len(images), *self.image_shape)
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
            raise InputError(
                f"X must be [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, got the shape {images.shape}; "
                "reshape it, or give image_shape for rows of numbers"
            )
        if not images.size:
            raise InputError(f"X has the shape {images.shape} and is empty; a minimum of 1 is required")
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise InputError("Input X contains NaN or infinity; give finite numbers")
        return images


def _bytes(images: npt.NDArray[Any], white: float) -> npt.NDArray[np.uint8]:
    """Return values from 0 to `white` as bytes."""
    if images.dtype == np.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > white:
        raise InputError(f"X must contain values from 0 to {white:g}, got {low:g} to {high:g}; scale it")
    return np.rint(images.astype(np.float64) * (255 / white)).astype(np.uint8)


def _parameters(kind: type) -> dict[str, Any]:
    """Return names and defaults of the parameters of an estimator."""
    signature = inspect.signature(kind)
    return {parameter.name: parameter.default for parameter in signature.parameters.values()}
