"""Find classes that are mirror images of each other, which training on mirrored images cannot distinguish.

A linear classifier that is also trained on a mirrored copy of every image only uses features that are invariant to
mirroring: on the others an image and its copy disagree, so that their weights become zero. Hence there are two
classifiers for each pair of classes, and no training on copies:

- one on the features that an image and its mirrored copy share, which mirroring preserves;
- one on the features in which they differ, which mirroring removes.

If the second is better, the classes differ in the direction that they face. Both are ridge regressions with five-fold
cross-validation on the same images, so that the predictions are compared image by image (McNemar's test).

Features are responses to patches of the images themselves, whitened and contrast-normalized (Coates, Ng and Lee,
"An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011), and to the same patches
mirrored: the features of a mirrored image are therefore those of the image in another order.
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

# Number of images to use, which bounds the time: this many in total, or this many per class if the total is not above
# the third number.
IMAGES = 1_500
OF_A_CLASS = 40
MOST_IMAGES = 3_000
MOST_OF_A_CLASS = 300
FOLDS = 5
# The share of data sets with meaningless labels in which a pair may be found, for any number of pairs.
LEVEL = 0.01
SIDE = 24  # pixels to which larger images are resized
PATCHES = 128
BATCH = 128
RIDGE = 0.1  # relative to the mean variance of an image
RESOLUTION = 4  # number of equally good shuffles at which a pair no longer counts
SHUFFLES_AT_ONCE = 1_000
SUSPECTS = 5  # maximum number of pairs to test by shuffles
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Mirrored:
    """A pair of classes that mirroring confuses.

    Attributes:
        classes: Positions of the two among the classes, in order.
        facing: Share of their held-out images that is classified correctly by the features that mirroring removes.
        rest: The same by the features that mirroring preserves.
        p: Probability of a result as good by chance, among all pairs of classes.
    """

    classes: tuple[int, int]
    facing: float
    rest: float
    p: float


@dataclass(frozen=True)
class Finding:
    """Result for `images` training images: the pair that mirroring confuses most significantly, if there is one."""

    images: int
    pair: Mirrored | None = None


def find_mirrored(split: Split) -> Finding:
    """Find classes in a split that are mirror images of each other. A pure function of the images.

    A pair of classes counts if the predictions from the features that mirroring removes are better than those from the
    features that it preserves, and better than chance, and if their accuracy exceeds one half by at least twice as
    much.
    "Better" is at the level `LEVEL` for all pairs together (Bonferroni), and is compared with the predictions for
    shuffled labels, since those of one cross-validation vary more than independent ones.

    Args:
        split: Training images, in memory or streamed.

    Raises:
        RunError: A streamed image has changed since it was listed.
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
    """Return the positions of the images to use, by label: the same number per class, if there are enough.

    Classes are left out if they have so few images that even a perfect classifier, compared with a guessing one, could
    not be significant.
    """
    rng = numpy_stream(0, "mirroring")
    of = {int(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    each = min(MOST_OF_A_CLASS, max(IMAGES // len(of), min(OF_A_CLASS, MOST_IMAGES // len(of))))
    fewest = math.log2(math.comb(len(of), 2) / LEVEL)
    taken = {label: at[: min(each, len(at)) // FOLDS * FOLDS] for label, at in of.items()}
    return {label: at for label, at in taken.items() if len(at) >= fewest}


def _fitted(grams: Numbers, first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Fit both classifiers of a pair of classes, with the same number of images of each class in every fold.

    Args:
        grams: [2, N, N] of the features that mirroring removes, and of those that it preserves.
        first, second: Positions of the images of the two classes.

    Returns:
        The inverses of the Gram matrices of M pictures with their ridge, [2, M, M]; the labels 1 and -1,
        [FOLDS, M / FOLDS].
    """
    each = min(len(first), len(second))
    at = np.stack([first[:each].reshape(FOLDS, -1), second[:each].reshape(FOLDS, -1)], axis=1).reshape(-1)
    labels = np.broadcast_to(np.array([1.0, -1.0])[None, :, None], (FOLDS, 2, each // FOLDS)).reshape(FOLDS, -1)
    gram = grams[:, at[:, None], at]
    # Instead of an intercept, which the first does not need: between an image and its copy it is zero.
    gram[1] += gram[1].mean() - gram[1].mean(0) - gram[1].mean(1)[:, None]
    ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / len(at) + 1e-12
    inverse: Numbers = np.linalg.inv(gram + ridge[:, None, None] * np.eye(len(at)))
    return inverse, labels


def _right(inverse: Numbers, labels: Numbers) -> NDArray[np.bool_]:
    """Return whether the images of each fold are classified correctly by the other folds.

    Args:
        inverse: [K, N, N], inverses of K Gram matrices with their ridge.
        labels: [S, FOLDS, N / FOLDS], S sets of labels 1 and -1.

    Returns:
        [K, S, N].
    """
    sets, _, size = labels.shape
    folds = np.arange(FOLDS * size).reshape(FOLDS, size)
    blocks = np.stack([inverse[:, fold[:, None], fold] for fold in folds], axis=1)
    fitted = (inverse @ labels.reshape(sets, -1).T).reshape(-1, FOLDS, size, sets)
    # Residuals of the labels of each held-out fold, without a separate fit for each.
    missing = np.linalg.solve(blocks, fitted).transpose(0, 3, 1, 2)
    right: NDArray[np.bool_] = ((labels - missing) * labels > 0).reshape(len(inverse), sets, -1)
    return right


def _coins(facing: NDArray[np.bool_], rest: NDArray[np.bool_]) -> float:
    """Return how often fair coins are as good: if only one classifier is correct (McNemar), and for the first one."""
    from scipy.stats import binom

    better, worse = int((facing & ~rest).sum()), int((rest & ~facing).sum())
    return float(max(binom.sf(better - 1, better + worse, 0.5), binom.sf(int(facing.sum()) - 1, len(facing), 0.5)))


def _shuffled(
    inverse: Numbers, labels: Numbers, facing: NDArray[np.bool_], rest: NDArray[np.bool_], pairs: int
) -> float:
    """Return how often predictions for labels shuffled within the folds are as good, in the respect with more of them.

    Counted as in Phipson and Smyth ("Permutation p-values should never be zero", 2010), until the count is certain to
    be too high.
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
    """Return the features that mirroring removes and those that it preserves: [N, D] each, standardized."""
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
                # To patches, and to mirrored patches at mirrored positions, which are those of the mirrored image.
                own.append(cells[:, :, 0].flatten(1))
                other.append(cells[:, :, 1].flip(-1).flatten(1))
        found.append(torch.stack([torch.cat(own, 1), torch.cat(other, 1)]))
    pictures, copies = torch.cat(found, 1)
    mean = (pictures.mean(0) + copies.mean(0)) / 2
    scale = ((pictures - mean).square().mean(0) + (copies - mean).square().mean(0) + 1e-6).sqrt() * len(mean) ** 0.5
    return ((pictures - copies) / scale).numpy(), ((pictures + copies - 2 * mean) / scale).numpy()


@dataclass(frozen=True)
class _Grid:
    """Positions of patches in an image of `side` pixels that mirroring maps onto each other."""

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
        """Return the patches [B, rows · rows, C · patch · patch] of uint8 images, without brightness and contrast."""
        pixels = images.cpu().float() / 255
        if self.side != pixels.shape[-1]:
            pixels = F.interpolate(pixels, size=(self.side, self.side), mode="bilinear", antialias=True)
        patches = F.unfold(pixels, self.patch, stride=self.stride).transpose(1, 2)
        patches = patches - patches.mean(-1, keepdim=True)
        # Contrast below 3% of the range is noise.
        return patches / (patches.var(-1, keepdim=True) + 1e-3).sqrt()


def _filters(patches: Tensor, channels: int) -> Tensor:
    """Return some of the patches [M, P], whitened, and the same patches mirrored: [P, 2 · F]."""

    def mirrored(some: Tensor) -> Tensor:
        side = math.isqrt(some.shape[1] // channels)
        return some.reshape(-1, channels, side, side).flip(-1).reshape(some.shape)

    both = torch.cat([patches, mirrored(patches)])
    values, vectors = torch.linalg.eigh((both.T @ both / len(both)).double())
    whiten = (vectors @ torch.diag((values.clamp_min(0) + 0.1) ** -0.5) @ vectors.T).float()
    length = patches.norm(dim=1)
    # If all patches are blank, these carry no information, as they should.
    chosen = patches[length > min(0.1 * patches.shape[1] ** 0.5, float(length.max()))][:PATCHES]
    chosen = (chosen if len(chosen) else patches[:1]) @ whiten
    chosen = torch.cat([chosen, mirrored(chosen)])
    filters: Tensor = whiten @ (chosen / (chosen.norm(dim=1, keepdim=True) + 1e-12)).T
    return filters
