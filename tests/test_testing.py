"""The contract finds what it is there to find: for every clause a method that breaks it, and what is planted."""

import math
import random
import time
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, Field
from testing_tools import (
    LAYERS,
    Plain,
    PlainSampling,
    PlainTrials,
    broken,
    tried,  # noqa: F401
)

from dnas import testing
from dnas.methods.protocol import Candidate, GradientOptions
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.supernet.relaxation import expand, softmax
from dnas.testing import behaviour


@pytest.mark.parametrize("cls", [Plain, PlainSampling, PlainTrials])
def test_a_method_that_keeps_the_contract_passes(cls, tried):
    class Patient(cls):
        candidates = 100

    # Few candidates keep the check of resuming short; many find what is planted.
    tried(cls)
    for check in (*testing.CHECKS_OF_A_METHOD,):
        check("tried")
    for check in testing.CHECKS_OF_A_SEARCH:
        check("tried")
    testing.check_options("tried")
    for check in testing.CHECKS_OF_A_MAPPING[:-1]:
        check("tried")
    tried(Patient)
    for mapping in cls.mappings:
        testing.check_finds_planted("tried", mapping)


# --- what a method says of itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "Broken.name must be 'tried'"),
        ({"title": ""}, "Broken.title"),
        ({"kind": "sampling"}, "must stay 'gradient'"),
        ({"mappings": ("full", "tied")}, "must be some of shared, full, decoupled"),
        ({"mappings": ("shared",)}, "default_mapping must be one of"),
        ({"paper_settings": lambda self, data: {"search": {"epoch": 3}}}, "are invalid: .*epoch"),
        (
            {"paper_settings": lambda self, data: {"search": {"epochs": 5, "warmup_epochs": 5}}},
            "are invalid: search.warmup_epochs",
        ),
        ({"paper_settings": lambda self, data: {"train": {"drop_path": 2.0}}}, "are invalid: .*drop_path"),
    ],
)
def test_wrong_declarations_are_found(changes, said, tried):
    tried(broken(Plain, **changes))
    with pytest.raises(AssertionError, match=f"(?s){said}"):
        testing.check_declaration("tried")


def test_options_need_defaults_and_descriptions(tried):
    class Required(GradientOptions):
        rate: float = Field(description="of something")

    class Undescribed(GradientOptions):
        rate: float = 1.0

    for options, said in ((Required, "rate of tried needs a default"), (Undescribed, "rate of tried needs a desc")):
        tried(broken(Plain, Options=options))
        with pytest.raises(AssertionError, match=said):
            testing.check_declaration("tried")


def test_a_method_that_takes_a_mapping_it_does_not_claim_is_found(tried):
    def careless(self, options, mapping, space):
        self.options, self.mapping_name, self.space, self.operations = options, mapping, space, space.primitives

    tried(broken(Plain, mappings=("full",), __init__=careless))
    with pytest.raises(AssertionError, match="does not declare --mapping"):
        testing.check_mappings("tried")


# --- options --------------------------------------------------------------------------------------------------


class Loose(GradientOptions):
    model_config = ConfigDict(extra="allow")


class Lenient(GradientOptions):
    model_config = ConfigDict(strict=False)
    rate: float = Field(1.0, description="of something")


class Endless(GradientOptions):
    model_config = ConfigDict(allow_inf_nan=True)
    rate: float = Field(1.0, description="of something")


class Alike(GradientOptions):
    groups: Literal[1, 2] = Field(1, description="which `true` is, to pydantic")


@pytest.mark.parametrize(
    ("options", "taken"),
    [(Loose, "no_such_option=1"), (Lenient, "=True"), (Endless, "=inf"), (Alike, "groups=True")],
)
def test_options_that_take_anything_are_found(options, taken, tried):
    tried(broken(Plain, Options=options))
    with pytest.raises(AssertionError, match=f"accepts .*{taken}"):
        testing.check_options("tried", acts={"rate": ({}, 2.0), "groups": ({}, 2)})


