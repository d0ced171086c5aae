"""Every kind of data set that is registered keeps the contract, and a search on it that is stopped goes on to the same bits.

A kind of which there is no example here fails.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_tools import cifar, idx_folder, no_network, tiny_imagenet  # noqa: F401
from faults.harness import contents, make_images
from source_tools import zipped

import dnas
from dnas import testing
from dnas.data.sources.registry import DATA_SOURCES
from dnas.errors import Interrupted
from dnas.reporter import Silent

FEW = {"method": "gdas", "layers": 3, "channels": 4, "epochs": 3, "image_size": 8}
NAMES = ("architecture.json", "metrics.jsonl")


def classes(root: Path) -> Path:
    return make_images(root / "images", each=6)


def listed(root: Path) -> Path:
    files = sorted(make_images(root / "list" / "images", each=6).rglob("*.png"))
    rows = (f"{file.relative_to(root / 'list')},{file.parent.name}" for file in files)
    (root / "list" / "list.csv").write_text("\n".join(["path,label", *rows]))
    return root / "list" / "list.csv"


def arrays(root: Path) -> Path:
    (root / "arrays").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.save(root / "arrays" / "images.npy", pixels)
    np.save(root / "arrays" / "labels.npy", np.arange(12) % 2)
    return root / "arrays"


def idx(name: str) -> Callable[[Path], Path]:
    def made(root: Path) -> Path:
        idx_folder(root / name)
        return root / name

    return made


def shards(root: Path) -> Path:
    pytest.importorskip("pyarrow", reason="needs dnas[hf]")
    import pyarrow as pa

    files = sorted(make_images(root / "images", each=6).rglob("*.png"))
    labels = [int(file.parent.name[-1]) for file in files]
    content = pa.table({"image": [{"bytes": file.read_bytes(), "path": None} for file in files], "label": labels})
    (root / "shards").mkdir()
    with (
        pa.OSFile(str(root / "shards" / "data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, content.schema) as writer,
    ):
        writer.write_table(content)
    return root / "shards"


def longer(folder: Path) -> Path:
    """Files of records, each of which comes six times: there are two, and the halves of a search need more."""
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes() * 6)
    return folder


EXAMPLES: dict[str, Callable[[Path], str | Path]] = {
    "digits": lambda root: "digits",
    "fashion-mnist": idx("fashion"),
    "IDX files": idx("idx"),
    "cifar10": lambda root: cifar(root, "cifar10", packed=False),
    "cifar100": lambda root: longer(cifar(root, "cifar100", packed=False)),
    "tiny-imagenet": tiny_imagenet,
    "arrays": arrays,
    "lists of images": listed,
    "shards of Hugging Face": shards,
    "folder": classes,
}
# Another form of a kind: what the kind is, and the example.
FORMS: dict[str, tuple[str, Callable[[Path], str | Path]]] = {
    **{kind: (kind, make) for kind, make in EXAMPLES.items()},
    "zip": ("folder", lambda root: zipped(classes(root), root / "x.zip")),
    "zip of arrays": ("arrays", lambda root: zipped(arrays(root), root / "x.zip")),
}
BATCHES = {"digits": 512, "fashion-mnist": 3, "IDX files": 3, "tiny-imagenet": 3, "cifar10": 5}  # that divide a half
STREAMED = ("tiny-imagenet", "arrays", "lists of images", "shards of Hugging Face", "folder", "zip")


class Stops(Silent):
    """Ends a search at its second step, as by Ctrl-C."""

    def start(self, title, steps, done):
        self.title = title
        self.steps = 0

    def step(self, step, shown):
        self.steps += "search" in self.title
        if self.steps == 2:
            signal.raise_signal(signal.SIGINT)


def test_there_is_an_example_of_every_kind():
    assert set(EXAMPLES) == {source.kind for source in DATA_SOURCES.values()}


@pytest.mark.parametrize("form", FORMS)
def test_it_keeps_the_contract(tmp_path, form):
    kind, make = FORMS[form]
    testing.check_source(kind, make(tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_a_search_that_is_stopped_and_streamed_comes_to_the_same_bits(tmp_path, form):
    data = FORMS[form][1](tmp_path)
    few = {**FEW, "batch_size": BATCHES.get(form, 2)}
    dnas.search(data=data, data_memory="whole", out=tmp_path / "whole", **few)
    memory = {"data_memory": "stream", "data_workers": 1} if form in STREAMED else {}
    with pytest.raises(Interrupted):
        dnas.search(data=data, out=tmp_path / "run", reporter=Stops(), **memory, **few)
    assert not (tmp_path / "run" / "architecture.json").exists()
    dnas.resume(tmp_path / "run")
    assert contents(tmp_path / "run", NAMES) == contents(tmp_path / "whole", NAMES)
