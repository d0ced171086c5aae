"""The tutorials are carried out: every command and every example, with smaller numbers where those take minutes."""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from faults.harness import invoke, make_images

from dnas.methods.registry import METHODS

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
BLOCKS = re.compile(r"(?s)```(sh|python)\n(.*?)```")
TINY = "--layers 3 --channels 8 --epochs 1 --finals 0 -o search.images=32 -o train.images=32 -o train.stem=cifar -o search.stem=cifar"  # fmt: skip


def carry_out(name: str, smaller: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Run the blocks of a tutorial in order, in the current folder.

    Args:
        smaller: What stands in a command or in code → what is run in its place. Each must be there.

    Yields:
        (block, what it printed) after each block.
    """
    names: dict = {"__name__": "__main__"}
    waiting = set(smaller)
    for language, code in BLOCKS.findall((TUTORIALS / f"{name}.md").read_text("utf-8")):
        shown = code
        for text in [text for text in smaller if text in code]:
            code = code.replace(text, smaller[text])
            waiting.discard(text)
        if language == "python":
            exec(compile(code, f"{name}.md", "exec"), names)
            yield shown, ""
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "dnas", line
            outcome = invoke(*arguments)
            assert outcome.code == 0, (line, outcome.err)
            yield line, outcome.out
    assert not waiting


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    METHODS.forget()


def test_your_own_images(tmp_path):
    make_images(tmp_path / "made", classes=3, each=20, size=16)
    for old, new in (("class 0", "cat"), ("class 1", "dog"), ("class 2", "horse")):
        (tmp_path / "made" / old).rename(tmp_path / "made" / new)
    (tmp_path / "made").rename(tmp_path / "photos")
    printed = dict(carry_out("own-pictures", {"--budget 10m": TINY}))
    (predicted,) = [out for line, out in printed.items() if line.startswith("dnas predict")]
    assert len([line for line in predicted.splitlines() if ".png" in line]) == 20
    assert (tmp_path / "sheet.html").exists() and (tmp_path / "runs/photos/report.html").exists()


def test_compare_two_methods(tmp_path, capsys):
    tiny = f"--processes 1 {TINY} -o search.batch_size=16"
    smaller = {"--seeds 4": f"--seeds 1 {tiny}", "--seeds 6": "--seeds 2 --processes 1"}
    assert len(list(carry_out("compare", smaller))) == 4
    printed = capsys.readouterr().out
    assert "darts (shared)" in printed and "random (shared), random, same size" in printed
    assert (tmp_path / "study" / "report.html").exists() and (tmp_path / "study" / "table.md").exists()


def test_write_a_method(tmp_path, capsys):
    small = 'option={"coldest": 0.2}, layers=3, channels=8, epochs=2'
    assert len(list(carry_out("write-a-method", {'option={"coldest": 0.2}': small}))) == 3
    assert (tmp_path / "runs/sharpened/architecture.json").exists()


def test_export_to_a_device(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
    blocks = carry_out("export", {"dnas run --data digits": f"dnas run --data digits {TINY} --no-baseline"})
    for line, _ in blocks:
        if line.startswith("dnas export"):
            # What is left is to be run in the folder.
            monkeypatch.chdir(tmp_path / "device")
            monkeypatch.syspath_prepend(tmp_path / "device")
            sys.modules.pop("preprocess", None)
    assert {"model.onnx", "model.py", "README.md"} <= {path.name for path in (tmp_path / "device").iterdir()}
    sys.modules.pop("preprocess", None)
