import math
import warnings
from itertools import product

import flips as bench
import numpy as np
import pytest
import torch
from PIL import Image

from dnas import mirroring
from dnas.data import Split, load_train
from dnas.mirroring import FOLDS, LEVEL, RIDGE, Finding, find_mirrored


def noise(count, classes=2, size=12, seed=0, channels=1):
    """Images of which no label says anything."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return Split(torch.from_numpy(images), torch.arange(count) % classes)


def mirrored(split):
    return Split(split.images.flip(-1), split.labels)


# --- what is found


def test_a_pair_of_mirror_images_is_found_among_other_classes():
    split = bench.arrows(np.random.default_rng(0), 100, ("up", "left", "down", "right"))
    found = find_mirrored(split)
    assert found.images == 400
    pair = found.pair
    assert pair.classes == (1, 3) and pair.p <= LEVEL
    assert pair.facing > 0.6 and pair.rest < 0.6


@pytest.mark.parametrize("alphabet", ["bd", "pq"])
def test_letters_that_are_mirror_images_are_found(alphabet):
    assert find_mirrored(bench.letters(np.random.default_rng(1), 100, alphabet)).pair.classes == (0, 1)


def test_classes_that_look_different_from_either_side_are_not_found():
    rng = np.random.default_rng(0)
    assert find_mirrored(bench.arrows(rng, 60, ("up", "down"))).pair is None
    assert find_mirrored(bench.letters(rng, 60, "aegk")).pair is None
    split, _ = load_train("digits")
    assert find_mirrored(split).pair is None


def test_the_way_that_a_class_faces_is_no_confusion_where_more_tells_it_apart():
    """As a photographer's habit: one thing from its left and another one from its right."""
    rng = np.random.default_rng(0)
    split = bench.arrows(rng, 80)
    images = split.images.clone()
    images[split.labels == 1, :, 4:-4] //= 2
    images[split.labels == 1, :, :4] = 255
    assert find_mirrored(Split(images, split.labels)).pair is None


def test_chance_finds_no_more_than_the_level():
    """Of 300 sets it allows for three; more than eight would be one case in a hundred."""
    found = [find_mirrored(noise(2 * each, seed=seed)).pair for seed in range(60) for each in (10, 15, 20, 30, 50)]
    assert sum(pair is not None for pair in found) <= 8


def test_two_blank_classes_are_not_found_and_nothing_is_divided_by_zero():
    images = torch.zeros(60, 3, 16, 16, dtype=torch.uint8)
    images[::2] = 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_mirrored(Split(images, torch.arange(60) % 2)) == Finding(60)


def lit(each, size=16, channels=1):
    """Images of two classes in turn: lit from the left, and from the right."""
    rng = np.random.default_rng(0)
    light = np.linspace(-60, 60, size) * np.where(np.arange(2 * each) % 2, 1, -1)[:, None, None, None]
    images = (rng.normal(128, 20, (2 * each, channels, size, size)) + light).clip(0, 255).astype(np.uint8)
    return Split(torch.from_numpy(images), torch.arange(2 * each) % 2)


