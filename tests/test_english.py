"""Texts, messages, docstrings and comments avoid the habits listed in tests/plain_english.toml."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnas.disk import read_toml

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "plain_english.toml"


def habits() -> list[dict[str, str]]:
    return read_toml(LIST)["habit"]


def listed(key: str) -> list[Path]:
    patterns = read_toml(LIST)
    found = {path for pattern in patterns[key] for path in ROOT.glob(pattern)}
    left_out = {path for pattern in patterns["except"] for path in ROOT.glob(pattern)}
    return sorted(path for path in found - left_out if path.suffix in (".md", ".py", ".html", ".c", ".h"))


def prose(text: str) -> str:
    """A page without code, generated tables, addresses of links and what the program prints; its lines keep their numbers."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    text = re.sub(r"(?s)<!-- (?:settings|options): .*?<!-- end -->", blank, text)
    text = re.sub(r"(?ms)^```.*?^```$", blank, text)
    text = re.sub(r"(?m)(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)", blank, text)
    text = re.sub(r"`[^`]*`", lambda found: "`…`" + blank(found), text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def without_code(text: str) -> str:
    """A docstring, comment or message without code in backticks and the names that a docstring describes."""
    text = re.sub(r"(?m)^ +\w+(?:, \w+)*: ", "…: ", text)
    return re.sub(r"``[^`]*``|`[^`]*`", "`…`", text)


def read_by_people(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings, comments and string literals of several words in a Python file."""
    tree = ast.parse(source)
    inside = {id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if " " in text.strip():
            yield node.lineno, without_code(text)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], without_code(token.string)


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of everything in a file that people read, without what is not prose."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        yield from read_by_people(text)
    elif path.suffix == ".md":
        yield 1, prose(text)
    elif path.suffix == ".html":
        yield 1, re.sub(r"\{[{%].*?[%}]\}", "…", text)
    else:  # C
        for comment in re.finditer(r"(?s)/\*.*?\*/", text):
            yield text.count("\n", 0, comment.start()) + 1, without_code(comment[0])


def habits_in(text: str) -> Iterator[tuple[int, str]]:
    """(number of line breaks before it, what was found) of each habit in a text."""
    for habit in habits():
        for match in re.finditer(habit["pattern"].replace(" ", r"\s"), text, re.I):
            yield text.count("\n", 0, match.start()), f"{match[0]!r}; write {habit['write']}"


@pytest.mark.parametrize("path", [*listed("texts"), *listed("code")], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_is_plain_english(path):
    found = [
        f"{path.relative_to(ROOT)}:{line + below}: {what}"
        for line, text in texts_of(path)
        for below, what in habits_in(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("place", ["docstring", "comment", "message", "f-string", "comment in C", "page"])
def test_a_habit_is_noticed_in_code(tmp_path, place):
    bad = "nothing goes on"
    text = {
        "docstring": f'def run() -> None:\n    """{bad.capitalize()}.\n\n    More.\n    """\n',
        "comment": f"x = 1  # {bad}\n",
        "message": f'raise ValueError("{bad}")\n',
        "f-string": 'raise ValueError(f"{1} nothing "\n    "goes on")\n',
        "comment in C": f"/* {bad} */\n",
        "page": f"<p>{{{{ name }}}} {bad}</p>\n",
    }[place]
    path = tmp_path / {"comment in C": "x.c", "page": "x.html"}.get(place, "x.py")
    path.write_text(text, "utf-8")
    assert [what for _, text in texts_of(path) for _, what in habits_in(text)] == [
        '\'goes on\'; write "continue", "resume"'
    ]


def test_names_and_code_are_not_searched():
    source = 'goes_on = {"colour": grey}  # `goes on` stays\nprint(f"{colour} `normalise`")\n'
    assert not [what for _, text in read_by_people(source) for _, what in habits_in(text)]


@pytest.mark.parametrize("habit", habits(), ids=lambda habit: habit["bad"][:30])
def test_a_habit_is_noticed(habit):
    assert re.search(habit["pattern"], habit["bad"], re.I) and habit["write"]


def test_code_and_program_output_are_not_searched():
    text = "Prose.\n\n    output goes on\n\n    and on, a 95 % interval\n\n`goes on`, [text](page.html)\n```\ngoes on\n```\nEnd goes on\n"
    assert [m.start() for m in re.finditer("on", prose(text))] == [prose(text).rindex("on")]
    assert prose(text).count("\n") == text.count("\n")
