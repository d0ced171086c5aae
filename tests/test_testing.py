"""The contract finds what it is there to find: for every clause a method that breaks it, and what is planted."""

import math
import random
import time
from collections import Counter
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, Field

from dnas import testing
from dnas.data import splits as data
from dnas.data.splits import DataInfo, load_test
from dnas.errors import InputError
from dnas.methods import registry
from dnas.methods.protocol import Candidate, GradientMethod, GradientOptions, MethodOptions, SupernetMethod, TrialMethod
from dnas.methods.registry import create, get_method
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import MixingWeights, expand, path, softmax
from dnas.testing import behaviour

LAYERS = testing.LAYERS


class Plain(GradientMethod):
    """What every gradient method below starts from; it keeps the contract."""

    name = "tried"
    title = "Tried"
    paper = "none"
    default_mapping = "full"

    def mapping(self, layers, seed):
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping, progress):
        return expand(softmax(mapping.terms()), None, mapping.layers)


class PlainSampling(SupernetMethod):
    """Uniform paths, of which at the end some are judged."""

    name = "tried"
    title = "Tried"
    paper = "none"
    default_mapping = "full"
    candidates = 4

    def draw(self, rng, layers):
        return self.uniform(rng, layers)

    def mixing(self, mapping, progress):
        return path(self.draw(numpy_stream(progress.seed, "path", progress.step), LAYERS), self.operations, self.space)

    def propose(self, history, layers, seed):
        count = 0 if history else self.candidates
        return [Candidate(self.draw(numpy_stream(seed, "candidate", i), layers)) for i in range(count)]


class PlainTrials(TrialMethod):
    """Uniform trials."""

    name = "tried"
    title = "Tried"
    paper = "none"

    def propose(self, history, layers, seed):
        rng = numpy_stream(seed, "candidate", len(history))
        return [Candidate(self.uniform(rng, layers))]


@pytest.fixture
def tried(monkeypatch):
    """Registers a class as the method `tried`."""

    def register(cls):
        registered = {**registry.registry(), "tried": cls}
        monkeypatch.setattr(registry, "registry", lambda: registered)

    return register


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


def broken(base, **changes):
    return type("Broken", (base,), {"name": "tried", **changes})


# --- what a method says of itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "Broken.name must be 'tried'"),
        ({"title": ""}, "Broken.title"),
        ({"kind": "sampling"}, "must stay 'gradient'"),
        ({"mappings": ("full", "tied")}, "must be some of shared, full, decoupled"),
        ({"mappings": ("shared",)}, "default_mapping must be one of"),
        ({"paper_settings": lambda self, data: {"search": {"epoch": 3}}}, "do not hold: .*epoch"),
        (
            {"paper_settings": lambda self, data: {"search": {"epochs": 5, "warmup_epochs": 5}}},
            "do not hold: search.warmup_epochs",
        ),
        ({"paper_settings": lambda self, data: {"train": {"drop_path": 2.0}}}, "do not hold: .*drop_path"),
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
    with pytest.raises(AssertionError, match="does not claim --mapping"):
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
    with pytest.raises(AssertionError, match=f"takes .*{taken}"):
        testing.check_options("tried", acts={"rate": ({}, 2.0), "groups": ({}, 2)})


def test_every_option_needs_a_line_of_its_own_unless_it_is_inherited(tried):
    class Own(GradientOptions):
        heat: float = Field(1.0, gt=0, description="of something")

    tried(broken(Plain, Options=Own))
    with pytest.raises(AssertionError, match="say for heat of tried with which value it acts"):
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
    with pytest.raises(AssertionError, match=r"option heat=2\.0 of tried changes nothing"):
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
    with pytest.raises(AssertionError, match="the same whatever the seed"):
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
    with pytest.raises(AssertionError, match=r"cost \d+\.\d+ passes .*, but the networks were asked for"):
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
    with pytest.raises(AssertionError, match="but the networks were asked for"):
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
    with pytest.raises(AssertionError, match="judged 4 architectures, but it was 2"):
        testing.check_cost("tried")


def test_the_cost_of_trials_is_that_of_their_training_and_judging(tried):
    """10 images twice forward and backward, 10 others once forward, for each of two trials with batches of 4."""
    tried(PlainTrials)
    found = testing.search("tried", size={**testing.REAL, "batch_size": 4}).found
    assert found.cost["step_equivalents"] == pytest.approx(2 * (2 * 10 + 10 / 3) / 4)
    assert found.cost["architectures_evaluated"] == 2


