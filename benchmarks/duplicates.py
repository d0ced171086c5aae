"""How many planted copies `dnas data` finds among the pictures of a folder, and how many pairs beside them.

    python benchmarks/duplicates.py FOLDER --plant 500

The folder, of class folders or of train/ and test/ of these, is linked into a temporary one, and copies of pictures
drawn at random are laid beside them: the same pixels in another format, compressed again, scaled by 10 % up and down,
mirrored, and mirrored and compressed. Printed are the share of each kind that is found, the groups that nobody planted,
which are written as a picture (`--sheet`) for people to judge, and the seconds of the look, by the clock and of the
processor.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import measure  # noqa: F401 (this checkout's dnas)
import numpy as np
from cyclopts import App, Parameter
from PIL import Image

from dnas.data.inspection import Copies, inspect_data

BICUBIC, FLIP = Image.Resampling.BICUBIC, Image.Transpose.FLIP_LEFT_RIGHT
app = App(help=__doc__)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), BICUBIC)


# (change, ending, quality of JPEG) of each kind of copy.
KINDS: dict[str, tuple[Callable[[Image.Image], Image.Image], str, int]] = {
    "exact": (lambda image: image, ".png", 0),
    "compressed, quality 90": (lambda image: image, ".jpg", 90),
    "compressed, quality 75": (lambda image: image, ".jpg", 75),
    "compressed, quality 50": (lambda image: image, ".jpg", 50),
    "scaled by 1.1": (lambda image: scaled(image, 1.1), ".jpg", 90),
    "scaled by 0.9": (lambda image: scaled(image, 0.9), ".jpg", 90),
    "mirrored": (lambda image: image.transpose(FLIP), ".png", 0),
    "mirrored, quality 75": (lambda image: image.transpose(FLIP), ".jpg", 75),
}


def plant(source: Path, target: Path, count: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Fill a folder with links to the pictures of another one, and with copies of some. Returns (original, copy)s."""
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    for file in files:
        linked = target / file.relative_to(source)
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.symlink_to(file.resolve())
    rng = np.random.default_rng(seed)
    planted: dict[str, list[tuple[str, str]]] = {}
    chosen = iter(rng.permutation(len(files)))
    for number, (kind, (change, ending, quality)) in enumerate(KINDS.items()):
        for _ in range(count):
            name = files[next(chosen)].relative_to(source)
            copy = name.with_name(f"{name.stem} copy {number}{ending}")
            options = {"quality": quality} if quality else {}
            with Image.open(source / name) as image:
                change(image.convert("RGB")).save(target / copy, **options)
            planted.setdefault(kind, []).append((name.as_posix(), copy.as_posix()))
    return planted


def together(*found: Copies) -> dict[str, set[int]]:
    """The groups that each picture is in."""
    groups: dict[str, set[int]] = {}
    for number, group in enumerate(group for copies in found for group in copies.groups):
        for file in group:
            groups.setdefault(file.name, set()).add(number)
    return groups


@app.default
def main(
    folder: Path,
    /,
    *,
    plant_each: Annotated[int, Parameter(name="--plant", help="Copies of each kind.")] = 100,
    sheet: Annotated[Path | None, Parameter(help="Where pairs that nobody planted are drawn (.png).")] = None,
) -> None:
    target = Path(tempfile.mkdtemp())
    try:
        planted = plant(folder, target, plant_each)
        began, used = time.perf_counter(), time.process_time()
        found = inspect_data(str(target))
        seconds = time.perf_counter() - began, time.process_time() - used
        groups = together(found.exact, found.near)
        none: set[int] = set()
        for kind, pairs in planted.items():
            hits = sum(not groups.get(one, none).isdisjoint(groups.get(other, none)) for one, other in pairs)
            print(f"{kind:<24} {hits / len(pairs):7.1%} of {len(pairs):,} found")
        copied = {name for pairs in planted.values() for pair in pairs for name in pair}
        others = [group for group in found.near.groups if not {file.name for file in group} <= copied]
        strange = [[file for file in group if " copy " not in file.name] for group in others]
        strange = [group for group in strange if len(group) > 1]
        images = sum(found.images.values())
        print(f"groups that nobody planted: {len(strange):,}, of {sum(map(len, strange)):,} images of {images:,}")
        print(f"{seconds[0]:.1f} s by the clock, {seconds[1]:.1f} s of the processor")
        if sheet is not None and strange:
            draw([[target / file.name for file in group[:2]] for group in strange], sheet)
    finally:
        shutil.rmtree(target)


def draw(pairs: list[list[Path]], path: Path, side: int = 64, across: int = 12) -> None:
    """Pairs of pictures, side by side."""
    wide = 2 * side + 8
    rows = -(-len(pairs) // across)
    sheet = Image.new("RGB", (across * wide, rows * (side + 8)), "white")
    for number, pair in enumerate(pairs):
        for place, file in enumerate(pair):
            left, top = number % across * wide + place * side, number // across * (side + 8)
            with Image.open(file) as image:
                sheet.paste(image.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (left, top))
    sheet.save(path)


if __name__ == "__main__":
    app()
