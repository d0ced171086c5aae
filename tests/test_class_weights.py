"""Weights of classes: scikit-learn's, by closed form in the loss, and with them a rare class is recognised."""

import numpy as np
import pytest
import torch
from data_tools import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from dnas.data.splits import DataInfo, Split
from dnas.errors import calling
from dnas.network.network import build
from dnas.pipeline.config import parse
from dnas.pipeline.overrides import nested, typed
from dnas.runtime.session import Session
from dnas.searching.finals import accuracy_of_batches
from dnas.settings import NetworkTrainSettings, TrainSettings
from dnas.space.published import load_published
from dnas.training.accuracy import by_class, measure_accuracy
from dnas.training.loss import balanced_weights, cross_entropy
from dnas.training.trainer import Training, train_network

INFO = DataInfo("toy", ("common", "rare"), 1, 8, (0.5,), (0.25,), False)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
@settings(deadline=None)
def test_weights_are_scikit_learns_and_their_mean_is_one(labels):
    weights = balanced_weights(torch.tensor(labels), 8)
    there = np.unique(labels)
    wanted = compute_class_weight("balanced", classes=there, y=labels)
    assert weights[there].tolist() == pytest.approx(wanted.tolist(), rel=1e-6)
    assert weights.sum() == pytest.approx(wanted.sum(), rel=1e-6)  # the others have none
    assert weights[labels].mean() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_batch_is_the_closed_form(smoothing):
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 0.0], [1.0, 1.0, -3.0]], dtype=torch.float64)
    labels, weights = torch.tensor([0, 2, 1]), torch.tensor([0.5, 3.0, 7.0])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        scale = sum(np.exp(row))
        target = [smoothing / 3 + (1 - smoothing) * (k == label) for k in range(3)]
        total -= weights[label].item() * sum(t * np.log(np.exp(x) / scale) for t, x in zip(target, row, strict=True))
    assert cross_entropy(logits, labels, smoothing, weights).item() == pytest.approx(total / 3, rel=1e-12)
    plain = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(logits, labels, smoothing), plain)
    # Weights of one are none.
    assert cross_entropy(logits, labels, smoothing, torch.ones(3)).item() == pytest.approx(plain.item(), rel=1e-12)


def test_a_smoothed_label_stays_that_of_its_class():
    """With torch's own `weight`, the least loss of a common image is at even odds: 0.5 for the class that it is not."""
    weights = balanced_weights(torch.tensor([0] * 95 + [1] * 5), 2)
    odds = torch.linspace(-5, 5, 2001)
    logits = torch.stack([odds, torch.zeros_like(odds)], 1)

    def best(loss):
        return torch.sigmoid(odds[torch.stack([loss(row[None], torch.tensor([0])) for row in logits]).argmin()]).item()

    ours = best(lambda row, label: cross_entropy(row, label, 0.1, weights))
    torchs = best(lambda row, label: nn.functional.cross_entropy(row, label, weights, label_smoothing=0.1))
    assert ours == pytest.approx(0.95, abs=0.01) and torchs == pytest.approx(0.5, abs=0.01)


def noisy(common, rare, seed):
    """A rare class that is a little brighter than the common one."""
    labels = np.repeat([0, 1], [common, rare])
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 200, (len(labels), 1, 8, 8)) + 18 * labels[:, None, None, None]
    return Split(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


def test_the_balanced_accuracy_of_rare_classes_rises():
    train, test = noisy(380, 20, 0), noisy(190, 10, 1)
    found = {}
    for kind in ("none", "balanced"):
        chosen = NetworkTrainSettings(
            epochs=8,
            batch_size=40,
            learning_rate=0.02,
            cutout=0,
            pad=0,
            flip="off",
            label_smoothing=0.1,
            class_weights=kind,
        ).resolved(400, 8)
        torch.manual_seed(0)
        network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.BatchNorm1d(1), nn.Linear(1, 2))
        train_network(network, chosen, train, INFO, seed=0, session=Session(None, {}))
        found[kind] = by_class(measure_accuracy(network, test, INFO).confusion, INFO.classes)["balanced_accuracy"]
    assert found["balanced"] > 0.82 and found["balanced"] > found["none"] + 0.08


def test_weights_are_those_of_the_images_that_are_trained_on_and_the_auxiliary_loss_has_them():
    train = noisy(30, 10, 0)
    given = {"channels": 4, "epochs": 1, "batch_size": 40, "cutout": 0, "pad": 0, "drop_path": 0.0, "flip": "off"}
    losses = {}
    for kind in ("none", "balanced"):
        for auxiliary in (0.0, 0.4):
            chosen = TrainSettings(**given, auxiliary_weight=auxiliary, class_weights=kind).resolved(40, 8)
            network = build(load_published("DARTS_V2", 3), 4, 2, inputs=1, auxiliary=auxiliary > 0)
            training = Training(network, chosen, train, INFO, 0, "train", "cpu")
            losses[kind, auxiliary] = training.step(0)
            if kind == "balanced":
                assert training.class_weights.tolist() == pytest.approx([40 / 60, 40 / 20])
    extra = {kind: losses[kind, 0.4] - losses[kind, 0.0] for kind in ("none", "balanced")}
    assert losses["none", 0.0] != losses["balanced", 0.0] and extra["none"] != pytest.approx(extra["balanced"])
    half = TrainSettings(**given, auxiliary_weight=0.0, class_weights="balanced", images=20).resolved(40, 8)
    training = Training(build(load_published("DARTS_V2", 3), 4, 2, inputs=1), half, train, INFO, 0, "train", "cpu")
    assert torch.equal(training.class_weights, balanced_weights(training.pool.labels, 2))


def test_finals_are_judged_as_it_is_trained():
    class Always(nn.BatchNorm2d):
        def forward(self, images):
            return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)

    split = noisy(30, 10, 0)
    assert accuracy_of_batches(Always(1), split, INFO, "cpu") == 0.75
    assert accuracy_of_batches(Always(1), split, INFO, "cpu", balanced=True) == 0.5


def test_the_option_is_of_trainings_and_a_search_refuses_it():
    config = parse(nested("run", {"class_weights": "balanced"}))
    assert config.train.class_weights == "balanced"
    assert parse(nested("train", {"class_weights": "balanced"})).train.class_weights == "balanced"
    with refused("class_weights"):
        parse(nested("search", {"option": ["search.class_weights=balanced"]}))
    with refused("--class-weights", "'heavy'"), calling(typed("run", {"class_weights": "heavy"})):
        parse(nested("run", {"class_weights": "heavy"}))