# --- schedules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("mixing", "mixing weights, derived architecture, scores"),
        ("penalty", "penalty"),
        ("skip_dropout", "skip dropout"),
        ("scores", "derived architecture, scores"),
    ],
)
@pytest.mark.parametrize("reached", [True, False])
def test_schedules_that_do_not_reach_their_end_are_found(method, what, reached, tried):
    def passed(progress):
        return progress.share if reached else progress.epoch / progress.epochs

    def mixing(self, mapping, progress):
        return expand(softmax([(1 + passed(progress)) * t for t in mapping.terms()]), None, mapping.layers)

    changed = {
        "mixing": mixing,
        "penalty": lambda self, mapping, progress: passed(progress) * mapping.alpha.sum(),
        "skip_dropout": lambda self, progress: 0.5 * passed(progress),
        "scores": lambda self, mapping, progress: mixing(self, mapping, progress).psi,
    }
    tried(broken(Plain, **{method: changed[method]}))
    if reached:
        testing.check_schedules("tried")
    else:
        with pytest.raises(AssertionError, match=f"with other {what} than 1 epoch"):
            testing.check_schedules("tried")


def test_a_schedule_that_forgets_the_warm_up_is_found(tried):
    def skip_dropout(self, progress):
        return 0.5 * progress.epoch / max(1, progress.epochs - progress.warmup_epochs)

    tried(broken(Plain, skip_dropout=skip_dropout))
    with pytest.raises(AssertionError, match="skip dropout"):
        testing.check_schedules("tried")


# --- exports --------------------------------------------------------------------------------------------------


def other(architecture, layers=None, reductions=None, space=None):
    return Architecture(
        architecture.layers if layers is None else layers,
        architecture.reductions if reductions is None else reductions,
        architecture.space if space is None else space,
    )


def with_none(architecture):
    cell = architecture.layers[0]
    nodes = ((("none", 0), cell.nodes[0][1]), *cell.nodes[1:])
    return other(architecture, (type(cell)(nodes), *architecture.layers[1:]), space="free")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: other(a, a.layers[:2], (0, 1)), "has 2 layers"),
        (lambda a: other(a, reductions=(0, 1)), r"reduces at \(0, 1\), not at \(1, 2\)"),
        (with_none, "lies outside the space: layer 0, .*none"),
        (lambda a: other(a, space="free"), "says space 'free'"),
    ],
)
def test_exports_that_are_none_are_found(change, said, tried):
    tried(broken(Plain, derive=lambda self, mapping, progress: change(Plain.derive(self, mapping, progress))))
    with pytest.raises(AssertionError, match=said):
        testing.check_exports("tried")
    with pytest.raises(AssertionError, match=said):
        testing.check_searches("tried")


def test_layers_that_differ_under_a_shared_cell_are_found(tried):
    def propose(self, history, layers, seed):
        return [Candidate(sampling.sample(self.space, numpy_stream(seed, "candidate", len(history)), layers))]

    tried(broken(PlainTrials, propose=propose))
    testing.check_exports("tried", "full")
    with pytest.raises(AssertionError, match="differ, under --mapping shared"):
        testing.check_exports("tried", "shared")


def test_an_export_that_only_far_parameters_break_is_found(tried):
    """As a threshold would, on nodes whose operations are all weak."""

    def derive(self, mapping, progress):
        architecture = Plain.derive(self, mapping, progress)
        return with_none(architecture) if mapping.alpha.max() > 50 else architecture

    tried(broken(Plain, derive=derive))
    with pytest.raises(AssertionError, match=r"with parameters of size 30\.0, what tried derives lies outside"):
        testing.check_exports("tried")


def test_shares_are_shares(tried):
    def propose(self, history, layers, seed):
        return [Candidate(c.architecture, 1.5) for c in PlainSampling.propose(self, history, layers, seed)]

    tried(broken(PlainSampling, propose=propose))
    with pytest.raises(AssertionError, match=r"on a share of 1\.5"):
        testing.check_exports("tried")


# --- test images, failures, the pipeline -------------------------------------------------------------------------


def test_a_look_at_test_images_is_found_by_whatever_name(tried):
    info = DataInfo("digits", tuple("0123456789"), 1, 8, (0.5,), (0.5,), False)
    for look in (data.load_test, load_test):
        tried(broken(Plain, after_epoch=lambda self, search, progress, look=look: look("digits", info) and None))
        with pytest.raises(AssertionError, match="must not read test images"):
            testing.check_reads_no_test_images("tried")
    assert len(load_test("digits", info)) > 0


def test_test_images_that_are_read_past_the_data_module_are_found(tried):
    def after_epoch(self, search, progress):
        from dnas.data.pictures import decode
        from dnas.data.sources.registry import list_pictures, locate
        from dnas.data.sources.tree import open_tree

        with open_tree(locate(search.info.source, None).path) as tree:
            decode(tree, list_pictures(tree, "folder", "test", search.info.classes).names, 1, 8)

    tried(broken(Plain, after_epoch=after_epoch))
    with pytest.raises(InputError, match="20 unreadable images .*test/0/0.png"):
        testing.check_pipeline("tried")


