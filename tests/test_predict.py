"""`dnas predict`: the classes of pictures, as the evaluation has them, by a run and by what was exported of it."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.harness import Outcome, invoke, make_images
from PIL import Image
from run_tools import make_run

import dnas
from dnas.data.augment import normalise
from dnas.data.headers import Rule
from dnas.data.pictures import read_picture
from dnas.data.sources.listing import ENDINGS
from dnas.data.splits import DataInfo, load_test
from dnas.deploy import predict
from dnas.deploy.expected import Expected
from dnas.deploy.protocol import facts_of
from dnas.pipeline.model import load_model
from dnas.space.architecture import Architecture
from dnas.space.darts_cell import Cell
from dnas.training.accuracy import answers

GENE = Cell(((("sep_conv_3x3", 0), ("max_pool_3x3", 1)),))
CARRIED = Path(dnas.__file__).parent / "deploy" / "carried" / "preprocess.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("predict") / "images", classes=3, each=12)


@pytest.fixture(scope="module")
def run(images: Path) -> Path:
    return make_run(images.with_name("run"), images, architecture=Architecture((GENE,), (), "free"))


@pytest.fixture(scope="module")
def onnx(run: Path) -> Path:
    """The file that `dnas export` writes."""
    pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
    dnas.export(run, "onnx")
    return run / "export" / "model.onnx"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`dnas predict ARGUMENTS` with a text on stdin."""

    def ask(*arguments: Any, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return invoke("predict", *arguments)

    return ask


def test_probabilities_are_those_of_the_evaluation_to_the_bit(run: Path, images: Path) -> None:
    network, info = load_model(run)
    test = load_test(str(images), info, every=True)
    logits = answers(network, test, info)
    predictor = predict.open_predictor(run)
    found = list(predict.predict(predictor, predict.pictures_of([str(images)], ()), top=3))
    assert len(found) == len(test) == 36
    for answer, shares, label in zip(found, logits.softmax(1), test.labels, strict=True):
        assert Path(answer.picture).parent.name == info.classes[label]  # in the same order
        assert dict(answer.classes) == dict(zip(info.classes, shares.tolist(), strict=True))
        assert [share for _, share in answer.classes] == sorted(shares.tolist(), reverse=True)
        assert answer.classes[0][0] == info.classes[shares.argmax()]


def test_an_onnx_file_answers_as_its_run_and_without_torch(run: Path, images: Path, onnx: Path) -> None:
    pictures = sorted(str(path) for path in images.rglob("*.png"))
    by_run = dnas.load(run).predict(pictures)
    for path in (onnx, onnx.parent):
        found = list(predict.predict(predict.open_predictor(path), pictures, top=3))
        for answer, theirs in zip(found, by_run, strict=True):
            assert answer.classes[0][0] == theirs.label
            assert answer.classes[0][1] == pytest.approx(theirs.probability, abs=1e-5)
    code = "import sys; sys.modules['torch'] = None\nfrom dnas.cli import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", code, "predict", str(onnx), pictures[0], "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    assert json.loads(ended.stdout)["predictions"][0]["label"] == by_run[0].label


def test_what_is_printed(run: Path, images: Path, tmp_path: Path, asked: Callable[..., Outcome]) -> None:
    first, second = images / "class 0" / "1.png", images / "class 2" / "3.png"
    theirs = dnas.load(run).predict([first, second])
    plain = asked(run, first, second, "--top", 1)
    lines = [f"{path}: {each.label} {each.probability:.4f}" for path, each in zip((first, second), theirs, strict=True)]
    assert (plain.code, plain.out.splitlines(), plain.err) == (0, lines, "")
    # A list on stdin, beside a picture.
    assert asked(run, first, "-", "--top", 1, stdin=f"{second}\n\n").out == plain.out
    as_json = asked(run, first, second, "--json").json
    assert as_json["skipped"] == [] and as_json["network"] == str(run)
    assert [(row["label"], row["probability"]) for row in as_json["predictions"]] == [
        (each.label, each.probability) for each in theirs
    ]
    assert all(len(row["top"]) == 3 and row["top"][0]["label"] == row["label"] for row in as_json["predictions"])
    rows = list(csv.DictReader(io.StringIO(asked(run, first, second, "--csv", "--top", 2).out)))
    assert list(rows[0]) == ["picture", "label", "probability", "label_2", "probability_2"]
    assert [(row["picture"], row["label"], float(row["probability"])) for row in rows] == [
        (str(path), each.label, each.probability) for path, each in zip((first, second), theirs, strict=True)
    ]


def test_bad_pictures_are_named_and_skipped(
    run: Path, images: Path, tmp_path: Path, asked: Callable[..., Outcome]
) -> None:
    good = images / "class 0" / "1.png"
    (tmp_path / ".hidden").mkdir()
    for name in ("a.png", "c.png", ".hidden/d.png"):
        (tmp_path / name).write_bytes(good.read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    outcome = asked(run, tmp_path, tmp_path / "missing.png", "--json")
    assert outcome.code == 1
    held = json.loads(outcome.out)
    assert [Path(row["picture"]).name for row in held["predictions"]] == ["a.png", "c.png"]
    assert [Path(row["picture"]).name for row in held["skipped"]] == ["b.jpg", "missing.png"]
    assert "cannot identify image file" in held["skipped"][0]["problem"]
    assert outcome.err.count("skipped: ") == 2 and "error: 2 of 4 images" in outcome.err
    assert len(asked(run, tmp_path, "--top", 1).out.splitlines()) == 2
    assert all(ending != ".txt" for ending in ENDINGS)


def test_what_cannot_be_asked_is_refused(
    run: Path, images: Path, tmp_path: Path, asked: Callable[..., Outcome], monkeypatch: Any
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
    picture = images / "class 0" / "1.png"
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "export.json").write_text('{"exports": [{"file": "model.py"}]}')
    for arguments, words in (
        ((run, picture, "--top", 0), "--top must be at least 1"),
        ((run, picture, "--json", "--csv"), "--csv cannot be used with --json"),
        ((run, tmp_path / "exported"), "contains no images"),
        ((run, "-"), "the list on stdin is empty"),
        ((tmp_path / "nothing", picture), "does not exist"),
        ((tmp_path, picture), "train first"),
        ((picture, picture), "is not a run folder, export folder or ONNX file"),
        ((tmp_path / "broken.onnx", picture), "broken.onnx' cannot be loaded"),
        ((exported, picture), "also export to onnx"),
    ):
        outcome = asked(*arguments)
        assert outcome.code == 2 and words in outcome.err, (arguments, outcome.err)
        assert len(outcome.lines) == 1
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'dnas[export]'" in asked(tmp_path / "broken.onnx", picture).err


# --- preprocessing without torch, and without dnas -----------------------------------------------------------------

MEANS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def test_normalizing_has_the_same_bits_as_in_training() -> None:
    info = DataInfo("x", ("a", "b"), 3, 16, *MEANS, flip=False)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = Expected.of(json.loads(json.dumps(facts_of(info))), "here")
    assert np.array_equal(expected.normalized(pixels.numpy()), normalise(pixels, info).numpy())


@pytest.mark.parametrize("resize", ["crop", "pad", "squeeze"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_carried_code_gives_the_same_bits(resize: Any, channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    info = DataInfo("x", ("a", "b"), channels, 12, MEANS[0][:channels], MEANS[1][:channels], False, resize)
    (tmp_path / "preprocess.json").write_text(json.dumps(facts_of(info)))
    (tmp_path / "preprocess.py").write_bytes(CARRIED.read_bytes())
    spec = importlib.util.spec_from_file_location("carried", tmp_path / "preprocess.py")
    assert spec is not None and spec.loader is not None
    carried = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(carried)
    turned = Image.Exif()
    turned[0x0112] = 6
    color = Image.fromarray(rng.integers(0, 256, (20, 31, 3), np.uint8))
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "color.png": (color, {}),
        "tall.png": (color.resize((13, 40)), {}),
        "exact.png": (color.resize((12, 12)), {}),
        "wide.png": (color.resize((17, 12)), {}),
        "thin.png": (color.resize((90, 2)), {}),
        "turned.jpg": (color, {"exif": turned}),
        "clear.png": (Image.fromarray(rng.integers(0, 256, (15, 14, 4), np.uint8)), {}),
        "gray.png": (color.convert("L"), {}),
        "palette.gif": (color.convert("P"), {}),
        "hole.png": (color.convert("P"), {"transparency": 3}),
        "two.png": (color.convert("1"), {}),
        "print.jpg": (color.convert("CMYK"), {}),
    }
    for name, (picture, options) in pictures.items():
        path = tmp_path / name
        picture.save(path, **options)
        pixels = read_picture(path, channels, 12, Rule(resize))
        assert np.array_equal(carried.square(path), pixels), name
        ours = normalise(torch.from_numpy(pixels[None].copy()), replace(info, source="y")).numpy()
        assert np.array_equal(carried.prepare(path), ours), name
    assert carried.prepare(*(tmp_path / name for name in pictures)).shape == (len(pictures), channels, 12, 12)
    Image.fromarray(rng.integers(0, 2**16, (9, 9), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        carried.prepare(tmp_path / "deep.png")
