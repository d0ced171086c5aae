"""Pictures of more than 8 bits keep their resolution, transparency counts at any depth, and gray is found in any format."""

import json
import struct
import zlib
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from data_tools import no_network, picture, random_bytes, refused, two_classes, write  # noqa: F401
from PIL import Image

from dnas.data.headers import Headers, Rule
from dnas.data.index import Files, Index, _Known
from dnas.data.pictures import square_picture
from dnas.data.sources.tree import Folder
from dnas.data.splits import load_splits, load_test, load_train
from dnas.pipeline.model import info_from_json

RAMP = np.arange(64, dtype=np.float64).reshape(8, 8)


def tiff(path, values):
    """An uncompressed TIFF of numbers of any type; Pillow writes no unsigned or signed 16-bit ones."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: values.dtype.itemsize * 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return write(
        path, b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def numbers(root, low, high, kind, part="train"):
    """Class folders of one picture each of numbers: a ramp over the whole range, and one over its upper half."""
    for name, start in (("a", low), ("b", (low + high) / 2)):
        values = start + (high - start) * RAMP / 63
        tiff(root / part / name / "0.tif", values.astype(kind))
    return root


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (np.float32, 0.0, 1.0),
        (np.float32, -3.5, 1200.0),
        (np.float32, 1e-6, 3e-6),
        (np.int32, -1000, 1000),
        (np.int32, 0, 70_000),
        (np.uint32, 0, 4_000_000_000),
        (np.int16, -500, 300),
    ],
)
def test_the_least_number_of_the_training_pictures_is_black_and_the_largest_white(tmp_path, kind, low, high):
    root = numbers(numbers(tmp_path, low, high, kind), low - (high - low) / 9, high, kind, "test")
    if kind is np.uint32:
        (root / "test" / "a" / "0.tif").unlink()
        tiff(root / "test" / "a" / "0.tif", np.zeros((8, 8), kind))
    train, info, test = load_splits(str(root))
    assert info.channels == 1 and info.values == pytest.approx((low, high), rel=1e-6)
    for image, start in ((train.images[0, 0], 0), (train.images[1, 0], 127.5)):
        expected = start + (255 - start) * RAMP / 63
        assert np.abs(image.numpy() - expected).max() <= 1.01
    assert len(train.images[0].unique()) == 64  # every step is there
    assert test.images[0].min() == 0 and test.images[0].max() <= 255  # what lies beyond is cut off


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int16])
def test_whole_numbers_of_16_bits_are_read_as_such_whatever_holds_them(tmp_path, kind):
    values = (RAMP * 500).astype(kind)
    for name in "ab":
        tiff(tmp_path / "train" / name / "0.tif", values)
        tiff(tmp_path / "test" / name / "0.tif", values + 200)
    train, info, test = load_splits(str(tmp_path))
    assert info.values == (0, 65535)
    for split, numbers_ in ((train, values), (test, values + 200)):
        assert np.array_equal(split.images[0, 0], (numbers_.astype(np.int64) * 255 + 32767) // 65535)


def test_numbers_without_a_known_range_are_unreadable(tmp_path):
    root = two_classes(tmp_path)
    _, info = load_train(str(root))
    assert info.values == ()
    for values, words in (
        (np.ones((8, 8), np.float32), "floating-point"),
        (np.full((8, 8), 70_000, np.int32), "16 bits"),
    ):
        tiff(root / "test" / "a" / "0.tif", values)
        with refused("1 unreadable image", words, "no training image"):
            load_test(str(root), info)
    (root / "test" / "a" / "0.tif").unlink()
    tiff(root / "train" / "a" / "0.tif", np.full((8, 8), np.nan, np.float32))
    with refused("1 unreadable image", "train/a/0.tif", "finite"):
        load_splits(str(root))


def test_one_number_is_no_division_by_zero():
    image = Image.fromarray(np.full((8, 8), 3.0, np.float32))
    assert square_picture(image, 1, 8, Rule(values=(3.0, 3.0))).max() == 0


def test_streamed_numbers_are_the_same_bits(tmp_path):
    root = numbers(numbers(tmp_path / "images", -2.0, 5.0, np.float32), 0.0, 1.0, np.float32, "test")
    held, info = load_train(str(root))
    train, same = load_train(str(root), memory="stream", workers=1, data_dir=str(tmp_path / "cache"))
    assert info == same and torch.equal(train.batch(torch.arange(2)), held.images)
    train.close()


# --- transparency


def png(path, values, color, transparent=b""):
    """A PNG of 16 bits a channel from [H, W, C]; Pillow writes none of more than one channel."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return write(
        path,
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b""),
    )


