"""F12. A run is not resumed under a changed option, on changed images, or by a dnas of another format; each difference is
named, exit 2, and nothing is written."""

import hashlib
import json
import shutil
import signal

import pytest
from faults.harness import TINY, invoke, make_images, run_command, send_at
from PIL import Image

from dnas.runtime.checkpoint import newest


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with images and a run on them, interrupted in its training."""
    folder = tmp_path_factory.mktemp("f12")
    make_images(folder / "images")
    arguments = ("run", "--data", folder / "images", *TINY, "--out", folder / "run")
    assert run_command(folder, *arguments, fault=send_at("train", 2, signal.SIGTERM)).code == 143
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    shutil.copytree(stopped / "run", tmp_path / "run")
    return tmp_path / "run"


def refused(run, *words):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    outcome = invoke("resume", run, "--json")
    assert outcome.code == 2 and outcome.out == ""
    errors = [line for line in outcome.lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in outcome.err
    for word in words:
        assert word in errors[0], errors[0]
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert after == before


def edit(run, *changes):
    text = (run / "config.toml").read_text()
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    (run / "config.toml").write_text(text)


def test_a_changed_option(run):
    edit(run, ("seed = 0", "seed = 7"))
    refused(run, "seed was 0 and is 7")


def test_each_of_several_changed_options(run):
    search, train = (run / "config.toml").read_text().split("[train]")
    search = search.replace("momentum = 0.9", "momentum = 0.8")
    train = train.replace("channels = 8", "channels = 12").replace("epochs = 2", "epochs = 3")
    (run / "config.toml").write_text(f"{search}[train]{train}")
    refused(
        run,
        "search.momentum was 0.9 and is 0.8",
        "train.channels was 8 and is 12",
        "train.epochs was 2 and is 3",
    )


def test_a_changed_option_of_the_method(run):
    edit(run, ("zero_one_weight = 1.0", "zero_one_weight = 5.0"))
    refused(run, "options.zero_one_weight was 1.0 and is 5.0")


def test_a_removed_setting_is_a_difference_too(run):
    edit(run, ("deterministic = false\n", ""), ("baseline = true\n", "baseline = false\n"))
    refused(run, "baseline was True and is False")


def test_one_changed_image(stopped, run):
    file = stopped / "images" / "class 1" / "3.png"
    original = file.read_bytes()
    image = Image.open(file)
    image.putpixel((0, 0), (image.getpixel((0, 0)) + 1) % 256)
    image.save(file)
    try:
        refused(run, "images", "have changed", str(stopped / "images"))
    finally:
        file.write_bytes(original)


def test_images_that_are_gone(stopped, run):
    (stopped / "images").rename(stopped / "elsewhere")
    try:
        refused(run, str(stopped / "images"))
    finally:
        (stopped / "elsewhere").rename(stopped / "images")


def test_another_format_of_the_configuration(run):
    edit(run, ('format = "dnas-run/1"', 'format = "dnas-run/2"'))
    refused(run, "format", "dnas-run/2", "dnas-run/1")


def test_another_format_of_the_checkpoint(run):
    checkpoint, _ = newest(run / "checkpoints")
    file = run / "checkpoints" / f"{checkpoint.sequence:08d}.json"
    manifest = json.loads(file.read_text())
    del manifest["checksum"]
    manifest["format"] = "dnas-checkpoint/2"
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    file.write_text(json.dumps(manifest | {"checksum": hashlib.sha256(canonical).hexdigest()}))
    refused(run, "dnas-checkpoint/2", "dnas-checkpoint/1")


def test_the_unchanged_run_is_resumed(run):
    assert invoke("resume", run, "--quiet").code == 0


def test_another_version_of_dnas_warns(run):
    from importlib.metadata import version

    edit(run, (f'dnas = "{version("dnas")}"', 'dnas = "0.0.1"'))
    outcome = invoke("resume", run)
    # Another version may give other bits; it is said, or the run refused.
    assert "0.0.1" in outcome.err
    assert outcome.code in (0, 2)
