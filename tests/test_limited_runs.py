"""Runs with limits: what they deliver keeps to them, whatever the method; what cannot be met is refused at once."""

from __future__ import annotations

import json

import pytest
from faults.harness import invoke

import dnas
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.pipeline.config import draft, parse
from dnas.space.architecture import Architecture

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
    again = dnas.run(config=tmp_path / "run" / "config.toml", out=tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()  # fmt: skip
    assert again.test_accuracy == result.test_accuracy


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--max-params", "1k"), "--max-params 1000 cannot be met: the least that a network of 4 layers and 2 channels needs is"),
        (("--max-params", "12k", "--channels", 32), "--max-params 12000 cannot be met: the least that a network of 4 layers and 32"),
        (("--max-ram", "1KB"), "bytes of int8 activations"),
        (("--max-size", "1.5"), "must be a number of bytes"),
        (("--ram-precision", "float32"), "--ram-precision float32 has no use without --max-ram"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused_before_anything_is_searched(tmp_path, given, said):
    outcome = invoke("run", "--layers", 4, "--out", tmp_path / "run", *given)
    assert outcome.code == 2 and said in outcome.err and len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_rankings_and_trainings_have_no_limits(tmp_path):
    outcome = invoke("rank", "--max-params", "10k", "--out", tmp_path / "rank")
    assert outcome.code == 2 and "--max-params 10000 cannot be used with `dnas rank`" in outcome.err
    with pytest.raises(InputError, match="dnas train"):
        draft({"command": "train", "limits": {"params": 5}, "architecture": "DARTS_V2"})
