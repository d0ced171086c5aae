"""Draws by class: what a plain oracle deals, no class vanishes, and balanced sets keep the draws that they had."""

import numpy as np
import pytest
import torch
from faults.harness import TINY, invoke, make_images
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.data.shares import quotas, stratified
from dnas.data.splits import DataInfo, Split, chosen, halves, load_train
from dnas.disk import read_toml
from dnas.methods.registry import create
from dnas.pipeline.config import parse
from dnas.pipeline.overrides import read_settings
from dnas.rng import torch_stream
from dnas.searching.finals import Entrant, Finals
from dnas.searching.search import Search
from dnas.settings import GradientSettings, TrainSettings
from dnas.space.published import load_published
from dnas.space.registry import get_space
from dnas.training.build import built
from dnas.training.trainer import Training

counts = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def labelled(each):
    """Images in random order, so many of each class; each image is its number."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(each)), each))
    pixels = (torch.arange(len(labels)) % 256).to(torch.uint8)
    return Split(pixels.view(-1, 1, 1, 1).repeat(1, 1, 8, 8), torch.from_numpy(labels))


def of_each(split, classes):
    return torch.bincount(split.labels, minlength=classes).tolist()


@given(each=counts, data=st.data(), rest=st.booleans())
@settings(deadline=None)
def test_quotas_are_shares_within_one_image_and_no_class_vanishes(each, data, rest):
    each = np.array(each)
    total, classes = int(each.sum()), len(each)
    count = data.draw(st.integers(0, total))
    found = quotas(each, count, np.arange(classes), rest=rest)
    assert found.sum() == count and (found >= 0).all() and (found <= each).all()
    if count >= classes:
        assert (found >= 1).all()
    if rest and total - count >= classes:
        assert (found[each > 1] < each[each > 1]).all()
    ideal = each * count / total
    if (np.floor(ideal) >= 1).all() and (np.ceil(ideal) < each).all():  # no bound acts
        raised = found > np.floor(ideal)
        assert (np.abs(found - ideal) < 1).all()
        assert (ideal % 1)[raised].min(initial=1.0) >= (ideal % 1)[~raised].max(initial=0.0)


def test_of_equal_remainders_the_first_in_the_order_comes_first():
    assert quotas(np.array([3, 3, 3, 3]), 6, np.array([9, 1, 4, 0]), rest=True).tolist() == [1, 2, 1, 2]


@given(each=counts, seed=st.integers(0, 99), fraction=st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=50)
def test_halves_by_class_are_disjoint_and_together_all_in_the_order_of_the_draw(each, seed, fraction):
    split = labelled(each)
    count = len(split)
    if not 0 < round(count * fraction) < count:
        return
    first, second = halves(count, seed, fraction, split.labels)
    assert len(first) == round(count * fraction)
    assert sorted(first.tolist() + second.tolist()) == list(range(count))
    order = torch.randperm(count, generator=torch_stream(seed, "split")).tolist()
    for part in (first.tolist(), second.tolist()):
        assert [order.index(k) for k in part] == sorted(order.index(k) for k in part)


def test_150_classes_of_4_images_lose_none():
    split = labelled([4] * 150)
    for seed in range(3):
        first, second = halves(600, seed, 0.5, split.labels)
        assert of_each(split.subset(first), 150) == of_each(split.subset(second), 150) == [2] * 150
        assert of_each(chosen(split, 150, seed, True), 150) == [1] * 150
        assert 0 in of_each(chosen(split, 150, seed), 150)  # as it was
        twice = [halves(600, seed, 0.5, split.labels)[0] for _ in range(2)]
        assert torch.equal(*twice)
    assert not torch.equal(halves(600, 0, 0.5, split.labels)[0], halves(600, 1, 0.5, split.labels)[0])


def test_rare_classes_are_in_both_parts():
    split = labelled([200, 3, 2])
    for part in halves(205, 0, 0.5, split.labels):
        assert all(of_each(split.subset(part), 3))


@pytest.mark.parametrize("each", [[40] * 5, [42, 62, 42]])
def test_large_balanced_classes_keep_their_draws(each):
    split = labelled(each)
    plain = halves(len(split), 7, 0.5)
    assert all(map(torch.equal, plain, halves(len(split), 7, 0.5, split.labels)))
    subset = len(split) // 2 + 1
    assert torch.equal(chosen(split, subset, 7).images, chosen(split, subset, 7, True).images)


@pytest.mark.parametrize("fraction", [0.5, 0.8])
def test_draws_of_digits_are_those_of_the_published_results(fraction):
    labels = load_train("digits")[0].labels
    assert all(map(torch.equal, halves(1437, 0, fraction), halves(1437, 0, fraction, labels)))


@pytest.mark.parametrize("each", [[39] * 5, [40, 60, 40]])
def test_others_have_their_shares_to_the_image(each):
    split = labelled(each)
    order = torch.randperm(len(split), generator=torch_stream(7, "split")).numpy()
    found = np.bincount(
        split.labels.numpy()[order[stratified(split.labels.numpy(), order, len(split) // 2, rest=True)]]
    )
    assert np.abs(found - np.array(each) / 2).max() <= 0.5


# --- who draws

INFO = DataInfo("x", tuple(str(k) for k in range(12)), 1, 8, (0.5,), (0.25,), flip=False)
SMALL = {"channels": 4, "batch_size": 12, "images": 24, "epochs": 1, "flip": "off"}


@pytest.mark.parametrize("whole", [True, False])
def test_searches_trainings_and_finals_draw_by_class(whole):
    split = labelled([4] * 12)

    def even(part):
        return len(set(of_each(part, 12))) == 1

    train = TrainSettings(**SMALL, auxiliary_weight=0.0, stratified=whole).resolved(48, 8)
    architecture = load_published("DARTS_V2", 3)
    training = Training(built(architecture, train, INFO, 0), train, split, INFO, 0, "train", "cpu")
    assert len(training.pool) == 24 and even(training.pool) == whole
    finals = Finals(
        [Entrant(architecture, train.model_copy(update={"images": 48}), "test")] * 2, split, INFO, 0, "cpu", half=False
    )
    assert (len(finals.pool), len(finals.judges)) == (38, 10)
    if whole:
        assert 0 not in of_each(finals.pool, 12) and max(of_each(finals.judges, 12)) == 1
    search = GradientSettings(**SMALL, layers=3, warmup_epochs=0, stratified=whole).resolved(48, 1.0, 8)
    found = Search(create("darts", None, {}, get_space("darts")), search, split, INFO, 0, "cpu")
    assert even(found.pool) == whole
    parts = [found.pool.subset(part) for part in (found.train_part, found.validation_part)]
    assert all(map(even, parts)) == whole and [len(part) for part in parts] == [12, 12]


def test_a_new_run_says_so_and_one_of_an_earlier_version_repeats_its_draws(tmp_path):
    images = make_images(tmp_path / "images", each=10)
    run = tmp_path / "run"
    outcome = invoke("search", "--data", images, *TINY, "--out", run)
    assert outcome.code == 0, outcome.err
    values = read_toml(run / "config.toml")
    assert values["search"]["stratified"] is True
    (tmp_path / "older.toml").write_text((run / "config.toml").read_text().replace("stratified = true\n", ""))
    assert parse(read_toml(tmp_path / "older.toml")).search.stratified is False  # as a resumed run reads it
    assert read_settings(tmp_path / "older.toml")["search"]["stratified"] is False
    (tmp_path / "own.toml").write_text("[search]\nepochs = 3\n")
    assert "stratified" not in read_settings(tmp_path / "own.toml")["search"]
