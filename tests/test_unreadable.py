"""Pictures that cannot be read: each is named with the reason, whichever split it is in; memory that runs short is told as such."""

from __future__ import annotations

import errno
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from dnas.cli import entry
from dnas.data import memory, pictures
from dnas.data import splits as data
from dnas.data.decoders import Decoders
from dnas.data.memory import amount, is_short, memory_for, shortage
from dnas.data.sources.tree import Folder
from dnas.data.splits import load_splits, load_test, load_train
from dnas.data.unreadable import Unreadable, require_jpeg_end, require_whole
from dnas.errors import InputError, RunError
from dnas.pipeline.machine import memory_errors

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def stored(kind: str, image=None, **options) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(stream, format=kind, **options)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of two pictures in train/ and test/."""
    for part in ("train", "test"):
        for name in "ab":
            for k in range(2):
                path = tmp_path / "images" / part / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(stored("PNG"))
    return tmp_path / "images"


@pytest.fixture(params=["whole", "stream"])
def kept(request, monkeypatch, tmp_path) -> str:
    monkeypatch.setenv("DNAS_DATA_DIR", str(tmp_path / "indexes"))
    return request.param


def reason(root: Path, content: bytes, name: str = "x.png", memory: str = "whole") -> str:
    """Why a picture with this content cannot be read; "" if it can."""
    path = root / "train" / "a" / name
    path.write_bytes(content)
    try:
        load_train(str(root), image_size=8, memory=memory)
        return ""
    except Unreadable as error:
        assert "\n" not in str(error) and [found for found, _ in error.broken] == [f"train/a/{name}"]
        return error.broken[0][1]
    finally:
        path.unlink()


# --- the library's own words ---------------------------------------------------------------------------------------


def float_tiff() -> bytes:
    return stored("TIFF", Image.fromarray(np.full((8, 8), np.nan, np.float32)))


def large_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("notes", "x" * 2**21, zip=True)
    return stored("PNG", pnginfo=text)


def many_pixels() -> bytes:
    return stored("PNG", Image.new("1", (20000, 9500)))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (float_tiff, "x.tif", "not all of its values are finite"),
        (large_text, "x.png", "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK"),
        (many_pixels, "x.png", "190000000 pixels) exceeds limit of 178956970 pixels"),
        (lambda: b"\0\0\0 ftypavif\0\0\0\0avifmif1miaf" + bytes(range(99)), "x.jpg", "identify image file; its content is AVIF"),
        (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(99)), "x.jpg", "its content is HEIC"),
        (lambda: b"<html></html>", "x.gif", "cannot identify image file"),
        (lambda: b"", "x.png", "the file is empty"),
        (lambda: stored("PNG")[:-300], "x.png", "truncated"),
        (lambda: stored("JPEG")[:-200], "x.jpg", "truncated"),
    ],
)  # fmt: skip
def test_the_reason_follows(root, content, name, words):
    found = reason(root, content(), name)
    assert words in found and "<" not in found and str(root) not in found


def test_the_reason_is_the_same_where_pictures_are_streamed(root, kept):
    assert "finite" in reason(root, float_tiff(), "x.tif", kept)
    assert "zeros" in reason(root, cut_jpeg(), "x.jpg", kept)


def test_a_link_to_nowhere_has_its_reason(root):
    (root / "train" / "a" / "x.png").symlink_to(root / "nowhere")
    with pytest.raises(Unreadable, match=r"'train/a/x.png' \(not a regular file\); remove"):
        load_train(str(root))


# --- odd EXIF data ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the same data
@pytest.mark.parametrize(
    "content",
    [
        lambda: stored("PNG", exif=b"Exif\0\0no TIFF header"),
        lambda: stored("PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(60))),
        lambda: stored("JPEG", quality=95, exif=b"Exif\0\0no TIFF header"),
        lambda: stored("JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x07\xff\xff\xff\xff\0\0\0\0"),
        lambda: stored("WEBP", lossless=True, exif=b"Exif\0\0junk"),
    ],
)
def test_odd_exif_alone_does_not_make_a_picture_unreadable(root, content):
    assert reason(root, content(), "x.png") == ""


def test_a_picture_is_turned_though_its_exif_cannot_be_written_again(root, monkeypatch):
    """Pillow's own function writes the data again, without the orientation, which nobody needs here."""

    def refuse(self, offset=8):
        raise ValueError("cannot be written")

    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(PIXELS[:8, :8])
    (root / "train" / "a" / "0.png").write_bytes(stored("PNG", image, exif=exif))
    monkeypatch.setattr(Image.Exif, "tobytes", refuse)
    train, _ = load_train(str(root), image_size=8)
    assert np.array_equal(train.images[0].permute(1, 2, 0).numpy(), np.rot90(PIXELS[:8, :8], -1))


# --- zeros after a damaged copy -----------------------------------------------------------------------------------


