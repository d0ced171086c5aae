import math

import pytest
import torch
from supernet_search_tools import (
    COUNT,
    SMALL,
    Watched,
    architecture_of,
    bits,
    new_search,
    pictures,
    settings,
)

from dnas.errors import InputError
from dnas.kernels import native
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline import config
from dnas.searching import watch
from dnas.searching.loop import search_architecture
from dnas.searching.search import Search
from dnas.searching.watch import by_operation, eigenvalue, epoch_metrics
from dnas.settings import GradientSettings, SearchSettings
from dnas.space.darts import DARTS
from dnas.training import updates

# --- learning rates ----------------------------------------------------------------------------------------


def test_the_weights_learning_rate_is_the_cosine_of_darts():
    """At epoch 49 of 50, the number in a user's log (quark0/darts issue 7)."""
    shape = GradientSettings()
    assert shape.rate(0) == 0.025
    assert shape.rate(49) == pytest.approx(1.023679e-3, rel=1e-6)


def test_cycles_of_the_learning_rate_are_each_twice_as_long_as_the_one_before():
    """150 epochs in 4 are Loshchilov & Hutter's restarts after 10, 30 and 70; 1 is the plain cosine, to the bit."""
    shape = GradientSettings(epochs=150, learning_rate=0.05, learning_rate_min=0.0005, learning_rate_cycles=4)
    for start, length in ((0, 10), (10, 20), (30, 40), (70, 80)):
        for i in (0, 1, length // 2, length - 1):
            expected = 0.0005 + 0.0495 * (1 + math.cos(math.pi * i / length)) / 2
            assert shape.rate(start + i) == pytest.approx(expected, rel=1e-12)
    # Of 10 epochs 3 cycles start at 0, 10/7 and 30/7.
    rates = [GradientSettings(epochs=10, learning_rate_cycles=3).rate(epoch) for epoch in range(10)]
    assert [e for e in range(1, 10) if rates[e] > rates[e - 1]] == [2, 5]
    plain = GradientSettings(epochs=7)
    assert [plain.rate(e) for e in range(7)] == [SearchSettings.rate(plain, e) for e in range(7)]


@pytest.mark.parametrize("name", ["dnas", "pc-darts"])
def test_a_paper_run_keeps_the_papers_architecture_learning_rate(name):
    _, info = pictures()
    paper = config.preset_settings("paper", create(name, None, {}, DARTS), info, 50_000)["search"]
    resolved = GradientSettings(**paper).resolved(50_000, 1.0, 32)
    assert resolved.architecture_learning_rate == {"dnas": 3e-4, "pc-darts": 6e-4}[name]
    assert (resolved.epochs, resolved.warmup_epochs) == (50, 15)


def slots(architecture):
    return [
        (k, n, slot) for k, cell in enumerate(architecture.layers) for n, node in enumerate(cell.nodes) for slot in node
    ]


@pytest.mark.parametrize("name", ["dnas", "pc-darts"])
def test_a_short_search_exports_what_it_found_and_not_its_initial_noise(name):
    split, info = pictures()
    method = create(name, "full", {}, DARTS)
    shape = GradientSettings(
        layers=3, channels=8, epochs=6, warmup_epochs=2, batch_size=4, architecture_learning_rate=0.0
    ).resolved(COUNT, config.paper_travel(method), 8)
    search = Search(method, shape, split, info, 0, "cpu")
    start = architecture_of(search)
    initial = method.derive(search.mapping, Progress())
    for step in range(shape.epochs * shape.steps_per_epoch):
        search.step(step)
    found = method.derive(search.mapping, Progress())
    stayed = len(set(slots(initial)) & set(slots(found)))
    assert stayed < len(slots(found)) / 2
    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(start, architecture_of(search), strict=True)])
    assert moved.median() >= 100 * method.options.initial_scale
    assert moved.max() <= 1.05 * config.paper_travel(method)


# --- metrics ------------------------------------------------------------------------------------------------


