"""Data sets: what is written to disk by hand here must come back as tensors, and damage must be named."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dnas.data import splits as data
from dnas.data.sources.registry import found
from dnas.data.splits import DataInfo, Split, batches, fingerprint, halves, load_test, load_train
from dnas.errors import InputError

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # such as torch's about read-only memory

RED, WHITE = (255, 0, 0), (255, 255, 255)
on_tmp_path = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path_factory):
    """No test may load anything, nor see the data sets of whoever runs it."""

    def refuse(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.setenv("DNAS_DATA_DIR", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.delenv("DNAS_OFFLINE", raising=False)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """An InputError of one line that has all the words."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path: Path, pixels, mode: str | None = None, **options) -> Path:
    """A picture file of an array [H, W(, C)], of one colour, or of a PIL image."""
    if isinstance(pixels, tuple):
        pixels = Image.new("RGB", (8, 8), pixels)
    elif isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels)
    if mode:
        pixels = pixels.convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels.save(path, **options)
    return path


def two_classes(root: Path, count: int = 2, parts: tuple[str, ...] = ("train", "test")) -> Path:
    """Class folders a and b in each part, of `count` different 8x8 colour pictures each."""
    for p, part in enumerate(parts):
        for c, name in enumerate("ab"):
            for k in range(count):
                picture(root / part / name / f"{k}.png", random_bytes(8, 8, 3, seed=100 * p + 10 * c + k))
    return root


# ---------------------------------------------------------------- digits


def as_multiset(split: Split) -> Counter:
    return Counter((bytes(i.numpy().tobytes()), int(y)) for i, y in zip(split.images, split.labels, strict=True))


def test_digits_are_all_there_once_and_scaled_to_a_byte():
    from sklearn.datasets import load_digits

    raw = load_digits()
    train, info = load_train("digits")
    test = load_test("digits", info)
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape == (1437, 1, 8, 8)
    expected = Counter(
        (bytes(round(v * 255 / 16) for v in image.ravel()), int(label))
        for image, label in zip(raw.images, raw.target, strict=True)
    )
    assert as_multiset(train) + as_multiset(test) == expected
    for label, count in enumerate(np.bincount(raw.target)):
        assert abs(int((test.labels == label).sum()) - count / 5) < 1
    assert info.classes == tuple("0123456789")
    assert (info.source, info.channels, info.image_size, info.flip) == ("digits", 1, 8, False)
    pixels = train.images.numpy().astype(float) / 255
    assert info.mean == pytest.approx((pixels.mean(),), abs=1e-12)
    assert info.std == pytest.approx((pixels.std(),), abs=1e-12)


def test_digits_split_is_this_one_for_ever():
    # The number is what this split gave when it was made: published results on digits depend on it.
    _, info = load_train("digits")
    assert fingerprint(load_test("digits", info))[:16] == "bdfebe13fde98d17"


def test_loading_twice_gives_the_same():
    first, second = load_train("digits"), load_train("digits")
    assert fingerprint(first[0]) == fingerprint(second[0]) and first[1] == second[1]


def test_info_survives_json():
    info = load_train("digits")[1]
    back = json.loads(json.dumps(asdict(info)))
    assert DataInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in back.items()}) == info


def test_image_size_resizes_arrays_and_the_test_split_follows():
    small, _ = load_train("digits")
    train, info = load_train("digits", image_size=16)
    assert train.images.shape == (1437, 1, 16, 16) and info.image_size == 16
    assert load_test("digits", info).images.shape == (360, 1, 16, 16)
    # Doubled bilinearly, the mean of a 2x2 block in the middle is nearly the pixel it came from.
    assert (train.images.float().mean() - small.images.float().mean()).abs() < 1
    assert torch.equal(train.labels, small.labels)


@pytest.mark.parametrize("size", [7, 0, -3])
def test_too_small_image_size_is_refused(size):
    with refused("--image-size", str(size)):
        load_train("digits", image_size=size)


