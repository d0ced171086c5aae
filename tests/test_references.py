"""What texts refer to is there: files that pages, docstrings and comments name, and what messages send a user to."""

import ast
import re
from pathlib import Path

import pytest
from faults.harness import invoke

from dnas import methods
from dnas.pipeline.config import sections

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [path for folder in ("src", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = [path for path in (*PAGES, *CODE) if path.name != Path(__file__).name]
# Pages that `dnas compare` writes into a study.
WRITTEN = {"table.md"}
HERE = {path.name for folder in ("docs", "src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*")}
HERE |= {path.name for path in ROOT.glob("*")}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_and_tests_that_a_text_names_are_in_the_project(path):
    """21 files of tests cited a page that was never part of it."""
    text = path.read_text("utf-8").replace("\\n", "\n")
    for name in re.findall(r"[\w/.-]*\w\.md\b", text):
        assert (ROOT / name).is_file() or (path.parent / name).is_file() or Path(name).name in {*HERE, *WRITTEN}, name
    for name in re.findall(r"\b(?:tests|benchmarks)/[\w/-]+\.py\b|\bdocs/[\w/-]+\.(?:svg|html|json)\b", text):
        if "NAME" not in name and "/runs/" not in name:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_a_section_in_a_test_is_that_of_a_work_that_is_named(path):
    for line in path.read_text("utf-8").splitlines():
        if "§" in line and path.name != Path(__file__).name:
            assert re.search(r"(\b(19|20)\d\d\b|\bpaper)[^§]*§", line), line


def test_modules_that_contributing_lists_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (table,) = re.findall(r"(?s)\| room \| subject \| [\w ]+\|\n(.*?)\n\n", text)
    named = [name for row in table.splitlines()[1:] for name in re.findall(r"`([\w/]+)`", row.split("|")[1])]
    assert len(named) > 20
    for name in named:
        assert (ROOT / "src/dnas" / f"{name}.py").is_file() or (ROOT / "src/dnas" / name).is_dir(), name


def test_a_module_has_its_tests_where_contributing_says():
    """A file of tests is named for a module, a method, or for what CONTRIBUTING lets it be named for."""
    modules = {path.stem for path in (ROOT / "src/dnas").rglob("*.py")}
    for path in (ROOT / "tests").glob("test_method_*.py"):
        assert path.stem.removeprefix("test_method_") in modules, path.name
    faults = {path.name[5:8] for path in (ROOT / "tests/faults").glob("test_*.py")}
    promised = {f.lower() for f in re.findall(r"\bF\d\d\b", (ROOT / "docs/reliability.md").read_text("utf-8"))}
    assert faults == promised


def messages() -> list[tuple[str, str]]:
    """(module, text) of every text in the program that is no docstring: what users can be shown."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found += [(path.name, node.value) for node in texts if id(node) not in docstrings]
    return found


def test_no_message_sends_a_user_to_a_page_that_is_not_installed():
    """The wheel has the package alone; docs/settings.md is not in it."""
    assert [(name, text) for name, text in messages() if re.search(r"docs/|\b(?!README\.md)\w+\.md\b", text)] == []


def test_an_unknown_setting_is_answered_with_what_lists_all():
    for option in ("search.xyzzy=3", "train.xyzzy=3"):
        outcome = invoke("run", "--method", "pc-darts", "-o", option)
        assert outcome.code == 2 and "dnas methods" in outcome.err and "docs/" not in outcome.err
    outcome = invoke("methods", "pc-darts")
    (listed,) = invoke("methods", "pc-darts", "--json").json
    told = {each["name"] for each in listed["settings"]} | {each["name"] for each in listed["options"]}
    tables = sections(methods.get_method("pc-darts"))
    wanted = {f"{section}.{name}" for section in ("search", "train") for name in tables[section].model_fields}
    assert told == wanted | set(tables["options"].model_fields)
    for each in (*listed["settings"], *listed["options"]):
        assert f"--option {each['name']}={each['default']}: {each['description']}\n" in outcome.out
