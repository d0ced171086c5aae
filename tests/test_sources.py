from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pooch
import psutil
import pytest
import torch
from data_tools import (
    RED,
    cifar,
    idx_folder,
    no_network,  # noqa: F401
    picture,
    random_bytes,
    refused,
    two_classes,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.data import splits as data
from dnas.data.sources.registry import found
from dnas.data.splits import Split, batches, fingerprint, halves, load_test, load_train
from dnas.errors import InputError

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # such as torch's about read-only memory


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
    with refused("x.png", "is an unsupported file", "folder"):
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
