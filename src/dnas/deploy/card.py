"""The model card of an export: what the network is, on what data, how good, and how to call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnas.pipeline.model import Trained
from dnas.units import size_text

RESIZE = {
    "crop": "scaled so that the shorter side is {size} pixels, and cut to the middle square",
    "pad": "scaled so that the longer side is {size} pixels, and filled up to a square with their mean color",
    "squeeze": "scaled to {size} × {size} pixels",
}
CLASSES = 100  # of more the card does not list the names


def card(record: Mapping[str, Any], trained: Trained) -> str:
    """The text of README.md, Markdown.

    Args:
        record: The content of export.json.
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
        "`(x / 255 - mean) / std` with the numbers of `preprocess.json`. `preprocess.py` does this, turns pictures as",
        "EXIF tells, and lays transparent ones on white; it needs numpy and Pillow.",
        "",
        "## Accuracy",
        "",
        f"On {record['test_images']:,} test images that it was not trained on: {record['test_accuracy']:.4f} in torch",
        f"(95 % interval {low:.4f} to {high:.4f}).",
        "Each file was run on these images after it was written, in a process without dnas, on a CPU with one thread.",
        "`agreement` is the share of answers that are torch's; `latency` is of one image.",
        "",
        "| format | file | size | test accuracy | agreement | latency | memory of the process |",
        "|---|---|---|---|---|---|---|",
        *(_row(row) for row in record["exports"]),
        "",
        *(
            f"`{row['file']}` {change(row)} against torch.\n"
            for row in record["exports"]
            if "accuracy_lost" in row and not row["exact"]
        ),
        "It says a class for every picture, also for one that shows none of them; pictures of another kind than the",
        "training images were not tested.",
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
    """What a format that is not exact does to the accuracy: "loses 0.28 percentage points"."""
    lost = row["accuracy_lost"]
    return f"{'loses' if lost >= 0 else 'gains'} {100 * abs(lost):.2f} percentage points"


def _row(row: Mapping[str, Any]) -> str:
    figures = ("", "", "", "")
    if "test_accuracy" in row:
        figures = (
            f"{row['test_accuracy']:.4f}",
            f"{100 * row['agreement']:.2f} %",
            f"{1000 * row['latency_seconds']:.2f} ms",
            size_text(row["peak_memory_bytes"]),
        )
    return f"| {row['format']} | `{row['file']}` | {size_text(row['bytes'])} | {' | '.join(figures)} |"
