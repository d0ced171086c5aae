"""The packages of examples/: installed as a reader would, each is found by its entry points and searches."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_tools import invoke
from docs_tools import python_blocks
from PIL import Image

from dnas import testing
from dnas.data.splits import load_train
from dnas.pipeline import inputs
from dnas.pipeline.extensions import KINDS
from dnas.space.architecture import Architecture

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PACKAGES = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
TINY = ("--layers", 3, "--channels", 8, "--epochs", 1, "-o", "search.images=32", "-o", "search.warmup_epochs=0")
# What each adds to `dnas search`, and what its architecture may have besides.
SEARCHES = {
    "method": ("--method", "cooling", "-o", "hottest=3"),
    "part": ("--with", "decided", "-o", "decided.weight=0.5"),
    "data_source": ("--data", "SHEETS"),
    "relaxation": ("--method", "pc-darts", "-o", "relaxation=sparsemax"),
    "primitive_and_space": ("--space", "excited"),
    "block_and_space": ("--space", "convnext"),
}
# Where the same code is explained.
PAGES = {"method": "add-a-method.md", "part": "parts.md", "data_source": "data.md"}


def project(package: str) -> dict:
    return tomllib.loads((EXAMPLES / package / "pyproject.toml").read_text("utf-8"))["project"]


def module_of(package: str) -> Path:
    (module,) = (EXAMPLES / package).glob("*.py")
    return module


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts packages on the path as `pip install` would: the module, and a folder of facts with their entry points."""

    def install(*packages: str) -> None:
        for package in packages:
            told = project(package)
            facts = tmp_path / "site" / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
            facts.mkdir(parents=True)
            head = f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n"
            (facts / "METADATA").write_text(head, "utf-8")
            lines = [
                line
                for group, entries in told["entry-points"].items()
                for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
            ]
            (facts / "entry_points.txt").write_text("\n".join(lines), "utf-8")
            module = module_of(package)
            (facts.parent / module.name).write_text(module.read_text("utf-8"), "utf-8")
        monkeypatch.syspath_prepend(tmp_path / "site")

    before = set(sys.modules)
    for kind in KINDS:
        kind.forget()
    yield install
    for kind in KINDS:
        kind.forget()
    for name in {name for name in set(sys.modules) - before if name.startswith("dnas_")}:
        del sys.modules[name]


@pytest.fixture
def sheets(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "sheets"
    folder.mkdir()
    for part, rows in (("train", 4), ("test", 1)):
        for k, name in enumerate(("ring", "dot")):
            pixels = rng.integers(0, 128, (8 * rows, 8 * 8)).astype(np.uint8) + 100 * k
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"sheet-{part}-{name}.png")
    return folder


def test_there_is_one_of_each_kind():
    groups = {group for package in PACKAGES for group in project(package)["entry-points"]}
    assert groups == {kind.group for kind in KINDS}
    assert set(SEARCHES) == set(PACKAGES)
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"({package})" in page and (EXAMPLES / package / "README.md").is_file() for package in PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_it_is_found_and_searches(package, installed, sheets, tmp_path):
    installed(package)
    told = project(package)
    words = {kind.group: f"{kind.word}s".replace(" ", "-") for kind in KINDS}
    listed = invoke("list", "--json").json
    for group, entries in told["entry-points"].items():
        assert {listed[words[group]][name] for name in entries} == {f"{told['name']} {told['version']}"}
    options = [sheets if option == "SHEETS" else option for option in SEARCHES[package]]
    outcome = invoke("search", *options, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    found = Architecture.load(tmp_path / "run" / "architecture.json")
    if package.endswith("and_space"):
        assert found.space == SEARCHES[package][1]
        trained = invoke("train", tmp_path / "run", "--epochs", 1, "--channels", 8, "-o", "train.images=32",
                         "--out", tmp_path / "trained", "--json")  # fmt: skip
        assert trained.code == 0, trained.err
        shown = invoke("show", tmp_path / "run", "--channels", 8, "--image-size", 8, "--image-channels", 1, "--json")
        assert shown.json["params"] == trained.json["params"]


def test_all_of_them_go_together(installed, tmp_path):
    installed(*PACKAGES)
    outcome = invoke("search", "--space", "excited", "--method", "cooling", "--with", "decided", *TINY,
                     "--out", tmp_path / "run")  # fmt: skip
    assert outcome.code == 0, outcome.err


def test_they_keep_their_contracts(installed, sheets):
    """By the lines of their pages, but for the method and the part, whose pages are run elsewhere."""
    installed(*PACKAGES)
    for name in ("sep_se_3x3", "conv_3x3"):
        testing.check_primitive(name)
    testing.check_space("excited", methods=("dnas",))
    testing.check_space("convnext", methods=("dnas",))
    testing.check_relaxation("sparsemax", "decoupled")
    testing.check_source("sheets", sheets)


@pytest.mark.parametrize("number", range(2))
def test_the_code_of_the_page_of_all_kinds_runs(number, installed, tmp_path, monkeypatch):
    def few(*given, **how):
        train, info = load_train(*given, **how)
        return train.subset(torch.arange(64)), info

    installed()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "load_train", few)
    names: dict = {"__name__": "__main__"}
    exec(compile(python_blocks(ROOT / "docs" / "extending.md")[number], "extending.md", "exec"), names)
    assert names["found"].architecture.in_space


@pytest.mark.parametrize("package", PAGES)
def test_the_page_shows_the_same_code(package):
    """So that it is explained and tested in one place."""
    body = ast.parse(module_of(package).read_text("utf-8")).body[1:]
    shown = [
        [ast.dump(part) for part in ast.parse(block).body] for block in python_blocks(ROOT / "docs" / PAGES[package])
    ]
    assert [ast.dump(part) for part in body] in shown


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="pip builds them with hatchling")
def test_pip_installs_them(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
               "--target", str(tmp_path), *(str(EXAMPLES / package) for package in PACKAGES)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for package in PACKAGES:
        assert (tmp_path / module_of(package).name).is_file()
