import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from testing_tools import (
    LAYERS,
    Plain,
    PlainSampling,
    PlainTrials,
    broken,
    tried,  # noqa: F401
)

from dnas import testing
from dnas.data import splits as data
from dnas.data.splits import DataInfo, load_test
from dnas.errors import InputError
from dnas.methods.protocol import Candidate, MethodOptions
from dnas.methods.registry import create, get_method
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import MixingWeights, expand, path, softmax

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


def altered(architecture, layers=None, reductions=None, space=None):
    """The architecture with other layers, reductions or space, right or wrong."""
    return Architecture(
        architecture.layers if layers is None else layers,
        architecture.reductions if reductions is None else reductions,
        architecture.space if space is None else space,
    )


def with_none(architecture):
    cell = architecture.layers[0]
    nodes = ((("none", 0), cell.nodes[0][1]), *cell.nodes[1:])
    return altered(architecture, (type(cell)(nodes), *architecture.layers[1:]), space="free")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: altered(a, a.layers[:2], (0, 1)), "has 2 layers"),
        (lambda a: altered(a, reductions=(0, 1)), r"reduces at \(0, 1\), not at \(1, 2\)"),
        (with_none, "lies outside the space: layer 0, .*none"),
        (lambda a: altered(a, space="free"), "says space 'free'"),
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
        from dnas.data.sources.folder import list_folder
        from dnas.data.sources.registry import locate
        from dnas.data.sources.tree import Folder

        tree = Folder(locate(search.info.source, None).path)
        decode(tree, list_folder(tree, "test", search.info.classes).names, 1, 8)

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
    for drawn in (lambda: fixed, lambda: sampling.sample(DARTS, rng, LAYERS, shared=mapping == "shared")):
        shares = np.array(
            [testing.agreement(drawn(), testing.plant(mapping, seed), inputs_only=inputs_only) for seed in range(1000)]
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
    checks += [*testing.CHECKS_OF_A_PART, *testing.CHECKS_OF_A_PART_UNDER_A_MAPPING]
    checks += [testing.check_options, testing.check_option_acts, testing.check_method]
    checks += [testing.check_part, testing.check_part_acts, testing.check_part_options, testing.check_source]
    checks += [testing.check_primitive, testing.check_relaxation, testing.check_space]
    assert {check.__name__ for check in checks} == {name for name in vars(testing) if name.startswith("check_")}
    assert all(check.__doc__ for check in checks)
    assert isinstance(create("random", None, {}, DARTS).options, MethodOptions) and get_method("random")
