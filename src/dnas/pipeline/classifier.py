"""A trained network with the preprocessing of its images and the meaning of its outputs, as returned by `dnas.load`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from dnas.data.augment import normalise
from dnas.data.pictures import read_picture, square_picture
from dnas.data.sources.samples import Bytes
from dnas.data.splits import DataInfo
from dnas.errors import InputError
from dnas.training.accuracy import TEST_BATCH

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
_INSIDE = "network."


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        label: The most probable class.
        probability: Its probability, by softmax.
        probabilities: Those of all classes, in the order of `Classifier.classes`.
    """

    label: str
    probability: float
    probabilities: tuple[float, ...]


class Classifier(nn.Module):
    """A trained network with its classes and its preprocessing.

    Called with normalized images [B, C, S, S] from `preprocess`, it returns logits [B, classes]. Parameters have the
    same names in `state_dict` as in the inner network.

    Args:
        network: Normalized images → logits.
        info: Facts about the training data.

    Attributes:
        network: The inner network.
        classes: Names of the classes, in the order of the logits.
        image_size, channels: Side and channels of an image. One channel is grayscale.
        mean, std: Mean and standard deviation per channel, on the scale 0..1.
    """

    def __init__(self, network: nn.Module, info: DataInfo) -> None:
        super().__init__()
        self.network = network
        self.info = info
        self.register_state_dict_post_hook(_outward)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_inward)  # type: ignore[no-untyped-call]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes

    @property
    def image_size(self) -> int:
        return self.info.image_size

    @property
    def channels(self) -> int:
        return self.info.channels

    @property
    def mean(self) -> tuple[float, ...]:
        return self.info.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.info.std

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def preprocess(self, pictures: Picture | Sequence[Picture]) -> Tensor:
        """Return images as input for the network: float32 [B, C, S, S] on its device.

        They are decoded like the images of the run (see `data/splits.py`): rotated according to EXIF, with transparent
        areas on white, grayscale or RGB, resized to a square of `image_size` as in the run (`info.resize`), normalized.

        Args:
            pictures: One image or a sequence of images: a path, a PIL image, a uint8 array [H, W] or [H, W, C], a
                uint8 tensor [C, H, W]; or a batch as a uint8 array [B, H, W, C] or tensor [B, C, H, W]. C is 1
                (grayscale), 2 (grayscale and alpha), 3 (RGB) or 4 (RGBA).

        Raises:
            InputError: An image cannot be read, or has another type or shape.
        """
        return self._normalized(list(self._pixels(pictures)))

    def predict(self, pictures: Picture | Sequence[Picture]) -> list[Prediction]:
        """Classify images in evaluation mode.

        Args:
            pictures: As for `preprocess`.

        Returns:
            One prediction per image, as a list even for a single image.

        Raises:
            InputError: As for `preprocess`.
        """
        pixels = self._pixels(pictures)
        predictions: list[Prediction] = []
        while batch := list(islice(pixels, TEST_BATCH)):
            for row in self.probabilities(batch):
                best = int(row.argmax())
                predictions.append(Prediction(self.classes[best], float(row[best]), tuple(row.tolist())))
        return predictions

    def probabilities(self, pixels: Sequence[Bytes]) -> npt.NDArray[np.float32]:
        """Return the probabilities of all classes [B, classes], in evaluation mode, for squares uint8 [C, S, S]."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                return self(self._normalized(pixels)).float().softmax(1).cpu().numpy()  # type: ignore[no-any-return]
        finally:
            if training:
                self.train()

    def _normalized(self, pixels: Sequence[Bytes]) -> Tensor:
        shape = (len(pixels), self.channels, self.image_size, self.image_size)
        images = torch.from_numpy(np.stack(pixels) if pixels else np.empty(shape, np.uint8))
        device = next(self.parameters()).device
        return normalise(images.to(device), self.info).contiguous(memory_format=torch.channels_last)

    def _pixels(self, pictures: Picture | Sequence[Picture]) -> Iterator[Bytes]:
        """Yield each image as uint8 [C, S, S]."""
        if isinstance(pictures, list | tuple):
            for picture in pictures:
                yield from self._pixels(picture)
        elif isinstance(pictures, np.ndarray | Tensor):
            for array in _arrays(pictures):
                yield square_picture(_image(array), self.channels, self.image_size, self.info.rule)
        elif isinstance(pictures, str | Path):
            yield read_picture(pictures, self.channels, self.image_size, self.info.rule)
        elif isinstance(pictures, Image.Image):
            yield square_picture(pictures, self.channels, self.image_size, self.info.rule)
        else:
            raise InputError(
                f"a picture must be a path, a PIL image, a uint8 array or a uint8 tensor, got {type(pictures).__name__}"
            )


def _arrays(pictures: np.ndarray | Tensor) -> Sequence[Bytes]:
    """Return images in one array or tensor as arrays [H, W, C]."""
    what = "array" if isinstance(pictures, np.ndarray) else "tensor"
    if str(pictures.dtype).removeprefix("torch.") != "uint8":
        raise InputError(
            f"pixels must be uint8 from 0 to 255, got {what} of {str(pictures.dtype).removeprefix('torch.')}; "
            "call the network itself with normalized images"
        )
    shape = list(pictures.shape)
    pixels: Bytes | None
    if isinstance(pictures, Tensor):
        wanted = "[C, H, W] or [B, C, H, W]"
        pixels = pictures.detach().cpu().movedim(-3, -1).numpy() if len(shape) in (3, 4) else None
    else:
        wanted = "[H, W], [H, W, C] or [B, H, W, C]"
        pixels = {2: pictures[..., None], 3: pictures, 4: pictures}.get(len(shape))
    if pixels is None or pixels.shape[-1] not in (1, 2, 3, 4) or 0 in pixels.shape[-3:]:
        raise InputError(f"a {what} of pictures must be {wanted} with 1 to 4 channels, got {shape}")
    return [pixels] if pixels.ndim == 3 else list(pixels)


def _image(pixels: Bytes) -> Image.Image:
    """Return [H, W, C] as a PIL image: grayscale, grayscale with alpha, RGB or RGBA, by the number of channels."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _outward(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Rename the tensors of a classifier to the names in its network."""
    for name in [name for name in state if name.startswith(prefix + _INSIDE)]:
        state[prefix + name[len(prefix + _INSIDE) :]] = state.pop(name)


def _inward(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename tensors of the network to those of the classifier, before they are loaded."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + _INSIDE + name[len(prefix) :]] = state.pop(name)