def test_a_state_that_only_the_pipeline_would_lose_is_found(tried):
    def mixing(self, mapping, progress):
        self.calls = getattr(self, "calls", 0) + 1
        return expand(softmax([term * self.calls for term in mapping.terms()]), None, mapping.layers)

    tried(broken(Plain, mixing=mixing))
    with pytest.raises(AssertionError, match="interrupted and resumed, tried leaves another .*metrics.jsonl"):
        testing.check_pipeline("tried")


def test_trials_that_fail_are_survived(tried):
    tried(PlainTrials)
    testing.check_survives_failures("tried")

    def choose(self, history):
        return max(history, key=lambda trial: trial.score or 0.0).architecture

    tried(broken(PlainTrials, choose=choose))
    with pytest.raises(AssertionError, match="although no trial has a score"):
        testing.check_survives_failures("tried")

    def propose(self, history, layers, seed):
        assert all(trial.score >= 0 for trial in history)
        return PlainTrials.propose(self, history, layers, seed)

    tried(broken(PlainTrials, propose=propose))
    with pytest.raises(TypeError):
        testing.check_survives_failures("tried")


# --- what is planted ------------------------------------------------------------------------------------------


def ignoring(self, mapping, progress):
    """A gradient that is always 0."""
    return expand(softmax([term.detach() + 0 * term for term in mapping.terms()]), None, mapping.layers)


def uphill(self, mapping, progress):
    """The right mixing weights, with the wrong sign of their gradient."""
    return expand(softmax([2 * term.detach() - term for term in mapping.terms()]), None, mapping.layers)


def anything(self, mapping, progress):
    rng = numpy_stream(progress.seed, "anything")
    return self.uniform(rng, mapping.layers)


def weakest_edges(self, mapping, progress):
    """The right operations, and the wrong way round what edges are kept."""
    psi = Plain.mixing(self, mapping, progress).psi
    return psi / psi.amax(-1, keepdim=True) ** 2


def the_worst(self, mapping, progress):
    return 1 - Plain.mixing(self, mapping, progress).psi


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(
    "changes",
    [
        {"mixing": ignoring},
        {"derive": anything},
        {"mixing": ignoring, "derive": anything},
        {"mixing": uphill},
        {"scores": the_worst},
        {"scores": weakest_edges},
    ],
    ids=["no gradient", "random result", "both", "wrong sign", "wrong ranking", "wrong edges"],
)
def test_gradient_methods_that_do_not_follow_their_feedback_find_nothing(changes, mapping, tried):
    tried(broken(Plain, **changes))
    with pytest.raises(AssertionError, match="tried finds .* chance alone finds (9|64) %"):
        testing.check_finds_planted("tried", mapping)


@pytest.mark.parametrize("mapping", ["shared", "full"])
@pytest.mark.parametrize("base", [PlainSampling, PlainTrials])
def test_methods_that_choose_whatever_the_scores_find_nothing(base, mapping, tried):
    def last(self, history):
        return history[-1].architecture

    def worst(self, history):
        return min(history, key=lambda trial: trial.score).architecture

    for choose in (last, worst):
        tried(broken(base, candidates=32, choose=choose))
        with pytest.raises(AssertionError, match="tried finds"):
            testing.check_finds_planted("tried", mapping)


@pytest.mark.parametrize("inputs_only", [False, True])
@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_what_chance_finds_is_what_was_calculated(mapping, inputs_only):
    """Mean and standard deviation against 1000 pairs, within 4 standard errors; the architecture may be any."""
    mean, deviation = testing.agreement_by_chance(mapping, inputs_only=inputs_only)
    rng = numpy_stream(0, "architectures")
    fixed = sampling.sample(DARTS, rng, LAYERS, shared=True)
    for other in (lambda: fixed, lambda: sampling.sample(DARTS, rng, LAYERS, shared=mapping == "shared")):
        shares = np.array(
            [testing.agreement(other(), testing.plant(mapping, seed), inputs_only=inputs_only) for seed in range(1000)]
        )
        assert abs(shares.mean() - mean) < 4 * deviation / math.sqrt(1000)
        assert abs(shares.std() - deviation) < 6 * deviation / math.sqrt(2 * 1000)


def logits_of(planted, mixing, count=64, operations=DARTS.primitives):
    split, info = testing.pictures(count)
    supernet = testing.PlantedSupernet(planted, operations)
    return supernet(data_normalised(split, info), mixing), split.labels, supernet


