"""The house stays in order: no file grows too long, every room says what lives in it, and each kind grows by one file."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import dnas

ROOT = Path(__file__).parents[1]
ROOMS = sorted(path for path in (ROOT / "src" / "dnas").rglob("__init__.py"))
MOST_LINES = 450
# Packages that may be imported within a function: heavy ones, optional ones, and those of one system alone.
LATE = {
    *("PIL", "importlib", "pooch", "psutil", "rich", "safetensors", "scipy", "sklearn", "torch"),
    *("jinja2", "markupsafe", "matplotlib", "executorch", "onnx", "onnxruntime", "pyarrow", "timm"),
    *("fcntl", "grp", "pwd", "resource"),
}
# Files that import our own modules so, since these import torch or pydantic, and the files must answer without.
EARLY = (
    "cli/",
    "data/__init__.py",
    "deploy/predict.py",
    "pages/mistakes.py",
    "pages/report.py",
    "pages/report.py",
    "pages/run_page.py",
    "pipeline/overrides.py",
    "pipeline/subjects.py",
)
# Where a layer is a cell: the space of DARTS, what is written only for it, and the words of papers about it.
ABOUT_CELLS = (
    *("__init__.py", "space/__init__.py"),  # the public name `Cell`
    *("space/darts*.py", "drawing/cells.py", "drawing/arcs.py", "drawing/registry.py"),
    *("deploy/genotype.py", "deploy/source_cells.py", "testing/primitives.py"),
    *("kernels/*.py", "network/program.py", "supernet/supernet.py", "supernet/source_block.py"),
    *("methods/*.py", "parts/*.py"),
)
# Where cells are those of a table or of a grid over an image.
OTHER_CELLS = (
    *("api/results.py", "cli/printing.py", "data/mirroring.py", "data/sources/table.py"),
    *("pages/mistakes.py", "study/tables.py"),
)
# What all rooms may name: weights in files ("cells.0…"), imports of the files above, and a width of rich's.
NAMES_OF_CELLS = r'\b(self|network)\.cells\b|"cells\.|dnas\.(kernels\.|drawing\.|deploy\.source_)cells|\w+\.cell_len'
WAYS = ("A picture", "Alpha", "A setting", "A checkpoint")


def files() -> list[Path]:
    folders = (ROOT / "src", ROOT / "tests", ROOT / "benchmarks")
    return [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".c", ".h")]


def test_no_file_is_longer_than_a_reader_s_patience():
    long = {str(f.relative_to(ROOT)): n for f in files() if (n := len(f.read_text("utf-8").splitlines())) > MOST_LINES}
    assert not long


def test_only_the_space_of_cells_knows_of_cells():
    """A space is one file: what all spaces share speaks of layers, blocks, edges and states."""
    root, found = ROOT / "src" / "dnas", []
    general = {f"{room}/{name}.py" for room in ("methods", "parts") for name in ("protocol", "registry")}
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        if name not in general and any(fnmatch(name, pattern) for pattern in (*ABOUT_CELLS, *OTHER_CELLS)):
            continue
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if re.search(r"(?i)(?<!can)cell", re.sub(NAMES_OF_CELLS, "", line)):
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_an_import_within_a_function_has_a_reason():
    root, late = ROOT / "src" / "dnas", {}
    carried = root / "deploy" / "carried"  # run by others, without us
    for file in (file for file in root.rglob("*.py") if carried not in file.parents):
        functions = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
        for node in (node for function in functions for node in ast.walk(function)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                late.setdefault(module.partition(".")[0], set()).add(file.relative_to(root).as_posix())
    assert all(file.startswith(EARLY) for file in late.pop("dnas")), late
    assert late.keys() <= LATE, late


@pytest.mark.parametrize("room", ROOMS[1:], ids=lambda path: path.parent.name)
def test_a_room_says_what_lives_in_it_and_what_does_not(room):
    words = ast.get_docstring(ast.parse(room.read_text("utf-8")))
    assert words, room
    if room.parent.name not in ("testing", "kernels"):  # whose pages say more
        assert "Not here:" in words, room


def test_the_tour_walks_the_four_ways_through_files_that_are_there():
    text = (ROOT / "docs" / "tour.md").read_text("utf-8")
    assert all(f"## {way}" in text for way in WAYS)
    for way in text.split("\n## ")[1:5]:
        stops = [line.split("`")[1] for line in way.splitlines() if line[:1].isdigit()]
        assert 1 <= len(stops) <= 8 and len(set(stops)) == len(stops), way
        assert all((ROOT / "src" / "dnas" / stop).is_file() for stop in stops), stops


def test_the_public_names_are_where_they_were():
    for name in dnas.__all__:
        assert getattr(dnas, name) is not None
    from dnas import data, methods, settings, space, testing

    assert space.DARTS and space.Space and data.load_train and methods.get_method and settings.TrainSettings
    assert testing.check_method


def test_the_template_of_a_method_keeps_the_contract_when_it_is_filled_in(monkeypatch, tmp_path):
    """From a file of another package, as an entry point would give it."""
    from dnas import testing
    from dnas.methods import registry

    template = (ROOT / "docs" / "templates" / "method.py").read_text("utf-8")
    assert len(template.splitlines()) <= 150
    file = tmp_path / "their_method.py"
    file.write_text(template, "utf-8")
    spec = importlib.util.spec_from_file_location("their_method", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "their_method", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(registry.METHODS._registered, "name", module.Name)
    testing.check_method("name", acts={"temperature": ({}, 4.0)})


def test_a_primitive_is_one_entry(monkeypatch):
    """Counted, built, searched and drawn with nothing else said of it."""
    import torch

    from dnas.drawing.svg import svg
    from dnas.network.network import build, params
    from dnas.rng import numpy_stream
    from dnas.space import primitives, sampling
    from dnas.space.darts import DARTS
    from dnas.space.network_plan import size
    from dnas.space.plan import plan
    from dnas.supernet.build import build_supernet
    from dnas.supernet.relaxation import path

    wide = primitives.Primitive("sep_conv_9x9", primitives._sep_conv(9), "#123456", "sep 9×9")
    monkeypatch.setitem(primitives.OWN, "sep_conv_9x9", wide)
    from dataclasses import replace

    from dnas.space import registry

    space = replace(DARTS, name="ours", primitives=("skip_connect", "sep_conv_9x9"))
    monkeypatch.setitem(registry.SPACES._registered, "ours", space)
    architecture = sampling.sample(space, numpy_stream(0, "test"), 4)
    net = build(architecture, channels=4, num_classes=3)
    assert params(net) == size(plan(architecture, channels=4, classes=3, inputs=3, stem="cifar"), 8).params
    supernet = build_supernet(space, space.primitives, layers=4, channels=4, classes=3, partial=1)
    images = torch.rand(2, 3, 8, 8)
    assert supernet(images, path(architecture, space.primitives, space)).shape == (2, 3)
    assert "sep 9×9" in svg(architecture, title="ours")


def test_a_kind_of_data_set_is_one_file(monkeypatch, tmp_path):
    """From another package, as an entry point would give it: told by what its folder holds, trained on, tested."""
    import numpy as np

    from dnas import plugins
    from dnas.data.sources import registry
    from dnas.data.sources.protocol import Source
    from dnas.data.splits import load_splits

    def read(path, part):
        table = np.load(path / "table.npz")
        return table[f"{part}_images"], table[f"{part}_labels"]

    tables = Source(
        kind="tables",
        holds=lambda folder: (folder / "table.npz").is_file(),
        arrays=read,
        classes=("ring", "dot"),
        mirrored=False,
    )
    entry = type("Entry", (), {"name": "tables", "value": "tables:TABLES", "load": lambda self: tables})()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "dnas.data_sources" else [])
    registry.DATA_SOURCES.forget()
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": rng.integers(0, 2 if what == "labels" else 256, size, dtype=kind)
        for part, count in (("train", 12), ("test", 5))
        for what, size, kind in (("images", (count, 1, 8, 8), np.uint8), ("labels", count, np.int64))
    }
    np.savez(tmp_path / "table.npz", **arrays)
    try:
        train, info, test = load_splits(str(tmp_path))
    finally:
        registry.DATA_SOURCES.forget()
    assert (len(train), len(test), info.classes, info.flip) == (12, 5, ("ring", "dot"), False)
    assert np.array_equal(test.images.numpy(), arrays["test_images"])


def test_the_template_of_a_kernel_equals_its_torch_form(monkeypatch, tmp_path):
    import shutil

    import torch

    from dnas.kernels import native

    if not native.available():
        pytest.skip("no C compiler on this machine")
    folder = tmp_path / "kernels"
    shutil.copytree(ROOT / "src" / "dnas" / "kernels", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(ROOT / "docs" / "templates" / "kernel.c", folder / "name.c")
    monkeypatch.setattr(native.resources, "files", lambda package: folder)
    spec = importlib.util.spec_from_file_location("their_kernel", ROOT / "docs" / "templates" / "kernel.py")
    assert spec is not None and spec.loader is not None
    kernel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel)
    calls = dict(native.calls)
    for dtype in (torch.float32, torch.float64):
        for shape in ((1, 1, 1, 1), (2, 5, 3, 4), (3, 16, 7, 7)):
            x = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
            x[0, 0, 0, 0] = torch.nan
            weight = torch.randn(shape[1], dtype=dtype)
            with torch.no_grad():
                torch.testing.assert_close(kernel.scaled(x, weight), kernel.by_torch(x, weight), equal_nan=True)
    assert native.calls["name_forward"][0] == calls.get("name_forward", [0])[0] + 6
    native.calls.pop("name_forward")
    # What the C file does not cover is torch's.
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(kernel.scaled(x, torch.ones(3)), kernel.by_torch(x, torch.ones(3)))