# ---------------------------------------------------------------- IDX files


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder: Path, spelling: str = "-", packed: bool = False, size: int = 9) -> dict[str, np.ndarray]:
    arrays = {
        "train-images": random_bytes(6, size, size),
        "train-labels": np.array([0, 1, 2, 2, 1, 0], np.uint8),
        "t10k-images": random_bytes(4, size, size, seed=1),
        "t10k-labels": np.array([2, 2, 0, 1], np.uint8),
    }
    for name, array in arrays.items():
        content = idx_bytes(array)
        file = f"{name}{spelling}idx{array.ndim}-ubyte" + (".gz" if packed else "")
        write(folder / file, gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize("spelling", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_round_trip(tmp_path, spelling, packed):
    arrays = idx_folder(tmp_path / "letters", spelling, packed)
    train, info = load_train(str(tmp_path / "letters"))
    test = load_test(str(tmp_path / "letters"), info)
    assert np.array_equal(train.images[:, 0].numpy(), arrays["train-images"])
    assert train.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert np.array_equal(test.images[:, 0].numpy(), arrays["t10k-images"])
    assert test.labels.tolist() == [2, 2, 0, 1]
    assert (info.classes, info.channels, info.image_size, info.flip) == (("0", "1", "2"), 1, 9, False)


def test_packing_is_told_by_content_and_not_by_name(tmp_path):
    idx_folder(tmp_path)
    split, _ = load_train(str(tmp_path))
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert fingerprint(load_train(str(tmp_path))[0]) == fingerprint(split)
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "train-labels-idx1-ubyte.gz")
    assert fingerprint(load_train(str(tmp_path))[0]) == fingerprint(split)


@pytest.mark.parametrize("folder", ["my Fashion set", "FashionMNIST/raw"])
def test_a_folder_called_fashion_has_the_names_of_fashion_mnist(tmp_path, folder):
    idx_folder(tmp_path / folder)
    _, info = load_train(str(tmp_path / folder))
    assert info.classes[0] == "T-shirt/top" and info.classes[9] == "Ankle boot" and len(info.classes) == 10
    assert info.flip


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_by_name(tmp_path, folder):
    arrays = idx_folder(tmp_path / folder, packed=True)
    train, info = load_train("fashion-mnist", data_dir=str(tmp_path))
    assert np.array_equal(train.images[:, 0].numpy(), arrays["train-images"])
    assert info.source == "fashion-mnist" and info.classes[1] == "Trouser" and info.flip


def test_training_reads_no_test_file_of_idx(tmp_path):
    idx_folder(tmp_path)
    info = load_train(str(tmp_path))[1]
    write(tmp_path / "t10k-images-idx3-ubyte", b"")
    write(tmp_path / "t10k-labels-idx1-ubyte", b"")
    assert load_train(str(tmp_path))[1] == info
    with refused("t10k-images-idx3-ubyte"):
        load_test(str(tmp_path), info)


@on_tmp_path
@given(keep=st.floats(0, 1, exclude_max=True), packed=st.booleans(), file=st.sampled_from(["images", "labels"]))
def test_truncated_idx_is_refused_wherever_it_ends(tmp_path, keep, packed, file):
    for old in tmp_path.iterdir():
        old.unlink()
    idx_folder(tmp_path, packed=packed)
    path = next(tmp_path.glob(f"train-{file}*"))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with refused(path.name):
        load_train(str(tmp_path))


def test_damaged_gzip_is_refused(tmp_path):
    idx_folder(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with refused(path.name):
        load_train(str(tmp_path))


@pytest.mark.parametrize("byte", [0, 1, 2, 3])
def test_wrong_magic_is_refused(tmp_path, byte):
    idx_folder(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)
    with refused("train-labels-idx1-ubyte", "not an IDX file of labels"):
        load_train(str(tmp_path))


def test_swapped_idx_files_are_refused(tmp_path):
    idx_folder(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    one, other = images.read_bytes(), labels.read_bytes()
    images.write_bytes(other)
    labels.write_bytes(one)
    with refused("train-images-idx3-ubyte", "as labels do", "swapped"):
        load_train(str(tmp_path))


def test_idx_of_unequal_counts_or_odd_shapes_is_refused(tmp_path):
    idx_folder(tmp_path)
    write(tmp_path / "train-labels-idx1-ubyte", idx_bytes(np.array([0, 1, 2], np.uint8)))
    with refused("train-labels-idx1-ubyte", "3 labels", "6 images"):
        load_train(str(tmp_path))
    write(tmp_path / "train-labels-idx1-ubyte", idx_bytes(np.zeros(2, np.uint8)))
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(random_bytes(2, 8, 9)))
    with refused("train-images-idx3-ubyte", "square"):
        load_train(str(tmp_path))
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(random_bytes(2, 8, 8)) + b"x")
    with refused("train-images-idx3-ubyte", "longer"):
        load_train(str(tmp_path))
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(random_bytes(2, 8, 8)))
    with refused("one class", "'0'"):
        load_train(str(tmp_path))
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(random_bytes(0, 8, 8)))
    write(tmp_path / "train-labels-idx1-ubyte", idx_bytes(np.zeros(0, np.uint8)))
    with refused("train-images-idx3-ubyte"):
        load_train(str(tmp_path))


def test_a_header_that_claims_the_world_takes_no_memory(tmp_path):
    idx_folder(tmp_path)
    write(tmp_path / "train-images-idx3-ubyte", struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**16, 2**16))
    with refused("train-images-idx3-ubyte", "GiB"):
        load_train(str(tmp_path))


def test_a_small_file_that_unpacks_to_much_takes_no_memory(tmp_path):
    idx_folder(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**26)))
    tracemalloc.start()
    try:
        with refused(path.name, "longer"):
            load_train(str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_shrinking_arrays_is_antialiased(tmp_path):
    idx_folder(tmp_path, size=24)
    stripes = np.zeros((6, 24, 24), np.uint8)
    stripes[:, :, ::3] = 255  # missed altogether by looking at the middle of each three columns
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(stripes))
    inner = load_train(str(tmp_path), image_size=8)[0].images[:, 0, :, 1:-1].int()
    assert (inner - 85).abs().max() <= 1


def test_a_missing_idx_file_is_named(tmp_path):
    idx_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with refused("t10k-labels-idx1-ubyte"):
        load_train(str(tmp_path))


def test_labels_beyond_the_classes_are_refused(tmp_path):
    idx_folder(tmp_path / "x")
    _, info = load_train(str(tmp_path / "x"))
    write(tmp_path / "x" / "t10k-labels-idx1-ubyte", idx_bytes(np.array([0, 1, 2, 3], np.uint8)))
    with refused("label 3", "0 to 2"):
        load_test(str(tmp_path / "x"), info)
    idx_folder(tmp_path / "fashion")
    write(tmp_path / "fashion" / "train-labels-idx1-ubyte", idx_bytes(np.array([0, 1, 2, 3, 4, 10], np.uint8)))
    with refused("label 10"):
        load_train(str(tmp_path / "fashion"))


def test_idx_smaller_than_eight_pixels_grows_to_eight(tmp_path):
    idx_folder(tmp_path, size=5)
    train, info = load_train(str(tmp_path))
    assert train.images.shape == (6, 1, 8, 8) and info.image_size == 8


# ---------------------------------------------------------------- CIFAR


def cifar10_files() -> dict[str, bytes]:
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    return {
        name: b"".join(bytes([(k + r) % 10]) + random_bytes(3, 32, 32, seed=10 * k + r).tobytes() for r in range(2))
        for k, name in enumerate(names)
    }


def cifar100_files() -> dict[str, bytes]:
    return {
        name: b"".join(bytes([19 - r, 98 + r]) + random_bytes(3, 32, 32, seed=r + s).tobytes() for r in range(2))
        for s, name in ((0, "train.bin"), (5, "test.bin"))
    }


CIFAR = {
    "cifar10": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", cifar10_files),
    "cifar100": ("cifar-100-binary", "cifar-100-binary.tar.gz", cifar100_files),
}


