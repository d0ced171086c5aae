"""The search loop on 32 random pictures: what moves when, and that a run is a function of its seed to the bit."""

import math

import pytest
import torch
from supernet_search_tools import (
    COUNT,
    Watched,
    architecture_of,
    bits,
    new_search,
    pictures,
    same,
    settings,
)
from test_contract import table

from dnas import testing
from dnas.data.augment import normalise
from dnas.errors import InputError
from dnas.methods.protocol import Candidate, Progress
from dnas.methods.registry import create, get_method, list_methods
from dnas.network.network import Network
from dnas.pipeline import config
from dnas.rng import numpy_stream
from dnas.runtime import checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_architecture
from dnas.searching.search import Search
from dnas.searching.trials import short_training
from dnas.searching.watch import epoch_metrics
from dnas.settings import TrialSettings
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.space.darts_plan import STEMS
from dnas.space.plan import plan
from dnas.space.registry import SPACES
from dnas.supernet.mapping import MAPPINGS
from dnas.training import updates


def weights_of(search):
    return [p.detach().clone() for p in search.supernet.parameters()]


UPDATES = ("first-order", "second-order", "single-level")
COMBINATIONS = [(name, mapping, update) for name in ("dnas", "pc-darts") for mapping in MAPPINGS for update in UPDATES]


def all_moved(one, two):
    return all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


# --- what moves when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mapping", "update"), COMBINATIONS)
def test_each_step_moves_its_own_parameters_and_no_others_to_the_bit(name, mapping, update):
    """Warm-up first: it leaves the architecture where it began, to the bit."""
    search = new_search(name, mapping, update=update, images=16, batch_size=4, architecture_learning_rate=0.01)
    architecture, weights = architecture_of(search), weights_of(search)
    search.step(0)
    assert same(architecture, architecture_of(search))
    assert not same(weights, weights_of(search))

    step = search.settings.steps_per_epoch
    weights = weights_of(search)
    if update == "single-level":
        search.joint_step(step)
        assert all_moved(architecture, architecture_of(search))
        assert all_moved(weights, weights_of(search))
    else:
        momenta = [v.clone() for k, v in search.capture()[0].items() if k.startswith("weights.")]
        search.architecture_step(step)
        assert all_moved(architecture, architecture_of(search))
        assert same(weights, weights_of(search))
        assert same(momenta, [v for k, v in search.capture()[0].items() if k.startswith("weights.")])
        architecture = architecture_of(search)
        search.weight_step(step)
        assert same(architecture, architecture_of(search))
        assert all_moved(weights, weights_of(search))
    for p in [*search.supernet.parameters(), *search.mapping.parameters()]:
        assert p.requires_grad and p.grad is None


@pytest.mark.parametrize("update", UPDATES)
def test_the_whole_warm_up_leaves_the_architecture_where_it_began(update):
    search = new_search(update=update, warmup_epochs=2, batch_size=16)
    start = architecture_of(search)
    for step in range(2 * search.settings.steps_per_epoch):
        search.step(step)
        assert same(start, architecture_of(search))
    search.step(2 * search.settings.steps_per_epoch)
    assert all_moved(start, architecture_of(search))


def test_a_step_moves_the_architecture_before_the_weights():
    """DARTS, algorithm 1; the other order gives other bits."""
    whole, parts, reverse = (new_search(batch_size=16) for _ in range(3))
    whole.step(1)
    parts.architecture_step(1)
    parts.weight_step(1)
    reverse.weight_step(1)
    reverse.architecture_step(1)
    assert same(weights_of(whole), weights_of(parts)) and same(architecture_of(whole), architecture_of(parts))
    assert not same(architecture_of(whole), architecture_of(reverse))


def test_the_first_architecture_step_of_adam_is_its_learning_rate():
    """Adam's first step has the size of the learning rate wherever the gradient is not tiny, against its sign."""
    search = new_search(architecture_learning_rate=0.01, architecture_weight_decay=0.0, options={"zero_one_weight": 0})
    before = architecture_of(search)
    loss = search.architecture_loss(search.batch(2, 1), 2)
    grads = torch.autograd.grad(loss, search.architecture)
    search.architecture_step(2)
    for old, new, grad in zip(before, architecture_of(search), grads, strict=True):
        clear = grad.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close((new - old)[clear], -0.01 * grad.sign()[clear], rtol=1e-2, atol=0)


