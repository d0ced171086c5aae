"""Errors of a trained network, for the page of its run. Torch is imported at the first call: studies do not need it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dnas.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Matrix = Sequence[Sequence[int]]
MATRIX_CLASSES = 20  # a larger matrix is unreadable
CONFUSED, WORST = 10, 12
PICTURE = 96  # maximum side length in pixels


def mistakes_of(path: Path, config: Mapping[str, Any], result: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the errors of the trained network on the test images of its run.

    If the images cannot be read again, `why` is the reason, and everything except the most confident errors comes from
    result.json, if it contains results per class.
    """
    import torch

    from dnas.data.sources.protocol import Columns
    from dnas.data.sources.registry import is_here
    from dnas.data.splits import fingerprint, load_test
    from dnas.pipeline.model import load_model
    from dnas.training.accuracy import answers, confusion_matrix
    from dnas.training.build import to_device

    data = config.get("data", {})
    device = "cuda" if config.get("device") == "cuda" and torch.cuda.is_available() else "cpu"
    try:
        network, info = load_model(path)
        if not is_here(info.source, data.get("data_dir") or None):
            return _recorded(result, f"data set {info.source!r} is no longer on this machine")
        columns = Columns(*(data.get(name, "") for name in ("image_column", "label_column", "root")))
        where: dict[str, Any] = {"data_dir": data.get("data_dir") or None, "columns": columns}
        where["skip_broken"] = data.get("skip_broken", False)
        split = load_test(info.source, info, memory=data.get("memory", "auto"), **where)
    except InputError as error:
        return _recorded(result, str(error))
    if fingerprint(split)[:32] != str(data.get("fingerprint", "")).rpartition("-")[2]:
        return _recorded(result, f"the test images of {info.source!r} have changed since the run")
    logits = answers(to_device(network, device), split, info, device).float()
    shares, predicted = logits.softmax(1).max(1)
    labels = split.labels
    matrix = confusion_matrix(labels, predicted, len(info.classes))
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[shares[wrong].argsort(descending=True, stable=True)][:WORST]
    right = int((predicted == labels).sum())
    recorded = None if result is None else round(result["test_accuracy"] * result["test_images"])
    return {
        "why": None,
        "right": right,
        "recorded": None if recorded == right else recorded,
        "images": len(labels),
        **_counted(matrix.tolist(), info.classes),
        "worst": [
            {
                "picture": _picture(split.batch(torch.tensor([i]))[0]),
                "true": info.classes[labels[i]],
                "predicted": info.classes[predicted[i]],
                "confidence": f"{100 * shares[i]:.0f}%",
            }
            for i in worst.tolist()
        ],
    }


def _recorded(result: Mapping[str, Any] | None, why: str) -> dict[str, Any]:
    """Return the results per class that the run recorded; earlier versions recorded none."""
    rows = (result or {}).get("per_class")
    if not rows:
        return {"why": why}
    assert result is not None
    return {"why": why, **_counted(result["confusion"], [row["class"] for row in rows]), "worst": []}


def _counted(matrix: Matrix, classes: Sequence[str]) -> dict[str, Any]:
    """Return the tables that follow from a confusion matrix."""
    return {
        "matrix": _matrix(matrix, classes) if len(classes) <= MATRIX_CLASSES else None,
        # Names that are wider than a number are written vertically above their columns.
        "named": max(map(len, classes)) > 3,
        "confused": _confused(matrix, classes),
        "recalls": _recalls(matrix, classes)[:MATRIX_CLASSES],
    }


def _matrix(matrix: Matrix, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per true class; errors are shaded in five tones by their share of the row."""
    rows = []
    for i, counts in enumerate(matrix):
        total = sum(counts) or 1
        tones = ["right" if j == i else f"tone-{min(5, -(-20 * n // total))}" for j, n in enumerate(counts)]
        rows.append({"name": classes[i], "cells": list(zip(counts, tones, strict=True)), "total": sum(counts)})
    return rows


def _confused(matrix: Matrix, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the most frequent pairs (true, predicted)."""
    counts = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    counts.sort(key=lambda each: (-each[0], each[1:]))
    return [
        {"true": classes[i], "predicted": classes[j], "count": n, "of": sum(matrix[i])} for n, i, j in counts[:CONFUSED]
    ]


def _recalls(matrix: Matrix, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the recall of each class, lowest first; `named` is the number of images predicted as the class."""
    named = [sum(column) for column in zip(*matrix, strict=True)]
    rows = []
    for i, counts in enumerate(matrix):
        if sum(counts):
            rows.append({"name": classes[i], "right": counts[i], "of": sum(counts), "named": named[i]})
    return sorted(rows, key=lambda row: (row["right"] / row["of"], row["name"]))


def _picture(image: Tensor) -> str:
    """Return an image (uint8, [C, H, W]) as a data URL of a PNG."""
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if max(picture.size) > PICTURE:
        picture.thumbnail((PICTURE, PICTURE))
    file = io.BytesIO()
    picture.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