def data_normalised(split, info):
    from dnas.data.augment import normalise

    return normalise(split.images, info)


def mixed(psi, active=None):
    ones = torch.ones(psi.shape[:2])
    return MixingWeights(psi, ones, ones, active)


def test_pictures_tell_label_and_difficulty():
    split, info = testing.pictures(64)
    images = data_normalised(split, info)
    assert Counter(split.labels.tolist()) == dict.fromkeys(range(4), 16)
    assert (images[:, 0, 0, 0] * 3).round().tolist() == split.labels.tolist()
    for label in range(4):
        difficulty = images[split.labels == label, 0, -1, 0]
        torch.testing.assert_close(difficulty, (torch.arange(16) + 0.5) / 16, rtol=0, atol=1 / 255)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_a_planted_supernet_gets_as_many_pictures_right_as_an_architecture_agrees(seed):
    rng = numpy_stream(seed, "test")
    planted = sampling.sample(DARTS, rng, LAYERS)
    layers = tuple(
        one if keep else two
        for one, two, keep in zip(
            planted.layers, sampling.sample(DARTS, rng, LAYERS).layers, rng.random(LAYERS) < 0.5, strict=True
        )
    )
    architecture = Architecture(layers, planted.reductions)
    logits, labels, _ = logits_of(planted, path(architecture, DARTS.primitives, DARTS), count=400)
    # A logit of exactly 0 is the argmax only of label 0; at 400 pictures no difficulty is that of an agreement.
    right = (logits.argmax(1) == labels) & (logits.max(1).values > 0)
    assert right.double().mean().item() == pytest.approx(testing.agreement(architecture, planted), abs=0.011)
    assert testing.agreement(planted, planted) == 1


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_the_loss_falls_with_planted_weights_and_does_not_see_their_scale(seed):
    generator = torch_stream(seed, "psi")
    planted = testing.plant("full", seed)
    psi = torch.rand(LAYERS, 14, 7, generator=generator, dtype=torch.float32).requires_grad_()
    logits, labels, supernet = logits_of(planted, mixed(psi))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    (grad,) = torch.autograd.grad(loss, psi, retain_graph=True)
    on = supernet.planted.bool()
    assert (grad[on] < 0).all() and (grad[~on] > 0).all()
    scaled = psi * torch.rand(LAYERS, 1, 1, generator=generator).add(0.1) * 100
    torch.testing.assert_close(logits_of(planted, mixed(scaled))[0], logits, rtol=1e-4, atol=1e-4)
    # Over equally many pictures of each class the bias' gradient is 0 by symmetry; over one picture it is not.
    one = torch.nn.functional.cross_entropy(logits[:1], labels[:1])
    (bias,) = torch.autograd.grad(one, [supernet.bias])
    assert bias.abs().max() > 0


def test_operations_at_zero_have_a_gradient_and_those_that_are_not_active_none():
    planted = testing.plant("full", 1)
    psi = path(testing.plant("full", 0), DARTS.primitives, DARTS).operations.requires_grad_()
    loss = -logits_of(planted, mixed(psi))[0].sum()
    (grad,) = torch.autograd.grad(loss, psi)
    on = logits_of(planted, mixed(psi))[2].planted.bool()
    assert (grad[on & (psi == 0)] < 0).all()
    active = torch.rand(psi.shape, generator=torch_stream(0, "active")) < 0.5
    loss = -logits_of(planted, mixed(psi, active))[0].sum()
    (grad,) = torch.autograd.grad(loss, psi)
    assert (grad[~active] == 0).all() and (grad[active & on & (psi == 0)] < 0).all()


def test_none_takes_its_share_of_a_planted_node():
    operations = ("none", *DARTS.primitives)
    planted = testing.plant("full", 0)
    psi = torch.full((LAYERS, 14, 8), 1 / 8)
    logits, labels, supernet = logits_of(planted, mixed(psi), operations=operations)
    share = np.mean([2 / 8 / (n + 2) for n in range(4)])
    difficulty = data_normalised(*testing.pictures(64))[:, 0, -1, 0]
    got = logits.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(got, supernet.GAIN * (share - difficulty), rtol=1e-5, atol=1e-5)


def test_checks_are_public_and_say_what_they_check():
    checks = [*testing.CHECKS_OF_A_METHOD, *testing.CHECKS_OF_A_SEARCH, *testing.CHECKS_OF_A_MAPPING]
    checks += [testing.check_options, testing.check_option_acts, testing.check_method]
    assert {check.__name__ for check in checks} == {name for name in vars(testing) if name.startswith("check_")}
    assert all(check.__doc__ for check in checks)
    assert isinstance(create("random", None, {}, DARTS).options, MethodOptions) and get_method("random")
