"""Model card of an export: the network, its data, its accuracy and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnas.pipeline.model import Trained
from dnas.units import size_text

RESIZE = {
    "crop": "resized so that the shorter side is {size} pixels, and center-cropped",
    "pad": "resized so that the longer side is {size} pixels, and padded to a square with their mean color",
    "squeeze": "resized to {size} × {size} pixels",
}
CLASSES = 100  # the card does not list the names of more classes


def card(record: Mapping[str, Any], trained: Trained) -> str:
    """Return the text of README.md, in Markdown.

    Args:
        record: Content of export.json.
    """
    info = trained.info
    low, high = record["test_interval"]
    color = "gray" if info.channels == 1 else "RGB"
    lines = [
        f"# {record['name']}",
        "",
        f"An image classifier: a {record['network']}, {record['params']:,} parameters, {record['macs']:,} "
        f"multiply-accumulates per image. Trained and exported by dnas {record['dnas']}.",
        "",
        "## Data",
        "",
        f"Trained on `{record['data']}`, {len(info.classes)} classes"
        + (f": {', '.join(info.classes)}." if len(info.classes) <= CLASSES else ", listed in `preprocess.json`."),
        "",
        f"Images are {color}, {RESIZE[info.resize].format(size=info.image_size)}, then",
        "normalized as `(x / 255 - mean) / std` with the numbers of `preprocess.json`. `preprocess.py` does this; it",
        "also rotates images according to EXIF and puts transparent images on white. It requires numpy and Pillow.",
        "",
        "## Accuracy",
        "",
        f"Test accuracy in torch: {record['test_accuracy']:.4f} (95% CI {low:.4f}–{high:.4f}), on",
        f"{record['test_images']:,} images that were not used for training.",
        "Each exported file was tested on these images in a process without dnas, on a CPU with one thread.",
        "`agreement` is the share of predictions that equal those of torch; `latency` is the time per image.",
        "",
        "| format | file | size | test accuracy | agreement | latency | process memory |",
        "|---|---|---|---|---|---|---|",
        *(_row(row) for row in record["exports"]),
        "",
        *(
            f"`{row['file']}` {change(row)} against torch.\n"
            for row in record["exports"]
            if "accuracy_lost" in row and not row["exact"]
        ),
        "The network predicts one of its classes for every image, even if the image shows none of them. It was not",
        "tested on images of another kind than the training images.",
        "",
        "## Use",
        "",
        "In this folder:",
    ]
    for row in record["exports"]:
        lines += ["", f"{row['title']}:", ""]
        lines += ["```python", *row["usage"].splitlines(), "```"] if row["usage"] else [f"`{row['file']}`"]
    return "\n".join([*lines, ""])


def change(row: Mapping[str, Any]) -> str:
    """Describe the change of accuracy by an inexact format: "loses 0.28 percentage points"."""
    lost = row["accuracy_lost"]
    return f"{'loses' if lost >= 0 else 'gains'} {100 * abs(lost):.2f} percentage points"


def _row(row: Mapping[str, Any]) -> str:
    figures = ("", "", "", "")
    if "test_accuracy" in row:
        figures = (
            f"{row['test_accuracy']:.4f}",
            f"{100 * row['agreement']:.2f}%",
            f"{1000 * row['latency_seconds']:.2f} ms",
            size_text(row["peak_memory_bytes"]),
        )
    return f"| {row['format']} | `{row['file']}` | {size_text(row['bytes'])} | {' | '.join(figures)} |"
