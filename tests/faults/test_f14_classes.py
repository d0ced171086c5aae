"""F14. An empty class, one image a class, a single class or a folder that cannot be read is an error of one line that names it; names
with spaces, line breaks and any letters work."""

import os

import pytest
from faults.harness import TINY, contents, invoke, make_images

from dnas.data.sources import listing, tree


def refused(data, *words):
    outcome = invoke("run", "--data", data, *TINY, "--quiet", "--out", data.parent / "run")
    assert outcome.code == 2 and outcome.out == "", outcome
    assert len(outcome.lines) == 1 and outcome.lines[0].startswith("error: "), outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert not (data.parent / "run").exists()


def test_an_empty_class(tmp_path):
    data = make_images(tmp_path / "images", each=4)
    (data / "nothing here").mkdir()
    refused(data, "nothing here", "no images")


def test_one_image_a_class(tmp_path):
    refused(make_images(tmp_path / "images", each=1), "class 0", "one image")


def test_one_class(tmp_path):
    refused(make_images(tmp_path / "images", classes=1, each=9), "one class", "class 0")


def test_no_classes_and_no_folder(tmp_path):
    (tmp_path / "images").mkdir()
    refused(tmp_path / "images", str(tmp_path / "images"))
    refused(tmp_path / "nowhere", str(tmp_path / "nowhere"))


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    data = make_images(tmp_path / "images", each=4)
    # Not by chmod: root, as in most containers, may read anyway.
    scan = os.scandir

    def scandir(path="."):
        if str(path).endswith("class 1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(data, "class 1", "Permission denied")


NAMES = ("with a space", "ünïcode 猫 🙂", "line\nbreak", "tab\tand 'quotes\"", "-option", "a=b", "%s {x} $HOME `id`")


def test_any_name_works(tmp_path):
    plain = make_images(tmp_path / "plain", classes=len(NAMES), each=6)
    odd = make_images(tmp_path / "odd\nfolder ü" / "images", classes=len(NAMES), each=6)
    for k, name in enumerate(sorted(NAMES)):
        (odd / f"class {k}").rename(odd / name)
        for file in list((odd / name).iterdir()):
            file.rename(file.with_name(f" {file.stem} é.png"))
    for data in (plain, odd):
        run = data.parent / "run"
        outcome = invoke("run", "--data", data, *TINY, "--quiet", "--json", "--out", run)
        assert outcome.code == 0, outcome.err
        assert outcome.json["classes"] == len(NAMES) and "Traceback" not in outcome.err
        assert invoke("evaluate", run).code == invoke("resume", run).code == 0
    assert contents(odd.parent / "run", ("architecture.json",)) == contents(
        plain.parent / "run", ("architecture.json",)
    )


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_links_pipes_and_loops_are_not_followed_for_ever(tmp_path):
    data = make_images(tmp_path / "images", each=6)
    (data / "class 0" / "loop").symlink_to(data / "class 0")
    os.mkfifo(data / "class 1" / "pipe.png")
    refused(data, "class 1/pipe.png")
    assert tree.is_dir(data) and listing.ENDINGS