def test_a_weight_step_is_sgd_with_momentum_decay_and_a_clipped_gradient():
    search = new_search(clip_norm=0.1, learning_rate=0.5, weight_decay=0.01)
    steps = search.settings.steps_per_epoch
    momenta = [torch.zeros_like(w) for w in search.weights]
    for step in (0, steps):  # two epochs, so two learning rates
        before = weights_of(search)
        grads = torch.autograd.grad(search.weight_loss(search.batch(step, 0), step), search.weights)
        norm = torch.stack([g.norm() for g in grads]).norm()
        assert norm > 0.1
        rate = 0.001 + (0.5 - 0.001) * (1 + math.cos(math.pi * (step // steps) / 3)) / 2
        momenta = [0.9 * m + 0.1 * g / norm + 0.01 * w for m, g, w in zip(momenta, grads, before, strict=True)]
        search.weight_step(step)
        for old, new, m in zip(before, weights_of(search), momenta, strict=True):
            torch.testing.assert_close(new, old - rate * m, rtol=1e-4, atol=1e-6)


def test_the_penalty_is_for_the_architecture_only():
    """The weights' loss is the cross-entropy; the architecture's has the zero-one loss added to it."""
    search = new_search(options={"initial_scale": 1.0})
    plain = new_search(options={"initial_scale": 1.0, "zero_one_weight": 0})
    batch = search.batch(2, 1)
    penalty = search.method.penalty(search.mapping, search.progress(2, 1)).item()
    assert penalty < -0.1
    assert search.architecture_loss(batch, 2).item() == pytest.approx(
        plain.architecture_loss(batch, 2).item() + penalty, rel=1e-5
    )
    assert search.weight_loss(batch, 2).item() == plain.weight_loss(batch, 2).item()


def test_a_second_order_step_looks_ahead_by_the_weights_own_next_step(monkeypatch):
    """With their learning rate, momentum, its buffers and decay; the loss ahead is that of the validation half."""
    search = new_search(update="second-order", batch_size=16, learning_rate=0.3, weight_decay=0.01)
    search.step(0)
    seen = []
    unrolled = updates.unrolled

    def spy(train_loss, validation_loss, architecture, weights, **settings):
        seen.append((train_loss().item(), validation_loss().item(), settings))
        return unrolled(train_loss, validation_loss, architecture, weights, **settings)

    monkeypatch.setattr(updates, "unrolled", spy)
    momenta = [search.weight_optimizer.state[w]["momentum_buffer"].clone() for w in search.weights]
    train = search.weight_loss(search.batch(1, 0), 1).item()
    validation = search.architecture_loss(search.batch(1, 1), 1).item()
    search.architecture_step(1)
    ((seen_train, seen_validation, given),) = seen
    assert seen_train == pytest.approx(train, rel=1e-6) and seen_validation == pytest.approx(validation, rel=1e-6)
    assert given["xi"] == search.settings.rate(1) == pytest.approx(0.001 + 0.299 * (1 + 0.5) / 2)
    assert given["momentum"] == 0.9 and given["weight_decay"] == 0.01
    assert same(given["buffers"], momenta)
    assert all(m.abs().max() > 0 for m in momenta)


# --- images -----------------------------------------------------------------------------------------------


def test_weights_and_architecture_see_disjoint_halves_that_make_up_all_images():
    """Every picture has a class of its own, so labels are indices; twice each half in an epoch would show."""
    search = new_search(classes=COUNT)
    steps = search.settings.steps_per_epoch
    for epoch in range(2):
        seen = [
            torch.cat([search.batch(epoch * steps + i, draw).labels for i in range(steps)]).tolist() for draw in (0, 1)
        ]
        assert sorted(seen[0] + seen[1]) == list(range(COUNT))
        assert set(seen[0]) == set(search.train_part.tolist())
        assert set(seen[1]) == set(search.validation_part.tolist())


def test_a_single_level_search_uses_all_images_for_both():
    search = new_search(classes=COUNT, update="single-level")
    labels = torch.cat([search.batch(i, 0).labels for i in range(search.settings.steps_per_epoch)])
    assert sorted(labels.tolist()) == list(range(COUNT))


def test_a_batch_is_a_function_of_seed_and_step():
    search = new_search()
    one, other_step, again, other_draw = (search.batch(*where) for where in ((3, 0), (7, 0), (3, 0), (3, 1)))
    assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.images, other_step.images)
    assert not torch.equal(one.images, other_draw.images)
    assert not torch.equal(one.images, new_search(seed=1).batch(3, 0).images)


@pytest.mark.parametrize("update", UPDATES)
def test_a_search_never_changes_the_images(update):
    split, info = pictures()
    images, labels = split.images.clone(), split.labels.clone()
    search = Search(create("dnas", None, {}, DARTS), settings(update=update, batch_size=16), split, info, 0, "cpu")
    for step in range(2 * search.settings.steps_per_epoch):
        search.step(step)
    epoch_metrics(search, 1)
    assert torch.equal(split.images, images) and torch.equal(split.labels, labels)
    assert torch.equal(search.pool.images, images)


# --- a function of the seed --------------------------------------------------------------------------------


def run(seed, **changes):
    split, info = pictures()
    method = create("dnas", None, {}, DARTS)
    session = Session(None, {})
    found = search_architecture(method, settings(**changes), split, info, seed=seed, session=session)
    return found.architecture, found.parameters


@pytest.mark.parametrize("update", UPDATES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(update):
    state = torch.get_rng_state()
    short = {"update": update, "epochs": 2, "batch_size": 16, "architecture_learning_rate": 0.1}
    (one, tables), (again, same_tables), (other, other_tables) = (run(seed, **short) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert one == again and one.origin == again.origin
    assert tables.keys() == same_tables.keys() == {"alpha", "beta", "gamma"}
    assert all(torch.equal(tables[k], same_tables[k]) for k in tables)
    assert one != other
    assert all(not torch.equal(tables[k], other_tables[k]) for k in tables)


@pytest.mark.parametrize(
    ("name", "mapping", "update"),
    [
        ("dnas", "decoupled", "first-order"),
        ("dnas", "full", "second-order"),
        ("dnas", "shared", "single-level"),
        ("pc-darts", "shared", "first-order"),
    ],
)
def test_going_on_from_a_checkpoint_gives_the_same_bits_to_the_end(tmp_path, name, mapping, update):
    """In the middle of an epoch, after architecture steps, through files."""

    def run_on(search, first, last, metrics):
        for step in range(first, last):
            search.step(step)
            if (step + 1) % search.settings.steps_per_epoch == 0:
                metrics.append(epoch_metrics(search, step))

    shape = {"update": update, "batch_size": 4, "images": 12 if update == "single-level" else 24, "epochs": 3}
    whole, first, second = (new_search(name, mapping, **shape) for _ in range(3))
    steps = whole.settings.steps_per_epoch
    stop, end = steps + 1, 2 * steps + 1
    whole_metrics, split_metrics = [], []
    run_on(whole, 0, end, whole_metrics)
    run_on(first, 0, stop, split_metrics)
    assert steps == 3
    tensors, state = first.capture()
    checkpoint.save(tmp_path / "checkpoints", 1, tensors, {"loop": state})
    run_on(first, stop, stop + 1, [])  # what happens later must not reach the file
    loaded, warnings = checkpoint.newest(tmp_path / "checkpoints")
    assert not warnings
    second.step(0)  # restoring must overwrite whatever is there
    second.restore(loaded)
    run_on(second, stop, end, split_metrics)

    (expected, expected_state), (got, got_state) = bits(whole), bits(second)
    assert expected.keys() == got.keys()
    assert [k for k in expected if not torch.equal(expected[k], got[k])] == []
    assert expected_state == got_state
    assert split_metrics == whole_metrics


def test_capture_is_of_now_and_holds_both_optimisers():
    search = new_search(batch_size=16)
    for step in range(2):
        search.step(step)
    tensors, state = search.capture()
    prefixes = {name.split(".")[0] for name in tensors}
    assert prefixes == {"supernet", "mapping", "weights", "architecture", "halves"}
    assert {"mapping.alpha", "mapping.beta", "mapping.gamma"} <= set(tensors)
    assert torch.equal(tensors["mapping.alpha"], search.mapping.alpha)
    assert state["sums"]["loss"] > 0


# --- the whole loop -----------------------------------------------------------------------------------------


class Recorder(Watched):
    def __init__(self):
        super().__init__()
        self.steps = []

    def step_done(self, step, shown, capture):
        self.steps.append((step, shown.get("loss")))


def test_search_architecture_is_the_loop_that_a_user_could_write():
    split, info = pictures()
    method = create("dnas", None, {}, DARTS)
    shape = settings(batch_size=16, architecture_learning_rate=0.1)
    session = Recorder()
    found = search_architecture(method, shape, split, info, seed=3, session=session)
    architecture, tables = found.architecture, found.parameters
    mine = Search(method, shape, split, info, 3, "cpu")
    losses = [mine.step(step) for step in range(3)]
    assert session.steps == [(step + 1, loss) for step, loss in enumerate(losses)]
    assert [m["epoch"] for m in session.metrics] == [1, 2, 3]
    assert architecture == method.derive(mine.mapping, Progress(3, 3, 1))
    assert len(architecture) == 3 and architecture.in_space
    assert all(torch.equal(tables[k], v) for k, v in mine.mapping.state_dict().items())


def test_an_architecture_is_judged_on_as_many_images_from_where_it_is_told(monkeypatch):
    search, seen = new_search(), []
    architecture = search.method.derive(search.mapping, Progress())
    monkeypatch.setattr(
        Search, "forward", lambda self, images, mixing: seen.append(images) or torch.eye(4)[[0] * len(images)]
    )
    order = search.validation_part.tolist()
    assert len(order) == 16
    for images, first, judged in ((None, 0, order), (5, 0, order[:5]), (5, 14 + 32, order[14:] + order[:3])):
        # The stand-in answers 0, which is the label of every fourth picture.
        expected = sum(int(search.pool.labels[i]) == 0 for i in judged) / len(judged)
        assert search.accuracy(architecture, images, first) == pytest.approx(expected)
        assert torch.equal(seen.pop(), normalise(search.pool.images[judged], search.info))


@pytest.mark.parametrize("stem", STEMS)
def test_the_supernet_has_the_stem_of_the_setting(stem):
    """Layer for layer that of the network whose cells it searches."""
    architecture = sampling.sample(DARTS, numpy_stream(0, "test"), 3)
    network = Network(plan(architecture, channels=8, classes=4, inputs=1, stem=stem), False)
    supernet = new_search(stem=stem).supernet
    for one, other in ((supernet.stem, network.stem), (supernet.stem_second, network.stem_second)):
        assert (one is None) == (other is None)
        for a, b in zip(one or (), other or (), strict=True):
            assert type(a) is type(b) and getattr(a, "stride", 1) == getattr(b, "stride", 1)
            assert [p.shape for p in a.parameters()] == [p.shape for p in b.parameters()]
    trial = short_training(TrialSettings(stem=stem, images=64).resolved(64, 0, 8))
    assert trial.stem == stem


def test_a_search_uses_only_as_many_images_as_it_is_told():
    search = new_search(images=16, classes=COUNT)
    assert len(search.pool) == 16
    assert sorted(search.train_part.tolist() + search.validation_part.tolist()) == list(range(16))
    other = new_search(images=16, classes=COUNT, seed=1)
    assert search.pool.labels.tolist() != other.pool.labels.tolist()


# --- spaces with candidates of their own ------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", [name for name in list_methods() if get_method(name).kind != "trials"])
def test_a_search_stays_in_its_space(name, space):
    """Every method with a supernet, in every space; what does not fit a space is no error that a user sees."""
    split, info = pictures()
    method = create(name, None, {k: v for k, v in table(name, "SMALL").items() if "." not in k}, SPACES[space])
    small = {**config.preset_settings("quick", method, info, len(split))["search"], "layers": 3, "channels": 8}
    shape = method.Settings(**{**small, "epochs": 2, "batch_size": 16}).resolved(len(split), 1.0, info.image_size)
    session = Recorder()
    found = search_architecture(method, shape, split, info, seed=0, session=session)
    assert found.architecture.space == space and found.architecture.in_space
    assert all(math.isfinite(value) for line in session.metrics for value in line.values() if isinstance(value, float))


def test_what_an_edge_has_not_gets_no_weight_and_is_not_executed():
    split, info = pictures()
    for name in ("dnas", "pc-darts"):
        method = create(name, "decoupled", {}, SPACES["s1"])
        search = Search(method, settings(), split, info, 0, "cpu")
        psi = method.mixing(search.mapping, search.progress(0)).psi
        assert search.active.sum(-1).eq(2).all()
        assert (psi[~search.active] == 0).all() and (psi[search.active] > 0).all()
        loss = search.architecture_loss(search.batch(0, 1), 0)
        for grad in torch.autograd.grad(loss, search.architecture):
            assert torch.isfinite(grad).all()


def test_with_none_is_the_spaces_where_it_has_a_say():
    with pytest.raises(InputError, match="with_none=True cannot be used with --space s2"):
        create("pc-darts", None, {"with_none": True}, SPACES["s2"])
    assert create("pc-darts", None, {}, SPACES["s2"]).options.with_none is False


def test_a_search_that_time_ended_goes_on_where_it_judged(monkeypatch):
    """Steps that a limit left out stay out when the judging is resumed, so what depends on them is the same."""

    def finalists(self, mapping, progress):
        rng = numpy_stream(progress.seed, "finalists", progress.step)
        return [Candidate(sampling.sample(self.space, rng, mapping.layers, shared=True))]

    monkeypatch.setattr(get_method("spos"), "finalists", finalists)
    limits = {"search.seconds": 1e-9}
    whole = testing.search("spos", None, limits)
    steps = [checkpoint.state["step"] for checkpoint in whole.session.checkpoints]
    assert steps == [1, 2]  # one step, one candidate
    again = testing.search("spos", None, limits, start=whole.session.checkpoints[-1])
    assert again.found.architecture == whole.found.architecture and again.found.cost == whole.found.cost
    assert whole.found.cost["architectures_evaluated"] == 1