def test_every_option_needs_a_line_of_its_own_unless_it_is_inherited(tried):
    class Own(GradientOptions):
        heat: float = Field(1.0, gt=0, description="of something")

    tried(broken(Plain, Options=Own))
    with pytest.raises(AssertionError, match="give a value that takes effect for heat of tried"):
        testing.check_options("tried")
    with pytest.raises(AssertionError, match="has no option cold"):
        testing.check_options("tried", acts={"heat": ({}, 2.0), "cold": ({}, 2.0)})
    with pytest.raises(AssertionError, match=r"another value of heat than 1\.0"):
        testing.check_options("tried", acts={"heat": ({}, 1.0)})


def test_an_option_that_does_nothing_is_found_and_one_that_acts_is_not(tried):
    class Own(GradientOptions):
        heat: float = Field(1.0, gt=0, description="of the softmax")

    def mixing(self, mapping, progress):
        return expand(softmax([term / self.options.heat for term in mapping.terms()]), None, mapping.layers)

    tried(broken(Plain, Options=Own))
    with pytest.raises(AssertionError, match=r"option heat=2\.0 of tried does not affect"):
        testing.check_option_acts("tried", "heat", 2.0)
    tried(broken(Plain, Options=Own, mixing=mixing))
    testing.check_options("tried", acts={"heat": ({}, 2.0)})


def test_an_option_that_only_the_real_supernet_can_show_acts(tried):
    tried(Plain)
    planted = testing.plant("full", 0)
    one, two = (testing.search("tried", None, {"partial_channels": k}, planted=planted) for k in (1, 2))
    assert not one.differences(two)
    testing.check_option_acts("tried", "partial_channels", 2)


# --- determinism, checkpoints, cost -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "library"),
    [
        (lambda shape: torch.rand(shape), "torch"),
        (lambda shape: torch.full(shape, np.random.random()), "numpy"),
        (lambda shape: torch.full(shape, random.random()), "random"),
    ],
)
def test_draws_from_a_global_random_state_are_found(noise, library, tried):
    def mixing(self, mapping, progress):
        operations = softmax(mapping.terms())
        return expand(operations * (1 + noise(operations.shape)), None, mapping.layers)

    tried(broken(Plain, mixing=mixing))
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[2])
    with pytest.raises(AssertionError, match=f"global random state of {library};"):
        testing.check_deterministic("tried")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[2])


def test_a_search_that_differs_from_itself_or_not_from_others_is_found(tried):
    def timed(self, mapping, progress):
        scale = 1 + 1e-6 * (time.perf_counter_ns() % 997)
        return expand(softmax([scale * term for term in mapping.terms()]), None, mapping.layers)

    tried(broken(Plain, mixing=timed))
    with pytest.raises(AssertionError, match="two searches of tried with one seed differ: .*parameters"):
        testing.check_deterministic("tried")

    def propose(self, history, layers, seed):
        return PlainTrials.propose(self, history, layers, 0)

    tried(broken(PlainTrials, propose=propose))
    with pytest.raises(AssertionError, match="the same for all seeds"):
        testing.check_deterministic("tried")


def test_what_a_method_keeps_in_itself_is_missed_after_a_resume(tried):
    def mixing(self, mapping, progress):
        self.calls = getattr(self, "calls", 0) + 1
        return expand(softmax([term * self.calls for term in mapping.terms()]), None, mapping.layers)

    tried(broken(Plain, mixing=mixing))
    testing.check_deterministic("tried")
    with pytest.raises(AssertionError, match="resumed from its checkpoint of step 1, tried"):
        testing.check_resumes("tried")


def test_only_the_memory_of_the_last_epoch_is_missed(tried):
    """A state that only some checkpoints would lose."""

    def after_epoch(self, search, progress):
        if progress.epoch == 1:
            self.seen = 0.5

    def mixing(self, mapping, progress):
        heat = getattr(self, "seen", 1.0)
        return expand(softmax([term * heat for term in mapping.terms()]), None, mapping.layers)

    tried(broken(Plain, after_epoch=after_epoch, mixing=mixing))
    with pytest.raises(AssertionError, match="resumed from its checkpoint of step 4, tried"):
        testing.check_resumes("tried")

    def remembering(self, search, progress):
        search.memory["seen"] = search.memory.get("seen", 0) + 1

    tried(broken(Plain, after_epoch=remembering))
    testing.check_resumes("tried")


