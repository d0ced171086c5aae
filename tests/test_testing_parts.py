"""`dnas.testing.check_part`: what keeps the contract passes, and each broken part is found by the clause that says so."""

import re
from pathlib import Path

import pytest
import torch

from dnas import testing
from dnas.parts import Part, registry

PAGE = (Path(__file__).parents[1] / "docs" / "parts.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def tried(monkeypatch):
    """Registers a class as a part of its name."""

    def register(cls):
        cls.name = cls.name  # its own, as that of a registered one
        monkeypatch.setitem(registry.PARTS._registered, cls.name, cls)

    return register


def test_the_part_of_the_page_keeps_the_contract_by_the_line_of_the_page(tried):
    namespace: dict = {}
    for block in BLOCKS:
        exec(compile(block, "parts.md", "exec"), namespace)
    tried(namespace["Decided"])
    namespace["test_decided_keeps_the_contract"]()


class Tried(Part):
    """Draws the logits together."""

    name, title, paper = "tried", "Tried", "none"

    def penalty(self, search, progress):
        return 10 * search.mapping.alpha.square().sum()


class Idle(Tried):
    def penalty(self, search, progress):
        return None


class Draws(Tried):
    def penalty(self, search, progress):
        return torch.rand(()) * search.mapping.alpha.square().sum()


class Counts(Tried):
    """In itself, and not in the tensors of the search."""

    calls = 0

    def penalty(self, search, progress):
        self.calls += 1
        return self.calls * search.mapping.alpha.square().sum()


class Spends(Tried):
    """Without saying so."""

    def penalty(self, search, progress):
        search.supernet(search.batch(0, 0).images, search.mixing(progress))
        return super().penalty(search, progress)


class Says(Tried):
    def metrics(self, search, progress):
        return {"loss of mine": 1.0}


class Compares(Tried):
    def compare(self, search, training, validation):
        pass


class Takes(Tried):
    """Whatever the update is, where it says that it cannot."""

    updates = ("first-order",)


@pytest.mark.parametrize(
    ("cls", "check", "said"),
    [
        (Idle, testing.check_part_acts, "changes nothing of a search"),
        (Draws, testing.check_part_resumes, "draws from the global random state of torch"),
        (Counts, testing.check_part_resumes, "belongs into the tensors that `begin` gives"),
        (Counts, testing.check_part_keeps_nothing, "makes another search the second time"),
        (Spends, testing.check_part_acts, "but the networks computed"),
        (Says, testing.check_part_acts, "writes 'loss of mine' into metrics.jsonl"),
        (Compares, testing.check_part_declaration, "both compares = True and compare, or neither"),
    ],
)
def test_what_is_broken_is_found(cls, check, said, tried):
    tried(cls)
    with pytest.raises(AssertionError, match=re.escape(said)):
        check("tried")


def test_a_part_that_is_taken_where_it_could_not_act_is_found(tried, monkeypatch):
    tried(Takes)
    testing.check_part_refusals("tried")
    monkeypatch.setattr("dnas.testing.parts.check", lambda *arguments: None)
    with pytest.raises(AssertionError, match="tried has no effect, but is accepted by"):
        testing.check_part_refusals("tried")


def test_an_option_that_does_nothing_is_found(tried):
    class Options(registry.get_part("beta-decay").Options):
        pass

    tried(type("Deaf", (Tried,), {"Options": Options}))
    with pytest.raises(AssertionError, match="option weight=3.0 of tried changes nothing"):
        testing.check_part_options("tried", acts={"weight": ({}, 3.0)})
    with pytest.raises(AssertionError, match="for weight of tried"):
        testing.check_part_options("tried")
