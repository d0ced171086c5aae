"""A search that reaches its limit ends with a network, whatever the method and however early the limit comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from faults.harness import TINY, invoke, make_images
from test_contract import PAIRS, table
from trial_tools import Scores

from dnas import testing
from dnas.data.splits import DataInfo, Split
from dnas.errors import Diverged, RunError
from dnas.methods.registry import create, get_method, list_methods
from dnas.network.network import build
from dnas.searching.trials import search_by_trials
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS

TRIALS = [name for name in list_methods() if get_method(name).kind == "trials"]
ONE_STEP, AT_ONCE = {"search.steps": 1}, {"search.seconds": 1e-9}


def builds(architecture: Architecture) -> None:
    """A network that can be trained: its loss has a gradient."""
    network = build(architecture, 8, testing.CLASSES)
    network(torch.zeros(2, 3, testing.SIDE, testing.SIDE)).sum().backward()
    assert any(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("name", "mapping"), PAIRS)
@pytest.mark.parametrize("limit", [ONE_STEP, AT_ONCE], ids=["steps", "seconds"])
def test_the_smallest_limit_ends_with_an_architecture(name, mapping, limit):
    found = testing.search(name, mapping, {**table(name, "SMALL"), **limit}, size=testing.REAL).found
    assert found.architecture.in_space and len(found.architecture) == testing.LAYERS
    # One step on the supernet, and at most one architecture judged; or one trial.
    assert found.cost["architectures_evaluated"] <= 1 and found.cost["step_equivalents"] > 0
    builds(found.architecture)


@pytest.mark.parametrize("mapping", ["shared", "full", "decoupled"])
@pytest.mark.parametrize("name", [n for n in list_methods() if "derivation" in get_method(n).Options.model_fields])
def test_where_no_operation_has_reached_the_threshold_yet_there_is_a_network_too(name, mapping):
    options = {"derivation": "threshold", "threshold": 0.99, **ONE_STEP}
    builds(testing.search(name, mapping, options, size=testing.REAL).found.architecture)


def by_trials(name: str, failures: int, **values: Any):
    """A search whose first trials fail."""
    method = create(name, None, {}, DARTS)
    split = Split(torch.zeros(32, 1, 8, 8, dtype=torch.uint8), torch.arange(32) % 2)
    info = DataInfo("digits", ("0", "1"), 1, 8, (0.5,), (0.3,), False)
    given = {"layers": 3, "channels": 4, "epochs": 1, "batch_size": 16, "trials": 8, **values}
    settings = method.Settings(**given).resolved(32, 0.0, 8)
    calls: list[Architecture] = []

    def evaluate(architecture: Architecture) -> float:
        calls.append(architecture)
        if len(calls) <= failures:
            raise Diverged("as planned")
        return 0.5

    session = Scores(())
    found = search_by_trials(method, settings, split, info, seed=0, session=session, evaluate=evaluate)
    return found, session.scores


@pytest.mark.parametrize("name", TRIALS)
@pytest.mark.parametrize("limit", [{"steps": 1}, {"seconds": 1e-9}], ids=["steps", "seconds"])
@pytest.mark.parametrize("failures", [0, 1, 3])
def test_a_limit_waits_for_the_first_trial_that_does_not_fail(name, limit, failures):
    found, scores = by_trials(name, failures, **limit)
    assert scores == [None] * failures + [0.5]
    # pnas completes the cells of its first, small trials.
    judged = [trial.architecture for trial in found.history if trial.score is not None and trial.architecture.in_space]
    assert found.architecture.in_space and (found.architecture in judged or not judged)


@pytest.mark.parametrize("name", TRIALS)
def test_a_limit_after_a_success_ends_at_once_whatever_fails_then(name):
    # Each of these trials costs 4/3 steps, so two are within three.
    found, scores = by_trials(name, 1, steps=3)
    assert scores[:2] == [None, 0.5] and len(scores) <= 3
    assert found.architecture.in_space


def test_where_every_trial_fails_no_limit_goes_beyond_the_number_of_trials():
    with pytest.raises(RunError, match="none of the 8 candidates could be evaluated"):
        by_trials("random", 100, steps=1)


def test_the_command_trains_what_was_found(tmp_path):
    images = make_images(tmp_path / "images")
    for method in ("dnas", "spos", "random"):
        run = tmp_path / method
        outcome = invoke("run", "--data", images, *TINY, "--method", method, "--search-seconds", "1ms", "--out", run,
                         "--no-baseline", "--json")  # fmt: skip
        assert outcome.code == 0, outcome.err
        assert (run / "model.safetensors").exists() and 0 <= outcome.json["test_accuracy"] <= 1


def test_a_ranking_judges_all_though_its_searches_are_limited(tmp_path):
    images = make_images(tmp_path / "images")
    outcome = invoke("rank", "--data", images, "--architectures", 4, "--methods", "spos", *TINY, "--search-steps", 1,
                     "--processes", 1, "--out", tmp_path / "ranking", "--quiet")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert len(json.loads((tmp_path / "ranking/supernets/spos/result.json").read_text())["scores"]) == 4