@pytest.mark.parametrize("memory", [{"pair": (1, 2)}, {"table": {1: 2}}, {"nan": math.nan}, {"tensor": torch.ones(1)}])
def test_a_memory_that_is_no_json_is_found(memory, tried):
    tried(broken(Plain, after_epoch=lambda self, search, progress: search.memory.update(memory)))
    with pytest.raises(AssertionError, match=r"search\.memory must be"):
        testing.check_resumes("tried")


def test_proposals_that_are_no_function_of_the_history_are_found(tried):
    def propose(self, history, layers, seed):
        self.first = getattr(self, "first", time.perf_counter_ns())
        return [Candidate(sampling.sample(self.space, numpy_stream(self.first, "candidate", len(history)), layers))]

    tried(broken(PlainTrials, propose=propose, default_mapping="full"))
    with pytest.raises(AssertionError, match="resumed from its checkpoint of step 1"):
        testing.check_resumes("tried")


@pytest.mark.parametrize("base", [PlainSampling, PlainTrials])
def test_resuming_covers_every_step_trial_and_candidate(base, tried, monkeypatch):
    tried(base)
    starts = []
    searched = behaviour.search

    def counted(*arguments, start=None, **options):
        if start is not None:
            starts.append((start.state["stage"], start.state["step"]))
        return searched(*arguments, start=start, **options)

    monkeypatch.setattr(behaviour, "search", counted)
    testing.check_resumes("tried")
    if base is PlainSampling:
        # 3 epochs of 2 steps, then 4 candidates.
        assert starts == [("search", step) for step in range(1, 6 + 4 + 1)]
    else:
        assert starts == [("search", trial) for trial in range(1, 13)]


def test_passes_that_are_not_counted_are_found(tried):
    def peeking(self, search, progress):
        images = search.pool.images[:4] / 255
        with torch.no_grad():
            search.supernet(images, self.mixing(search.mapping, progress))

    def paying(self, search, progress):
        peeking(self, search, progress)
        search.cost["step_equivalents"] += 4 / search.settings.batch_size / 3

    tried(broken(Plain, after_epoch=peeking))
    with pytest.raises(
        AssertionError, match=r"cost of \d+\.\d+ forward and backward passes, but the networks computed"
    ):
        testing.check_cost("tried")
    tried(broken(Plain, after_epoch=paying))
    testing.check_cost("tried")


def test_backward_passes_that_are_not_counted_are_found(tried):
    def after_epoch(self, search, progress):
        batch = search.batch(progress.step, 1)
        logits = search.logits(batch, progress.step, relaxed=True)
        for _ in range(2):
            torch.autograd.grad(logits.sum(), search.architecture, retain_graph=True)

    tried(broken(Plain, after_epoch=after_epoch))
    with pytest.raises(AssertionError, match="but the networks computed"):
        testing.check_cost("tried")


def test_architectures_that_are_counted_twice_are_found(tried):
    def after_epoch(self, search, progress):
        search.accuracy(sampling.sample(self.space, numpy_stream(0, "any"), LAYERS))

    def twice(self, search, progress):
        after_epoch(self, search, progress)
        search.cost["architectures_evaluated"] += 1

    tried(broken(Plain, after_epoch=after_epoch))
    testing.check_cost("tried")
    tried(broken(Plain, after_epoch=twice))
    with pytest.raises(AssertionError, match="reports 4 evaluated architectures, but there were 2"):
        testing.check_cost("tried")


def test_the_cost_of_trials_is_that_of_their_training_and_judging(tried):
    """10 images twice forward and backward, 10 others once forward, for each of two trials with batches of 4."""
    tried(PlainTrials)
    found = testing.search("tried", size={**testing.REAL, "batch_size": 4}).found
    assert found.cost["step_equivalents"] == pytest.approx(2 * (2 * 10 + 10 / 3) / 4)
    assert found.cost["architectures_evaluated"] == 2