def test_metrics_of_an_epoch_are_what_happened_in_it():
    search = new_search(warmup_epochs=1, batch_size=8)
    steps = search.settings.steps_per_epoch
    for epoch in range(2):
        losses = [search.step(epoch * steps + i) for i in range(steps)]
        metrics = epoch_metrics(search, (epoch + 1) * steps - 1)
        assert metrics["stage"] == "search" and metrics["epoch"] == epoch + 1
        # All batches are equally large here.
        assert metrics["loss"] == pytest.approx(sum(losses) / steps, rel=1e-9)
        assert 0 <= metrics["accuracy"] <= 1
        assert metrics["accuracy"] * 16 == pytest.approx(round(metrics["accuracy"] * 16))
        assert metrics["learning_rate"] == search.settings.rate(epoch)
        assert metrics["travel"] == max(p.abs().max().item() for p in search.mapping.parameters())
        genes = search.method.derive(search.mapping, Progress()).layers
        assert metrics["skips"] == sum(slot[0] == "skip_connect" for g in genes for node in g.nodes for slot in node)
        assert 0 < metrics["entropy"] <= 1
        assert ("validation_loss" in metrics) == (epoch == 1)
        assert ("gradient_over_decay" in metrics) == (epoch == 1)
        assert all(math.isfinite(v) for v in metrics.values() if not isinstance(v, str | dict))
        assert set(search.sums.values()) == {0.0}


def test_scores_of_the_metrics_are_what_the_derivation_ranks_by_summed_over_edges():
    search = new_search(batch_size=8)
    search.step(0)
    metrics = epoch_metrics(search, 0)
    with torch.no_grad():
        scores = search.method.scores(search.mapping, search.progress(0, draw=1))
    assert list(metrics["scores"]) == list(search.method.operations)
    for o, values in enumerate(metrics["scores"].values()):
        assert values == pytest.approx([sum(edge[o].item() for edge in layer) for layer in scores], rel=5.1e-3)


def test_recorded_scores_leave_out_what_an_edge_has_not_and_keep_three_digits():
    scores = torch.tensor([[[0.123456, 2.0], [1.0, 3.0]], [[1e-7, 1.0], [0.0, 0.5]]])
    assert by_operation(scores, ("a", "b")) == {"a": [1.12, 1e-7], "b": [5.0, 1.5]}
    active = torch.tensor([[[True, False], [True, True]], [[True, True], [True, False]]])
    assert by_operation(scores, ("a", "b"), active) == {"a": [1.12, 1e-7], "b": [3.0, 1.0]}


def test_validation_loss_and_decay_ratio_of_the_metrics_are_means_over_the_steps():
    search = new_search(warmup_epochs=0, batch_size=8)
    expected, gradient, decay = [], 0.0, 0.0
    for step in range(2):
        loss = search.architecture_loss(search.batch(step, 1), step)
        grads = torch.autograd.grad(loss, search.architecture)
        expected.append(loss.item())
        gradient += torch.cat([g.flatten() for g in grads]).norm().item()
        decay += 1e-3 * torch.cat([p.detach().flatten() for p in search.architecture]).norm().item()
        search.step(step)
    metrics = epoch_metrics(search, 1)
    assert metrics["validation_loss"] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert metrics["gradient_over_decay"] == pytest.approx(gradient / decay, rel=1e-4)


def test_watching_costs_nothing_and_judging_does():
    search = new_search(batch_size=8, watch_images=16)
    for step in range(2):
        search.step(step)
    before = dict(search.cost)
    metrics = epoch_metrics(search, 1)
    assert {"supernet_accuracy", "derived_accuracy"} <= set(metrics)
    assert search.cost == before and before["architectures_evaluated"] == 0
    search.accuracy(search.method.derive(search.mapping, Progress()))
    assert search.cost["architectures_evaluated"] == 1
    # 16 images forward, a third of two batches of 8.
    assert search.cost["step_equivalents"] - before["step_equivalents"] == pytest.approx(2 / 3)


def test_entropy_of_the_metrics_is_one_for_equal_and_zero_for_one_hot_weights():
    search = new_search("pc-darts", "full", options={"initial_scale": 0.0})
    assert epoch_metrics(search, 0)["entropy"] == pytest.approx(1.0, abs=1e-6)
    with torch.no_grad():
        search.mapping.alpha[:, :, 3] = 100.0
    metrics = epoch_metrics(search, 0)
    assert metrics["entropy"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["skips"] == 24 and metrics["travel"] == 100.0


def test_a_single_level_search_reports_no_accuracy_that_it_did_not_count():
    search = new_search(update="single-level", warmup_epochs=0, batch_size=16)
    losses = [search.step(step) for step in range(2)]
    metrics = epoch_metrics(search, 1)
    assert "accuracy" not in metrics
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, rel=1e-9)