def cifar(root: Path, name: str, packed: bool) -> Path:
    folder, archive, files = CIFAR[name]
    if packed:
        with tarfile.open(root / archive, "w:gz") as tar:
            for file, content in reversed(files().items()):  # not in the order of reading
                member = tarfile.TarInfo(f"{folder}/{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return root / archive
    for file, content in files().items():
        write(root / folder / file, content)
    return root / folder


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_round_trip(tmp_path, packed):
    cifar(tmp_path, "cifar10", packed)
    train, info = load_train("cifar10", data_dir=str(tmp_path))
    assert train.images.shape == (10, 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    for k in range(5):
        for r in range(2):
            expected = random_bytes(3, 32, 32, seed=10 * k + r)
            assert np.array_equal(train.images[2 * k + r].numpy(), expected)
    assert info.classes[3] == "cat" and info.classes[9] == "truck" and len(info.classes) == 10
    assert info.mean == (0.4914, 0.4822, 0.4465) and info.std == (0.2470, 0.2435, 0.2616)
    assert info.flip and info.image_size == 32 and info.channels == 3
    test = load_test("cifar10", info, data_dir=str(tmp_path))
    assert test.labels.tolist() == [5, 6]
    assert np.array_equal(test.images[1].numpy(), random_bytes(3, 32, 32, seed=51))


@pytest.mark.parametrize("packed", [False, True])
def test_cifar100_round_trip_takes_the_fine_label(tmp_path, packed):
    cifar(tmp_path, "cifar100", packed)
    train, info = load_train("cifar100", data_dir=str(tmp_path))
    assert train.labels.tolist() == [98, 99]
    assert np.array_equal(train.images[1].numpy(), random_bytes(3, 32, 32, seed=1))
    assert [info.classes[k] for k in train.labels] == ["woman", "worm"]
    assert len(info.classes) == 100 and list(info.classes) == sorted(set(info.classes))
    test = load_test("cifar100", info, data_dir=str(tmp_path))
    assert np.array_equal(test.images[0].numpy(), random_bytes(3, 32, 32, seed=5))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_path_of_a_cifar_folder_is_a_source(tmp_path, name):
    folder = cifar(tmp_path, name, packed=False)
    by_path, info = load_train(str(folder))
    by_name, named_info = load_train(name, data_dir=str(tmp_path))
    assert fingerprint(by_path) == fingerprint(by_name)
    assert (info.classes, info.mean, info.std) == (named_info.classes, named_info.mean, named_info.std)
    assert info.source == str(folder)


def test_training_reads_no_test_file_of_cifar(tmp_path):
    folder = cifar(tmp_path, "cifar10", packed=False)
    _, info = load_train(str(folder))
    (folder / "test_batch.bin").unlink()
    assert load_train(str(folder))[1] == info
    with refused("test_batch.bin"):
        load_test(str(folder), info)


def test_damaged_cifar_is_refused(tmp_path):
    folder = cifar(tmp_path, "cifar10", packed=False)
    path = folder / "data_batch_3.bin"
    whole = path.read_bytes()
    for content in (whole[:-1], b""):
        path.write_bytes(content)
        with refused("data_batch_3.bin"):
            load_train(str(folder))
    path.write_bytes(b"\x0a" + whole[1:])
    with refused("label 10"):
        load_train(str(folder))


def test_damaged_cifar_archives_are_refused(tmp_path):
    archive = cifar(tmp_path, "cifar10", packed=True)
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an archive"):
        archive.write_bytes(content)
        with refused(archive.name):
            load_train("cifar10", data_dir=str(tmp_path))
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with refused(archive.name, "data_batch_1.bin"):
        load_train("cifar10", data_dir=str(tmp_path))


def test_the_pickled_cifar_is_not_read(tmp_path):
    write(tmp_path / "cifar-10-batches-py" / "data_batch_1", b"cos\nsystem\n(S'false'\ntR.")
    with refused("Python version", "cifar-10-binary.tar.gz"):
        load_train(str(tmp_path / "cifar-10-batches-py"))
    with refused("Python version", "cifar-10-batches-py", "cifar-10-binary.tar.gz", "--data-dir"):
        load_train("cifar10", data_dir=str(tmp_path))
    write(tmp_path / "cifar-100-python" / "train", b"")
    write(tmp_path / "cifar-100-python" / "meta", b"")
    with refused("Python version", "cifar-100-binary.tar.gz"):
        load_train(str(tmp_path / "cifar-100-python"))


def test_other_channels_than_in_training_are_refused(tmp_path):
    cifar(tmp_path, "cifar10", packed=False)
    _, info = load_train("digits")
    with refused("cifar10", "3 colour channels"):
        load_test("cifar10", info, data_dir=str(tmp_path))


OUTSIDE = ["../data_batch_1.bin", "/data_batch_1.bin", "cifar-10-batches-bin/../../x", "..\\x", "C:/x", "a/.."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_tar_that_leads_out_of_itself_is_refused(tmp_path, name):
    archive = cifar(tmp_path, "cifar10", packed=True)
    members = gzip.decompress(archive.read_bytes())
    with io.BytesIO() as extra:
        with tarfile.open(fileobj=extra, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        # Its first block is the member's header; the others end an archive.
        archive.write_bytes(gzip.compress(extra.getvalue()[:512] + members))
    with refused(archive.name, repr(name), "leads out"):
        load_train("cifar10", data_dir=str(tmp_path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_tar_with_a_link_is_refused_wherever_it_leads(tmp_path, kind):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/readme")
        link.type, link.linkname = kind, "cifar-10-batches-bin/data_batch_1.bin"
        tar.addfile(link)
    with refused(archive.name, "readme", "is a link"):
        load_train("cifar10", data_dir=str(tmp_path))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_with_a_name_of_gigabytes_takes_no_memory(tmp_path, kind):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 2**28
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**28 + 1024), 1))
    tracemalloc.start()
    try:
        with refused(archive.name):
            load_train("cifar10", data_dir=str(tmp_path))
        # tarfile unpacks 10 kB at a time, which may be 10 MB.
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- Tiny-ImageNet


def tiny_imagenet(root: Path) -> Path:
    top = root / "tiny-imagenet-200"
    for c, wnid in enumerate(["n02", "n01", "n03"]):
        for k in range(2):
            path = top / "train" / wnid / "images" / f"{wnid}_{k}.JPEG"
            picture(path, random_bytes(64, 64, 3, seed=10 * c + k), format="JPEG")
        write(top / "train" / wnid / f"{wnid}_boxes.txt", b"")
    write(top / "wnids.txt", b"n02\nn01\nn03\n")
    write(top / "words.txt", b"n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn99\tthing\n")
    for k in range(3):
        picture(top / "val" / "images" / f"val_{k}.JPEG", random_bytes(64, 64, 3, seed=90 + k), format="JPEG")
    write(
        top / "val" / "val_annotations.txt",
        b"val_0.JPEG\tn03\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\nval_2.JPEG\tn01\t0\t0\t1\t1\n",
    )
    picture(top / "test" / "images" / "test_0.JPEG", random_bytes(64, 64, 3, seed=99), format="JPEG")
    return top


def zipped(top: Path) -> Path:
    target = top.parent / f"{top.name}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(top.rglob("*"), reverse=True):
            archive.write(path, str(path.relative_to(top.parent)))
    return target


def test_tiny_imagenet_folder(tmp_path):
    top = tiny_imagenet(tmp_path)
    train, info = load_train("tiny-imagenet", data_dir=str(tmp_path))
    assert info.classes == ("goldfish", "crane (n02)", "crane (n03)")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (info.channels, info.image_size, info.flip) == (3, 64, True)
    assert info.mean == (0.4802, 0.4481, 0.3975) and info.std == (0.2302, 0.2265, 0.2262)
    with Image.open(top / "train" / "n01" / "images" / "n01_1.JPEG") as image:
        assert np.array_equal(train.images[1].permute(1, 2, 0).numpy(), np.asarray(image))
    test = load_test("tiny-imagenet", info, data_dir=str(tmp_path))
    assert test.labels.tolist() == [2, 0, 0]
    with Image.open(top / "val" / "images" / "val_0.JPEG") as image:
        assert np.array_equal(test.images[0].permute(1, 2, 0).numpy(), np.asarray(image))


def test_tiny_imagenet_zip_and_path_give_the_same(tmp_path):
    top = tiny_imagenet(tmp_path)
    picture(top / "train" / "n01-other" / "images" / "x.JPEG", RED)  # no class, though its name begins as one
    train, info = load_train(str(top))
    test = load_test(str(top), info)
    (tmp_path / "zip").mkdir()
    zipped(top).rename(tmp_path / "zip" / "tiny-imagenet-200.zip")
    packed, packed_info = load_train("tiny-imagenet", data_dir=str(tmp_path / "zip"))
    assert fingerprint(packed) == fingerprint(train) and packed_info.classes == info.classes
    packed_test = load_test("tiny-imagenet", packed_info, data_dir=str(tmp_path / "zip"))
    assert fingerprint(packed_test) == fingerprint(test)


def test_damaged_tiny_imagenet_is_refused(tmp_path):
    top = tiny_imagenet(tmp_path)
    _, info = load_train(str(top))
    annotations = top / "val" / "val_annotations.txt"
    for content in (b"val_0.JPEG\tn77\n", b"val_0.JPEG\n", b"", b"\xff\xfe\tn01\n"):
        annotations.write_bytes(content)
        with refused("val_annotations.txt"):
            load_test(str(top), info)
    annotations.write_bytes(b"val_0.JPEG\tn01\nval_7.JPEG\tn01\n")
    with refused("1 unreadable image", "val_7.JPEG"):
        load_test(str(top), info)
    for path in (top / "train" / "n03" / "images").iterdir():
        path.unlink()
    with refused("n03"):
        load_train(str(top))
    write(tmp_path / "zip" / "tiny-imagenet-200.zip", b"PK\x03\x04 but no more")
    with refused("tiny-imagenet-200.zip"):
        load_train("tiny-imagenet", data_dir=str(tmp_path / "zip"))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_zip_that_leads_out_of_itself_is_refused(tmp_path, name):
    # Not beside the folder that it was made of, which would be taken instead.
    archive = zipped(tiny_imagenet(tmp_path / "unpacked")).rename(tmp_path / "tiny-imagenet-200.zip")
    load_train("tiny-imagenet", data_dir=str(tmp_path))
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"x")
    with refused(archive.name, "leads out"):
        load_train("tiny-imagenet", data_dir=str(tmp_path))


def test_a_zip_with_a_link_or_a_huge_member_is_refused(tmp_path):
    archive = tmp_path / "tiny-imagenet-200.zip"
    link = zipfile.ZipInfo("tiny-imagenet-200/wnids.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(link, "/etc/passwd")
    with refused(archive.name, "wnids.txt", "is a link"):
        load_train("tiny-imagenet", data_dir=str(tmp_path))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file, file.open("tiny-imagenet-200/a.png", "w") as huge:
        for _ in range(2**8 + 1):
            huge.write(bytes(2**20))
    assert archive.stat().st_size < 2**20
    with refused(archive.name, "a.png", "more than any picture"):
        load_train("tiny-imagenet", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["../../secret.JPEG", "/secret.JPEG", "..\\secret.JPEG", ".."])
def test_lists_of_tiny_imagenet_name_nothing_outside(tmp_path, name):
    top = tiny_imagenet(tmp_path)
    _, info = load_train(str(top))
    (top / "val" / "val_annotations.txt").write_text(f"{name}\tn01\n")
    with refused("val_annotations.txt", repr(name)):
        load_test(str(top), info)
    (top / "wnids.txt").write_text(f"n01\n{name}\n")
    with refused("wnids.txt", repr(name)):
        load_train(str(top))


# ---------------------------------------------------------------- folders of images


@pytest.mark.parametrize("held_out", ["test", "val", "valid"])
def test_image_folder_round_trip(tmp_path, held_out):
    root = two_classes(tmp_path, parts=("train", held_out))
    train, info = load_train(str(root))
    test = load_test(str(root), info)
    assert (info.classes, info.channels, info.image_size, info.flip) == (("a", "b"), 3, 8, True)
    for p, split in enumerate((train, test)):
        assert split.labels.tolist() == [0, 0, 1, 1]
        for c in range(2):
            for k in range(2):
                expected = random_bytes(8, 8, 3, seed=100 * p + 10 * c + k)
                assert np.array_equal(split.images[2 * c + k].permute(1, 2, 0).numpy(), expected)
    pixels = train.images.numpy().astype(float) / 255
    assert info.mean == pytest.approx(tuple(pixels.mean((0, 2, 3))), abs=1e-12)
    assert info.std == pytest.approx(tuple(pixels.std((0, 2, 3))), abs=1e-12)


def test_test_wins_over_val_unless_it_has_no_class_folders(tmp_path):
    root = two_classes(tmp_path, parts=("train", "test", "val"))
    _, info = load_train(str(root))
    expected = random_bytes(8, 8, 3, seed=100)
    assert np.array_equal(load_test(str(root), info).images[0].permute(1, 2, 0).numpy(), expected)
    for name in "ab":
        (root / "test" / name).rename(tmp_path / f"moved-{name}")
    picture(root / "test" / "0001.png", RED)
    expected = random_bytes(8, 8, 3, seed=200)
    assert np.array_equal(load_test(str(root), info).images[0].permute(1, 2, 0).numpy(), expected)


def test_training_reads_no_test_picture(tmp_path):
    root = two_classes(tmp_path)
    before = load_train(str(root))
    write(root / "test" / "a" / "0.png", b"")
    after = load_train(str(root))
    assert fingerprint(before[0]) == fingerprint(after[0])
    with refused("1 unreadable image", "'test/a/0.png'"):
        load_test(str(root), after[1])


def test_class_folders_are_split_by_class_and_for_ever_the_same(tmp_path):
    for c, (name, count) in enumerate([("a", 2), ("b", 10), ("c", 27)]):
        for k in range(count):
            picture(tmp_path / name / f"{k:02}.png", (c, k, 0))
    train, info = load_train(str(tmp_path))
    test = load_test(str(tmp_path), info)
    keys = [tuple(image[:2, 0, 0].tolist()) for split in (train, test) for image in split.images]
    assert sorted(keys) == [(c, k) for c, n in enumerate((2, 10, 27)) for k in range(n)]
    for split in (train, test):
        assert [int(image[0, 0, 0]) for image in split.images] == split.labels.tolist()
    assert np.bincount(test.labels).tolist() in ([1, 2, 5], [1, 2, 6])
    assert fingerprint(load_test(str(tmp_path), info)) == fingerprint(test)
    assert fingerprint(load_train(str(tmp_path))[0]) == fingerprint(train)


def test_every_class_is_in_both_splits_however_small(tmp_path):
    for name in "abcd":
        for k in range(2):
            picture(tmp_path / name / f"{k}.png", RED)
    train, info = load_train(str(tmp_path))
    assert train.labels.tolist() == load_test(str(tmp_path), info).labels.tolist() == [0, 1, 2, 3]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("plane", "train"):
        for k in range(2):
            picture(tmp_path / name / f"{k}.png", RED)
    assert load_train(str(tmp_path))[1].classes == ("plane", "train")


@pytest.mark.parametrize("name", ["with space", "Ünïcödé 猫", "new\nline", "quo'te\"", "-dash", "a;b,c"])
def test_odd_names_work_and_stay_on_one_line(tmp_path, name):
    root = two_classes(tmp_path / name)
    (root / "train" / "a").rename(root / "train" / name)
    (root / "test" / "a").rename(root / "test" / name)
    picture(root / "train" / name / f"{name}.png", RED)
    train, info = load_train(str(root))
    assert name in info.classes and len(train) == 5
    load_test(str(root), info)
    write(root / "train" / name / f"{name}.png", b"")
    with refused("1 unreadable image", repr(f"train/{name}/{name}.png")):
        load_train(str(root))


def test_a_class_name_that_is_not_unicode_is_refused(tmp_path):
    root = two_classes(tmp_path)
    try:
        (root / "train" / os.fsdecode(b"\xff\xfe")).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with refused("not UTF-8"):
        load_train(str(root))


def test_hidden_and_foreign_files_are_skipped_and_subfolders_searched(tmp_path):
    root = two_classes(tmp_path)
    write(root / "train" / "a" / ".hidden.png", b"broken")
    write(root / "train" / "a" / ".cache" / "x.png", b"broken")
    write(root / "train" / "a" / "notes.txt", b"words")
    (root / "train" / ".git").mkdir()
    picture(root / "train" / "a" / "deeper" / "still" / "X.PNG", RED, format="PNG")
    train, info = load_train(str(root))
    assert len(train) == 5 and info.classes == ("a", "b")


# ---------------------------------------------------------------- the rules for one picture


def loaded(tmp_path: Path, image, name: str = "x.png", size: int = 8, colour: bool = True, **options) -> np.ndarray:
    """[C, H, W] of one picture, in a training set with coloured pictures, or without."""
    root = tmp_path / "rules"
    filler = Image.new("RGB" if colour else "L", (8, 8))
    picture(root / "train" / "b" / "0.png", filler)
    picture(root / "test" / "a" / "0.png", filler)
    picture(root / "train" / "a" / name, image, **options)
    train, info = load_train(str(root), image_size=size)
    assert info.channels == (3 if colour else 1)
    return train.images[0].numpy()


def test_alpha_is_composed_on_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.putpixel((3, 2), (0, 0, 0, 0))
    image.putpixel((4, 2), (0, 100, 200, 51))
    pixels = loaded(tmp_path, image)
    assert tuple(pixels[:, 0, 0]) == RED and tuple(pixels[:, 2, 3]) == WHITE
    expected = [255 * 0.8 + part * 0.2 for part in (0, 100, 200)]
    assert np.abs(pixels[:, 2, 4] - np.array(expected)).max() <= 1


def test_grey_with_alpha_stays_grey_on_white(tmp_path):
    image = Image.new("LA", (8, 8), (10, 255))
    image.putpixel((0, 0), (10, 0))
    pixels = loaded(tmp_path, image, colour=False)
    assert pixels[0, 0, 0] == 255 and (pixels.ravel()[1:] == 10).all()


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = loaded(tmp_path, image, name="x.tif")
    assert (pixels == np.array(RED).reshape(3, 1, 1)).all()
    pixels = loaded(tmp_path, image, name="x.tif.jpg", quality=100).astype(int)
    assert np.abs(pixels - np.array(RED).reshape(3, 1, 1)).max() <= 3


def test_palette_becomes_rgb_with_its_transparency(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    assert tuple(loaded(tmp_path, image)[:, 5, 5]) == (10, 20, 30)
    pixels = loaded(tmp_path, image, transparency=0)
    assert tuple(pixels[:, 0, 0]) == WHITE and tuple(pixels[:, 5, 5]) == (10, 20, 30)


def test_sixteen_bit_grey_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("x.png", "x.tif", "x.pgm"):
        pixels = loaded(tmp_path / name, Image.fromarray(values), name=name, colour=False)
        assert np.array_equal(pixels[0], np.rint(values / 257).astype(np.uint8)), name


def test_one_bit_and_grey_become_rgb_among_coloured_pictures(tmp_path):
    bits = np.indices((8, 8)).sum(0) % 2 == 1
    for mode in ("1", "L"):
        pixels = loaded(tmp_path / mode, Image.fromarray(bits * np.uint8(255)).convert(mode))
        assert np.array_equal(pixels, np.stack([bits * 255] * 3))


def test_exif_orientation_is_applied(tmp_path):
    values = random_bytes(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: to be turned clockwise
    pixels = loaded(tmp_path, values, exif=exif)
    assert np.array_equal(pixels.transpose(1, 2, 0), np.rot90(values, -1))


@pytest.mark.parametrize("name", ["x.bmp", "x.ppm", "x.TIFF", "x.webp", "x.gif", "x.jpg", "x.JPEG"])
def test_the_common_formats_are_read(tmp_path, name):
    options = {"lossless": True} if name == "x.webp" else {}
    pixels = loaded(tmp_path, RED, name=name, **options).astype(int)
    assert np.abs(pixels - np.array(RED).reshape(3, 1, 1)).max() <= 3


def test_only_pictures_are_opened_whatever_the_ending_says(tmp_path, monkeypatch):
    """Pillow goes by content: an EPS file would be given to Ghostscript, which runs what is in it."""
    root = two_classes(tmp_path, count=3)
    picture(root / "train" / "a" / "drawing.eps", RED, format="EPS").rename(root / "train" / "a" / "drawing.png")
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: ran.append(1))
    with refused("1 unreadable image", "drawing.png"):
        load_train(str(root))
    assert not ran


def test_numbers_without_a_known_white_are_unreadable(tmp_path):
    for values in (np.ones((8, 8), np.float32), np.full((8, 8), 70000, np.int32)):
        with refused("1 unreadable image"):
            loaded(tmp_path, Image.fromarray(values), name="x.tif")


def test_the_middle_square_is_kept_untouched_when_the_size_fits(tmp_path):
    values = random_bytes(8, 20, 3)
    assert np.array_equal(loaded(tmp_path, values).transpose(1, 2, 0), values[:, 6:14])
    values = random_bytes(13, 8, 3)
    assert np.array_equal(loaded(tmp_path, values).transpose(1, 2, 0), values[2:10])


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 96), (16, 8), (32, 32)])
def test_scaling_is_that_of_the_whole_picture_cropped(tmp_path, width, height):
    values = random_bytes(height, width, 3)
    scale = 16 / min(width, height)
    w, h = round(width * scale), round(height * scale)
    whole = np.asarray(Image.fromarray(values).resize((w, h), Image.Resampling.BILINEAR))
    left, top = (w - 16) // 2, (h - 16) // 2
    expected = whole[top : top + 16, left : left + 16].astype(int)
    pixels = loaded(tmp_path, values, size=16).transpose(1, 2, 0).astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_a_long_thin_picture_is_no_danger(tmp_path):
    assert loaded(tmp_path, np.zeros((1, 60000, 3), np.uint8), size=64).shape == (3, 64, 64)


def test_channels_follow_training_and_not_the_test_pictures(tmp_path):
    root = two_classes(tmp_path)
    for path in sorted((root / "train").rglob("*.png")):
        picture(path, np.full((8, 8), 77, np.uint8))
    train, info = load_train(str(root))
    assert info.channels == 1 and train.images.unique().tolist() == [77]
    assert info.std == (1.0,)  # nothing varies, and a network divides by it
    test = load_test(str(root), info)
    assert test.images.shape == (4, 1, 8, 8)
    with Image.open(root / "test" / "a" / "0.png") as image:
        assert np.array_equal(test.images[0, 0].numpy(), np.asarray(image.convert("L")))
    picture(root / "train" / "a" / "0.png", RED)
    assert load_train(str(root))[1].channels == 3


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([20, 20, 30], 20),
        ([30, 30, 20], 30),
        ([20, 30], 30),
        ([64], 64),
        ([20, 20, 65], 64),
        ([300], 64),
        ([5], 8),
    ],
)
def test_the_default_size(tmp_path, sides, expected):
    for k, side in enumerate(sides):
        picture(tmp_path / "train" / "a" / f"{k}.png", np.zeros((side + 3, side, 3), np.uint8))
        picture(tmp_path / "train" / "b" / f"{k}.png", np.zeros((side, side + 1, 3), np.uint8))
    picture(tmp_path / "test" / "a" / "0.png", np.zeros((99, 99, 3), np.uint8))
    train, info = load_train(str(tmp_path))
    assert info.image_size == expected and train.images.shape[2:] == (expected, expected)
    assert load_test(str(tmp_path), info).images.shape == (1, 3, expected, expected)