def test_transparent_gray_of_16_bits_is_white_and_its_neighbours_are_not(tmp_path):
    values = (RAMP * 1000).astype(np.uint16)
    root = two_classes(tmp_path)
    for path in sorted(root.rglob("*.png")):
        png(path, values[..., None], 0, struct.pack(">H", 3000))
    train, info = load_train(str(root))
    expected = (values.astype(np.int64) * 255 + 32767) // 65535
    expected[0, 3] = 255
    assert info.channels == 1 and np.array_equal(train.images[0, 0], expected)


def test_gray_with_alpha_of_16_bits_is_gray_on_white(tmp_path):
    values = np.stack([np.full((8, 8), 0x2000), np.full((8, 8), 0xFFFF)], -1).astype(np.uint16)
    values[0, 0, 1] = 0
    root = two_classes(tmp_path)
    for path in sorted(root.rglob("*.png")):
        png(path, values, 4)
    train, info = load_train(str(root))
    assert info.channels == 1 and train.images[0, 0, 0, 0] == 255 and (train.images[0].flatten()[1:] == 0x20).all()


@pytest.mark.parametrize("clear", [(1000, 2000, 60_000), (10, 20, 30)])
def test_a_transparent_color_of_16_bits_is_white(tmp_path, clear):
    values = np.full((8, 8, 3), 30_000, np.uint16)
    values[2, 5] = clear
    root = two_classes(tmp_path)
    png(root / "train" / "a" / "0.png", values, 2, struct.pack(">HHH", *clear))
    pixels = load_train(str(root))[0].images[0]
    assert pixels[:, 2, 5].tolist() == [255] * 3 and (pixels.flatten(1).sum(1) == 255 + 63 * (30_000 >> 8)).all()


# --- gray


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("x.webp", "RGB", {"lossless": True}),
        ("x.webp", "RGB", {"quality": 60}),
        ("x.webp", "RGBA", {"lossless": True}),
        ("x.gif", "P", {}),
        ("x.png", "P", {}),
        ("x.bmp", "P", {}),
    ],
)
def test_gray_is_found_where_a_format_has_only_colors(tmp_path, name, mode, options):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for folder in "ab":
            image = Image.fromarray(np.add.outer(np.arange(16) * 8, rng.integers(0, 100, 16)).astype(np.uint8))
            image = image.convert("RGB").quantize(32) if mode == "P" else image.convert(mode)
            picture(tmp_path / part / folder / name, image, **options)
    _, info = load_train(str(tmp_path))
    assert info.channels == 1
    colored = Image.fromarray(random_bytes(16, 16, 3))
    picture(tmp_path / "train" / "b" / f"1{name}", colored.quantize(32) if mode == "P" else colored, **options)
    assert load_train(str(tmp_path))[1].channels == 3
    # A run that goes on keeps the channels that it began with.
    assert load_train(str(tmp_path), channels=1)[0].images.shape[1] == 1


def test_gray_in_formats_that_know_it_is_told_by_how_it_is_stored(tmp_path):
    for part in ("train", "test"):
        for folder in "ab":
            picture(tmp_path / part / folder / "x.png", Image.new("L", (8, 8), 9).convert("RGB"))
    assert load_train(str(tmp_path))[1].channels == 3


# --- the index


def test_an_older_index_is_read_again_for_its_headers_alone(tmp_path):
    root = numbers(tmp_path / "images", -1.0, 1.0, np.float32)
    names, labels = ["train/a/0.tif", "train/b/0.tif"], np.array([0, 1])
    index = Index(Files.look(Folder(root), names), labels, tmp_path / "index")
    wanted = index.shape()
    assert wanted == Headers({8: 2}, {8: 2}, 0, True, (-1.0, 1.0), False)
    older = Index(Files.look(Folder(root), names), labels, tmp_path / "index")
    older._known = {digest: _Known(sides={8: 1}, grey=True, counts={"1x8": [[1] * 256]}) for digest in older.groups}
    assert older.shape() == wanted
    assert all(known.counts == {"1x8": [[1] * 256]} for known in older._known.values())
    for known in older._known.values():
        assert _Known.model_validate_json(known.model_dump_json()).headers == known.headers


def test_the_range_is_part_of_the_facts_of_a_model(tmp_path):
    info = replace(load_train("digits")[1], values=(-1.5, 2.0), resize="pad")
    assert info_from_json(json.loads(json.dumps(asdict(info)))) == info
