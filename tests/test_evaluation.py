"""`dnas evaluate` tests every image that it is given, and none that the run was trained on."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from faults.harness import invoke, make_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from run_tools import make_run

import dnas
from dnas.data.splits import load_test, load_train
from dnas.pipeline import evaluation
from dnas.pipeline.evaluation import evaluate
from dnas.pipeline.training_images import TRAINING_IMAGES_FILE, TrainingImages


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten images: sixteen train, four test."""
    return make_images(tmp_path_factory.mktemp("evaluation") / "images", each=10)


@pytest.fixture(scope="module")
def run(images: Path) -> Path:
    return make_run(images.with_name("run"), images)


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The splits that were tested."""
    seen: list[Any] = []
    original = evaluation.measure_accuracy

    def watched(network: Any, split: Any, *arguments: Any) -> Any:
        seen.append(split)
        return original(network, split, *arguments)

    monkeypatch.setattr(evaluation, "measure_accuracy", watched)
    return seen


def pixels(split: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.batch(torch.arange(len(split)))}


def test_a_runs_own_images_are_its_test_split(run: Path, images: Path, tested: list[Any]) -> None:
    outcome = invoke("evaluate", run, "--json")
    assert outcome.code == 0, outcome.err
    _, info = load_train(str(images))
    assert pixels(tested[0]) == pixels(load_test(str(images), info)) and len(tested[0]) == 4
    assert (outcome.json["test_images"], outcome.json["left_out"], outcome.json["warnings"]) == (4, 16, [])
    text = invoke("evaluate", run).out
    assert "16 of 20 images left out because the run was trained on them" in text


def test_a_flat_folder_is_tested_whole(run: Path, tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", each=5, seed=9)
    outcome = invoke("evaluate", run, "--data", other, "--json")
    assert (outcome.json["test_images"], outcome.json["left_out"]) == (10, 0)
    assert "left out" not in invoke("evaluate", run, "--data", other).out


def test_of_a_folder_in_parts_the_test_part_is_tested_also_alone(run: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "tree" / "test", each=3, seed=9)
    assert evaluate(run, str(tmp_path / "tree"))["test_images"] == 6
    make_images(tmp_path / "tree" / "train", each=4, seed=10)
    assert evaluate(run, str(tmp_path / "tree"))["test_images"] == 6


@pytest.mark.parametrize("part", ["Testing", "seg_test/seg_test", "TEST", "val", "test-images"])
def test_a_test_part_is_recognized_by_the_names_of_all_splits(run: Path, tmp_path: Path, part: str) -> None:
    make_images(tmp_path / "tree" / part, each=3, seed=9)
    assert evaluate(run, str(tmp_path / "tree"))["test_images"] == 6


def test_what_is_not_used_is_told(run: Path, tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", each=2, seed=9)
    (other / "class 0" / "notes.txt").write_text("none")
    outcome = invoke("evaluate", run, "--data", other)
    assert "left out: 1 file that is not an image (1 .txt)" in outcome.err


def test_some_classes_will_do_and_strangers_will_not(run: Path, tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", classes=3, each=2, seed=9)
    outcome = invoke("evaluate", run, "--data", other)
    assert outcome.code == 2 and "'class 2'" in outcome.err and len(outcome.lines) == 1
    shutil.rmtree(other / "class 2")
    shutil.rmtree(other / "class 0")
    result = evaluate(run, str(other))
    assert result["test_images"] == 2
    (other / "class 1").rename(other / "test")
    outcome = invoke("evaluate", run, "--data", other)
    assert outcome.code == 2 and len(outcome.lines) == 1


def test_classes_may_have_the_names_of_parts(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", each=10)
    (folder / "class 0").rename(folder / "train")
    run = make_run(tmp_path / "run", folder)
    assert evaluate(run)["test_images"] == 4 and evaluate(run)["left_out"] == 16


def test_an_image_of_the_training_is_left_out_under_any_name(run: Path, images: Path, tmp_path: Path) -> None:
    """Two of twelve, renamed, one of them in another class and as another kind of file with the same pixels."""
    other = make_images(tmp_path / "other", each=5, seed=9)
    split, _ = load_train(str(images))
    for k, place in enumerate(("class 0/new.png", "class 1/new.bmp")):
        Image.fromarray(split.images[k, 0].numpy()).save(other / place)
    outcome = invoke("evaluate", run, "--data", other)
    assert outcome.out.splitlines()[-1] == "2 of 12 images left out because the run was trained on them"
    # Whatever size they are tested in.
    result = evaluate(run, str(other), image_size=12)
    assert (result["test_images"], result["left_out"]) == (10, 2)


def test_a_copy_in_the_makers_own_test_part_counts_as_a_training_image(tmp_path: Path) -> None:
    make_images(tmp_path / "tree" / "train", each=6)
    make_images(tmp_path / "tree" / "test", each=3, seed=1)
    shutil.copy(tmp_path / "tree" / "train" / "class 0" / "0.png", tmp_path / "tree" / "test" / "class 0" / "9.png")
    result = evaluate(make_run(tmp_path / "run", tmp_path / "tree"))
    assert (result["test_images"], result["left_out"]) == (6, 1)


def test_where_nothing_is_left_that_is_an_error(run: Path, images: Path, tmp_path: Path) -> None:
    split, _ = load_train(str(images))
    (tmp_path / "other" / "class 0").mkdir(parents=True)
    Image.fromarray(split.images[0, 0].numpy()).save(tmp_path / "other" / "class 0" / "a.png")
    outcome = invoke("evaluate", run, "--data", tmp_path / "other")
    assert outcome.code == 2 and "training images" in outcome.err and len(outcome.lines) == 1


def test_a_run_without_a_record_says_so(images: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", images, record=False)
    outcome = invoke("evaluate", run)
    assert outcome.code == 0 and len(outcome.lines) == 1
    assert outcome.err.startswith("warning: ") and "no record of its training images" in outcome.err
    # Its own folder, also by its name, is split as it was; another is tested whole.
    for source, count in ((None, 4), (str(images), 4), (str(make_images(tmp_path / "other", each=3)), 6)):
        result = evaluate(run, source)
        assert (result["test_images"], result["left_out"]) == (count, None) and len(result["warnings"]) == 1


def test_another_pillow_is_a_warning(images: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", images)
    record = TrainingImages.of(*load_train(str(images)))
    older = TrainingImages(record.digests, record.info, "1.2.3")
    (run / TRAINING_IMAGES_FILE).write_bytes(older.to_bytes())
    assert "Pillow 1.2.3" in evaluate(run)["warnings"][0]


def test_images_that_are_gone_are_said_to_be_the_runs(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", each=6)
    run = make_run(tmp_path / "run", folder)
    shutil.rmtree(folder)
    for command in ("evaluate", "train"):
        outcome = invoke(command, run)
        assert outcome.code == 2 and "the images of" in outcome.err and "give --data" in outcome.err


def test_an_image_size_that_is_too_small_is_refused(run: Path) -> None:
    outcome = invoke("evaluate", run, "--image-size", 3)
    assert outcome.code == 2 and "--image-size must be at least 8, got 3" in outcome.err


def test_streamed_images_are_recognized_too(run: Path, images: Path, tested: list[Any]) -> None:
    result = evaluate(run, memory="stream", workers=1)
    assert (result["test_images"], result["left_out"]) == (4, 16)
    _, info = load_train(str(images))
    assert pixels(tested[0]) == pixels(load_test(str(images), info))


def test_named_sets_are_tested_on_their_test_split(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "digits")
    result = evaluate(run)
    assert (result["test_images"], result["left_out"]) == (360, 0)
    assert evaluate(run, "digits")["test_images"] == 360


# --- between `run` and `evaluate`


NAMES = st.sampled_from([f"{k}.png" for k in range(10)] + ["a.png", "00.png", "~.png", "z 1.png"])
CLASSES = st.sampled_from(["class 0", "class 1"])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), CLASSES, NAMES, st.integers(0, 255)),
        st.tuples(st.just("remove"), CLASSES, NAMES),
        st.tuples(st.just("rename"), CLASSES, NAMES, CLASSES, NAMES),
        st.tuples(st.just("copy"), CLASSES, NAMES, CLASSES, NAMES),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, dict[Path, bytes], set[bytes]]]:
    """A folder, a run on it, the folder's files, and the pixels of the images that it trained on."""
    folder = make_images(tmp_path_factory.mktemp("changing") / "images", each=10)
    run = make_run(folder.with_name("run"), folder)
    split, _ = load_train(str(folder))
    yield folder, run, {path: path.read_bytes() for path in folder.rglob("*.png")}, pixels(split)