# ---------------------------------------------------------------- what is refused in folders of images


def test_all_unreadable_pictures_are_named_in_one_line(tmp_path):
    root = two_classes(tmp_path, count=4)
    good = (root / "train" / "a" / "0.png").read_bytes()
    write(root / "train" / "a" / "0.png", b"")
    write(root / "train" / "a" / "3.png", b"this is no picture")
    write(root / "train" / "b" / "1.png", good[: len(good) // 2])
    broken = (
        "'train/a/0.png' (the file is empty)",
        "'train/a/3.png' (cannot identify image file)",
        "'train/b/1.png' (image file is truncated)",
    )
    with refused("3 unreadable images", ", ".join(broken), "remove or repair them", str(root)):
        load_train(str(root))


def test_a_truncated_jpeg_is_unreadable(tmp_path):
    root = two_classes(tmp_path)
    path = picture(root / "train" / "a" / "x.jpg", random_bytes(40, 40, 3))
    path.write_bytes(path.read_bytes()[:-200])
    with refused("1 unreadable image", "'train/a/x.jpg'"):
        load_train(str(root))


def test_at_most_twenty_unreadable_pictures_are_named(tmp_path):
    root = two_classes(tmp_path)
    for k in range(25):
        write(root / "train" / "a" / f"bad{k:02}.png", b"")
    with refused("25 unreadable images", "bad19.png' and 5 more"):
        load_train(str(root))
    with pytest.raises(InputError) as caught:
        load_train(str(root))
    assert str(caught.value).count("bad") == 20


def test_nothing_readable_at_all(tmp_path):
    for name in "ab":
        write(tmp_path / "train" / name / "0.png", b"")
        write(tmp_path / "test" / name / "0.png", b"")
    with refused("2 unreadable images"):
        load_train(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_dangling_link_is_unreadable_and_not_waited_for(tmp_path):
    root = two_classes(tmp_path)
    os.mkfifo(root / "train" / "a" / "pipe.png")
    (root / "train" / "b" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with refused("2 unreadable images", "pipe.png", "link.png"):
        load_train(str(root))


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_an_empty_class_is_refused(tmp_path, parts):
    root = two_classes(tmp_path, parts=parts)
    (root / parts[0] / "empty").mkdir()
    with refused("empty", "no images"):
        load_train(str(root))


def test_an_empty_class_of_the_test_is_refused(tmp_path):
    root = two_classes(tmp_path)
    _, info = load_train(str(root))
    (root / "test" / "b" / "0.png").unlink()
    (root / "test" / "b" / "1.png").unlink()
    with refused("no images", str(root / "test" / "b")):
        load_test(str(root), info)


def test_a_test_class_that_was_not_trained_is_refused_at_once(tmp_path):
    root = two_classes(tmp_path)
    _, info = load_train(str(root))
    picture(root / "test" / "zebra" / "0.png", RED)
    with refused("zebra", "no folder in train/"):
        load_train(str(root))
    picture(root / "train" / "zebra" / "0.png", RED)
    with refused("zebra", "training"):
        load_test(str(root), info)


def test_one_class_is_refused(tmp_path):
    for part in ("train", "test"):
        picture(tmp_path / part / "only" / "0.png", RED)
    with refused("one class", "'only'"):
        load_train(str(tmp_path))


def test_one_picture_a_class_cannot_be_split(tmp_path):
    for name in "ab":
        picture(tmp_path / name / "0.png", RED)
    with refused("'", "one image", "too few"):
        load_train(str(tmp_path))


def test_folders_without_pictures_are_refused(tmp_path):
    with refused("class folders", str(tmp_path)):
        load_train(str(tmp_path))
    picture(tmp_path / "lonely.png", RED)
    with refused("class folders"):
        load_train(str(tmp_path))
    (tmp_path / "sub").mkdir()
    with refused("sub", "no images"):
        load_train(str(tmp_path))


def test_train_without_test_and_the_other_way_round(tmp_path):
    root = two_classes(tmp_path, parts=("train",))
    with refused("no test/"):
        load_train(str(root))
    (root / "test").mkdir()
    with refused("no test/"):
        load_train(str(root))
    flat = tmp_path / "flat"
    for part in ("train", "test"):
        for k in range(3):
            picture(flat / part / f"{k}.png", RED)
    with refused("no class folders"):  # and not two classes called train and test
        load_train(str(flat))


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = two_classes(tmp_path)
    real = os.scandir

    def scandir(path="."):
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with refused("train/b", "Permission denied"):
        load_train(str(root))


def test_too_large_for_the_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    root = two_classes(tmp_path)
    with refused("--image-size 10000000", "1,117,587.1 GiB"):
        load_train(str(root), image_size=10**7)
    with refused("--image-size 10000000"):
        load_train("digits", image_size=10**7)
    need = 4 * 3 * 8 * 8
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2 * need))
    load_train(str(root))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2 * need - 2))
    with refused("--image-size 8", f"{need} bytes"):
        load_train(str(root))


