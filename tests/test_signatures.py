"""The signatures of the Python functions against the options of the commands, and what type checkers make of them."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import signature_tools
from docs_tools import python_blocks

import dnas
from dnas.kernels.native import Backend
from dnas.options import names
from dnas.pipeline.machine import Device
from dnas.pipeline.presets import Preset
from dnas.settings import AUTO_RESIZE, DataSettings, SearchSettings, TrainSettings
from dnas.supernet.mapping import MAPPINGS

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for groups in signature_tools.GROUPS.values() for name in groups]
# Parameters that are no options.
OWN = {
    "run": {"baseline", "on_epoch", "progress", "reporter"},
    "search": {"on_epoch", "progress", "reporter"},
    "train": {"architecture", "option", "baseline", "on_epoch", "progress", "reporter"},
    "compare": {"methods", "mappings", "seeds", "training_seeds", "architectures", "resume", "processes", "threads", "progress", "reporter"},
    "rank": {"methods", "architectures", "proxy_layers", "proxy_epochs", "resume", "processes", "threads", "progress", "reporter"},
    "inspect_data": {"data", "reporter"},
    "resume": {"run", "data", "processes", "on_epoch", "progress", "reporter"},
}  # fmt: skip


@pytest.mark.parametrize("file", signature_tools.GROUPS)
def test_signatures_have_the_options(file):
    path = signature_tools.FOLDER / file
    text = path.read_text("utf-8")
    assert signature_tools.rewritten(text, signature_tools.GROUPS[file]) == text, (
        "the options have changed: python tests/signature_tools.py"
    )


def test_a_new_option_would_be_seen(monkeypatch):
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class More:
        depth: int | None = None
        "How deep it is, with --layers."

    monkeypatch.setattr(
        signature_tools, "attribute_texts", lambda group: {"depth": "How deep it is, beside --max-params."}
    )
    assert signature_tools.parameters((More,)) == {"depth": ("int", "How deep it is, beside max_params.")}
    text = (
        'def f(\n    *,\n    old: int | None = None,\n) -> int:\n    """Say.\n\n    Args:\n        old: It.\n    """\n'
    )
    written = signature_tools.rewritten(text, {"f": (More,)})
    assert "    depth: int | None = None,\n" in written and "beside max_params.\n" in written


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_are_options_typed_and_documented(name):
    signature = inspect.signature(getattr(dnas, name))
    groups = next(groups[name] for groups in signature_tools.GROUPS.values() if name in groups)
    hidden = {
        "compare": {"method", "mapping", "seed"},
        "rank": {"method", "mapping"},
        "inspect_data": {"data_memory", "data_workers", "skip_broken"},
    }.get(name, set())
    assert set(signature.parameters) == (names(*groups) - hidden) | OWN[name]
    text = inspect.getdoc(getattr(dnas, name)) or ""
    documented = re.findall(r"(?m)^    (\w+): ", text.partition("Args:\n")[2].partition("\n\n")[0])
    assert documented == list(signature.parameters)
    assert "--" not in text.partition("Args:\n")[2]
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty
        assert parameter.kind is parameter.KEYWORD_ONLY or parameter.name in ("architecture", "data", "methods", "run")


def test_literals_are_those_of_the_settings():
    fields = DataSettings.model_fields
    choices = {
        "resize": get_args(fields["resize"].annotation),
        "data_memory": get_args(fields["memory"].annotation),
        "preset": get_args(Preset),
        "device": ("auto", *get_args(Device)),
        "backend": get_args(Backend),
        "flip": get_args(TrainSettings.model_fields["flip"].annotation),
        "mapping": tuple(MAPPINGS),
        "class_weights": get_args(TrainSettings.model_fields["class_weights"].annotation),
    }
    assert AUTO_RESIZE in choices["resize"]
    written = signature_tools.CHOICES | signature_tools.OF_TRAINING
    assert {name: set(values) for name, values in choices.items()} == {name: set(v) for name, v in written.items()}
    assert set(signature_tools.CHOICES["flip"]) == set(get_args(SearchSettings.model_fields["flip"].annotation))


def test_a_wrong_keyword_is_pythons_error():
    for function in (dnas.run, dnas.search, dnas.compare):
        with pytest.raises(TypeError, match="epoch_s"):
            function(epoch_s=1)


# What neither type checker may accept, with the rules by which they refuse it.
WRONG = (
    ("dnas.search(epochs='many')", "arg-type", "reportArgumentType"),
    ("dnas.search(train_epochs=3)", "call-arg", "reportCallIssue"),
    ("dnas.run(mapping='none')", "arg-type", "reportArgumentType"),
    ("dnas.search().test_accuracy", "attr-defined", "reportAttributeAccessIssue"),
    ("dnas.train('DARTS_V2', on_epoch=3)", "arg-type", "reportArgumentType"),
    ("dnas.rank(proxy_layers=['3'])", "list-item", "reportArgumentType"),
    ("dnas.rank().failing", "attr-defined", "reportAttributeAccessIssue"),
)


def documented() -> list[str]:
    """The Python of the pages whose types are promised."""
    pages = (ROOT / "README.md", ROOT / "docs" / "python.md", ROOT / "docs" / "extending.md")
    return [block for page in pages for block in python_blocks(page)]


def test_mypy_accepts_the_documented_examples_and_refuses_mistakes(tmp_path):
    pytest.importorskip("mypy")
    for number, block in enumerate(documented()):
        (tmp_path / f"example_{number}.py").write_text(block, "utf-8")
    lines = ["import dnas", *(f"{call}  # type: ignore[{code}]" for call, code, _ in WRONG)]
    right = [
        "reveal_type(dnas.run().test_accuracy)", "reveal_type(dnas.search().architecture)",
        "reveal_type(dnas.compare(['dnas']).failed)", "reveal_type(dnas.build('DARTS_V2'))",
    ]  # fmt: skip
    (tmp_path / "mistakes.py").write_text("\n".join([*lines, *right, ""]), "utf-8")
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {ROOT / 'src'}\nfollow_imports = silent\n"
        # What takes mypy most of a minute is no matter of ours.
        "[mypy-torch.*,scipy.*]\nfollow_imports = skip\n[mypy-sklearn.*]\nignore_missing_imports = True\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "."]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    revealed = re.findall(r'Revealed type is "(?:builtins\.)?(.*)"', found.stdout)
    assert revealed[:2] == ["float", "dnas.space.architecture.Architecture"]
    assert [kind.replace("builtins.", "") for kind in revealed[2:]] == [
        "tuple[str, ...]",
        "dnas.network.network.Network",
    ]


def test_pyright_accepts_the_documented_examples_and_refuses_mistakes(tmp_path):
    """In strict mode, by the pyright that its package brings along: nothing is downloaded."""
    pyright, node = importlib.util.find_spec("pyright"), shutil.which("node")
    script = Path(pyright.origin or "").parent / "dist" / "index.js" if pyright else Path("nowhere")
    if node is None or not script.is_file():
        pytest.skip("needs node, and pyright with its own files (dnas[dev])")
    examples = tmp_path / "examples"
    examples.mkdir()
    for number, block in enumerate(documented()):
        # Not typed in torch itself.
        untyped = "# pyright: reportUnknownMemberType=false\n" if ".backward()" in block else ""
        (examples / f"example_{number}.py").write_text(untyped + block, "utf-8")
    calls = [call if "(" in call.rpartition(".")[2] else f"print({call})" for call, *_ in WRONG]
    (examples / "mistakes.py").write_text("\n".join(["import dnas", *calls, ""]), "utf-8")
    for name in ("__init__", "datasets", "model_selection"):  # has no types, so mypy sees none either
        stub = tmp_path / "typings" / "sklearn" / f"{name}.pyi"
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text("from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n", "utf-8")
    settings = {
        "include": ["examples"], "stubPath": "typings", "typeCheckingMode": "strict", "extraPaths": [str(ROOT / "src")],
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
    }  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    command = [node, str(script), "--outputjson", "--pythonpath", sys.executable]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = json.loads(found.stdout)["generalDiagnostics"]
    mistakes = [each for each in told if each["file"].endswith("mistakes.py")]
    others = [each for each in told if each not in mistakes]
    assert not others, "\n".join(f"{each['file']}: {each['message']}" for each in others)
    refused = {(each["range"]["start"]["line"] - 1, each["rule"]) for each in mistakes if "Unknown" not in each["rule"]}
    assert refused == {(number, rule) for number, (*_, rule) in enumerate(WRONG)}
