"""Runs with limits: what they deliver keeps to them, whatever the method; what cannot be met is refused at once."""

from __future__ import annotations

import json
import signal

import pytest
from faults.harness import contents, invoke
from test_contract import table

import dnas
from dnas import testing
from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.methods.registry import get_method
from dnas.pipeline.config import Config, draft, parse
from dnas.pipeline.entrants import entrants
from dnas.reporter import Silent
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.darts import DARTS
from dnas.space.limits import Delivered, Feasible
from dnas.space.network_plan import Shape
from dnas.space.sampling import sample
from dnas.supernet.worth import load_prior

TINY = {"layers": 4, "epochs": 1, "batch_size": 32, "preset": "quick"}
IMAGES = {"search.images": 128, "search.channels": 4}
OF_METHODS = {
    "dnas": ({"search.channels": 8}, {}),
    "darts": ({}, {"mapping": "shared"}),
    "spos": ({"population": 4, "generations": 2, "parents": 2}, {}),
    "enas": ({"controller_steps": 1, "aggregates": 2, "finalists": 3}, {}),
    "random": ({"search.trials": 2, "search.processes": 1}, {}),
    "pnas": ({"search.trials": 4, "search.processes": 1, "predictor_steps": 2}, {}),
}


@pytest.mark.parametrize(
    ("method", "limits"),
    [
        ("dnas", {"max_params": "12k"}),
        ("darts", {"max_macs": "150k", "max_params": "14k"}),
        ("spos", {"max_size": "90KB"}),
        ("enas", {"max_params": "12k", "max_ram": "9KB"}),
        ("random", {"max_macs": "130k"}),
        ("pnas", {"max_params": "12k"}),
    ],
)
def test_what_a_search_finds_keeps_to_its_limits(tmp_path, method, limits):
    options, more = OF_METHODS[method]
    found = dnas.search(method=method, option={**IMAGES, **options}, out=tmp_path / "run", **TINY, **more, **limits)
    config = parse(read_toml(tmp_path / "run" / "config.toml"))
    shown = invoke("show", tmp_path / "run", "--json").json
    assert shown["channels"] == config.limits.channels and shown["layers"] == config.limits.layers
    used = {
        "max_params": shown["params"],
        "max_macs": shown["macs"],
        "max_ram": shown["memory_bytes"]["int8"],
        "max_size": shown["onnx_bytes"],
    }
    most = {"params": "max_params", "macs": "max_macs", "ram": "max_ram", "size": "max_size"}
    assert config.limits.given
    for name, limit in config.limits.given.items():
        assert used[most[name]] <= limit
    assert isinstance(found.architecture, Architecture)


def test_a_run_trains_and_is_compared_within_its_limits(tmp_path):
    options = {**IMAGES, "train.images": 128}
    result = dnas.run(
        method="darts", option=options, finals=3, prior="none", max_params="12k", out=tmp_path / "run", **TINY
    )
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["limits"]["params"] == {"limit": 12_000, "used": stored["params"]}
    assert stored["params"] <= 12_000 and stored["baseline"]["params"] <= 12_000
    assert all(each["params"] <= 12_000 for each in stored["finals"])
    config = read_toml(tmp_path / "run" / "config.toml")
    assert config["train"]["channels"] < 16  # planned
    with pytest.raises(Interrupted):
        dnas.run(config=tmp_path / "run" / "config.toml", out=tmp_path / "again", reporter=StopsIn("finals"))
    again = dnas.resume(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "run")
    assert again.test_accuracy == result.test_accuracy


def test_all_finalists_keep_to_the_limits():
    """Whoever names them, and though most of them would not."""
    prior, rng = load_prior("pictures"), numpy_stream(0, "limits")
    shape = Shape(channels=8, classes=3, image_size=16, image_channels=1, stem="cifar")
    delivered = Delivered(DARTS, 5, False, shape, ("a", "b", "c"), "int8")
    small = min((sample(DARTS, rng, 5) for _ in range(20)), key=lambda each: delivered.costs(each)["params"])
    feasible = Feasible(delivered, delivered.costs(small, ["params"]))
    given = Config(finals=8, mapping="full")
    beyond = {name for name, each in entrants(given, small, [], prior) if feasible.excess(each)}
    assert {"prior", "random", "DARTS_V2"} <= beyond
    names = [name for name, each in entrants(given, small, [], prior, feasible) if not feasible.excess(each)]
    assert names == ["found", *["prior"] * 4, *["random"] * 3]


