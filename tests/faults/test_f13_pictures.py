"""F13. Pictures that cannot be read (corrupt, empty, of another format) are listed with their paths, at most 20, before a run begins;
CMYK, RGBA, 16-bit, palette and grey ones are converted.

What each is converted to, pixel by pixel: tests/test_data.py."""

import numpy as np
from faults.harness import TINY, invoke, make_images
from PIL import Image

NOISE = np.random.default_rng(0)


def pixels(*shape, high=256, kind=np.uint8):
    return NOISE.integers(0, high, shape).astype(kind)


def convertible(folder):
    """One picture of every kind."""
    rgb = Image.fromarray(pixels(8, 8, 3))
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels(8, 8, 4)).save(folder / "rgba.png")
    Image.fromarray(pixels(8, 8, high=65536, kind=np.uint16)).save(folder / "sixteen bits.png")
    Image.fromarray(pixels(8, 8)).save(folder / "grey.png")
    rgb.convert("P").save(folder / "palette.gif")
    rgb.convert("1").save(folder / "one bit.png")
    Image.fromarray(pixels(9, 31, 3)).save(folder / "long.png")


def broken(folder):
    whole = (folder / "0.png").read_bytes()
    contents = {
        "empty.png": b"",
        "torn.png": whole[: len(whole) // 2],
        "flipped.png": whole[:30] + bytes(len(whole) - 30),
        "text.jpg": b"no picture at all",
        "archive.png": b"PK\x03\x04" + bytes(100),
        "page.gif": b"<html></html>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(pixels(8, 8, 3)).save(folder / "other.pcx")
    (folder / "other.pcx").rename(folder / "of another format.png")
    return [*contents, "of another format.png"]


def test_all_that_are_broken_are_listed_and_the_others_serve(tmp_path):
    data, run = make_images(tmp_path / "images"), tmp_path / "run"
    names = broken(data / "class 1")
    convertible(data / "class 0")
    arguments = ("run", "--data", data, *TINY, "--quiet", "--out", run)
    outcome = invoke(*arguments)
    assert outcome.code == 2 and outcome.out == "" and len(outcome.lines) == 1, outcome
    assert "class 0" not in outcome.err and not run.exists()
    # Those for training and those for the test, each with its reason.
    assert f"{len(names)} unreadable images" in outcome.err
    for name in names:
        assert f"'class 1/{name}' (" in outcome.err
        (data / "class 1" / name).unlink()
    assert invoke(*arguments).code == 0
    assert (run / "model.safetensors").exists()


def test_of_many_twenty_are_named(tmp_path):
    data = make_images(tmp_path / "images")
    for k in range(30):
        (data / "class 0" / f"{k}.png").write_bytes(b"")
    outcome = invoke("run", "--data", data, *TINY, "--quiet", "--out", tmp_path / "run")
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert outcome.err.count("class 0/") == 20 and " more" in outcome.err
    assert not (tmp_path / "run").exists()
