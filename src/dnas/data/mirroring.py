"""Finds classes that are mirror images of each other, and so cannot be told apart by training on mirrored pictures.

A linear classifier that also learns every picture's mirrored copy is one that has only features which mirroring leaves
alone: on the others a picture and its copy disagree, so their weights become zero. Hence two classifiers for each pair
of classes, and no training on copies:

- one on what a picture and its mirrored copy have in common, which is all that mirroring leaves;
- one on what distinguishes them, which mirroring takes away.

Where the second is the better one, the classes differ by the way that they face. Both are ridge regressions, by
five-fold cross-validation on the same pictures, so the answers are compared picture by picture (McNemar's test).

Features are responses to patches of the pictures themselves, whitened and contrast-normalised (Coates, Ng and Lee,
"An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011), and to the same patches
mirrored: so the features of a mirrored picture are those of the picture in another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dnas.data.splits import Split
from dnas.data.streaming import AHEAD
from dnas.rng import numpy_stream

# Pictures that are looked at, which bounds the time: so many in all, or so many of a class if these are not more than
# the third number.
IMAGES = 1_500
OF_A_CLASS = 40
MOST_IMAGES = 3_000
MOST_OF_A_CLASS = 300
FOLDS = 5
# The share of sets whose labels say nothing in which a pair may be found, whatever the number of pairs.
LEVEL = 0.01
SIDE = 24  # pixels to which larger pictures are scaled
PATCHES = 128
BATCH = 128
RIDGE = 0.1  # of the mean variance of a picture
RESOLUTION = 4  # as good shuffles at which a pair is no longer found
SHUFFLES_AT_ONCE = 1_000
SUSPECTS = 5  # of which shuffles are made, at most
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Mirrored:
    """Two classes that mirroring confuses.

    Attributes:
        classes: Their positions among the classes, in order.
        facing: Share of held-out pictures of the two that is told apart by what mirroring takes away.
        rest: The same by what it leaves.
        p: How often chance does as well, among all pairs of classes.
    """

    classes: tuple[int, int]
    facing: float
    rest: float
    p: float


@dataclass(frozen=True)
class Finding:
    """What was found in `images` training pictures: the pair that mirroring confuses most surely, if there is one."""

    images: int
    pair: Mirrored | None = None


def find_mirrored(split: Split) -> Finding:
    """Look for classes in a split that are mirror images of each other. A pure function of its pictures.

    A pair of classes is found if the answers by what mirroring takes away are better than those by what it leaves, and
    than chance, and have at least twice as large a share of right ones beyond a half. "Better" is at the level `LEVEL`
    for all pairs together (Bonferroni), and is compared with as good answers for shuffled labels, since those of one
    cross-validation vary more than independent ones.

    Args:
        split: Training pictures, in memory or streamed.

    Raises:
        RunError: A streamed picture is not what it was when it was listed.
    """
    chosen = _drawn(split.labels.cpu().numpy())
    if len(chosen) < 2:
        return Finding(0)
    every = np.concatenate(list(chosen.values()))
    taken, left = _features(split, every)
    grams = np.stack([taken @ taken.T, left @ left.T]).astype(np.float64)
    ends = np.cumsum([len(at) for at in chosen.values()])
    places = {label: np.arange(end - len(at), end) for end, (label, at) in zip(ends, chosen.items(), strict=True)}
    pairs = list(combinations(places, 2))
    suspects = []
    for a, b in pairs:
        inverse, labels = _fitted(grams, places[a], places[b])
        facing, rest = _right(inverse, labels[None])[:, 0]
        coins = len(pairs) * _coins(facing, rest)
        if coins < LEVEL and facing.mean() - 0.5 >= 2 * (rest.mean() - 0.5):
            suspects.append((coins, a, b))
    for _, a, b in sorted(suspects)[:SUSPECTS]:
        inverse, labels = _fitted(grams, places[a], places[b])
        facing, rest = _right(inverse, labels[None])[:, 0]
        p = len(pairs) * _shuffled(inverse, labels, facing, rest, len(pairs))
        if p <= LEVEL:
            return Finding(len(every), Mirrored((a, b), float(facing.mean()), float(rest.mean()), p))
    return Finding(len(every))


def _drawn(labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The positions of the pictures that are looked at, by label: as many of each class, where there are so many.

    Left out are classes of which so few can be looked at that not even a classifier that is always right, where the
    other one guesses, could show anything.
    """
    rng = numpy_stream(0, "mirroring")
    of = {int(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    each = min(MOST_OF_A_CLASS, max(IMAGES // len(of), min(OF_A_CLASS, MOST_IMAGES // len(of))))
    fewest = math.log2(math.comb(len(of), 2) / LEVEL)
    taken = {label: at[: min(each, len(at)) // FOLDS * FOLDS] for label, at in of.items()}
    return {label: at for label, at in taken.items() if len(at) >= fewest}


def _fitted(grams: Numbers, first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Both classifiers of a pair of classes, with as many pictures of either in every fold.

    Args:
        grams: [2, N, N] by what mirroring takes, and by what it leaves.
        first, second: Positions of their pictures.

    Returns:
        The inverses of the Gram matrices of M pictures with their ridge, [2, M, M]; the labels 1 and -1,
        [FOLDS, M / FOLDS].
    """
    each = min(len(first), len(second))
    at = np.stack([first[:each].reshape(FOLDS, -1), second[:each].reshape(FOLDS, -1)], axis=1).reshape(-1)
    labels = np.broadcast_to(np.array([1.0, -1.0])[None, :, None], (FOLDS, 2, each // FOLDS)).reshape(FOLDS, -1)
    gram = grams[:, at[:, None], at]
    # In place of an intercept, which the first does not need: between a picture and its copy it is zero.
    gram[1] += gram[1].mean() - gram[1].mean(0) - gram[1].mean(1)[:, None]
    ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / len(at) + 1e-12
    inverse: Numbers = np.linalg.inv(gram + ridge[:, None, None] * np.eye(len(at)))
    return inverse, labels


def _right(inverse: Numbers, labels: Numbers) -> NDArray[np.bool_]:
    """Whether pictures in folds are told apart by those of the other folds.

    Args:
        inverse: [K, N, N] of K Gram matrices with their ridge.
        labels: [S, FOLDS, N / FOLDS] of 1 and -1, S of them.

    Returns:
        [K, S, N].
    """
    sets, _, size = labels.shape
    folds = np.arange(FOLDS * size).reshape(FOLDS, size)
    blocks = np.stack([inverse[:, fold[:, None], fold] for fold in folds], axis=1)
    fitted = (inverse @ labels.reshape(sets, -1).T).reshape(-1, FOLDS, size, sets)
    # What is missing to the labels of a fold that was held out, without a fit for each.
    missing = np.linalg.solve(blocks, fitted).transpose(0, 3, 1, 2)
    right: NDArray[np.bool_] = ((labels - missing) * labels > 0).reshape(len(inverse), sets, -1)
    return right


def _coins(facing: NDArray[np.bool_], rest: NDArray[np.bool_]) -> float:
    """How often fair coins are as good: where only one classifier is right (McNemar), and for the first one alone."""
    from scipy.stats import binom

    better, worse = int((facing & ~rest).sum()), int((rest & ~facing).sum())
    return float(max(binom.sf(better - 1, better + worse, 0.5), binom.sf(int(facing.sum()) - 1, len(facing), 0.5)))


def _shuffled(
    inverse: Numbers, labels: Numbers, facing: NDArray[np.bool_], rest: NDArray[np.bool_], pairs: int
) -> float:
    """How often answers for labels that were shuffled within the folds are as good, in that respect in which more are.

    Counted as by Phipson and Smyth ("Permutation p-values should never be zero", 2010), and until it is sure that it is
    too often.
    """
    wanted = np.array([int(facing.sum()) - int(rest.sum()), int(facing.sum())])
    as_good = np.zeros(2, np.int64)
    shuffles = math.ceil(RESOLUTION * pairs / LEVEL)
    rng = numpy_stream(0, "mirroring", 2)
    for start in range(0, shuffles, SHUFFLES_AT_ONCE):
        count = min(SHUFFLES_AT_ONCE, shuffles - start)
        right = _right(inverse, rng.permuted(np.broadcast_to(labels, (count, *labels.shape)), axis=2)).sum(2)
        as_good += (np.stack([right[0] - right[1], right[0]], 1) >= wanted).sum(0)
        if as_good.max() >= RESOLUTION:
            break
    return float((1 + as_good.max()) / (1 + shuffles))


def _features(split: Split, at: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What mirroring takes from pictures, and what it leaves: [N, D] each, of standardised features."""
    channels, size = split.images.shape[1], split.images.shape[-1]
    grid = _Grid.of(size)
    rng = numpy_stream(0, "mirroring", 1)
    sample = grid.cut(split.batch(torch.from_numpy(rng.permutation(at)[: 4 * BATCH]))).flatten(0, 1)
    filters = _filters(sample[torch.from_numpy(rng.permutation(len(sample))[:20_000])], channels)
    pieces = torch.split(torch.from_numpy(at), BATCH)
    found = []
    for k, piece in enumerate(pieces):
        responses = grid.cut(split.batch(piece, pieces[k + 1 : k + 1 + AHEAD])) @ filters
        responses = F.relu(torch.cat([responses, -responses], -1) - 1).transpose(1, 2)
        responses = responses.reshape(len(piece), -1, grid.rows, grid.rows)
        own, other = [], []
        for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
            for count in (1, 2):
                cells = pool(responses, count).sqrt().reshape(len(piece), 2, 2, -1, count, count)
                # Of patches, and of mirrored patches in mirrored places: those of the mirrored picture.
                own.append(cells[:, :, 0].flatten(1))
                other.append(cells[:, :, 1].flip(-1).flatten(1))
        found.append(torch.stack([torch.cat(own, 1), torch.cat(other, 1)]))
    pictures, copies = torch.cat(found, 1)
    mean = (pictures.mean(0) + copies.mean(0)) / 2
    scale = ((pictures - mean).square().mean(0) + (copies - mean).square().mean(0) + 1e-6).sqrt() * len(mean) ** 0.5
    return ((pictures - copies) / scale).numpy(), ((pictures + copies - 2 * mean) / scale).numpy()


@dataclass(frozen=True)
class _Grid:
    """Where patches lie in a picture of `side` pixels, such that mirroring maps the places onto each other."""

    side: int
    patch: int
    stride: int

    @staticmethod
    def of(size: int) -> _Grid:
        side = min(SIDE, size) // 2 * 2
        return _Grid(side, 8, 2) if side >= 16 else _Grid(side, side // 2, 1)

    @property
    def rows(self) -> int:
        return (self.side - self.patch) // self.stride + 1

    def cut(self, images: Tensor) -> Tensor:
        """The patches [B, rows · rows, C · patch · patch] of uint8 pictures, without their brightness and contrast."""
        pixels = images.cpu().float() / 255
        if self.side != pixels.shape[-1]:
            pixels = F.interpolate(pixels, size=(self.side, self.side), mode="bilinear", antialias=True)
        patches = F.unfold(pixels, self.patch, stride=self.stride).transpose(1, 2)
        patches = patches - patches.mean(-1, keepdim=True)
        # Less contrast than 3 % of the range is noise.
        return patches / (patches.var(-1, keepdim=True) + 1e-3).sqrt()


def _filters(patches: Tensor, channels: int) -> Tensor:
    """Some of the patches [M, P], whitened, and the same ones mirrored: [P, 2 · F]."""

    def mirrored(some: Tensor) -> Tensor:
        side = math.isqrt(some.shape[1] // channels)
        return some.reshape(-1, channels, side, side).flip(-1).reshape(some.shape)

    both = torch.cat([patches, mirrored(patches)])
    values, vectors = torch.linalg.eigh((both.T @ both / len(both)).double())
    whiten = (vectors @ torch.diag((values.clamp_min(0) + 0.1) ** -0.5) @ vectors.T).float()
    length = patches.norm(dim=1)
    # Where all are blank these tell nothing, as they should.
    chosen = patches[length > min(0.1 * patches.shape[1] ** 0.5, float(length.max()))][:PATCHES]
    chosen = (chosen if len(chosen) else patches[:1]) @ whiten
    chosen = torch.cat([chosen, mirrored(chosen)])
    filters: Tensor = whiten @ (chosen / (chosen.norm(dim=1, keepdim=True) + 1e-12)).T
    return filters
