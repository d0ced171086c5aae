"""What the texts show works: their Python is run, their settings exist, their links lead somewhere."""

import re
from pathlib import Path

import pytest

from dnas import methods
from dnas.data import DataInfo, Split, load_train
from dnas.settings import GradientSettings, TrainSettings, TrialSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_every_setting_and_option_is_documented():
    settings = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for cls in (GradientSettings, TrialSettings, TrainSettings):
        for name, field in cls.model_fields.items():
            assert f"| `{name}` | {field.default} |" in settings
            assert field.description
    for name, method in methods.registry().items():
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text("utf-8")
        for option in method.Options.model_fields:
            assert f"`{option}" in page, (name, option)


@pytest.fixture
def cooling():
    """The example of docs/add-a-method.md, as a class."""
    namespace: dict = {}
    exec(compile(python_blocks(ROOT / "docs" / "add-a-method.md")[0], "add-a-method.md", "exec"), namespace)
    return namespace["Cooling"]


def test_the_example_method_is_short_and_searches(cooling, monkeypatch, tmp_path):
    code = python_blocks(ROOT / "docs" / "add-a-method.md")[0]
    assert len(code.splitlines()) <= 40
    registered = {**methods.registry(), "cooling": cooling}
    monkeypatch.setattr(methods, "registry", lambda: registered)
    from dnas import api

    for mapping in ("shared", "full", "decoupled"):
        result = api.search(
            method="cooling",
            mapping=mapping,
            option={"hottest": 3, "search.images": 32},
            layers=3,
            channels=8,
            epochs=2,
            out=tmp_path / mapping,
        )
        assert result["architecture"].in_space


def test_the_loop_of_ones_own_runs():
    namespace: dict = {}
    exec(compile(python_blocks(ROOT / "docs" / "add-a-method.md")[1], "add-a-method.md", "exec"), namespace)
    assert namespace["architecture"].in_space and len(namespace["architecture"]) == 3


def test_the_readmes_python_runs(monkeypatch, tmp_path):
    """With fewer images, and in a folder of its own."""
    from dnas import pipeline

    def few(*arguments, **options) -> tuple[Split, DataInfo]:
        split, info = load_train(*arguments, **options)
        return Split(split.images[:32], split.labels[:32]), info

    monkeypatch.setattr(pipeline, "load_train", few)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    (block,) = python_blocks(ROOT / "README.md")
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["net"] is not None
    assert (tmp_path / "runs" / "dnas-digits-seed0" / "architecture.svg").exists()