@given(changes=CHANGES, own=st.booleans(), alone=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pictures_added_removed_or_renamed_never_put_a_training_image_into_the_test(
    changing: tuple[Path, Path, dict[Path, bytes], set[bytes]],
    tested: list[Any],
    changes: list[tuple[Any, ...]],
    own: bool,
    alone: bool,
) -> None:
    folder, run, files, trained = changing
    shutil.rmtree(folder.parent / "given", ignore_errors=True)
    shutil.rmtree(folder)
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for kind, *places in changes:
        path = folder / places[0] / places[1]
        if kind == "add":
            Image.fromarray(np.full((8, 8), places[2], np.uint8)).save(path)
        elif path.exists() and kind == "remove":
            path.unlink()
        elif path.exists():
            data = path.read_bytes()
            if kind == "rename":
                path.unlink()
            (folder / places[2] / places[3]).write_bytes(data)
    source = None
    if not own:
        source = str(folder.parent / "given")
        shutil.copytree(folder, Path(source) / "test" if alone else source)
    there = [np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")]
    wanted = [image for image in there if image not in trained]
    tested.clear()
    try:
        result = evaluate(run, source)
    except dnas.InputError:
        # None is left, or a class has lost its last picture.
        assert not wanted or not all(list(place.iterdir()) for place in folder.iterdir())
        return
    images = [image.numpy().tobytes() for image in tested[0].images]
    assert not trained.intersection(images)
    assert sorted(images) == sorted(wanted)
    assert result["left_out"] == len(there) - len(wanted)


# --- weights that are not numbers


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_a_weight_that_is_not_finite_is_named(images: Path, tmp_path: Path, value: float, word: str) -> None:
    run = make_run(tmp_path / "run", images)
    path = run / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    facts = json.loads(data[8 : 8 + length])["__metadata__"]
    weights["classifier.weight"][1, 2] = value
    safetensors.numpy.save_file(weights, path, facts)
    outcome = invoke("evaluate", run)
    assert outcome.code == 2 and len(outcome.lines) == 1 and outcome.out == ""
    assert "'classifier.weight'" in outcome.err and word in outcome.err
    with pytest.raises(dnas.InputError, match=f"'classifier.weight' contains {word}"):
        dnas.load(run)