# ---------------------------------------------------------------- names, folders, downloads


@pytest.mark.parametrize("source", ["mnist", "", "CIFAR10", "no/such/folder", "\0", "x" * 5000, "two\nlines"])
def test_an_unknown_source_lists_the_known_ones(source):
    close = (
        ["did you mean 'cifar10'?"] if source == "CIFAR10" else ["digits", "fashion-mnist", "cifar100", "tiny-imagenet"]
    )
    with refused("folder", *close):
        load_train(source)


def test_a_file_is_no_source(tmp_path):
    path = picture(tmp_path / "x.png", RED)
    with refused("x.png", "is a file", "folder"):
        load_train(str(path))


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    two_classes(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_train("digits")[1].classes) == 10
    assert load_train("./digits")[1].classes == ("a", "b")


def test_home_is_expanded(tmp_path, monkeypatch):
    two_classes(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_train("~/mine")[1].classes == ("a", "b")


def test_where_data_are_looked_for(tmp_path, monkeypatch):
    for name in ("given", "environment", "home/.cache/dnas"):
        (tmp_path / name).mkdir(parents=True)
        cifar(tmp_path / name, "cifar10", packed=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DNAS_DATA_DIR", str(tmp_path / "environment"))
    places = dict(found(str(tmp_path / "given")))
    assert places["cifar10"] == str(tmp_path / "given" / "cifar-10-batches-bin")
    assert str(tmp_path / "given") in places["cifar100"] and "not in" in places["cifar100"]
    assert set(places) == {"digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"}
    assert dict(found())["cifar10"] == str(tmp_path / "environment" / "cifar-10-batches-bin")
    monkeypatch.setenv("DNAS_DATA_DIR", "")
    assert dict(found())["cifar10"] == str(tmp_path / "home" / ".cache" / "dnas" / "cifar-10-batches-bin")


def test_no_home_is_survived(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DNAS_DATA_DIR")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.chdir(tmp_path)
    assert "not in" in dict(found())["cifar10"]
    with refused("cifar10", "could not be downloaded"):
        load_train("cifar10")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
        ("fashion-mnist", "train-images-idx3-ubyte.gz"),
        ("tiny-imagenet", "tiny-imagenet-200.zip"),
    ],
)
def test_a_failed_download_says_what_to_do(tmp_path, name, file):
    with refused(f"data set {name} is not at", str(tmp_path), "no network in tests", file, "--data-dir"):
        load_train(name, data_dir=str(tmp_path))


def test_offline_means_no_attempt(tmp_path, monkeypatch):
    attempts = []
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **kwargs: attempts.append(args))
    monkeypatch.setenv("DNAS_OFFLINE", "1")
    with refused("DNAS_OFFLINE"):
        load_train("cifar10", data_dir=str(tmp_path))
    assert not attempts


