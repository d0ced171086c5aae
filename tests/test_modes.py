"""Every mode of Pillow in every format that it writes: read with the right pixels, or reported by the ending of its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_tools import no_network  # noqa: F401
from PIL import Image

from dnas.data.inspection import inspect_data
from dnas.data.sources.listing import ENDINGS
from dnas.data.splits import load_train

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
GRAY = ("1", "L", "LA", "I", "I;16", "F")
SIDE = 16


def in_mode(mode: str) -> Image.Image:
    """A smooth picture that has every value that it can have of the mode's black and white, half of it transparent."""
    ramp = np.linspace(0, 255, SIDE * SIDE).round().astype(np.uint8).reshape(SIDE, SIDE)
    if mode in ("I", "I;16", "F"):
        return Image.fromarray(ramp.astype({"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]) * 257)
    colors = np.stack([ramp, np.full_like(ramp, 90), ramp.T], axis=2)
    image = Image.fromarray(ramp if mode in GRAY else colors)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.repeat(np.uint8([[255], [0]]), SIDE // 2, 0).repeat(SIDE, 1)))
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def shown(image: Image.Image, channels: int) -> np.ndarray:
    """What a person sees of it on white paper, [C, H, W]; what Pillow makes of it is the oracle."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.rint(np.asarray(image) / 257)[None]
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(SIDE, SIDE, channels).transpose(2, 0, 1)


def written(image: Image.Image, folder: Path) -> dict[str, Path]:
    """The picture in every format and by every ending that Pillow can write it in."""
    Image.init()
    folder.mkdir(parents=True)
    files = {}
    for ending, form in Image.registered_extensions().items():
        path = folder / f"x{ending}"
        try:
            image.save(path, form)
        except (KeyError, OSError, ValueError, SystemError):  # Pillow has no writer, or none for this mode
            path.unlink(missing_ok=True)
        else:
            files[ending] = path
    return files


@pytest.mark.parametrize("mode", MODES)
def test_each_format_gives_what_pillow_reads_or_is_reported(tmp_path, mode):
    image = in_mode(mode)
    files = written(image, tmp_path / "x" / "train" / "a")
    for part in ("train/b", "test/a"):
        (tmp_path / "x" / part).mkdir(parents=True)
        image.save(tmp_path / "x" / part / ("0.webp" if mode == "HSV" else "0.tif"))
    split, info = load_train(str(tmp_path / "x"))
    read = sorted(ending for ending in files if ending in ENDINGS)
    assert len(read) >= 2 and len(split) == len(read) + 1
    assert info.channels == (1 if mode in GRAY else 3)
    for ending, pixels in zip(read, split.images, strict=False):
        with Image.open(files[ending]) as stored:
            away = np.abs(pixels.numpy().astype(int) - shown(stored, info.channels))
        assert away.max() <= 1, (ending, away.max())
    found = inspect_data(str(tmp_path / "x"))
    odd = sorted(ending for ending in files if ending not in ENDINGS)
    assert [(each.reason, each.files) for each in found.left_out] == [("not images", len(odd))][: len(odd)]
    assert all(f"1 {ending}" in found.left_out[0].text for ending in odd)


def test_the_usual_endings_of_formats_are_among_them(tmp_path):
    files = written(in_mode("RGB"), tmp_path / "x")
    assert {".jpe", ".jfif", ".pbm", ".pnm", ".tga", ".avif", ".jp2"} <= set(ENDINGS) & set(files)
