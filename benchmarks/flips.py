"""How often `flip = "auto"` finds that mirroring confuses classes, where it does and where it does not.

    python benchmarks/flips.py                                           # drawn images, and scikit-learn's digits
    python benchmarks/flips.py --facing sign-digits --other cifar10-jpeg

Each line is one kind of data set, drawn anew `--rounds` times: in how many of them flips were turned off, in how many
the pair was the right one (where there is one), and the seconds of CPU time that a measurement took.

- Drawn: arrows and letters of any color, size and place, before backgrounds of any color with other shapes and noise.
- `--facing`: folders or names of data sets whose images face one way. Of one class some stay as they are, and others
  are mirrored: two classes that mirroring confuses. The classes themselves are told apart by other things.
- `--other`: folders or names of data sets where mirroring confuses nothing: two of their classes, one class dealt into
  two at random, and all classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import measure
import numpy as np
import torch
from cyclopts import App, Parameter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dnas.data.mirroring import find_mirrored
from dnas.data.splits import Split, load_train

Images = NDArray[np.uint8]  # [N, H, W, 3]
ANGLES = {"left": 180.0, "right": 0.0, "up": 270.0, "down": 90.0}

app = App(help=__doc__)


@dataclass(frozen=True)
class Case:
    """A kind of data set. `pairs`: the classes that mirroring confuses."""

    name: str
    make: Callable[[np.random.Generator], Split]
    pairs: tuple[tuple[int, int], ...] = ()


# --- drawn images ---------------------------------------------------------------------------------------


def background(rng: np.random.Generator, size: int) -> Image.Image:
    """A gradient of some colors with up to three shapes on it."""
    colors = rng.integers(40, 216, 3) + rng.normal(0, 30, (*rng.integers(2, 6, 2), 3))
    image = Image.fromarray(colors.clip(0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(4)):
        (x, y), (width, height) = rng.integers(0, size, 2), rng.integers(2, size // 3, 2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape([int(x), int(y), int(x + width), int(y + height)], fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def ink(rng: np.random.Generator, image: Image.Image) -> tuple[int, ...]:
    """A color that is lighter or darker than an image."""
    brightness = np.asarray(image).mean()
    while abs((color := rng.integers(0, 256, 3)).mean() - brightness) < 50:
        pass
    return tuple(color.tolist())


def noisy(rng: np.random.Generator, image: Image.Image) -> Images:
    pixels = np.asarray(image) + rng.normal(0, 15, (*image.size, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def arrow(rng: np.random.Generator, size: int, degrees: float) -> Images:
    image = background(rng, size)
    length = rng.uniform(0.3, 0.7) * size
    shaft, head, wing = length * rng.uniform((0.08, 0.3, 0.22), (0.16, 0.45, 0.35))
    end = length / 2
    right = [(-end, -shaft), (end - head, -shaft), (end - head, -wing), (end, 0)]
    points = np.array([*right, *((x, -y) for x, y in reversed(right[:-1]))])
    angle = np.deg2rad(degrees + rng.normal(0, 8))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = rng.uniform(0.45 * length, size - 0.45 * length, 2)
    ImageDraw.Draw(image).polygon([tuple(point) for point in points @ turn + middle], fill=ink(rng, image))
    return noisy(rng, image)


def letter(rng: np.random.Generator, size: int, text: str) -> Images:
    image = background(rng, size)
    mask = Image.new("L", image.size)
    font = ImageFont.load_default(float(size * rng.uniform(0.4, 0.8)))
    middle = rng.uniform(0.35, 0.65, 2) * size
    ImageDraw.Draw(mask).text(tuple(middle), text, fill=255, font=font, anchor="mm")
    image.paste(ink(rng, image), mask=mask.rotate(float(rng.normal(0, 6))))
    return noisy(rng, image)


def arrows(rng: np.random.Generator, each: int, ways: tuple[str, ...] = ("left", "right"), size: int = 32) -> Split:
    return drawn([[arrow(rng, size, ANGLES[way]) for _ in range(each)] for way in ways])


def letters(rng: np.random.Generator, each: int, alphabet: str, size: int = 32) -> Split:
    return drawn([[letter(rng, size, text) for _ in range(each)] for text in alphabet])


def drawn(classes: list[list[Images]]) -> Split:
    images = np.stack([image for images in classes for image in images])
    labels = [label for label, images in enumerate(classes) for _ in images]
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


# --- images of data sets --------------------------------------------------------------------------------


def some(rng: np.random.Generator, split: Split, each: int, classes: int) -> Split:
    """So many images, or all, of each of some classes."""
    chosen = rng.permutation(np.unique(split.labels.numpy()))[:classes]
    parts = [rng.permutation(np.flatnonzero(split.labels.numpy() == label))[:each] for label in chosen]
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Split(split.batch(torch.from_numpy(np.concatenate(parts))), torch.from_numpy(labels))


def dealt(rng: np.random.Generator, split: Split, each: int, mirror: bool) -> Split:
    """A class in two; `mirror`: with the second part mirrored."""
    whole = some(rng, split, 2 * each, 1)
    labels = torch.arange(len(whole)) * 2 // len(whole)
    second = (labels == 1)[:, None, None, None] if mirror else torch.zeros(1, dtype=torch.bool)
    images = whole.batch(torch.arange(len(whole)))
    return Split(torch.where(second, images.flip(-1), images), labels)


def handed(rng: np.random.Generator, split: Split, each: int) -> Split:
    """Twice as many classes: each in two, with the second part mirrored."""
    labels = split.labels.numpy()
    parts = [
        dealt(rng, split.subset(torch.from_numpy(np.flatnonzero(labels == label))), each, mirror=True)
        for label in np.unique(labels)
    ]
    return Split(
        torch.cat([part.batch(torch.arange(len(part))) for part in parts]),
        torch.cat([part.labels + 2 * k for k, part in enumerate(parts)]),
    )


def cases(facing: list[str], other: list[str], data_dir: str | None) -> Iterator[Case]:
    pair = ((0, 1),)
    for each in (40, 100, 300):
        yield Case(f"arrows left, right; {each} each", lambda rng, n=each: arrows(rng, n), pair)
    yield Case("arrows of 64 pixels; 100 each", lambda rng: arrows(rng, 100, size=64), pair)
    yield Case("arrows left, right, up, down; 100 each", lambda rng: arrows(rng, 100, tuple(ANGLES)), pair)
    for each in (40, 100):
        yield Case(f"letters b, d; {each} each", lambda rng, n=each: letters(rng, n, "bd"), pair)
    yield Case("letters a to j; 100 each", lambda rng: letters(rng, 100, "abcdefghij"), ((1, 3),))
    yield Case("arrows up, down; 100 each", lambda rng: arrows(rng, 100, ("up", "down")))
    yield Case("letters a, e, g, k; 100 each", lambda rng: letters(rng, 100, "aegk"))
    for source in facing:
        split, info = load_train(source, data_dir=data_dir)
        name, count = source.rstrip("/").rpartition("/")[2], len(info.classes)
        for each in (20, 80):
            make = lambda rng, s=split, n=each: dealt(rng, s, n, mirror=True)  # noqa: E731
            yield Case(f"{name}: a class, mirrored or not; {each} each", make, pair)
        every = tuple((2 * k, 2 * k + 1) for k in range(count))
        yield Case(f"{name}: {count} classes, mirrored or not", lambda rng, s=split: handed(rng, s, 80), every)
        yield from harmless(name, split, count)
    for source in ["digits", *other]:
        split, info = load_train(source, data_dir=data_dir)
        yield from harmless(source.rstrip("/").rpartition("/")[2], split, len(info.classes))


def harmless(name: str, split: Split, count: int) -> Iterator[Case]:
    for each in (20, 80, 300):
        yield Case(f"{name}: two classes; {each} each", lambda rng, n=each: some(rng, split, n, 2))
    for each in (20, 80):
        yield Case(f"{name}: a class in two; {each} each", lambda rng, n=each: dealt(rng, split, n, mirror=False))
    yield Case(f"{name}: {count} classes", lambda rng: some(rng, split, 1_000, count))


@app.default
def main(
    *,
    facing: Annotated[list[str] | None, Parameter(negative="")] = None,
    other: Annotated[list[str] | None, Parameter(negative="")] = None,
    data_dir: str | None = None,
    rounds: int = 20,
) -> None:
    measure.show_facts(measure.machine())
    print("| data | flips off | right pair | seconds |\n|---|---|---|---|")
    for case in cases(facing or [], other or [], data_dir):
        off = right = 0
        seconds = []
        for number in range(rounds):
            split = case.make(np.random.default_rng(number))
            start = time.process_time()
            found = find_mirrored(split).pair
            seconds.append(time.process_time() - start)
            off += found is not None
            right += found is not None and found.classes in case.pairs
        shown = f"{right} of {rounds}" if case.pairs else ""
        print(f"| {case.name} | {off} of {rounds} | {shown} | {np.median(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    app()