def cut_jpeg(keep: float = 0.5, **options) -> bytes:
    """A JPEG file of which the rest is zeros."""
    content = stored("JPEG", quality=90, **options)
    return content[: int(keep * len(content))] + bytes(len(content) - int(keep * len(content)))


@pytest.mark.parametrize("size", [16, 4096, 2**21])
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.tif"])
def test_a_file_of_zeros(root, size, name):
    assert reason(root, bytes(size), name) == "filled with zeros"


@pytest.mark.parametrize("keep", [0.4, 0.7, 0.95])
def test_a_jpeg_that_ends_in_zeros(root, keep):
    # Pillow decodes it without a word: this is what the check is for.
    assert Image.open(io.BytesIO(cut_jpeg(keep))).convert("RGB").size == (40, 40)
    assert "is incomplete: its last" in reason(root, cut_jpeg(keep), "x.jpg")
    for options in ({"progressive": True}, {"optimize": True}, {"subsampling": 0}):
        assert "zeros" in reason(root, cut_jpeg(keep, **options), "x.jpg")


def test_the_end_of_a_thumbnail_is_not_that_of_the_picture(root):
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0" + stored("JPEG", Image.new("RGB", (8, 8)))
    assert "is incomplete" in reason(root, cut_jpeg(0.7, exif=exif), "x.jpg")


@pytest.mark.parametrize("tail", [b"", bytes(16), bytes(5000), b"a note of the camera" + bytes(100)])
@pytest.mark.parametrize(
    "image", [Image.fromarray(PIXELS), Image.new("L", (400, 400), 128), Image.new("L", (400, 400))]
)
def test_a_whole_jpeg_may_be_followed_by_zeros(root, tail, image):
    assert reason(root, stored("JPEG", image, optimize=True) + tail, "x.jpg") == ""


def test_another_kind_of_file_with_zeros_at_its_end_has_both_reasons(root):
    content = stored("PNG")
    found = reason(root, content[:400] + bytes(len(content) - 400))
    assert found.startswith("broken data stream") and found.endswith("; the file ends in zeros")


