"""Predictions for images by a run, an export or an exported file.

Images are read as in training (`data/pictures`), and an ONNX file is run without torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dnas.data.headers import Rule
from dnas.data.pictures import read_picture
from dnas.data.sources.listing import is_picture
from dnas.data.sources.samples import Bytes
from dnas.deploy.expected import Expected
from dnas.disk import read_json
from dnas.errors import InputError, first_line
from dnas.runtime.names import EXPORT_FILE, MODEL_FILE, ONNX_METADATA

BATCH = 256  # the batch size of a test, so that floating-point sums are the same
ONNX = ".onnx"
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """Answer for one image: classes with probabilities, most probable first, or the reason why it is unreadable."""

    picture: str
    classes: tuple[tuple[str, float], ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Predictor:
    """Network that classifies square images: uint8 [B, C, S, S] → probabilities [B, classes]."""

    classes: tuple[str, ...]
    channels: int
    image_size: int
    rule: Rule
    probabilities: Callable[[Sequence[Bytes]], Probabilities]


def open_predictor(path: str | Path) -> Predictor:
    """Open the network of a run folder, of a folder of `dnas export` with an ONNX file, or of an ONNX file.

    Raises:
        InputError: The path is none of them, a file is damaged, or onnxruntime is not installed.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ONNX:
        return _of_onnx(path)
    if (path / EXPORT_FILE).is_file() and not (path / "config.toml").is_file():
        files = [row["file"] for row in read_json(path / EXPORT_FILE)["exports"]]
        exported = [name for name in files if name.endswith(ONNX)]
        if not exported:
            raise InputError(
                f"{str(path)!r} contains no ONNX file, only {', '.join(files)} (see its README.md); give the run "
                "folder, or also export to onnx"
            )
        return _of_onnx(path / exported[0])
    if path.is_dir() or path.name == MODEL_FILE:
        from dnas.pipeline.classifier import Classifier
        from dnas.pipeline.model import load_model

        net = Classifier(*load_model(path)).eval()
        return Predictor(net.classes, net.channels, net.image_size, net.info.rule, net.probabilities)
    what = "is not a run folder, export folder or ONNX file" if path.exists() else "does not exist"
    raise InputError(f"{str(path)!r} {what}; give a run folder, a folder of `dnas export`, or a .onnx file")


def _of_onnx(path: Path) -> Predictor:
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]
    except ModuleNotFoundError:
        raise InputError(f"{str(path)!r} requires onnxruntime; install it with: pip install 'dnas[export]'") from None
    try:
        session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        told = session.get_modelmeta().custom_metadata_map.get(ONNX_METADATA, "{}")
    except Exception as error:  # onnxruntime has error types without a common base
        raise InputError(f"{str(path)!r} cannot be loaded: {first_line(error)}") from None
    expected = Expected.of(json.loads(told), str(path))
    name = session.get_inputs()[0].name

    def probabilities(pixels: Sequence[Bytes]) -> Probabilities:
        logits = session.run(None, {name: expected.normalized(np.stack(pixels))})[0]
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares: Probabilities = powers / powers.sum(1, keepdims=True)
        return shares

    return Predictor(expected.classes, expected.channels, expected.image_size, expected.rule, probabilities)


def predict(predictor: Predictor, pictures: Iterable[str], top: int) -> Iterator[Answer]:
    """Classify images in order, batch by batch; the answer for an unreadable image has a `problem`.

    Args:
        pictures: Paths of image files.
        top: Number of classes per image.
    """
    waiting: list[Answer] = []
    pixels: list[Bytes] = []
    for picture in pictures:
        try:
            pixels.append(read_picture(picture, predictor.channels, predictor.image_size, predictor.rule))
            waiting.append(Answer(picture))
        except InputError as error:
            waiting.append(Answer(picture, problem=str(error)))
        if len(pixels) == BATCH:
            yield from _answered(predictor, waiting, pixels, top)
            waiting, pixels = [], []
    yield from _answered(predictor, waiting, pixels, top)


def _answered(predictor: Predictor, waiting: list[Answer], pixels: list[Bytes], top: int) -> Iterator[Answer]:
    rows: Iterator[Any] = iter(predictor.probabilities(pixels) if pixels else ())
    for answer in waiting:
        if answer.problem:
            yield answer
            continue
        row = next(rows)
        # Equal probabilities stay in class order, as with argmax.
        best = np.argsort(-row, kind="stable")[:top]
        yield Answer(answer.picture, tuple((predictor.classes[k], float(row[k])) for k in best))


def pictures_of(given: Sequence[str], lines: Iterable[str]) -> Iterator[str]:
    """Yield the files themselves, all images in folders, and for "-" the files named in `lines`, one per line.

    Raises:
        InputError: A folder contains no image.
    """
    for name in given:
        if name == "-":
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
        elif Path(name).is_dir():
            found = sorted(
                os.path.join(folder, file)  # noqa: PTH118
                for folder, _, files in os.walk(name)
                for file in files
                if is_picture(file) and not any(part.startswith(".") for part in Path(folder).relative_to(name).parts)
            )
            if not found:
                raise InputError(f"{name!r} contains no images")
            yield from found
        else:
            yield name
