"""Data sets: what is written to disk by hand here must come back as tensors, and damage must be named."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from data_tools import (
    OUTSIDE,
    cifar,
    idx_bytes,
    idx_folder,
    no_network,  # noqa: F401
    random_bytes,
    refused,
    write,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnas.data.splits import DataInfo, Split, fingerprint, load_test, load_train

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # such as torch's about read-only memory
on_tmp_path = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_path_of_cifar_is_a_source_as_a_folder_or_as_it_is_downloaded(tmp_path, name, packed):
    folder = cifar(tmp_path, name, packed)
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
    with refused("cifar10", "3 color channels"):
        load_test("cifar10", info, data_dir=str(tmp_path))


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
