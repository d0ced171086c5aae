"""NumPy arrays as data: their images are those of the same pictures in class folders, to the bit, in whatever form."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_tools import no_network, picture, random_bytes, refused, write  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_tools import one, same

from dnas.data.sources.archive import open_tree
from dnas.data.sources.registry import locate

on_tmp_path = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TRAIN = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
TEST = np.array([0, 1, 1, 2])


def arrays(*shape: int) -> dict[str, np.ndarray]:
    """Images and labels of both parts, sorted by class."""
    return {
        "train_images": random_bytes(9, *shape),
        "train_labels": TRAIN,
        "test_images": random_bytes(4, *shape, seed=1),
        "test_labels": TEST,
    }


def class_folders(root: Path, data: dict[str, np.ndarray]) -> Path:
    """The same images as PNG files in class folders."""
    for part in ("train", "test"):
        for k, (pixels, label) in enumerate(zip(data[f"{part}_images"], data[f"{part}_labels"], strict=True)):
            picture(root / part / str(label) / f"{k}.png", pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    return root


def saved(root: Path, data: dict[str, np.ndarray]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, values in data.items():
        np.save(root / f"{name}.npy", values)
    return root


def packed(path: Path, data: dict[str, np.ndarray]) -> Path:
    np.savez(path, **data)
    return path


@pytest.mark.parametrize("shape", [(9, 9), (12, 10), (12, 9, 3), (11, 9, 1), (70, 80, 3), (9, 12, 4)], ids=str)
def test_arrays_are_the_same_pictures_in_class_folders(tmp_path, shape):
    data = arrays(*shape)
    folders = class_folders(tmp_path / "folders", data)
    same(one(packed(tmp_path / "x.npz", data)), one(folders))
    same(one(saved(tmp_path / "npy", data)), one(folders))
    if len(shape) == 3:
        planes = {k: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for k, v in data.items()}
        same(one(packed(tmp_path / "planes.npz", planes)), one(folders))


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("trainImages", "trainLabels", "testImages", "testLabels"),
        ("train_data", "train_targets", "val_data", "val_targets"),
        ("train_set_x", "train_set_y", "test_set_x", "test_set_y"),
    ],
)
def test_usual_names(tmp_path, names):
    data = arrays(9, 9)
    renamed = dict(zip(names, data.values(), strict=True))
    found = one(packed(tmp_path / "y.npz", renamed))
    same(found, one(packed(tmp_path / "x.npz", data)))
    assert found.left_out == []


def test_medmnist_validation_is_reported_and_labels_may_be_columns(tmp_path):
    data = arrays(9, 9)
    data |= {"train_labels": TRAIN[:, None], "test_labels": TEST[:, None].astype(np.uint8)}
    data |= {"val_images": random_bytes(3, 9, 9), "val_labels": np.zeros((3, 1)), "extra": np.zeros(3)}
    found = one(packed(tmp_path / "x.npz", data))
    assert found.labels == [TRAIN.tolist(), TEST.tolist()]
    assert found.left_out == [
        "validation images in 'val_images.npy' (3 images), since there are test images; to train on them, move them to "
        "the training images",
        "arrays that are neither images nor labels: extra.npy",
    ]


def test_without_a_test_the_fifth_of_class_folders_is_held_out(tmp_path):
    data = {"images": random_bytes(20, 9, 9), "labels": np.repeat([0, 1], 10)}
    for k, (pixels, label) in enumerate(zip(*data.values(), strict=True)):
        picture(tmp_path / "folders" / str(label) / f"{k:02}.png", pixels)
    for names in (("images", "labels"), ("X", "y"), ("x_train", "y_train")):
        found = one(packed(tmp_path / "x.npz", dict(zip(names, data.values(), strict=True))))
        same(found, one(tmp_path / "folders"))
    both = [set(map(bytes, images)) for images in found.images]
    assert not both[0] & both[1] and len(both[0] | both[1]) == 20


@pytest.mark.parametrize(
    ("kind", "white", "said"),
    [(np.float32, 1.0, "from 0 to 1,"), (np.float64, 255.0, "from 0 to 255,"), (np.float16, 1.0, "from 0 to 1,"),
     (np.int64, 255, ""), (">u2", 255, "")],
)  # fmt: skip
def test_other_numbers_are_rounded_to_bytes_and_said(tmp_path, kind, white, said):
    data = arrays(9, 9)
    folders = class_folders(tmp_path / "folders", data)
    for part in ("train", "test"):
        data[f"{part}_images"] = (data[f"{part}_images"] * (white / 255)).astype(kind)
    found = one(packed(tmp_path / "x.npz", data))
    same(found, one(folders))
    notes = set(found.notes)
    assert len(notes) == bool(said) and all(said in note and "floating-point" in note for note in notes)


def test_the_scale_is_that_of_training(tmp_path):
    data = arrays(9, 9)
    data["train_images"] = data["train_images"] / 255
    for high, words in ((2.0, "from 0 to 1, got"), (float("nan"), "nan")):
        data["test_images"] = np.full((4, 9, 9), high)
        with refused("test_images", words):
            one(packed(tmp_path / "x.npz", data))
    data["train_images"] = arrays(9, 9)["train_images"] * 1.0  # up to 255
    data["test_images"] = np.full((4, 9, 9), 1.0)
    assert np.unique(one(packed(tmp_path / "x.npz", data)).images[1]).tolist() == [1]
    data["train_images"] = arrays(9, 9)["train_images"] * (1.5 / 255)  # dark, but not from 0 to 1
    assert one(packed(tmp_path / "x.npz", data)).images[0].max() == 2


@pytest.mark.parametrize("labels", [np.eye(3, dtype=np.uint8)[TRAIN], np.eye(3)[TRAIN], TRAIN.astype(float), TRAIN > 1])
def test_forms_of_labels(tmp_path, labels):
    data = {"images": random_bytes(9, 9, 9), "labels": labels}
    found = one(packed(tmp_path / "x.npz", data))
    expected = np.unique(labels if labels.ndim == 1 else labels.argmax(1))
    assert found.classes == tuple(str(int(name)) for name in expected) and sum(map(len, found.images)) == 9


def test_labels_may_be_names_and_other_numbers(tmp_path):
    data = arrays(9, 9) | {
        "train_labels": np.array(["b", "a c", "é"])[TRAIN],
        "test_labels": np.array(["b", "é", "b", "b"]),
    }
    found = one(packed(tmp_path / "x.npz", data))
    assert found.classes == ("a c", "b", "é") and found.labels[1] == [1, 2, 1, 1]
    data = arrays(9, 9) | {"train_labels": np.array([-1, 10, 2])[TRAIN], "test_labels": np.array([10, 2, -1, 2])}
    found = one(packed(tmp_path / "x.npz", data))
    assert found.classes == ("-1", "2", "10") and found.labels[1] == [2, 1, 0, 1]


REFUSED = {
    "several labels": ({"train_labels": np.ones((9, 3), int)}, ("one-hot", "(9, 3)")),
    "too few labels": ({"train_labels": TRAIN[:8]}, ("(8,)", "9 images")),
    "labels of halves": ({"train_labels": TRAIN + 0.5}, ("float64", "integers")),
    "flat images": ({"train_images": random_bytes(9, 81)}, ("(9, 81)", "reshape")),
    "which axis": ({"train_images": random_bytes(9, 3, 9, 3)}, ("axis 2 or axis 4", "(9, 3, 9, 3)")),
    "no channels": ({"train_images": random_bytes(9, 9, 9, 5)}, ("(9, 9, 9, 5)", "reshape")),
    "negative": ({"train_images": np.full((9, 9, 9), -1.0)}, ("-1 to -1", "0 to 1 or 0 to 255")),
    "sixteen bit": ({"train_images": np.full((9, 9, 9), 300, np.uint16)}, ("to 300", "scale it")),
    "complex": ({"train_images": np.zeros((9, 9, 9), complex)}, ("complex128",)),
    "an unknown class": ({"test_labels": np.array([0, 1, 2, 7])}, ("'7'", "did not occur in training")),
    "no images": ({"train_images": random_bytes(0, 9, 9)}, ("is an empty array",)),
    "no labels": ({"train_labels": None}, ("train_images", "name two of them")),
    "two of one": ({"x_train": TRAIN}, ("both images",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused(tmp_path, name):
    changed, words = REFUSED[name]
    data = {k: v for k, v in (arrays(9, 9) | changed).items() if v is not None}
    for source in (packed(tmp_path / "x.npz", data), saved(tmp_path / "npy", data)):
        with refused(str(source), *words):
            one(source)


class Fired(Exception):
    pass


def fire():
    raise Fired


class Bomb:
    def __reduce__(self):
        return fire, ()


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_labels"])
def test_pickles_are_never_opened(tmp_path, name):
    data = arrays(9, 9) | {name: np.array([Bomb()] * 9, object)}
    for source in (packed(tmp_path / "x.npz", data), saved(tmp_path / "npy", data)):
        with refused(name, "pickled"):
            one(source)
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as file:  # a pickle and no array at all
        file.writestr("images.npy", b"\x80\x04cos\nsystem\n")
        file.writestr("labels.npy", b"\x80\x04cos\nsystem\n")
    with refused("labels.npy", "cannot be read"):
        one(tmp_path / "y.npz")


@on_tmp_path
@given(keep=st.floats(0, 1, exclude_max=True), form=st.sampled_from(["npz", "npy"]))
def test_truncated_arrays_are_refused_wherever_they_end(tmp_path, keep, form):
    data = arrays(9, 9)
    source = packed(tmp_path / "x.npz", data) if form == "npz" else saved(tmp_path / "npy", data)
    path = source if form == "npz" else source / "train_images.npy"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with refused(path.name):
        one(source)


def test_a_header_that_claims_the_world_takes_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (2**40, 28, 28), "fortran_order": False, "descr": "|u1"})
    saved(tmp_path / "npy", arrays(9, 9))
    write(tmp_path / "npy" / "train_images.npy", header.getvalue())
    with refused("train_images.npy", "bytes"):
        one(tmp_path / "npy")


def test_arrays_in_another_order_of_memory_are_the_same(tmp_path):
    data = arrays(9, 12, 3)
    turned = {name: np.asfortranarray(values) for name, values in data.items()}
    folders = class_folders(tmp_path / "folders", data)
    for source in (saved(tmp_path / "npy", turned), packed(tmp_path / "x.npz", turned)):
        same(one(source), one(folders))


def test_an_npz_says_why_it_is_not_streamed(tmp_path):
    source = packed(tmp_path / "x.npz", arrays(9, 9))
    tree = locate(str(source), None).source.pictures(open_tree(source), "train", None).tree
    assert "save them as .npy files" in tree.held


@on_tmp_path
@given(
    counts=st.fixed_dictionaries({part: st.integers(0, 6) for part in ("train", "test", "val")}),
    unlabeled=st.sets(st.sampled_from(["test", "val"])),
)
def test_every_image_is_used_or_reported(tmp_path_factory, counts, unlabeled):
    root = tmp_path_factory.mktemp("arrays")
    counts["train"] += 4
    data = {}
    for part, count in counts.items():
        if count:
            data[f"{part}_images"] = random_bytes(count, 9, 9)
            if part not in unlabeled:
                data[f"{part}_labels"] = np.arange(count) % 2
    found = one(packed(root / "x.npz", data), decoded=False)
    reported = sum(items.total() for items in found.counts.values())
    assert sum(map(len, found.names)) + reported == sum(counts.values())


def test_other_arrays_are_tested_as_a_whole_in_the_classes_of_training(tmp_path):
    other = packed(tmp_path / "y.npz", {"images": random_bytes(3, 9, 9), "labels": np.array([2, 2, 1])})
    listing, part = locate(str(other), None).source.given(open_tree(other), ("0", "1", "2"))
    assert listing.labels.tolist() == [2, 2, 1] and part == "all"
    listing, part = locate(str(other), None).source.given(open_tree(packed(other, arrays(9, 9))), ("2", "1", "0"))
    assert listing.labels.tolist() == [2, 1, 1, 0] and part == "test"
    with refused("'2'", "did not occur in training"):
        locate(str(other), None).source.given(open_tree(other), ("0", "1"))