def test_the_random_baseline_keeps_to_the_limits(tmp_path):
    """One of as many parameters may need more multiply-accumulates than what was found."""
    options = {**IMAGES, "train.images": 64, "train.channels": 8}
    given = {"method": "random", "option": {**options, **OF_METHODS["random"][0]}, "finals": 0, **TINY}
    for seed in range(20):
        free = dnas.run(out=tmp_path / f"free{seed}", seed=seed, **given).to_dict()
        if free["baseline"]["macs"] > free["macs"]:
            break
    limited = dnas.run(out=tmp_path / "limited", seed=seed, max_macs=free["macs"], **given).to_dict()
    assert limited["macs"] <= free["macs"] < free["baseline"]["macs"]
    assert limited["baseline"]["macs"] <= free["macs"]


class StopsIn(Silent):
    """Asks a run to stop at the first step of a stage whose title has a word."""

    def __init__(self, word):
        self.word, self.there = word, False

    def start(self, title, steps, done):
        self.there = self.word in title

    def step(self, step, shown):
        if self.there:
            self.there = False
            signal.raise_signal(signal.SIGTERM)


def test_the_exported_file_keeps_to_the_limits(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra dnas[export]")
    pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
    pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
    options = {**IMAGES, "train.images": 128}
    limits = {"max_params": 12_000, "max_size": 100_000}
    dnas.run(method="gdas", mapping="shared", option=options, finals=0, baseline=False, out=tmp_path / "run", **TINY, **limits)  # fmt: skip
    dnas.export(tmp_path / "run", "onnx")
    path = tmp_path / "run" / "export" / "model.onnx"
    assert path.stat().st_size <= limits["max_size"]
    weights = [each for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert 0 < sum(onnx.numpy_helper.to_array(each).size for each in weights) <= limits["max_params"]


def test_a_study_keeps_to_its_limits(tmp_path):
    options = {**IMAGES, "train.images": 128, "search.epochs": 1, "train.epochs": 1}
    dnas.compare(methods="gdas", mappings="shared", seeds=1, layers=3, option=options, max_macs="150k", out=tmp_path)
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")}
    assert {name.endswith("-random") for name in results} == {True, False}
    assert all(each["macs"] <= 150_000 for name, each in results.items() if "-shuffled" not in name)
    found, random = (
        Architecture.load(tmp_path / "runs" / name / "architecture.json") for name in sorted(results, key=len)[:2]
    )
    assert found != random and layer_pair(found)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["darts", "dnas", "spos", "pnas", "evolution"])
def test_random_limits_are_kept(name):
    """`testing.check_limits` of every method has one draw of limits under each mapping; here 40, 200 in all."""
    mappings = get_method(name).mappings
    for seed in range(1, 41):
        testing.check_limits(name, mappings[seed % len(mappings)], table(name, "SMALL"), seed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--max-params", "1k", "--space", "darts"), "--max-params 1000 cannot be met: the least that a network of 4 layers and 2 channels needs is"),
        (("--max-params", "12k", "--channels", 32), "--max-params 12000 cannot be met: the least that a network of 4 layers and 32"),
        (("--max-params", 100), "--max-params 100 cannot be met: the least that a network of 4 layers and 2 channels needs is"),
        (("--max-ram", 100), "bytes of int8 activations"),
        (("--max-size", "1.5"), "must be a number of bytes"),
        (("--ram-precision", "float32"), "--ram-precision float32 only applies to --max-ram"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused_before_anything_is_searched(tmp_path, given, said):
    outcome = invoke("run", "--layers", 4, "--out", tmp_path / "run", *given)
    assert outcome.code == 2 and said in outcome.err and len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_rankings_and_trainings_have_no_limits(tmp_path):
    outcome = invoke("rank", "--max-params", "10k", "--out", tmp_path / "rank")
    assert outcome.code == 2 and "--max-params 10k cannot be used with `dnas rank`" in outcome.err
    with pytest.raises(InputError, match="dnas train"):
        draft({"command": "train", "limits": {"params": 5}, "architecture": "DARTS_V2"})