@pytest.mark.parametrize("size", [8, 9, 15, 16, 28, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_channels(size, channels):
    assert find_mirrored(lit(30, size, channels)).pair.classes == (0, 1)


# --- which images are looked at


def test_small_classes_are_left_out_and_of_large_ones_no_more_are_taken():
    assert find_mirrored(noise(18)) == Finding(0)
    assert find_mirrored(noise(20)).images == 20
    assert find_mirrored(noise(2_000, size=8)).images == 2 * mirroring.MOST_OF_A_CLASS
    assert sum(len(at) for at in mirroring._drawn(np.arange(50_000) % 10).values()) == mirroring.IMAGES
    assert sum(len(at) for at in mirroring._drawn(np.arange(50_000) % 50).values()) == 50 * mirroring.OF_A_CLASS
    assert sum(len(at) for at in mirroring._drawn(np.arange(50_000) % 100).values()) == mirroring.MOST_IMAGES
    assert mirroring._drawn(np.arange(50_000) % 1_000) == {}


def test_few_images_are_enough_where_the_difference_is_plain():
    assert find_mirrored(lit(15)).pair


def test_streamed_images_give_the_same(tmp_path):
    split = lit(40)
    for k, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
        folder = tmp_path / "images" / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{k:03d}.png")
    streamed, whole = (load_train(str(tmp_path / "images"), memory=memory)[0] for memory in ("stream", "whole"))
    assert streamed.memory == "stream" and whole.memory == "whole"
    found = find_mirrored(streamed)
    streamed.close()
    # A fifth of each class is for the test.
    assert found == find_mirrored(whole) and found.images == 60 and found.pair


# --- the two classifiers


def test_what_mirroring_takes_changes_its_sign_and_what_it_leaves_stays():
    """The filters come from images, so those of both are looked at."""
    split = bench.arrows(np.random.default_rng(0), 20)
    both = Split(torch.cat([split.images, split.images.flip(-1)]), torch.cat([split.labels] * 2))
    taken, left = mirroring._features(both, np.arange(80))
    np.testing.assert_allclose(taken[:40], -taken[40:], atol=1e-5)
    np.testing.assert_allclose(left[:40], left[40:], atol=1e-5)
    assert np.abs(taken).max() > 0.01 and np.abs(left).max() > 0.01


def test_the_classifiers_are_those_that_learn_mirrored_copies():
    """The slow oracle: one fold after another, on features of the images and of their copies.

    With copies of the same label it is the classifier of what mirroring leaves; of the other label, the other one.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat([1.0, -1.0], 20)
    pictures = rng.normal(size=(40, 30)) + 0.25 * labels[:, None] * (np.arange(30) < 8)
    copies = rng.normal(size=(40, 30)) - 0.25 * labels[:, None] * (np.arange(30) < 8)
    taken, left = pictures - copies, pictures + copies
    left -= left.mean(0)
    grams = np.stack([taken @ taken.T, left @ left.T])
    inverse, y = mirroring._fitted(grams, np.arange(20), np.arange(20, 40))
    facing, rest = mirroring._right(inverse, y[None])[:, 0]

    right = []
    for gram, sign in zip(grams, (-1, 1), strict=True):
        ridge = RIDGE * np.trace(gram) / 40
        own = np.concatenate([pictures, copies], 1) if sign == -1 else np.concatenate([left / 2, left / 2], 1)
        other = np.concatenate([own[:, 30:], own[:, :30]], 1)
        answers = []
        for fold in range(FOLDS):
            held = np.isin(np.arange(40) % 20 // (20 // FOLDS), fold)
            seen = np.concatenate([own[~held], other[~held]])
            told = np.concatenate([labels[~held], sign * labels[~held]])
            weights = np.linalg.solve(seen.T @ seen + ridge * np.eye(60), seen.T @ told)
            answers.append((own[held] @ weights) * labels[held] > 0)
        right.append(np.concatenate(answers).mean())
    assert 0.5 < right[0] < 1
    assert (facing.mean(), rest.mean()) == pytest.approx(right)


def test_a_pair_is_suspected_by_mcnemars_test_and_by_chance():
    facing, rest = np.arange(20) < 16, np.arange(20) % 2 == 0
    right = sum(math.comb(20, k) for k in range(16, 21)) / 2**20
    better = sum(math.comb(10, k) for k in range(8, 11)) / 2**10  # 8 that only the first has right, 2 only the second
    assert mirroring._coins(facing, rest) == pytest.approx(max(right, better)) == pytest.approx(better)
    assert mirroring._coins(facing, ~facing) == pytest.approx(right)


def test_shuffled_labels_are_as_good_as_often_as_all_of_them_say():
    """Ten pictures, of which each fold has one of either class: 32 ways to shuffle them."""
    rng = np.random.default_rng(3)
    labels = np.tile([1.0, -1.0], (FOLDS, 1))
    taken, left = rng.normal(size=(2, 10, 4)) + 0.3 * labels.reshape(-1)[:, None]
    inverse = np.linalg.inv(np.stack([taken @ taken.T, left @ left.T]) + np.eye(10))
    facing, rest = mirroring._right(inverse, labels[None])[:, 0]
    ways = np.stack([labels * np.array(signs)[:, None] for signs in product((1, -1), repeat=FOLDS)])
    right = mirroring._right(inverse, ways).sum(2)
    exact = max(
        (right[0] - right[1] >= facing.sum() - rest.sum()).mean(),
        (right[0] >= facing.sum()).mean(),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirroring, "RESOLUTION", 10_000)
        patch.setattr(mirroring, "LEVEL", 1.0)
        assert mirroring._shuffled(inverse, labels, facing, rest, 1) == pytest.approx(exact, abs=0.02)
    assert 0.03 < exact < 0.97


def test_folds_that_are_held_out_are_those_of_fits_without_them():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6))
    gram = x @ x.T + np.eye(20)
    labels = rng.permuted(np.broadcast_to(np.repeat([1.0, -1.0], 2), (3, FOLDS, 4)), axis=2)
    found = mirroring._right(np.linalg.inv(gram)[None], labels)
    for told, y in zip(found[0], labels.reshape(3, 20), strict=True):
        for fold in np.arange(20).reshape(FOLDS, 4):
            seen = np.setdiff1d(np.arange(20), fold)
            answers = x[fold] @ x[seen].T @ np.linalg.solve(gram[np.ix_(seen, seen)], y[seen])
            np.testing.assert_array_equal(told[fold], answers * y[fold] > 0)
