"""A method of a notebook or a script: known by its name once it is registered, and only then."""

from __future__ import annotations

import subprocess
import sys

import pytest
from docs_tools import python_blocks
from faults.harness import contents, make_images
from test_docs import BEST_PATH, COOLING, PAGE

import dnas
from dnas.methods.registry import METHODS

FEW = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 16}
OPTION = {"hottest": 3, "search.warmup_epochs": 0}


@pytest.fixture(autouse=True)
def forget():
    METHODS.forget()
    yield
    METHODS.forget()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("register") / "images")


def defined(number: int = COOLING, name: str = "Cooling"):
    """A class as a cell of a notebook would define it, each time another object."""
    namespace = {"__name__": "__main__"}
    exec(compile(python_blocks(PAGE)[number], "cell", "exec"), namespace)
    return namespace[name]


def test_it_searches_by_its_name_and_is_resumed_to_the_same_bits(images, tmp_path):
    cooling = defined()
    with pytest.raises(dnas.InputError, match="unknown --method 'cooling'"):
        dnas.search(data=images, method="cooling", out=tmp_path / "never", **FEW)
    assert dnas.register(cooling) is cooling
    assert "cooling" in dnas.list_methods() and dnas.get_method("cooling") is cooling
    options = {"data": images, "method": "cooling", "option": OPTION, **FEW}
    whole = dnas.search(out=tmp_path / "whole", **options)
    assert whole.method == "cooling"
    with pytest.raises(dnas.Interrupted):
        dnas.search(out=tmp_path / "run", on_epoch=lambda metrics: metrics["epoch"] == 1, **options)
    METHODS.forget()
    with pytest.raises(dnas.InputError, match=r"by the method 'cooling', which is not known here; call dnas\.register"):
        dnas.resume(tmp_path / "run")
    dnas.register(defined())
    dnas.resume(tmp_path / "run")
    names = ("metrics.jsonl", "architecture.json")
    assert contents(tmp_path / "run", names) == contents(tmp_path / "whole", names)


def test_a_cell_may_be_run_again_but_no_name_is_taken_twice():
    first, second = defined(), defined()
    assert first is not second
    dnas.register(first)
    dnas.register(second)
    assert dnas.get_method("cooling") is second
    other = type("Other", (defined(BEST_PATH, "BestPath"),), {"name": "cooling"})
    with pytest.raises(dnas.InputError, match="Other has the name 'cooling' of __main__.Cooling; give it another"):
        dnas.register(other)
    ours = type("DNAS", (second,), {"name": "dnas", "__module__": "dnas.methods.dnas", "__qualname__": "DNAS"})
    with pytest.raises(dnas.InputError, match="has the name 'dnas' of dnas.methods.dnas.DNAS"):
        dnas.register(ours)
    assert dnas.get_method("cooling") is second and dnas.get_method("dnas") is not ours


@pytest.mark.parametrize("wrong", [3, object, "cooling"])
def test_what_is_no_method_is_refused(wrong):
    with pytest.raises(dnas.InputError, match="register requires a subclass of Method or Part"):
        dnas.register(wrong)


@pytest.mark.parametrize("name", [None, "", "My Method", "../x", "Mine"])
def test_a_name_is_needed_that_can_stand_in_paths(name):
    with pytest.raises(dnas.InputError, match="give it a name of lowercase letters"):
        dnas.register(type("Mine", (defined(),), {} if name is None else {"name": name}))


def test_a_study_sends_it_to_its_processes(images, tmp_path):
    """As a script does, whose classes other processes cannot import."""
    script = (
        f"{python_blocks(PAGE)[COOLING]}\n"
        "import dnas\n"
        "dnas.register(Cooling)\n"
        f"study = dnas.compare('cooling', data={str(images)!r}, seeds=2, processes=2, threads=1, out='study',\n"
        f"    option={OPTION!r}, layers=3, channels=8, epochs=1, batch_size=16)\n"
        "assert not study.failed and not study.missing, study\n"
        "assert study.rows[0]['method'] == 'cooling'\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
