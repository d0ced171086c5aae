"""Public names say what they are for: by the syntax trees of src/dnas."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import dnas

ROOT = Path(dnas.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "carried" not in path.parts)
# Who extends dnas reads these: here methods have docstrings, too.
PROTOCOLS = (
    "drawing/protocol.py",
    "methods/protocol.py",
    "parts/protocol.py",
    "data/sources/protocol.py",
    "space/protocol.py",
)
Definition = ast.FunctionDef | ast.ClassDef


def public(body: list[ast.stmt]) -> list[Definition]:
    return [node for node in body if isinstance(node, Definition) and not node.name.startswith("_")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(file):
    tree = ast.parse(file.read_text("utf-8"))
    assert ast.get_docstring(tree), "the module has none"
    without = [node.name for node in public(tree.body) if not ast.get_docstring(node)]
    if file.relative_to(ROOT).as_posix() in PROTOCOLS:
        for owner in (node for node in public(tree.body) if isinstance(node, ast.ClassDef)):
            members = [node for node in public(owner.body) if isinstance(node, ast.FunctionDef)]
            without += [f"{owner.name}.{node.name}" for node in members if not ast.get_docstring(node)]
    assert not without


@pytest.mark.parametrize("name", [name for name in dnas.__all__ if inspect.isfunction(getattr(dnas, name))])
def test_a_function_for_users_tells_its_parameters_and_errors(name):
    function = getattr(dnas, name)
    text = inspect.getdoc(function) or ""
    tree = ast.parse(inspect.getsource(inspect.unwrap(function)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    without = [error for error in raised if error.endswith("Error") and error not in text]
    parameters = inspect.signature(function).parameters
    without += [each for each in parameters if f"{each}:" not in text and f"`{each}`" not in text]
    assert not without


SHAPED = ("supernet/mapping.py", "supernet/relaxation.py", "supernet/derive.py", "supernet/worth.py")


@pytest.mark.parametrize("file", SHAPED)
def test_tables_of_numbers_have_shapes(file):
    """A function or class of these files that takes or gives tensors names a shape, such as [layers, edges, ops]."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    without = []
    for node in public(tree.body):
        types = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if types & {"Tensor", "Array"} and "[" not in (ast.get_docstring(node) or ""):
            without.append(node.name)
    assert not without
