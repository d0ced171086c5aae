"""What a method's page says of its paper's settings is what the preset has."""

import re
from pathlib import Path
from typing import Any

import pytest

from dnas.methods.registry import create, get_method, list_methods
from dnas.space.darts import DARTS

PAGES = Path(__file__).parents[1] / "docs" / "methods"
WORDS = {0.9: "nine tenths"}
# Told by their effect: the lengths of the cycles, and how an epoch or a step is.
TOLD_OTHERWISE = {"learning_rate_cycles", "update"}


def paragraph(name: str) -> str:
    """The paragraph in which a page begins to tell of `--preset paper`."""
    text = (PAGES / f"{name}.md").read_text("utf-8")
    found = [block for block in text.split("\n\n") if "`--preset paper`" in block]
    assert found, f"{name}.md does not tell of --preset paper"
    return " ".join(found[0].split())


def forms(value: Any) -> list[str]:
    """How a page may write a number."""
    short = f"{value:g}"
    scientific = re.sub(r"e([+-])0?", lambda m: "e-" if m[1] == "-" else "e", f"{value:.0e}")
    return [short, f"{value:,}", scientific, *([WORDS[value]] if value in WORDS else [])]


def is_told(key: str, value: Any, text: str) -> bool:
    if key == "warmup_epochs" and value == 0:
        return "without warm-up" in text
    if key == "warmup_epochs" and value == 1:
        return "one epoch of warm-up" in text
    if key == "nesterov":
        return "Nesterov" in text
    if key == "order":
        return str(value) in text
    if key == "architecture_weight_decay" and value == 0:
        return "without decay" in text or "no decay of" in text
    if key == "epochs" and value == 4:
        return "one epoch of warm-up and three" in text
    return any(re.search(rf"(?<![\d.]){re.escape(form)}(?![\d]|\.\d)", text) for form in forms(value))


@pytest.mark.parametrize("name", list_methods())
def test_the_preset_paper_has_the_numbers_of_the_page(name):
    method = create(name, None, {}, DARTS)
    settings = method.paper_settings("cifar10")
    if not settings:
        return  # those that all methods of its kind share
    text = paragraph(name)
    for section in settings.values():
        for key, value in section.items():
            if key not in TOLD_OTHERWISE and not (key == "learning_rate_min" and "constant rate" in text):
                assert is_told(key, value, text), (name, key, value)


@pytest.mark.parametrize("name", [n for n in list_methods() if "full" in get_method(n).mappings])
def test_a_page_tells_where_a_warm_up_is_that_of_some_mappings_only(name):
    """Cells are searched without one as published, whole networks with the one of the DNAS paper."""
    cells, whole = (create(name, mapping, {}, DARTS).paper_settings("cifar10") for mapping in ("shared", "full"))
    if cells.get("search", {}).get("warmup_epochs") == 0 and "warmup_epochs" not in whole["search"]:
        assert "30% warm-up" in paragraph(name)


def test_pc_darts_trains_as_its_page_says():
    settings = create("pc-darts", None, {}, DARTS).paper_settings("cifar10")
    assert settings["train"] == {"layers": 20, "drop_path": 0.3}
    assert "20 layers" in paragraph("pc-darts") and "drop-path up to 0.3" in paragraph("pc-darts")


def test_the_price_of_snas_is_that_of_the_network_that_its_preset_searches():
    """The authors' README has 0.01 for 8 cells of 16 channels, and 0.0015 for 20 cells of 36."""
    method = create("snas", None, {}, DARTS)
    text = " ".join((PAGES / "snas.md").read_text("utf-8").split())
    assert method.options.resource_weight == 0.01 and "8 cells of 16 channels on one GPU with a w of 0.01" in text
    assert "eight GPUs with 0.0015" in text and "6.7 times the other" in text
    assert round(method.options.resource_weight / 0.0015, 1) == 6.7


def test_a_softmax_keeps_the_order_within_an_edge_and_not_across_edges():
    """Why the page of nasp says that the public code can print other edges than those that it trained."""
    import torch

    a = torch.tensor([[0.9, 0.8, 0.8], [0.7, 0.0, 0.0]])
    p = a.softmax(1)
    assert (p.argsort(1) == a.argsort(1)).all()
    assert a.max(1).values.argmax() == 0 and p.max(1).values.argmax() == 1


def test_the_readme_lists_the_methods_as_they_are():
    text = (PAGES.parents[1] / "README.md").read_text("utf-8")
    for name in list_methods():
        method = get_method(name)
        mappings = ", ".join(f"**{m}**" if m == method.default_mapping else m for m in method.mappings)
        assert f"| [`{name}`](docs/methods/{name}.md) | {method.kind} | {mappings} | {method.paper} |" in text
    from dnas.space.published import PUBLISHED

    assert f"# {len(PUBLISHED)} published architectures" in text