def test_downloads_are_checked_and_found(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    cifar(tmp_path / "source", "cifar10", packed=True)
    idx_folder(tmp_path / "source", packed=True)
    asked = []

    def retrieve(url, known_hash, fname, path, progressbar):
        asked.append((url, known_hash))
        write(Path(path) / fname, (tmp_path / "source" / fname).read_bytes())

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    target = tmp_path / "target"
    assert len(load_train("cifar10", data_dir=str(target))[0]) == 10
    assert asked == [
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530")
    ]
    # A folder with one of the four files is no data set: the rest is fetched.
    write(target / "fashion-mnist" / "train-images-idx3-ubyte.gz", b"")
    assert len(load_train("fashion-mnist", data_dir=str(target))[0]) == 6
    assert len(asked) == 5 and all(known_hash.startswith("md5:") for _, known_hash in asked)
    load_train("fashion-mnist", data_dir=str(target))
    assert len(asked) == 5


# ---------------------------------------------------------------- splits and order


def small_split() -> Split:
    return Split(torch.from_numpy(random_bytes(6, 3, 8, 8)), torch.arange(6))


def test_split_subset_and_to():
    split = small_split()
    part = split.subset(torch.tensor([4, 1]))
    assert len(part) == 2 and part.labels.tolist() == [4, 1]
    assert torch.equal(part.images[0], split.images[4])
    assert split.to("meta").images.device.type == "meta" and len(split.to("meta")) == 6


def test_fingerprint_sees_every_change():
    split = small_split()
    images, labels = split.images.clone(), split.labels.clone()
    assert fingerprint(Split(images, labels)) == fingerprint(split)
    images[3, 1, 2, 5] ^= 1
    labels[0] = 1
    changed = [
        Split(images, split.labels),
        Split(split.images, labels),
        Split(split.images.reshape(6, 3, 4, 16), split.labels),
        split.subset(torch.arange(5)),
        split.subset(torch.tensor([1, 0, 2, 3, 4, 5])),
    ]
    assert len({fingerprint(s) for s in [split, *changed]}) == 6
    transposed = Split(split.images.transpose(2, 3).contiguous().transpose(2, 3), split.labels)
    assert fingerprint(transposed) == fingerprint(split)  # the same values, laid out otherwise


@given(count=st.integers(2, 500), seed=st.integers(0, 2**31), fraction=st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=50)
def test_halves_are_disjoint_and_together_all(count, seed, fraction):
    if not 0 < round(count * fraction) < count:
        with refused("fraction"):
            halves(count, seed, fraction)
        return
    first, second = halves(count, seed, fraction)
    assert len(first) == round(count * fraction)
    assert sorted(first.tolist() + second.tolist()) == list(range(count))
    assert torch.equal(first, halves(count, seed, fraction)[0])


def test_halves_depend_on_the_seed_and_are_mixed():
    first, _ = halves(1000, 0)
    assert len(first) == 500 and 400 < first.float().mean() < 600
    assert not torch.equal(first, halves(1000, 1)[0])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0, float("nan"), float("inf")])
