from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_tools import (
    OUTSIDE,
    RED,
    WHITE,
    no_network,  # noqa: F401
    picture,
    random_bytes,
    refused,
    tiny_imagenet,
    two_classes,
    write,
)
from PIL import Image

from dnas.data.splits import fingerprint, load_test, load_train

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # such as torch's about read-only memory


# ---------------------------------------------------------------- Tiny-ImageNet


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
    with refused(archive.name, "a.png", "too large for an image"):
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