@given(seed=st.integers(0, 99), quality=st.integers(5, 100), flat=st.booleans(), side=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_no_whole_jpeg_is_without_an_end(seed, quality, flat, side):
    values = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    image = Image.fromarray(values * 0 + np.uint8(seed) if flat else values)
    require_jpeg_end(io.BytesIO(stored("JPEG", image, quality=quality, optimize=bool(seed % 2))))


# --- one list for both splits -------------------------------------------------------------------------------------


def test_broken_pictures_of_both_splits_are_listed_together(root, kept):
    (root / "train" / "a" / "0.png").write_bytes(b"")
    (root / "test" / "b" / "1.png").write_bytes(bytes(99))
    with pytest.raises(Unreadable) as caught:
        load_splits(str(root), memory=kept)
    assert caught.value.broken == [("train/a/0.png", "the file is empty"), ("test/b/1.png", "filled with zeros")]
    assert str(caught.value) == (
        f"2 unreadable images in {str(root)!r}: 'train/a/0.png' (the file is empty), 'test/b/1.png' (filled with zeros); "
        "remove or repair them, or skip them with --skip-broken"
    )


def test_broken_pictures_of_one_split_are_listed(root, kept):
    (root / "test" / "b" / "1.png").write_bytes(b"")
    with pytest.raises(Unreadable, match="1 unreadable image in .*'test/b/1.png'"):
        load_splits(str(root), memory=kept)
    (root / "test" / "b" / "1.png").unlink()
    (root / "train" / "b" / "1.png").write_bytes(b"")
    for name in ("0.png",):  # the test cannot be listed either, which is told next
        (root / "test" / "b" / name).unlink()
    with pytest.raises(Unreadable, match="1 unreadable image in .*'train/b/1.png'"):
        load_splits(str(root), memory=kept)


def test_those_of_class_folders_that_are_divided_are_listed_together(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(10):
            (tmp_path / name / f"{k}.png").write_bytes(b"" if name == "a" else stored("PNG"))
    with pytest.raises(Unreadable, match=r"10 unreadable images in .* \(the file is empty\): ") as caught:
        load_splits(str(tmp_path))
    assert {name for name, _ in caught.value.broken} == {f"a/{k}.png" for k in range(10)}


def test_both_splits_are_those_of_the_two_functions(root, kept):
    train, info, test = load_splits(str(root), memory=kept, image_size=16)
    alone, same = load_train(str(root), memory=kept, image_size=16)
    assert info == same and data.fingerprint(train) == data.fingerprint(alone)
    assert data.fingerprint(test) == data.fingerprint(load_test(str(root), info, memory=kept))
    assert (train.memory, test.memory) == (kept, kept)


def test_of_many_twenty_are_shown_and_all_are_listed_on_request(root, capsys):
    for part, count in (("train", 15), ("test", 10)):
        for k in range(count):
            (root / part / "a" / f"bad{k}.png").write_bytes(b"")
    arguments = ["run", "--data", str(root), "--quiet"]
    assert entry._call(arguments) == 2
    short = capsys.readouterr().err
    assert short.count("bad") == 20 and "25 unreadable images" in short
    assert (
        "and 5 more, which --debug lists; remove or repair them, or skip them" in short and len(short.splitlines()) == 1
    )
    assert entry._call([*arguments, "--debug"]) == 2
    lines = capsys.readouterr().err.splitlines()
    for part, count in (("train", 15), ("test", 10)):
        for k in range(count):
            assert f"'{part}/a/bad{k}.png': the file is empty" in lines


def test_the_error_can_be_sent_between_processes(tmp_path):
    with pytest.raises(Unreadable) as caught:
        require_whole(tmp_path, [("a.png", "broken")], 3, 8)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.broken == [("a.png", "broken")] and again.size == 8


# --- memory -------------------------------------------------------------------------------------------------------


def test_amounts():
    assert [amount(n) for n in (0, 1023, 2**20, 3 * 2**29, 2**40)] == [
        "0 bytes", "1,023 bytes", "1.0 MiB", "1.5 GiB", "1,024.0 GiB"
    ]  # fmt: skip


EMPTY = np.empty, torch.empty  # the tests put others in their place


def failing(kind: str):
    """An error as numpy, torch, Pillow or the operating system raises it."""
    if kind == "numpy":
        EMPTY[0](2**60, np.uint8)
    if kind == "torch":
        EMPTY[1](2**60, dtype=torch.uint8)
    if kind == "system":
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    raise MemoryError


KINDS = ["numpy", "torch", "system", "pillow"]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_runs_short_is_told_as_such(kind):
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        failing(kind)
    assert is_short(caught.value)
    text = shortage(caught.value)
    assert text.startswith("out of memory: ") and "GiB are free" in text
    assert ("1,073,741,824.0 GiB more were needed" in text) == (kind in ("numpy", "torch"))


def test_other_errors_are_not_taken_for_it():
    for error in (
        OSError(errno.ENOSPC, "No space left"),
        RuntimeError("shape"),
        ValueError(),
        RunError("allocate memory"),
    ):
        assert not is_short(error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_says_memory_whoever_ran_short(kind, monkeypatch, capsys):
    monkeypatch.setattr("dnas.pipeline.run.load_data", lambda *arguments: failing(kind))
    assert entry._call(["run", "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: ") and "GiB are free" in line and "--image-size" in line
    assert "free space" not in line and "internal" not in line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["array", "picture"])
def test_decoding_that_runs_short_is_no_broken_picture(root, monkeypatch, kind, place):
    if place == "array":
        monkeypatch.setattr(pictures.np, "empty", lambda *_: failing(kind))
    else:
        monkeypatch.setattr(pictures, "_square", lambda *_: failing(kind))
    with pytest.raises(
        RunError, match=r"4 images with 3 channels at --image-size 64 need 49,152 bytes, and .* are free"
    ):
        load_train(str(root), memory="whole", image_size=64)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_run_short_say_for_what(monkeypatch, kind):
    monkeypatch.setattr(data.torch, "empty", lambda *_, **__: failing(kind))
    with pytest.raises(RunError, match=r"1,437 images with 1 channels at --image-size 16 need 367,872 bytes"):
        load_train("digits", image_size=16)


def test_streamed_pictures_that_run_short_are_not_called_changed(root, monkeypatch):
    monkeypatch.setattr(pictures, "_square", lambda *_: failing("pillow"))
    with pytest.raises(MemoryError):
        pictures.count_files(Folder(root), [("train/a/0.png", 0, 0)], 3, 8)
    status = (root / "train/a/0.png").stat()
    with pytest.raises(MemoryError):
        pictures.decode_files(Folder(root), [("train/a/0.png", status.st_size, status.st_mtime_ns)], 3, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_training_that_runs_short_says_how_much_and_what_to_turn_down(kind):
    with (
        pytest.raises(
            RunError, match=r"out of memory: .* are free.*after a peak of .*; free memory and run `dnas resume`"
        ),
        memory_errors("cpu"),
    ):
        failing(kind)


def test_a_limit_of_the_process_is_told(monkeypatch):
    monkeypatch.setattr(memory, "_own_limit", lambda: 2**31)
    assert shortage(MemoryError()).endswith("are free, with a limit of 2.0 GiB for this process")


def test_errors_of_another_kind_pass():
    with pytest.raises(OSError, match="No space"), memory_for(1, "x", "y"):
        raise OSError(errno.ENOSPC, "No space left")
    with pytest.raises(InputError), memory_errors("cpu"):
        raise InputError("x")


def test_decoders_hand_on_that_memory_ran_short():
    decoders = Decoders(1)
    try:
        with pytest.raises(MemoryError):
            decoders.finish(decoders.begin(failing_in_a_process))
    finally:
        decoders.close()


def failing_in_a_process() -> None:
    raise MemoryError
