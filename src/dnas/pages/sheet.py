"""Contact sheet of a data set: sample images of each class, copies and the mean, as PNG or HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dnas.data.findings import facts, left_out, warnings
from dnas.data.inspection import OF_A_CLASS, SIDE, Inspection, Shown
from dnas.data.sources.samples import Bytes
from dnas.disk import write_atomically
from dnas.errors import InputError
from dnas.pages.template import render, short_source

ENDINGS = (".png", ".html")
_GAP, _TEXT = 8, 14  # pixels
_KINDS = {"exact": "Copies", "near": "Near copies"}


@dataclass(frozen=True)
class _Row:
    """Line of text with images below it."""

    text: str
    pixels: Sequence[Bytes]


def require_sheet(file: str) -> None:
    """Check, before any image is read, that a sheet can be written to a file. Raises InputError if it cannot."""
    if not file.lower().endswith(ENDINGS):
        raise InputError(f"--sheet must end in .png or .html, got {file!r}")
    if not Path(file).absolute().parent.is_dir():
        raise InputError(f"--sheet {file!r}: folder {str(Path(file).parent)!r} does not exist; create it first")
    if file.lower().endswith(".html"):
        render("data.html", **_NOTHING)  # requires a package that may be missing


def write_sheet(found: Inspection, path: Path) -> None:
    """Write the contact sheet of a data set as .png or .html. Raises InputError if it cannot be written."""
    require_sheet(str(path))
    content = _page(found).encode() if path.suffix.lower() == ".html" else _picture(found)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r} ({error.strerror or error}); choose another --sheet") from None


def _by_class(found: Inspection) -> Iterator[tuple[str, int, int, list[Shown]]]:
    """Yield (class, number of training images, number of test images, shown images)."""
    for name, train, test in zip(found.classes, found.counts["train"], found.counts["test"], strict=True):
        yield name, train, test, [each for each in found.shown if not each.group and each.file.label == name]


def _copies(found: Inspection) -> Iterator[tuple[str, list[list[Shown]]]]:
    """Yield (title, groups)."""
    groups = [list(group) for name, group in groupby(found.shown, lambda each: each.group) if name]
    for kind, title in _KINDS.items():
        if of_kind := [group for group in groups if group[0].group.startswith(kind)]:
            yield title, of_kind


def _picture(found: Inspection) -> bytes:
    rows = [] if found.mean is None else [_Row("mean of the training images", [_as_pixels(found.mean)])]
    for title, groups in _copies(found):
        for group in groups:
            names = ", ".join(f"{each.file.part}: {each.file.name} ({each.file.label})" for each in group)
            rows.append(_Row(f"{title}: {names}", [each.pixels for each in group]))
    for name, train, test, shown in _by_class(found):
        rows.append(_Row(f"{name}: {train:,} training, {test:,} test", [each.pixels for each in shown]))
    width, height = OF_A_CLASS * (SIDE + _GAP) + _GAP, len(rows) * (SIDE + _TEXT + 2 * _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT - 2)
    for number, row in enumerate(rows):
        top = _GAP + number * (SIDE + _TEXT + 2 * _GAP)
        draw.text((_GAP, top), _fitting(row.text, font, width - 2 * _GAP), "black", font)
        for column, pixels in enumerate(row.pixels):
            image = _enlarged(pixels)
            sheet.paste(image, (_GAP + column * (SIDE + _GAP), top + _TEXT + _GAP // 2))
    stream = io.BytesIO()
    sheet.save(stream, "png")
    return stream.getvalue()


def _fitting(text: str, font: Any, width: int) -> str:
    """Shorten a text to one line of at most `width` pixels."""
    text = text if text.isprintable() else repr(text)
    text = text if len(text) <= width // 3 else f"{text[: width // 3]}…"
    while len(text) > 1 and font.getlength(text) > width:
        text = f"{text[:-2]}…"
    return text


def _enlarged(pixels: Bytes) -> Image.Image:
    """Enlarge a small image by a whole factor, to at most `SIDE` pixels, so that its pixels stay visible."""
    image = Image.fromarray(pixels)
    factor = max(1, SIDE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _as_pixels(image: Bytes) -> Bytes:
    """Reshape [C, S, S] to [S, S] or [S, S, 3]."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def _page(found: Inspection) -> str:
    def item(each: Shown, of_copies: bool) -> dict[str, str]:
        file = each.file
        caption = f"{file.part}: {file.name} ({file.label})" if of_copies else file.name.rpartition("/")[2]
        return {"address": _address(each.pixels), "label": file.label, "name": file.name, "caption": caption}

    mean = {"label": "mean", "name": "all training images", "caption": ""}
    figures = [("training images", found.images["train"]), ("test images", found.images["test"])]
    return render(
        "data.html",
        title=short_source(found.source),
        command="dnas data",
        figures=[(name, f"{value:,}") for name, value in [*figures, ("classes", len(found.classes))]],
        facts=facts(found),
        left_out=left_out(found),
        warnings=warnings(found),
        mean=mean | {"address": "" if found.mean is None else _address(_as_pixels(found.mean))},
        copies=[(kind, [[item(each, True) for each in group] for group in groups]) for kind, groups in _copies(found)],
        classes=[
            (name, f"{train:,}", f"{test:,}", [item(each, False) for each in shown])
            for name, train, test, shown in _by_class(found)
        ],
    )


_NOTHING: dict[str, Any] = {
    "title": "", "command": "", "figures": (), "facts": (), "left_out": (), "warnings": (), "copies": (), "classes": (),
    "mean": {"address": "", "label": "", "name": "", "caption": ""},
}  # fmt: skip


def _address(pixels: Bytes) -> str:
    """Return an image as a data URL of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
