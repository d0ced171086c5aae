"""Images in the memory of the caller: arrays or tensors, a torch Dataset, or splits of these. See docs/python.md.

They are read by the rules for arrays in files (`arrays.py`). Does not import torch: tensors are recognized by duck
typing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from dnas.data.memory import require_memory
from dnas.data.sources.arrays import Held, Numbers, list_arrays, list_given
from dnas.data.sources.protocol import IN_MEMORY, Place, Source
from dnas.errors import InputError, shown

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor
    from torch.utils.data import Dataset

    # Images [N, H, W], [N, H, W, C] or [N, C, H, W], or a sequence of images; and a label for each.
    Arrays: TypeAlias = tuple[
        npt.NDArray[Any] | Tensor | Sequence[Image.Image | npt.NDArray[Any] | Tensor],
        npt.NDArray[Any] | Tensor | Sequence[int] | Sequence[str],
    ]
    Split: TypeAlias = Arrays | Dataset[Any] | Sequence[tuple[Any, Any]]
Images: TypeAlias = Union["Split", Mapping[str, "Split"]]
Data: TypeAlias = Union[str, Path, "Images"]

SPLITS = ("train", "validation", "test")
_NO_DATASETS = (str, tuple, np.ndarray)
_STACKED = {"L", "RGB", "RGBA"}  # modes of PIL that are arrays of bytes
_WANTED = (
    "a name, a path, arrays (images, labels), a Dataset with a length whose items are (picture, label), or a mapping "
    "of train, validation and test to such"
)


def place_of(data: Images) -> Place:
    """Return the place of images in objects of the caller: each is read once, and copied if it is not an array.

    Raises:
        InputError: An unsupported kind of object, or an invalid one.
    """
    splits: Mapping[str, Any] = data if isinstance(data, Mapping) else {"": data}
    unknown = [name for name in splits if name not in ("", *SPLITS)]
    if unknown or (isinstance(data, Mapping) and "train" not in data):
        raise InputError(
            f"data must be a mapping of train, validation and test, in which train is required, got {list(splits)}"
        )
    arrays: dict[str, Numbers] = {}
    called: dict[str, str] = {}
    for split, value in splits.items():
        what = f"data[{split!r}]" if split else "data"
        prefix = f"{split}_" if split else ""
        images, labels = _pair(value, what)
        for role, values in (("images", images), ("labels", labels)):
            arrays[f"{prefix}{role}.npy"] = values
            called[f"{prefix}{role}.npy"] = f"the array of {role} in {what}"
    return Place(_SOURCE, Path(IN_MEMORY), Held(arrays, called))


_SOURCE = Source(kind="images in memory", pictures=list_arrays, given=list_given, measured=True)


def _pair(value: Any, what: str) -> tuple[Numbers, Numbers]:
    """Return images and labels of one split."""
    if isinstance(value, tuple) and len(value) == 2:
        images, labels = value
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, _NO_DATASETS):
        if not len(value):
            raise InputError(f"{what} is empty; give at least one image")
        images, labels = _items(value, what)
    else:
        kind = type(value).__name__
        instead = f"give its dataset, {what} = loader.dataset" if kind == "DataLoader" else f"it must be {_WANTED}"
        raise InputError(f"{what} has the unsupported type {kind}; {instead}")
    return _stacked(images, what), _labels(labels)


def _items(dataset: Any, what: str) -> tuple[list[Any], list[Any]]:
    """Return the images and labels of a Dataset; each item is requested once."""
    pictures, labels, size = [], [], 0
    for number in range(len(dataset)):
        item = dataset[number]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"item {number} of {what} must be (picture, label), got {shown(item)}; wrap the Dataset")
        picture, label = item
        pictures.append(_picture(picture, f"item {number} of {what}"))
        labels.append(label.item() if hasattr(label, "item") else label)
        size += _bytes_of(pictures[-1])
        if number % 1024 == 0:
            require_memory(size, f"{what}, of which {number + 1} items have been read,", "give the path of its files")
    return pictures, labels


def _stacked(images: Any, what: str) -> Numbers:
    """Return images as one array: of numbers if they have the same shape and type, else of PIL images."""
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    if isinstance(images, np.ndarray):
        if images.dtype == object:
            raise InputError(
                f"the array of images in {what} contains Python objects; give numbers, for example from np.stack"
            )
        if not images.size:
            raise InputError(
                f"the array of images in {what} has the shape {images.shape} and is empty; give at least one image"
            )
        return images
    if not isinstance(images, Sequence) or isinstance(images, str) or not len(images):
        raise InputError(f"the images in {what} must be an array, a tensor or a list, got {shown(images)}")
    pictures = [_picture(each, f"image {number} in {what}") for number, each in enumerate(images)]
    arrays = [_array(each) for each in pictures]
    if all(array is not None for array in arrays) and len({(a.shape, a.dtype) for a in arrays if a is not None}) == 1:
        return np.stack([array for array in arrays if array is not None])
    stack = np.empty(len(pictures), object)
    for number, (picture, array) in enumerate(zip(pictures, arrays, strict=True)):
        stack[number] = picture if not isinstance(picture, np.ndarray) else _as_picture(array, number, what)
    return stack


def _picture(picture: Any, what: str) -> Any:
    """Return an array, [H, W, C] or [H, W] or of a tensor [C, H, W], or a loaded PIL image."""
    if hasattr(picture, "detach"):
        picture = picture.detach().cpu().numpy()
    if isinstance(picture, np.ndarray):
        return picture
    if hasattr(picture, "convert") and hasattr(picture, "load"):
        picture.load()
        return picture
    raise InputError(f"{what} must be a PIL image, an array or a tensor, got {shown(picture)}")


def _array(picture: Any) -> Numbers | None:
    """Return the image as an array; None if Pillow has to decode it."""
    if isinstance(picture, np.ndarray):
        return picture
    if picture.mode in _STACKED and "transparency" not in picture.info and not picture.getexif():
        return np.asarray(picture)
    return None


def _as_picture(array: Numbers | None, number: int, what: str) -> Image.Image:
    from PIL import Image

    assert array is not None
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise InputError(
            f"image {number} in {what} is {array.dtype} of the shape {array.shape}, and others differ; give uint8 "
            "from 0 to 255, or images of one shape"
        )
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise InputError(f"image {number} in {what} has the shape {array.shape}; give 1, 3 or 4 channels")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _bytes_of(picture: Any) -> int:
    if isinstance(picture, np.ndarray):
        return picture.nbytes
    return int(picture.width * picture.height * len(picture.getbands()))


def _labels(labels: Any) -> Numbers:
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    return np.asarray(labels)