def test_halves_that_are_empty_are_refused(fraction):
    with refused("fraction", str(fraction)):
        halves(10, 0, fraction)
    with refused("1 training images"):
        halves(1, 0)


@given(count=st.integers(1, 400), batch_size=st.integers(1, 450), seed=st.integers(0, 9), epoch=st.integers(0, 9))
@settings(deadline=None, max_examples=80)
def test_an_epoch_has_every_sample_once_in_even_batches(count, batch_size, seed, epoch):
    epoch_batches = batches(count, batch_size, seed, epoch)
    sizes = [len(batch) for batch in epoch_batches]
    assert sorted(torch.cat(epoch_batches).tolist()) == list(range(count))
    assert len(sizes) == -(-count // batch_size)
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    again = batches(count, batch_size, seed, epoch)
    assert all(torch.equal(one, other) for one, other in zip(epoch_batches, again, strict=True))


def test_order_depends_on_seed_epoch_and_stream_and_on_no_global_state():
    orders = [
        torch.cat(batches(100, 7, *arguments)).tolist() for arguments in [(0, 0), (1, 0), (0, 1), (0, 0, "other")]
    ]
    assert len({tuple(order) for order in orders}) == 4 and list(range(100)) not in orders
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.cat(batches(100, 7, 0, 0)).tolist() == orders[0]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [0, -4])
def test_batch_size_below_one_is_refused(batch_size):
    with refused("--batch-size", str(batch_size)):
        batches(10, batch_size, 0, 0)


def test_importing_data_imports_no_decoder():
    import subprocess
    import sys

    program = "import sys, dnas.data; print([m for m in ('PIL', 'sklearn', 'pooch') if m in sys.modules])"
    folder = str(Path(data.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]", done.stderr
