"""Every registered part keeps the contract of `dnas.testing`, under every mapping; parts in run folders and on the page.

What belongs to a part lies in `tests/test_part_NAME.py`, as for methods (`tests/test_contract.py`):

- `ACTS`: for every option (options around it, a value with which a search is another one);
- `SMALL`: options with which it acts within a few steps, where the defaults do not.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from faults.harness import invoke
from parts_tools import run_whole, search_with
from test_contract import identifier
from test_contract import table as table_of

from dnas import parts, plugins, testing
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.methods.registry import get_method, list_methods
from dnas.parts import registry
from dnas.pipeline.overrides import nested
from dnas.space.architecture import Architecture
from dnas.study.ranking import RankingSettings, rank
from dnas.supernet.mapping import MAPPINGS

ROOT = Path(__file__).parents[1]
PARTS = parts.list_parts()
PAIRS = [(name, mapping) for name in PARTS for mapping in MAPPINGS]


def table(name, which):
    return table_of(name, which, kind="part")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("check", testing.CHECKS_OF_A_PART, ids=identifier)
def test_part(check, name):
    check(name, table(name, "SMALL"))


@pytest.mark.parametrize("name", PARTS)
def test_options(name):
    testing.check_part_options(name, table(name, "SMALL"), table(name, "ACTS"))


@pytest.mark.parametrize(("name", "mapping"), PAIRS)
@pytest.mark.parametrize("check", testing.CHECKS_OF_A_PART_UNDER_A_MAPPING, ids=identifier)
def test_mapping(check, name, mapping):
    check(name, mapping, table(name, "SMALL"))


@pytest.mark.parametrize("method", [name for name in list_methods() if get_method(name).kind == "gradient"])
def test_every_method_with_gradients_takes_all_steps_of_all_parts(method):
    """Together; what is sampled is sampled as before."""
    names = [name for name in PARTS if not parts.get_part(name).derives]
    options = {name: {k: v for k, v in table(name, "SMALL").items() if "." not in k} for name in names}
    search = run_whole(search_with(parts.create(names, options), method, epochs=3, update="first-order"))
    assert all(w.isfinite().all() for w in (*search.weights, *search.architecture))
    assert set(search.states) == set(names)


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["nonsense"], {}, "unknown --with 'nonsense'"),
        (["beta-decay", "beta-decay"], {}, "--with contains 'beta-decay' twice"),
        ([], {"beta-decay": {"weight": 1.0}}, "--option beta-decay.* only applies to --with beta-decay"),
        (["beta-decay"], {"beta-decay": {"wait": 1}}, "--option beta-decay.wait .* did you mean 'beta-decay.weight'"),
        (["beta-decay"], {"beta-decay": {"weight": -1.0}}, "--option beta-decay.weight must be above 0, got -1"),
        ([], {"nonsense": {}}, "unknown --with 'nonsense'"),
    ],
)
def test_mistakes_are_named(names, options, said):
    with pytest.raises(InputError, match=said):
        parts.create(names, options)


def test_a_part_in_a_run_folder(tmp_path):
    """The option acts, and the folder says that it was there; its config.toml repeats it."""
    out = tmp_path / "run"
    small = ("--layers", 3, "--channels", 8, "--epochs", 2, "-o", "search.images=32", "-o", "search.warmup_epochs=0")
    outcome = invoke("search", "--with", "beta-decay", "-o", "beta-decay.weight=3", *small, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["with_parts"] == ["beta-decay"]
    config = read_toml(out / "config.toml")
    assert config["with_parts"] == ["beta-decay"] and config["with_options"] == {"beta-decay": {"weight": 3}}
    assert Architecture.load(out / "architecture.json").origin["with"] == ["beta-decay"]
    assert "beta-decay" in (out / "architecture.svg").read_text("utf-8")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert "beta-decay.maximum" in lines[-1]
    from dnas.pages.run_page import read_run

    assert read_run(out).name == "dnas (decoupled) with beta-decay"


def test_other_parts_than_a_file_names_leave_its_options_behind(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('with_parts = ["oles"]\n[with_options.oles]\nsteps = 3\n[with_options.beta-decay]\nweight = 2.0\n')
    found = nested("search", {"config": str(file), "with_parts": "beta-decay", "option": ["beta-decay.weight=4"]})
    assert found["with_parts"] == ["beta-decay"] and found["with_options"] == {"beta-decay": {"weight": 4}}
    assert nested("search", {"config": str(file)})["with_options"]["oles"] == {"steps": 3}
    assert not {"with_parts", "with_options"} & nested("train", {"config": str(file)}).keys()


def test_another_package_gives_a_part(monkeypatch):
    """By an entry point; one with a name that is taken is refused."""

    class Ours(parts.Part):
        name, title, paper = "ours", "Ours", "ours"

    entry = type("Entry", (), {"name": "ours", "value": "ours:Ours", "load": lambda self: Ours})()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "dnas.parts" else [])
    registry.PARTS.forget()
    try:
        assert isinstance(parts.create(["ours"])[0], Ours)
        entry.name = "beta-decay"
        registry.PARTS.forget()
        with pytest.raises(InputError, match="has the same name as one of"):
            parts.list_parts()
    finally:
        registry.PARTS.forget()


def test_the_part_that_the_page_shows_acts():
    block, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "parts.md").read_text("utf-8"), re.S)
    namespace: dict = {}
    exec(compile(block, "parts.md", "exec"), namespace)
    part = namespace["Decided"](namespace["DecidedOptions"](weight=10.0))
    plain, decided = (run_whole(search_with(with_parts, epochs=3)) for with_parts in ((), (part,)))
    assert not torch.equal(plain.mapping.alpha, decided.mapping.alpha)


@pytest.mark.parametrize("name", PARTS)
def test_the_page_has_every_part_option_and_hook(name):
    page = (ROOT / "docs" / "parts.md").read_text("utf-8")
    (section,) = re.findall(rf"(?ms)^## {name}\n(.*?)(?=^## |\Z)", page)
    assert f"[{name}](#{name})" in page
    for option, field in parts.get_part(name).Options.model_fields.items():
        (default,) = re.findall(rf"(?m)^\| `{option}` \| (.*?) \|", section)
        said = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        assert default.strip("`") == said
    hooks = [hook for hook in vars(parts.Part) if not hook.startswith("_")]
    assert [hook for hook in hooks if f"`{hook}`" not in page and hook != "Options"] == []


def test_a_part_that_derives_is_refused_before_a_ranking_begins(tmp_path):
    with pytest.raises(InputError, match=r"--with projection cannot be used with `dnas rank`"):
        rank(tmp_path / "ranking", RankingSettings(run={"with_parts": ["projection"]}))
    assert not (tmp_path / "ranking").exists()
