"""A contact sheet of a data set: some pictures of each class, copies, and the mean, as a picture or a page."""

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
    """A line of text with pictures below it."""

    text: str
    pixels: Sequence[Bytes]


def require_sheet(file: str) -> None:
    """Raises InputError if a sheet cannot be written to a file, which is better known before pictures are looked at."""
    if not file.lower().endswith(ENDINGS):
        raise InputError(f"--sheet must end in .png or .html, got {file!r}")
    if not Path(file).absolute().parent.is_dir():
        raise InputError(f"--sheet {file!r}: there is no folder {str(Path(file).parent)!r}; make it first")
    if file.lower().endswith(".html"):
        render("data.html", **_NOTHING)  # needs a package that may be missing


def write_sheet(found: Inspection, path: Path) -> None:
    """Write the contact sheet of a data set, .png or .html. Raises InputError if that is not possible."""
    require_sheet(str(path))
    content = _page(found).encode() if path.suffix.lower() == ".html" else _picture(found)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r} ({error.strerror or error}); choose another --sheet") from None


def _by_class(found: Inspection) -> Iterator[tuple[str, int, int, list[Shown]]]:
    """(class, training images, test images, those that are shown)."""
    for name, train, test in zip(found.classes, found.counts["train"], found.counts["test"], strict=True):
        yield name, train, test, [each for each in found.shown if not each.group and each.file.label == name]


def _copies(found: Inspection) -> Iterator[tuple[str, list[list[Shown]]]]:
    """(title, groups)."""
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
    """A text in one line that is no wider than so many pixels."""
    text = text if text.isprintable() else repr(text)
    text = text if len(text) <= width // 3 else f"{text[: width // 3]}…"
    while len(text) > 1 and font.getlength(text) > width:
        text = f"{text[:-2]}…"
    return text


def _enlarged(pixels: Bytes) -> Image.Image:
    """A picture whose longer side is `SIDE`: small ones by whole factors, so that their pixels are seen."""
    image = Image.fromarray(pixels)
    factor = max(1, SIDE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _as_pixels(image: Bytes) -> Bytes:
    """[C, S, S] as [S, S] or [S, S, 3]."""
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
    """A picture as the address of a PNG that holds all of it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