def small_search(name, mapping="shared", **changes):
    split, info = pictures()
    method = create(name, mapping, {"initial_scale": 0.3}, SMALL)
    return Search(method, settings(architecture_learning_rate=0.1, **changes), split, info, 0, "cpu")


def full_hessian(loss, parameters):
    """[n, n], one row after another."""
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([slope.flatten() for slope in slopes])
    rows = [torch.autograd.grad(slope, parameters, retain_graph=True) for slope in flat]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.parametrize(("name", "mapping"), [("darts", "shared"), ("dnas", "decoupled")])
def test_eigenvalue_of_a_supernet_is_that_of_the_full_hessian_by_double_backward(name, mapping, monkeypatch):
    """On the first batch of validation images, not augmented, whatever the penalty and the skip dropout."""
    search = small_search(name, mapping, warmup_epochs=0)
    for step in range(3):
        search.step(step)
    single = eigenvalue(search, 3)
    search.supernet.double()
    search.mapping.double()
    native.choose("torch")
    try:
        part = search.validation_part[:8]
        images = (search.pool.images[part].double() / 255 - 0.5) / 0.29
        logits = search.supernet(images, search.method.mixing(search.mapping, search.progress(3, 1)))
        loss = torch.nn.functional.cross_entropy(logits, search.pool.labels[part])
        eigenvalues = torch.linalg.eigvalsh(full_hessian(loss, search.architecture))
    finally:
        native.choose("auto")
    expected = eigenvalues[eigenvalues.abs().argmax()].item()
    assert single == pytest.approx(expected, rel=2e-3)
    monkeypatch.setattr(watch, "normalise", lambda images, info: (images.double() / 255 - 0.5) / 0.29)
    assert eigenvalue(search, 3) == pytest.approx(expected, rel=1e-3)


def test_the_eigenvalue_changes_nothing_else_of_a_search():
    """Weights, parameters, cost and all other metrics are the same bits as without."""
    found, metrics = [], []
    for watched in (False, True):
        split, info = pictures()
        session = Watched()
        shape = settings(epochs=2, eigenvalue=watched, architecture_learning_rate=0.1)
        method = create("darts", None, {}, SMALL)
        found.append(search_architecture(method, shape, split, info, seed=0, session=session))
        metrics.append(session.metrics)
    values = [epoch.pop("eigenvalue") for epoch in metrics[1]]
    assert len(values) == 2 and all(math.isfinite(v) and v != 0 for v in values) and values[0] != values[1]
    assert metrics[0] == metrics[1] and found[0].cost == found[1].cost
    assert found[0].architecture == found[1].architecture
    assert all(torch.equal(v, found[1].parameters[k]) for k, v in found[0].parameters.items())


def test_the_eigenvalue_leaves_state_and_backend_and_is_the_same_again():
    native.choose("auto")
    search = small_search("dnas", "decoupled", warmup_epochs=0, eigenvalue=True)
    search.step(0)
    (tensors, state), wanted = bits(search), native.wanted()
    assert eigenvalue(search, 0) == eigenvalue(search, 0)
    after, state_after = bits(search)
    assert all(torch.equal(v, after[k]) for k, v in tensors.items()) and state == state_after
    assert native.wanted() == wanted
    assert all(p.grad is None and p.requires_grad for p in [*search.weights, *search.architecture])


def test_an_eigenvalue_that_is_no_number_is_left_out(monkeypatch):
    search = small_search("darts", eigenvalue=True)
    monkeypatch.setattr(updates, "dominant_eigenvalue", lambda *_: math.nan)
    assert "eigenvalue" not in epoch_metrics(search, 0)


def test_the_eigenvalue_is_refused_where_layers_are_computed_again():
    with pytest.raises(InputError, match=r"search\.eigenvalue .* search\.recompute"):
        settings(eigenvalue=True, recompute=True)
