"""Writes the options into the signatures and docstrings of the Python functions, from `dnas/options.py`.

    python tests/signature_tools.py

An editor, a type checker and `help` see what stands in the source, so it stands there; `test_signatures.py` compares. A
parameter or an entry of "Args:" that is no option is left as it is.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import dnas.api
from dnas import options
from dnas.options import (
    BothOptions,
    ClusterOptions,
    DataOptions,
    ExecutionOptions,
    InspectedDataOptions,
    RankingRunOptions,
    RunOptions,
    SearchOptions,
    StudyRunOptions,
    StudySearchOptions,
    WidthOptions,
)

FOLDER = Path(dnas.api.__file__).parent
GROUPS: dict[str, dict[str, tuple[type, ...]]] = {
    "runs.py": {
        "run": (DataOptions, SearchOptions, BothOptions, RunOptions, ExecutionOptions),
        "search": (DataOptions, SearchOptions, RunOptions, ExecutionOptions),
        "train": (DataOptions, RunOptions, WidthOptions, ExecutionOptions),
    },
    "studies.py": {
        "compare": (
            DataOptions,
            StudySearchOptions,
            BothOptions,
            StudyRunOptions,
            ExecutionOptions,
            ClusterOptions,
        ),
        "rank": (
            DataOptions,
            StudySearchOptions,
            BothOptions,
            RankingRunOptions,
            ExecutionOptions,
            ClusterOptions,
        ),
    },
    "looking.py": {"inspect_data": (InspectedDataOptions,)},
    "resuming.py": {"resume": (ExecutionOptions, ClusterOptions)},
}
# What Python takes where a command line has a text. Closed sets are those of the settings (see test_signatures.py).
CHOICES = {
    "resize": ("auto", "crop", "pad", "squeeze"),
    "data_memory": ("auto", "whole", "stream"),
    "preset": ("quick", "paper", "shared"),
    "device": ("auto", "cpu", "cuda"),
    "backend": ("auto", "native", "torch"),
    "flip": ("auto", "on", "off"),
    "mapping": ("shared", "full", "decoupled"),
    "class_weights": ("none", "balanced"),
}


def literal(values: tuple[str, ...]) -> str:
    return f"Literal[{', '.join(map(repr, values))}]".replace("'", '"')


TYPES = {
    **{name: literal(values) for name, values in CHOICES.items()},
    **dict.fromkeys(("data", "root", "data_dir", "config", "out", "prior", "from_run"), "str | Path"),
    "with_parts": "str | Sequence[str]",
    "option": "Mapping[str, object] | Sequence[str]",
}
OF_TRAINING = {"flip": ("auto", "on", "off", "alternate")}
CONVERTED = {
    options.DURATION: "float | str",
    options.MANY: "int | str",
    **dict.fromkeys((options.SEVERAL_MANY, options.SEVERAL_BYTES), "int | str | Sequence[int | str]"),
    options.SEVERAL_DURATION: "float | str | Sequence[float | str]",
}
# Written by hand, since Python alone can be given more, or since the option is not one of the groups'.
KEPT = {
    *(("run", "data"), ("search", "data"), ("train", "data"), ("inspect_data", "data")),
    ("train", "option"),
}
# What is said otherwise than on the command line.
TEXTS = {
    "with_parts": "Names of parts that any method with gradients can take, or one text of them with commas between.",
    "option": "Values by name: NAME of the method's own options, PART.NAME of a part's, or search.NAME or train.NAME of "
    "any setting.",
    "device": '"auto", "cpu" or "cuda". [default: "auto"]',
}


def attribute_texts(group: type) -> dict[str, str]:
    """The text below each field, of a group and its bases."""
    texts: dict[str, str] = {}
    for cls in reversed(group.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                texts[field.target.id] = str(text.value.value)
    return texts


def in_python(text: str) -> str:
    """A text of the command line with options as Python has them."""
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda found: found[1].replace("-", "_"), text)


def parameters(groups: tuple[type, ...]) -> dict[str, tuple[str, str]]:
    """Type and text of each option."""
    found = {}
    for group in groups:
        hints, texts = get_type_hints(group, include_extras=True), attribute_texts(group)
        for field in fields(group):
            kind, *details = get_args(hints[field.name])
            helps = [detail.help for detail in details if getattr(detail, "help", None)]
            if any(getattr(detail, "show", None) is False for detail in details):
                continue
            converted = next((CONVERTED[detail] for detail in details if detail in CONVERTED), None)
            plain = str(kind).removesuffix(" | None") if "|" in str(kind) else kind.__name__
            text = TEXTS.get(field.name) or in_python(helps[0] if helps else texts[field.name])
            found[field.name] = (converted or TYPES.get(field.name, plain), text)
    return found


def rewritten(text: str, groups: dict[str, tuple[type, ...]]) -> str:
    """The text of a module, with the options of each of its functions."""
    lines = text.splitlines()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name in groups]
    own = {name for several in groups.values() for name in parameters(several)}
    for node in reversed(functions):
        known = parameters(groups[node.name])
        for name, values in OF_TRAINING.items() if node.name == "train" else ():
            known[name] = (literal(values), known[name][1])
        signature, order = _signature(node, known, own)
        texts = {name: text for name, (_, text) in known.items() if (node.name, name) not in KEPT}
        first = node.body[0]
        assert first.end_lineno is not None
        documented = _docstring(lines[first.lineno - 1 : first.end_lineno], texts, order)
        lines[node.lineno - 1 : first.end_lineno] = [*signature, *documented]
    return "\n".join(lines) + "\n"


def _signature(node: ast.FunctionDef, known: dict[str, tuple[str, str]], own: set[str]) -> tuple[list[str], list[str]]:
    """The lines of a signature, and the names in their order; options where the first of them stands."""
    positional = node.args.posonlyargs + node.args.args
    defaults = [*[None] * (len(positional) - len(node.args.defaults)), *node.args.defaults]
    keywords = list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    hand = [each for each in keywords if each[0].arg not in own or (node.name, each[0].arg) in KEPT]
    taken = {parameter.arg for parameter, _ in hand}
    place = next((number for number, each in enumerate(keywords) if each not in hand), len(keywords))
    first, rest = keywords[:place], [each for each in keywords[place:] if each in hand]
    options = {name: kind for name, (kind, _) in known.items() if name not in taken}
    written = [
        *itertools.starmap(_written, zip(positional, defaults, strict=True)),
        "*",
        *(_written(*each) for each in first),
        *(f"{name}: {kind} | None = None" for name, kind in options.items()),
        *(_written(*each) for each in rest),
    ]
    order = [parameter.arg for parameter in (*positional, *(each for each, _ in first))]
    order += [*options, *(parameter.arg for parameter, _ in rest)]
    assert node.returns is not None
    lines = [f"def {node.name}(", *(f"    {each}," for each in written), f") -> {ast.unparse(node.returns)}:"]
    return lines, order


def _written(parameter: ast.arg, default: ast.expr | None = None) -> str:
    assert parameter.annotation is not None, parameter.arg
    value = "" if default is None else f" = {ast.unparse(default)}"
    return f"{parameter.arg}: {ast.unparse(parameter.annotation)}{value}".replace("'", '"')


def _docstring(lines: list[str], texts: dict[str, str], order: list[str]) -> list[str]:
    """The lines of a docstring, whose "Args:" has an entry for each parameter."""
    start = lines.index("    Args:") + 1
    end = next((number for number in range(start, len(lines)) if not lines[number].startswith(" " * 8)), len(lines))
    entries: dict[str, list[str]] = {}
    for line in lines[start:end]:
        if not line.startswith(" " * 9):
            name = line.strip().partition(":")[0]
            entries[name] = []
        entries[name].append(line)
    for name, text in texts.items():
        entries[name] = textwrap.wrap(
            f"{name}: {text}", 120, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False
        )
    return [*lines[:start], *(line for name in order for line in entries[name]), *lines[end:]]


def main() -> None:
    for file, groups in GROUPS.items():
        path = FOLDER / file
        path.write_text(rewritten(path.read_text("utf-8"), groups), "utf-8")


if __name__ == "__main__":
    main()
