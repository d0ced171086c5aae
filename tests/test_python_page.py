"""docs/python.md and its notebook do what they say."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import torch
from docs_tools import python_blocks

from dnas.data.splits import Split, load_splits, load_train
from dnas.methods import registry
from dnas.pipeline import inputs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
BLOCKS = python_blocks(PAGE)
TITLES = ("functions", "data", "on_epoch", "register", "pieces", "scikit-learn")


@pytest.fixture(autouse=True)
def forget():
    yield
    registry.METHODS.forget()


def _few(*loaded):
    return tuple(each.subset(torch.arange(min(100, len(each)))) if isinstance(each, Split) else each for each in loaded)


@pytest.mark.parametrize("block", BLOCKS, ids=TITLES)
def test_the_examples_of_the_page_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "load_train", lambda *given, **how: _few(*load_train(*given, **how)))
    monkeypatch.setattr(inputs, "load_splits", lambda *given, **how: _few(*load_splits(*given, **how)))
    names: dict = {"__name__": "__main__"}
    exec(compile(block, PAGE.name, "exec"), names)
    out = capsys.readouterr().out
    if "watch" in names:
        assert out.splitlines()[:2] == ["stopped by on_epoch; resume with: dnas resume runs/watched", "3"]
        assert "SearchResult: runs/watched" in out
    if "mixing" in names:
        assert names["architecture"].in_space and len(names["architecture"]) == 3
        # The parameters have moved: it is no draw.
        assert float(names["mapping"].alpha.detach().std()) > 5e-3


def test_the_loop_of_the_pieces_is_short():
    (loop,) = [block for block in BLOCKS if "build_supernet" in block]
    assert len([line for line in loop.splitlines() if line.strip()]) <= 40


@pytest.mark.timeout(600)
def test_the_notebook_runs_and_shows_what_it_is_to_show(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "docs" / "first-steps.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # kept without
    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    (page,) = [data["text/html"] for data in shown if "<table>" in data.get("text/html", "")]
    assert "pc-darts (shared)" in page and "random, same size" in page
    drawing = base64.b64decode(re.findall(r"base64,([^\"]+)", page)[0]).decode()
    assert drawing.startswith("<svg") or "<svg" in drawing[:200]
    curve = next(data["text/plain"] for data in shown if "'search', 1" in data["text/plain"])
    assert curve.count("'train'") == 2 and curve.count("'baseline'") == 2
    assert any("SearchResult: runs/stopped" in data["text/plain"] for data in shown)
