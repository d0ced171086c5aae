"""What two halves of the same gradients know: closed forms, noise, and searches whose answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from supernet_search_tools import SMALL, architecture_of, new_search, pictures, same, settings

from dnas.methods.protocol import GradientMethod, Progress
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.searching.search import Search
from dnas.searching.watch import epoch_metrics, signal
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.space.registry import SPACES
from dnas.study import verdict
from dnas.supernet import derive
from dnas.supernet.signal import AT_LIMIT, Halves, margin, saturation
from dnas.testing import planted

OPERATIONS = DARTS.primitives


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch_stream(seed, "noise"), dtype=torch.float64)


# --- halves ------------------------------------------------------------------------------------------------------


def test_a_half_travels_as_far_as_adam_would_along_its_gradients():
    """Of one sign and size, to the limit; against the other half, both ways; where there was none, nowhere."""
    halves = Halves([torch.zeros(3)])
    assert not halves.known
    for step in range(10):
        sign = -1.0 if step % 2 else 1.0
        halves.add(step, [torch.tensor([2.0, 5.0 * sign, 0.0])])
    assert halves.known
    ((even, odd),) = halves.travels(0.1)
    assert even.tolist() == pytest.approx([-1, -1, 0]) and odd.tolist() == pytest.approx([-1, 1, 0])
    assert [each.tolist() for each in halves.reached()] == [[True, True, False]]


def test_a_half_that_is_longer_travels_no_further():
    halves = Halves([torch.zeros(1)])
    for step in (0, 2, 4, 1):
        halves.add(step, [torch.tensor([3.0])])
    ((even, odd),) = halves.travels(0.5)
    assert even.tolist() == odd.tolist() == pytest.approx([-2.0])


def test_travels_do_not_depend_on_the_scale_of_a_gradient():
    one, two = Halves([torch.zeros(4)]), Halves([torch.zeros(4)])
    scale = torch.tensor([1e-3, 1.0, 7.0, 1e3])
    for step in range(9):
        g = noise(4, seed=step).float()
        one.add(step, [g])
        two.add(step, [g * scale])
    for a, b in zip(one.travels(0.1)[0], two.travels(0.1)[0], strict=True):
        assert torch.allclose(a, b, rtol=1e-4)


# --- margin ------------------------------------------------------------------------------------------------------


def slow_margin(one, two, operations, space):
    """As `margin`, number by number."""
    closed = derive.closed(operations, space, len(one))
    distances = []
    for k in range(len(one)):
        squares, freedom = 0.0, 0
        for first, last in space.node_edges:
            slots = [(e, o) for e in range(first, last) for o in range(len(operations)) if not closed[k, e, o]]
            differences = [float(one[k, e, o] - two[k, e, o]) for e, o in slots]
            mean = sum(differences) / len(differences)
            squares += sum((d - mean) ** 2 for d in differences)
            freedom += len(differences) - 1
        unit = math.sqrt(squares / freedom)
        for chooses, judges in ((one[k], two[k]), (two[k], one[k])):
            for first, last in space.node_edges:
                best = {}
                for e in range(first, last):
                    names = [o for o in range(len(operations)) if not closed[k, e, o]]
                    best[e] = sorted(names, key=lambda o: -float(chooses[e, o]))
                edges = sorted(best, key=lambda e: -float(chooses[e, best[e][0]]))
                for e in edges[: space.inputs_per_node]:
                    if len(best[e]) > 1:
                        distances.append(float(judges[e, best[e][0]] - judges[e, best[e][1]]) / unit)
                if len(edges) > space.inputs_per_node:
                    last_kept, next_one = edges[space.inputs_per_node - 1 : space.inputs_per_node + 1]
                    kept, other = judges[last_kept, best[last_kept][0]], judges[next_one, best[next_one][0]]
                    distances.append(float(kept - other) / unit)
    return sum(distances) / len(distances)


@pytest.mark.parametrize("name", SPACES)
def test_margin_is_what_a_slow_count_gives(name):
    space = SPACES[name]
    operations = ("none", *space.primitives) if space.none is not False else space.primitives
    common = noise(3, len(space.edges), len(operations))
    one, two = (common + 0.5 * noise(3, len(space.edges), len(operations), seed=seed) for seed in (1, 2))
    expected = slow_margin(one, two, operations, space)
    assert margin(one, two, operations, space) == pytest.approx(expected, rel=1e-9)
    # What is closed counts nowhere.
    closed = derive.closed(operations, space, 3)
    strange = one.masked_fill(closed, 100.0)
    assert margin(strange, two.masked_fill(closed, -3.0), operations, space) == pytest.approx(expected, rel=1e-9)


def test_margin_of_noise_is_zero_and_of_a_gap_it_is_the_gap_over_the_noise_of_a_distance():
    one, two = noise(300, 14, 7, seed=1), noise(300, 14, 7, seed=2)
    # 2 · 300 · 11 distances of variance 1.
    assert abs(margin(one, two, OPERATIONS, DARTS)) < 4 / math.sqrt(6600)
    gap = torch.zeros(14, 7, dtype=torch.float64)
    for first, _ in DARTS.node_edges:
        gap[first : first + 2, 0] = 12.0
    # Of a layer's noise, known from 94 numbers, the inverse is larger in the mean by 0.8 %.
    assert margin(one + gap, two + gap, OPERATIONS, DARTS) == pytest.approx(12 / math.sqrt(2), rel=0.025)
    assert margin(3 * (one + gap), 3 * (two + gap), OPERATIONS, DARTS) == pytest.approx(12 / math.sqrt(2), rel=0.025)


def test_margin_does_not_see_what_a_node_has_in_common():
    one, two = noise(3, 14, 7, seed=1), noise(3, 14, 7, seed=2)
    shift = torch.zeros(3, 14, 1, dtype=torch.float64)
    for n, (first, last) in enumerate(DARTS.node_edges):
        shift[:, first:last] = 10.0 * n - 7.0
    expected = margin(one, two, OPERATIONS, DARTS)
    assert margin(one + shift, two, OPERATIONS, DARTS) == pytest.approx(expected, rel=1e-9)


def test_halves_that_do_not_differ_have_no_margin():
    one = noise(3, 14, 7)
    assert margin(one, one.clone(), OPERATIONS, DARTS) is None


# --- saturation --------------------------------------------------------------------------------------------------


def test_saturation_is_the_share_of_what_moved_that_stands_at_its_limit():
    start = [torch.full((4,), 0.25), torch.zeros(2)]
    end = [start[0] + 2.0 * torch.tensor([AT_LIMIT, -1.0, AT_LIMIT - 1e-3, 1.0]), torch.tensor([0.1, 9.0])]
    reached = [torch.tensor([True, True, True, False]), torch.tensor([True, False])]
    assert saturation(end, start, 2.0, reached) == pytest.approx(2 / 4)
    assert saturation(end, start, 2.0, [torch.zeros(4).bool(), torch.zeros(2).bool()]) is None


def test_a_parameter_that_adam_pushes_one_way_saturates_and_one_that_turns_does_not():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([p], 0.03, (0.5, 0.999), weight_decay=1e-3)
    halves = Halves([p])
    for step in range(64):
        p.grad = torch.tensor([0.7, 1.0 if step % 2 else -1.0])
        halves.add(step, [p.grad])
        optimizer.step()
    assert saturation([p], [torch.zeros(2)], 64 * 0.03, halves.reached()) == 0.5


# --- in a search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["first-order", "second-order", "single-level"])
def test_the_halves_of_a_search_hold_the_gradients_of_the_images_alone(update):
    """Penalties are the same whatever the batch, so halves would agree on them: the zero-one loss is left out."""
    found = []
    for weight in (0.0, 10.0):
        search = new_search(options={"zero_one_weight": weight}, warmup_epochs=0, batch_size=8, update=update)
        search.step(0)
        assert search.halves.steps.tolist() == [1, 0]
        found.append([search.halves.get_buffer(f"sums_{i}")[0] for i in range(3)])
    for one, two in zip(*found, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, two, rtol=1e-4, atol=1e-6)
    if update == "first-order":
        search = new_search(warmup_epochs=0, batch_size=8)
        loss = F.cross_entropy(search.logits(search.batch(0, 1), 0, True), search.batch(0, 1).labels)
        for one, g in zip(found[0], torch.autograd.grad(loss, search.architecture), strict=True):
            assert torch.allclose(one, g, rtol=1e-4, atol=1e-6)


def test_what_is_measured_changes_nothing_of_a_search():
    whole, blind = (new_search(warmup_epochs=0, batch_size=4) for _ in range(2))
    blind.halves.add = lambda step, grads: None
    for step in range(4):
        assert whole.step(step) == blind.step(step)
        epoch_metrics(whole, step)
    assert same(architecture_of(whole), architecture_of(blind)) and same(whole.weights, blind.weights)


def test_the_signal_is_there_once_both_halves_have_begun():
    search = new_search(warmup_epochs=1, batch_size=8)  # two steps an epoch
    for step in range(2):
        search.step(step)
    assert signal(search, search.progress(1)) == {}
    search.step(2)
    assert signal(search, search.progress(2)) == {}
    search.step(3)
    found = signal(search, search.progress(3, draw=1))
    assert set(found) == {"agreement", "margin", "saturation"}
    metrics = epoch_metrics(search, 3)
    assert {key: metrics[key] for key in found} == found


def searched(images):
    """A search for a planted architecture."""
    split, info = planted.pictures(images)
    method = create("dnas", "full", {"zero_one_weight": 0.0}, DARTS)
    values = {"layers": planted.LAYERS, "channels": 8, "epochs": 1, "warmup_epochs": 0, "batch_size": 8}
    shape = GradientSettings(**values, architecture_learning_rate=0.03).resolved(images, 0.0, planted.SIDE)
    supernet = planted.PlantedSupernet(planted.plant("full", 0), method.operations)
    search = Search(method, shape, split, info, 0, "cpu", supernet)
    for step in range(shape.steps_per_epoch):
        search.step(step)
    return signal(search, search.progress(shape.steps_per_epoch - 1, draw=1))


def test_halves_agree_where_there_is_something_to_find():
    found = searched(256)
    assert found["agreement"] > 0.5 and found["margin"] > 1


def test_halves_of_a_search_on_noise_agree_by_chance():
    """Random gradients, whose mean agreement over mappings is 0; a search that does not move is no agreement, either."""
    agreements, margins = [], []
    search = new_search("dnas", "full", warmup_epochs=0)
    for trial in range(12):
        search.halves = Halves(search.architecture)
        for step in range(32):
            search.halves.add(
                step,
                [
                    (1 + i) * noise(*p.shape, seed=1000 * trial + 10 * step + i).float()
                    for i, p in enumerate(search.architecture)
                ],
            )
        found = signal(search, Progress())
        agreements.append(found["agreement"])
        margins.append(found["margin"])
    # One has a standard deviation of 0.07 for 3 layers.
    assert abs(sum(agreements) / 12) < 4 * 0.07 / math.sqrt(12)
    assert abs(sum(margins) / 12) < 4 * 0.12 / math.sqrt(12)
    search.halves = Halves(search.architecture)
    for step in range(2):
        search.halves.add(step, [torch.zeros_like(p) for p in search.architecture])
    still = signal(search, Progress())
    assert abs(still["agreement"]) < 4 * 0.07 and "saturation" not in still


def test_a_method_that_ranks_by_other_numbers_than_its_parameters_has_no_agreement():
    split, info = pictures()
    shape = settings(warmup_epochs=0, update="single-level", batch_size=16)
    search = Search(create("bayes-nas", None, {}, SMALL), shape, split, info, 0, "cpu")
    for step in range(2):
        search.step(step)
    assert set(signal(search, search.progress(1))) == {"saturation"}


def test_a_method_without_gradients_has_no_halves():
    split, info = pictures()
    method = create("spos", None, {}, SMALL)
    assert not isinstance(method, GradientMethod)
    shape = method.Settings(layers=3, channels=8, epochs=1, batch_size=16).resolved(len(split), 1.0, 8)
    search = Search(method, shape, split, info, 0, "cpu")
    search.step(0)
    assert signal(search, search.progress(0)) == {} and not any(
        name.startswith("halves") for name in search.capture()[0]
    )


# --- in words ----------------------------------------------------------------------------------------------------


def test_a_search_that_ends_as_noise_says_so():
    said = verdict.of_signal({"signal": {"agreement": -0.034, "margin": 0.1, "saturation": 0.5}})
    assert said.startswith("The search ended as noise") and "agreement of -0.03," in said
    assert verdict.of_signal({"signal": {"agreement": verdict.NOISE}}) is None
    assert verdict.of_signal({"signal": {"saturation": 1.0}}) is None and verdict.of_signal({}) is None
