"""Images that a caller holds: read as the same in files are, told by their content, and refused in a line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faults.harness import contents, invoke
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import dnas
from dnas.data.sources.objects import place_of
from dnas.data.splits import fingerprint, load_splits, load_test, load_train
from dnas.disk import read_toml

FEW = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 16}
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (40, 9, 9), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (40, 9, 9, 3), dtype=np.uint8)
LABELS = np.arange(40) % 3


class Pairs(Dataset):
    """A map-style Dataset of whatever it is given."""

    def __init__(self, pictures, labels=LABELS):
        self.pictures, self.labels, self.asked = pictures, labels, []

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, number):
        if number >= len(self):
            raise IndexError(number)
        self.asked.append(number)
        return self.pictures[number], self.labels[number]


def read(data):
    train, info, test = load_splits("memory", given=place_of(data))
    return train, info, test


def same(one, other):
    """Whether two data sets have the same images and labels in the same splits."""
    return [fingerprint(split) for split in (one[0], one[2])] == [fingerprint(split) for split in (other[0], other[2])]


def from_file(tmp_path, images, labels, **more):
    np.savez(tmp_path / "a.npz", images=images, labels=labels, **more)
    return load_splits(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("images", [GRAY, COLOR, GRAY[..., None], GRAY.astype(np.float32) / 255], ids=str)
def test_arrays_are_what_they_are_in_a_file(tmp_path, images):
    data = read((images, LABELS))
    assert same(data, from_file(tmp_path, images, LABELS))
    assert data[1].classes == ("0", "1", "2") and len(data[2]) == 8
    assert data[1].channels == (3 if images.shape[3:] == (3,) else 1)


FORMS = {
    "tensor": lambda: (torch.from_numpy(COLOR).permute(0, 3, 1, 2), torch.from_numpy(LABELS)),
    "float tensor": lambda: (torch.from_numpy(COLOR).permute(0, 3, 1, 2) / 255, LABELS.tolist()),
    "list of arrays": lambda: (list(COLOR), list(map(int, LABELS))),
    "list of pictures": lambda: ([Image.fromarray(each) for each in COLOR], LABELS),
    "dataset of arrays": lambda: Pairs(COLOR),
    "dataset of pictures": lambda: Pairs([Image.fromarray(each) for each in COLOR]),
    "dataset of tensors": lambda: TensorDataset(torch.from_numpy(COLOR).permute(0, 3, 1, 2) / 255, torch.from_numpy(LABELS)),
    "subset": lambda: Subset(Pairs(np.concatenate([GRAY[:5, ..., None].repeat(3, 3), COLOR]), [9] * 5 + [*LABELS]), range(5, 45)),
    "list of pairs": lambda: list(zip(COLOR, LABELS, strict=True)),
    "split": lambda: {"train": (COLOR, LABELS)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_images_is_the_same_data(form):
    assert same(read(FORMS[form]()), read((COLOR, LABELS)))


def test_a_dataset_is_asked_once_for_each_item():
    pairs = Pairs(GRAY)
    read(pairs)
    assert pairs.asked == list(range(40))


def test_pictures_of_other_sizes_and_modes_are_read_as_their_files(tmp_path):
    pictures, labels = [], []
    for number, mode in enumerate(("L", "RGB", "RGBA", "P", "LA", "CMYK", "I;16", "1", "HSV", "PA") * 3):
        size = (10 + number % 5, 12 + number % 3)
        rng = np.random.default_rng(number)
        if mode == "I;16":
            picture = Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
        else:
            clear = mode in ("RGBA", "LA", "PA")
            pixels = rng.integers(0, 256, (*size[::-1], 4 if clear else 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).convert("LA" if mode == "PA" else mode).convert(mode)
        pictures.append(picture)
        labels.append("ab"[number % 2])
        kept = picture.convert({"HSV": "RGB", "PA": "RGBA"}.get(mode, mode))
        for part in ("train", "test"):
            folder = tmp_path / part / labels[-1]
            folder.mkdir(parents=True, exist_ok=True)
            kept.save(folder / f"{number:02}.{'png' if mode in ('LA', 'PA') else 'tif'}")
    split = Pairs(pictures, labels)
    ours, info, _ = read({"train": split, "test": split})
    theirs, known, _ = load_splits(str(tmp_path))
    assert (info.channels, info.image_size, info.classes) == (known.channels, known.image_size, known.classes)
    # A folder is read class by class.
    order = np.argsort(labels, kind="stable")
    assert torch.equal(ours.images[torch.from_numpy(order)], theirs.images)


def test_the_splits_are_the_callers():
    half = {"train": (COLOR[:30], LABELS[:30]), "test": (COLOR[30:], LABELS[30:])}
    train, info, test = read(half)
    assert (len(train), len(test)) == (30, 10) and torch.equal(test.labels, torch.from_numpy(LABELS[30:]))
    assert same((train, info, test), read({"train": half["train"], "validation": half["test"]}))
    three = read({**half, "validation": Pairs(COLOR)})
    assert same(three, (train, info, test))
    assert three[0].left_out.lines() == [
        "validation images in 'validation_images.npy' (40 images), since there are test images; to train on them, move "
        "them to the training images"
    ]


def test_the_fingerprint_is_of_content():
    prints = {fingerprint(load_train("memory", given=place_of(data))[0]) for data in (
        (GRAY, LABELS), (GRAY.copy(), LABELS.tolist()), (GRAY[::-1], LABELS[::-1]), (GRAY, LABELS[::-1]),
        (GRAY ^ np.uint8(1), LABELS),
    )}  # fmt: skip
    assert len(prints) == 4


class Endless(IterableDataset):
    def __iter__(self):
        yield from ()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (3, "data has the unsupported type int; it must be a name, a path, arrays"),
        (GRAY, "data has the unsupported type ndarray"),
        ((GRAY, LABELS, LABELS), "data has the unsupported type tuple"),
        (DataLoader(Pairs(GRAY)), "give its dataset, data = loader.dataset"),
        ({"train": DataLoader(Pairs(GRAY))}, r"give its dataset, data\['train'\] = loader.dataset"),
        (Endless(), "data has the unsupported type Endless"),
        ({"test": (GRAY, LABELS)}, r"in which train is required, got \['test'\]"),
        ({"train": (GRAY, LABELS), "dev": (GRAY, LABELS)}, "data must be a mapping of train, validation and test"),
        ([], "data is empty; give at least one image"),
        ((GRAY, LABELS[:4]), r"the array of labels in data has the shape \(4,\) for the 40 images of the array of images"),
        ((GRAY[0], LABELS[:9]), r"the array of images in data must have the shape .*, got \(9, 9\)"),
        ((GRAY - 130.0, LABELS), "the array of images in data must contain values from 0 to 1 or 0 to 255, got -130 to 125"),
        ((GRAY, LABELS + 0.5), "the array of labels in data must contain integers or class names, got float64"),
        ((np.array([None] * 40), LABELS), "the array of images in data contains Python objects"),
        ((GRAY[:0], LABELS[:0]), r"shape \(0, 9, 9\) and is empty"),
        (("x", LABELS), "the images in data must be an array, a tensor or a list, got 'x'"),
        ((["a.png"] * 40, LABELS), "image 0 in data must be a PIL image, an array or a tensor, got 'a.png'"),
        (Pairs([{}] * 40), "item 0 of data must be a PIL image, an array or a tensor, got {}"),
        ([(GRAY[0], 0, 1)], "must be (picture, label), got"),
        (Pairs([GRAY[0] / 255, *GRAY[1:, :8]]), r"image 0 in data is float64 of the shape \(9, 9\), and others differ"),
        ({"train": (GRAY, LABELS), "test": (GRAY, LABELS + 1)}, r"the class '3' in the array of labels in data\['test'\]"),
        ((GRAY, np.arange(40) // 39), "the class '1' in 'memory' has one image"),
        ((GRAY, LABELS * 0), "all training images in 'memory' belong to one class"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_in_a_line(data, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dnas.InputError, match=says.replace("(p", r"\(p").replace("l)", r"l\)")) as caught:
        dnas.run(data=data, **FEW)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"data_memory": "stream"}, {"data_workers": 2}, {"label_column": "kind"}])
def test_options_of_files_are_refused(option, tmp_path):
    with pytest.raises(dnas.InputError):
        dnas.search(data=(GRAY, LABELS), out=tmp_path / "never", **option, **FEW)
    assert not (tmp_path / "never").exists()


def test_a_run_is_resumed_with_the_same_images_and_no_others(tmp_path):
    data = {"train": (COLOR, LABELS), "test": Pairs(COLOR[:9], LABELS[:9])}
    options = {"method": "gdas", "finals": 0, "train_epochs": 1, **FEW}
    whole = dnas.run(data=data, out=tmp_path / "whole", **options)
    run = tmp_path / "run"
    with pytest.raises(dnas.Interrupted):
        dnas.run(data=data, out=run, on_epoch=lambda metrics: metrics["stage"] == "search", **options)
    assert read_toml(run / "config.toml")["data"]["source"] == "memory" == whole.data
    before = (run / "config.toml").read_bytes()
    with pytest.raises(dnas.InputError, match=r"resume in Python with dnas\.resume\('.*run', data=…\) and the same"):
        dnas.resume(run)
    assert invoke("resume", run).code == 2
    with pytest.raises(dnas.InputError, match="data has other images than it began with"):
        dnas.resume(run, data={**data, "test": (COLOR[:9] ^ np.uint8(1), LABELS[:9])})
    assert (run / "config.toml").read_bytes() == before
    dnas.resume(run, data={name: (np.asarray(COLOR if name == "train" else COLOR[:9]), LABELS[: 40 if name == "train" else 9])
                           for name in data})  # fmt: skip
    names = ("metrics.jsonl", "architecture.json", "model.safetensors")
    assert contents(run, names) == contents(tmp_path / "whole", names)
    assert dnas.resume(run) == dnas.resume(run, data=data)  # nothing is left to do
    with pytest.raises(
        dnas.InputError, match="the images of '.*' were given in memory; give --data, or in Python data=…"
    ):
        dnas.train(run, out=tmp_path / "never")
    assert "were given in memory" in invoke("evaluate", run).err
    assert "were in the memory of a Python program" in invoke("search", "--config", run / "config.toml").err
    again = dnas.train(run, data=data, epochs=1, out=tmp_path / "again")
    assert read_toml(again.run / "config.toml")["data"]["image_size"] == 9


def test_a_run_on_files_takes_no_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", images=GRAY, labels=LABELS)
    with pytest.raises(dnas.Interrupted):
        dnas.search(data="a.npz", out="run", on_epoch=lambda metrics: True, **FEW)
    with pytest.raises(dnas.InputError, match="run reads its images from '.*a.npz'; leave data out"):
        dnas.resume("run", data=(GRAY, LABELS))


def test_a_folder_that_is_called_memory_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label in "ab":
        folder = tmp_path / "memory" / label
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(GRAY[number]).save(folder / f"{number}.png")
    assert dnas.search(data="memory", method="random", **FEW).data == str(tmp_path / "memory")


def test_every_image_is_read_for_the_test_of_a_network():
    train, info, _ = read((GRAY, LABELS))
    tested = load_test("memory", info, given=place_of((GRAY, LABELS)), every=True)
    assert len(train) == 32 and len(tested) == 40
