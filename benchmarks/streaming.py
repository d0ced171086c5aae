"""Streamed pictures beside torch's DataLoader over the same files with the same decoding.

    python benchmarks/streaming.py                        # 100,000 grey PNG of 8×8, made in a temporary folder
    python benchmarks/streaming.py --pictures 4000 --side 256 --ending jpg --image-size 224
    python benchmarks/streaming.py --data FOLDER

Both give the same batches in the same order, which is checked before anything is timed; nothing else is computed
beside. An epoch of each takes turns. Memory is what this process takes at its peak in an epoch, beside torch, without
the processes that decode: of all pictures, of a quarter of them, and where all are held.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import measure
import numpy as np
import torch
from cyclopts import App, Parameter
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dnas.data.pictures import decode_files
from dnas.data.splits import Split, load_train
from dnas.data.streaming import AHEAD, Streamed
from dnas.settings import Memory

CLASSES = 10
STREAMED, LOADER = "streamed", "DataLoader"

app = App(help=__doc__)


def make_folder(root: Path, pictures: int, side: int, ending: str) -> None:
    """Class folders of pictures, all different: colour gradients with noise, grey ones as PNG."""
    rng = np.random.default_rng(0)
    for k in range(CLASSES):
        (root / str(k)).mkdir(parents=True)
    ramp = np.add.outer(np.arange(side), np.arange(side)) * (160 / (2 * side))
    for k in range(pictures):
        shape = (side, side) if ending == "png" else (side, side, 3)
        pixels = (ramp if ending == "png" else ramp[..., None]) + rng.integers(0, 90, shape)
        file = BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "png" if ending == "png" else "jpeg")
        (root / str(k % CLASSES) / f"{k}.{ending}").write_bytes(file.getvalue())


class Pictures(Dataset[Tensor]):
    """One decoded picture an item, as torchvision's ImageFolder has them."""

    def __init__(self, images: Streamed) -> None:
        self.images = images

    def __getitem__(self, index: int) -> Tensor:
        files = self.images.files
        return torch.from_numpy(decode_files(files.tree, files.at([index]), self.images.channels, self.images.size)[0])

    def __len__(self) -> int:
        return len(self.images.files)


class Order:
    """The batches of an epoch, as a DataLoader takes them."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def epoch_of(split: Split, order: list[Tensor]) -> Iterator[Tensor]:
    for k, indices in enumerate(order):
        yield split.batch(indices, order[k + 1 : k + 1 + AHEAD])


def order_of(split: Split, batch: int) -> list[Tensor]:
    return list(torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).split(batch))


def loader_of(split: Split, order: list[Tensor], workers: int) -> DataLoader[Tensor]:
    """Torch's own way to the same batches, with processes that stay from epoch to epoch."""
    assert isinstance(split.images, Streamed)
    positions = torch.from_numpy(split.images.positions)
    batches = Order([positions[indices] for indices in order])
    stay = {"persistent_workers": True} if workers else {}
    return DataLoader(Pictures(split.images), batch_sampler=batches, num_workers=workers, **stay)


def equal(split: Split, whole: Split, loader: DataLoader[Tensor], order: list[Tensor]) -> bool:
    """Whether the streamed batches and those of the loader are those of the images in memory, to the bit."""
    return all(
        torch.equal(one, whole.batch(indices)) and torch.equal(other, whole.batch(indices))
        for one, other, indices in zip(epoch_of(split, order), loader, order, strict=True)
    )


def exhaust(batches: Iterator[Tensor]) -> None:
    for _ in batches:
        pass


def build(
    data: str, cache: str, memory: Memory, image_size: int | None, workers: int, batch: int, share: float
) -> measure.Step:
    """An epoch over a share of the pictures; what `measure.peak_memory` runs in a fresh process."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"workers": workers} if memory == "stream" else {}
    split, _ = load_train(data, data_dir=cache, image_size=image_size, memory=memory, **options)
    order = order_of(split, batch)
    return lambda: exhaust(epoch_of(split, order[: round(share * len(order))]))


def started(data: str, cache: str, memory: Memory, image_size: int | None) -> tuple[float, Split]:
    began = time.perf_counter()
    split, _ = load_train(data, data_dir=cache, image_size=image_size, memory=memory)
    return time.perf_counter() - began, split


@app.default
def main(
    *,
    data: str = "",
    pictures: int = 100_000,
    side: int = 8,
    ending: str = "png",
    image_size: int | None = None,
    batch: int = 64,
    workers: int = os.cpu_count() or 1,
    rounds: int = 3,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Check that both give the same batches, then measure both.

    Args:
        data: A folder of pictures; without it one is made.
        pictures: How many are made.
        side: Their pixels of a side.
        ending: png (grey) or jpg (coloured).
        image_size: As of `dnas run`.
        batch: Pictures of a batch.
        workers: Processes that decode, of each.
        rounds: Epochs of each that are timed, after one that is not.
        json: Print everything as one JSON object in the last line.
    """
    torch.set_num_threads(workers)
    facts = measure.machine()
    measure.show_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        if not data:
            data = str(Path(folder) / "pictures")
            make_folder(Path(data), pictures, side, ending)
        first, _ = started(data, cache, "stream", image_size)
        second, split = started(data, cache, "stream", image_size)
        held, whole = started(data, cache, "whole", image_size)
        print(f"start: {first:.2f} s the first time, {second:.2f} s the second, {held:.2f} s where all are held")
        order = order_of(split, batch)
        loader = loader_of(split, order, workers)
        if not equal(split, whole, loader, order):
            sys.exit("the batches differ")
        size = split.images.shape
        del whole
        print(f"equal; now {rounds} epochs of each over {size[0]} pictures, {size[1]}×{size[2]}×{size[3]}", flush=True)
        seconds = measure.interleaved(
            {STREAMED: lambda: exhaust(epoch_of(split, order)), LOADER: lambda: exhaust(iter(loader))}, rounds
        )
        split.close()
        kinds: dict[str, tuple[Memory, float]] = {
            "streamed": ("stream", 1.0),
            "streamed, a quarter": ("stream", 0.25),
            "held": ("whole", 1.0),
        }
        memory = {
            name: measure.peak_memory(
                build,
                steps=1,
                data=data,
                cache=cache,
                memory=kind,
                image_size=image_size,
                workers=workers,
                batch=batch,
                share=share,
            )
            for name, (kind, share) in kinds.items()
        }
    rates = {name: size[0] / measure.spread(samples)["median"] for name, samples in seconds.items()}
    ratio = measure.paired_ratio(seconds[LOADER], seconds[STREAMED])
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} pictures a second, with {workers} processes")
    print(f"{STREAMED} / {LOADER}: {ratio:.2f} times as fast")
    for name, taken in memory.items():
        print(f"memory, {name}: {taken / measure.GIB:.3f} GiB")
    if json:
        result = {"machine": facts, "start": [first, second, held], "rates": rates, "ratio": ratio, "memory": memory}
        measure.finish(result, json)


if __name__ == "__main__":
    app()
