"""The benchmark of duplicates plants what it says and counts what is found."""

from pathlib import Path

import duplicates
import numpy as np
from data_tools import no_network  # noqa: F401
from PIL import Image


def test_it_finds_what_it_plants_and_no_more(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part, each in (("train", 20), ("test", 4)):
        for name in "ab":
            (tmp_path / "x" / part / name).mkdir(parents=True)
            for k in range(each):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                coarse.resize((32, 32), Image.Resampling.BICUBIC).save(tmp_path / "x" / part / name / f"{k}.png")
    before = sorted((tmp_path / "x").rglob("*"))
    duplicates.main(tmp_path / "x", plant_each=2, sheet=tmp_path / "sheet.png")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "found" in line] == [
        f"{kind:<24} {1:7.1%} of 2 found" for kind in duplicates.KINDS
    ]
    assert f"groups that nobody planted: 0, of 0 images of {48 + 2 * len(duplicates.KINDS)}" in lines
    assert sorted((tmp_path / "x").rglob("*")) == before and not Path(tmp_path / "sheet.png").exists()


def test_a_copy_that_is_not_found_counts_as_missed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(duplicates.KINDS, "exact", (lambda image: Image.new("RGB", (32, 32), "red"), ".png", 0))
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / "x" / part / name).mkdir(parents=True)
            for k in range(6):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "x" / part / name / f"{k}.png")
    duplicates.main(tmp_path / "x", plant_each=1)
    assert f"{'exact':<24} {0:7.1%} of 1 found" in capsys.readouterr().out
