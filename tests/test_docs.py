"""What the texts show works: their Python is run, their settings exist, their links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest
from docs_tools import python_blocks
from faults.harness import invoke

from dnas import methods, testing
from dnas.data.splits import DataInfo, Split, load_train
from dnas.methods import registry
from dnas.settings import GradientSettings, TrainSettings, TrialSettings
from dnas.space.architecture import Architecture

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"(?m)^    .*$", "", page.read_text("utf-8"))  # without code
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_every_setting_and_option_is_documented():
    settings = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for cls in (GradientSettings, TrialSettings, TrainSettings):
        for name, field in cls.model_fields.items():
            assert f"| `{name}` | {field.default} |" in settings
            assert field.description
    for name, method in registry.METHODS.items():
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text("utf-8")
        for option in method.Options.model_fields:
            assert f"`{option}" in page, (name, option)


# --- docs/add-a-method.md ----------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "add-a-method.md"
COOLING, BEST_PATH, CLIMB, LOOP, CHECK = range(5)
EXAMPLES = {"cooling": (COOLING, "Cooling"), "best-path": (BEST_PATH, "BestPath"), "climb": (CLIMB, "Climb")}


@pytest.fixture
def forget_methods():
    """What a test registers is gone after it."""
    before = set(sys.modules)
    registry.METHODS.forget()
    yield
    registry.METHODS.forget()
    for module in set(sys.modules) - before:
        if module == "my_package" or module.startswith("dnas.methods."):
            del sys.modules[module]
            vars(methods).pop(module.rpartition(".")[2], None)


@pytest.fixture
def my_package(tmp_path, monkeypatch, forget_methods):
    """Installs the examples as the package that the page tells to write: one module, three entry points."""
    code = "\n\n".join(python_blocks(PAGE)[number] for number, _ in EXAMPLES.values())
    (tmp_path / "my_package.py").write_text(code, "utf-8")
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert toml == '[project.entry-points."dnas.methods"]\ncooling = "my_package:Cooling"\n'
    facts = tmp_path / "my_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n", "utf-8")
    lines = [f"{name} = my_package:{cls}" for name, (_, cls) in EXAMPLES.items()]
    (facts / "entry_points.txt").write_text("\n".join(["[dnas.methods]", *lines, ""]), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_examples_are_short():
    for number, _ in EXAMPLES.values():
        assert len(python_blocks(PAGE)[number].splitlines()) <= 40


def test_a_package_adds_methods_by_entry_points(my_package, tmp_path):
    """`--method NAME` and the method's option work, by nothing but the package's own two files."""
    assert set(EXAMPLES) <= set(methods.list_methods())
    small = ("--layers", 3, "--channels", 8, "--epochs", 1, "-o", "search.images=32")
    runs = {
        "cooling": ("-o", "hottest=3", "-o", "search.warmup_epochs=0"),
        "best-path": ("-o", "paths=2"),
        "climb": ("-o", "first=1", "-o", "search.trials=2"),
    }
    for name, own in runs.items():
        outcome = invoke("search", "--method", name, *small, *own, "--out", tmp_path / name, "--json")
        assert outcome.code == 0, outcome.err
        assert Architecture.load(tmp_path / name / "architecture.json").in_space
        refused = invoke("search", "--method", name, "-o", "nonsense=1", "--out", tmp_path / "never")
        assert refused.code == 2 and own[1].partition("=")[0] in refused.err


def test_inside_dnas_a_method_is_one_file(tmp_path, monkeypatch, forget_methods):
    """In the folder of methods, without a line elsewhere."""
    (tmp_path / "cooling.py").write_text(python_blocks(PAGE)[COOLING], "utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    assert methods.get_method("cooling").__module__ == "dnas.methods.cooling"
    assert "cooling" in invoke("methods").out
    outcome = invoke("search", "--method", "cooling", "--layers", 3, "--channels", 8, "--epochs", 2, "-o", "hottest=3",
                     "-o", "search.images=32", "--out", tmp_path / "run", "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.json["method"] == "cooling"


def test_the_check_that_the_page_shows_passes(my_package):
    """As a third party's pytest would run it."""
    namespace: dict = {}
    exec(compile(python_blocks(PAGE)[CHECK], PAGE.name, "exec"), namespace)
    namespace["test_cooling_keeps_the_contract"]()


def test_the_other_examples_keep_the_contract(my_package):
    (call,) = re.findall(r"`(testing\.check_method\(\"best-path\".*?\))`", PAGE.read_text("utf-8"))
    eval(call, {"testing": testing})
    testing.check_method("climb", "shared", options={"first": 4}, acts={"first": ({}, 2)})


def test_the_page_lists_every_check():
    listed = re.findall(r"^\| `(check_\w+)` \|", PAGE.read_text("utf-8"), re.M)
    every = (*testing.CHECKS_OF_A_METHOD, testing.check_options, *testing.CHECKS_OF_A_SEARCH)
    assert listed == [check.__name__ for check in (*every, *testing.CHECKS_OF_A_MAPPING)]


def test_the_loop_of_ones_own_runs():
    namespace: dict = {}
    exec(compile(python_blocks(PAGE)[LOOP], PAGE.name, "exec"), namespace)
    assert namespace["architecture"].in_space and len(namespace["architecture"]) == 3


def test_the_readmes_python_runs(monkeypatch, tmp_path):
    """With fewer images, and in a folder of its own."""
    from dnas.pipeline import inputs

    def few(*arguments, **options) -> tuple[Split, DataInfo]:
        split, info = load_train(*arguments, **options)
        return Split(split.images[:32], split.labels[:32]), info

    monkeypatch.setattr(inputs, "load_train", few)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    (block,) = python_blocks(ROOT / "README.md")
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["net"] is not None
    assert (tmp_path / "runs" / "dnas-digits-seed0" / "architecture.svg").exists()
