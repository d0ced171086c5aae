"""Every registered part under every mapping: it acts, resumes to the bit, says what it is, and is refused elsewhere."""

import json
import re
from pathlib import Path

import pytest
import torch
from faults.harness import invoke
from parts_tools import run_whole, search_with, taken
from tiny_gradient import run_on

from dnas import parts, plugins
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.methods.registry import create, get_method, list_methods
from dnas.parts import registry
from dnas.pipeline.config import draft
from dnas.pipeline.overrides import nested
from dnas.runtime.checkpoint import Checkpoint
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.study.ranking import RankingSettings, rank
from dnas.supernet.mapping import MAPPINGS

ROOT = Path(__file__).parents[1]
PARTS = parts.list_parts()
# Options with which a part acts within a search of a few steps, where the defaults do not.
SMALL: dict = {"oles": {"threshold": 1.0, "steps": 1}}
# What acts in the steps; a part that derives acts after them, as its own tests say.
STEPWISE = [name for name in PARTS if not parts.get_part(name).derives]
CASES = [(name, SMALL.get(name, {})) for name in STEPWISE] + [("perturbation", {"law": "adversarial"})]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_says_what_it_is(name):
    part = parts.get_part(name)
    assert part.name == name and part.title and part.paper
    assert issubclass(part.Options, parts.PartOptions)
    for field in part.Options.model_fields.values():
        assert not field.is_required() and field.description


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_part_acts_and_goes_on_to_the_same_bits(name, options, mapping):
    """Captured in the middle, through JSON, and restored elsewhere, a search ends as one that was not."""
    whole, stopped, other = (
        search_with(parts.create([name], {name: options}), mapping=mapping, epochs=4) for _ in range(3)
    )
    run_whole(whole)
    run_on(stopped, 0, 2)
    tensors, state = stopped.capture()
    tensors, state = {key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(state))
    other.step(0)  # restoring must overwrite whatever is there
    other.restore(Checkpoint(2, tensors, {"loop": state}))
    run_on(other, 2, 4)
    (expected, expected_state), (got, got_state) = whole.capture(), other.capture()
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert expected_state == got_state
    plain = run_whole(search_with((), mapping=mapping, epochs=4)).capture()[0]
    assert any(not torch.equal(plain[key], expected[key]) for key in plain)


GRADIENT = [name for name in list_methods() if get_method(name).kind == "gradient"]


@pytest.mark.parametrize("method", GRADIENT)
def test_every_method_with_gradients_takes_all_steps_of_all_parts(method):
    """Together, and with an architecture's gradient of its own way; what is sampled is sampled as before."""
    names = [name for name in PARTS if name != "projection"]
    with_parts = parts.create(names, {name: SMALL[name] for name in names if name in SMALL})
    search = run_whole(search_with(with_parts, method, epochs=2, update="first-order"))
    assert all(w.isfinite().all() for w in (*search.weights, *search.architecture))
    assert set(search.states) == set(names)


@pytest.mark.parametrize("method", [name for name in list_methods() if get_method(name).kind != "gradient"])
def test_what_does_not_follow_gradients_takes_no_part(method):
    with pytest.raises(InputError, match=f"--with beta-decay needs .* --method {method} does not"):
        draft({"method": method, "with_parts": ["beta-decay"]})


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["nonsense"], {}, "unknown --with 'nonsense'"),
        (["beta-decay", "beta-decay"], {}, "--with names beta-decay twice"),
        ([], {"beta-decay": {"weight": 1.0}}, "--option beta-decay.* has no use without --with beta-decay"),
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
    registry.registry.cache_clear()
    try:
        assert isinstance(parts.create(["ours"])[0], Ours)
        entry.name = "beta-decay"
        registry.registry.cache_clear()
        with pytest.raises(InputError, match="has the name of another"):
            registry.registry()
    finally:
        registry.registry.cache_clear()


def test_the_part_that_the_page_shows_acts():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "parts.md").read_text("utf-8"), re.S)
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


def test_parts_and_methods_are_made_in_any_order():
    """A part keeps nothing of a search: the same objects serve two."""
    with_parts = taken("beta-decay")
    one, two = (run_whole(search_with(with_parts)).capture()[0] for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert create("dnas", None, {}, DARTS).origin() == {"method": "dnas", "mapping": "decoupled"}


def test_a_part_that_derives_is_refused_before_a_ranking_begins(tmp_path):
    with pytest.raises(InputError, match=r"--with projection cannot be used with `dnas rank`"):
        rank(tmp_path / "ranking", RankingSettings(run={"with_parts": ["projection"]}))
    assert not (tmp_path / "ranking").exists()
