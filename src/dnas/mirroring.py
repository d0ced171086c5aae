"""Finds classes that are mirror images of each other, and so cannot be told apart by training on mirrored pictures.

A linear classifier that also learns every picture's mirrored copy is one that has only features which mirroring leaves
alone: on the others a picture and its copy disagree, so their weights become zero. Hence two classifiers for each pair
of classes, and no training on copies:

- one on what a picture and its mirrored copy have in common, which is all that mirroring leaves;
- one on what distinguishes them, which mirroring takes away.

Where the second is the better one, the classes differ by the way that they face. Both are ridge regressions, by
five-fold cross-validation on the same pictures, so the answers are compared picture by picture (McNemar's exact test).

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

from dnas.data import Split
from dnas.streaming import AHEAD
from dnas.streams import numpy_stream

# Pictures that are looked at, which bounds the time: so many in all, or so many of a class if these are not more than
# the third number.
IMAGES = 1_500
OF_A_CLASS = 40
MOST_IMAGES = 3_000
MOST_OF_A_CLASS = 300
FOLDS = 5
# How often a set in which mirroring confuses nothing may be found to have such a pair, whatever its number of pairs.
LEVEL = 0.001

SIDE = 24  # pixels to which larger pictures are scaled
PATCHES = 128
BATCH = 128
RIDGE = 0.1  # of the mean variance of a picture

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Mirrored:
    """Two classes that mirroring confuses.

    Attributes:
        classes: Their positions among the classes, in order.
        facing: Share of held-out pictures of the two that is told apart by what mirroring takes away.
        rest: The same by what it leaves.
        p: Of the exact tests that `facing` is more than `rest` (McNemar) and more than a half: the larger one, times
            the number of pairs (Bonferroni).
    """

    classes: tuple[int, int]
    facing: float
    rest: float
    p: float


@dataclass(frozen=True)
class Finding:
    """What was looked for in `images` training pictures, and the pairs that were found, the surest first."""

    images: int
    pairs: tuple[Mirrored, ...]


def find_mirrored(split: Split) -> Finding:
    """The pairs of classes in a split that are mirror images of each other. A pure function of its pictures.

    A pair is reported if the answers by what mirroring takes away are the better ones at the level `LEVEL`, after
    Bonferroni over all pairs, and have at least twice as large a share of right ones beyond a half.

    Args:
        split: Training pictures, in memory or streamed.

    Raises:
        RunError: A streamed picture is not what it was when it was listed.
    """
    chosen = _drawn(split.labels.cpu().numpy())
    if len(chosen) < 2:
        return Finding(0, ())
    every = np.concatenate(list(chosen.values()))
    taken, left = _features(split, every)
    grams = np.stack([taken @ taken.T, left @ left.T]).astype(np.float64)
    starts = np.cumsum([0, *(len(of) for of in chosen.values())])
    places = {
        label: np.arange(start, start + len(of)) for start, (label, of) in zip(starts, chosen.items(), strict=False)
    }
    pairs = list(combinations(places, 2))
    found = [_compared(grams, (a, b), places[a], places[b], len(pairs)) for a, b in pairs]
    told = [pair for pair in found if pair.p < LEVEL and pair.facing - 0.5 >= 2 * (pair.rest - 0.5)]
    return Finding(len(every), tuple(sorted(told, key=lambda pair: pair.p)))


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


def _compared(
    grams: Numbers, classes: tuple[int, int], first: NDArray[np.int64], second: NDArray[np.int64], pairs: int
) -> Mirrored:
    """Both classifiers of a pair of classes, by cross-validation with as many pictures of either in every fold.

    Args:
        grams: [2, N, N] by what mirroring takes, and by what it leaves.
        first, second: Positions of their pictures.
    """
    from scipy.stats import binom

    each = min(len(first), len(second))
    at = np.stack([first[:each].reshape(FOLDS, -1), second[:each].reshape(FOLDS, -1)], axis=1).reshape(-1)
    answers = np.broadcast_to(np.array([1.0, -1.0])[None, :, None], (FOLDS, 2, each // FOLDS)).reshape(-1)
    gram = grams[:, at[:, None], at]
    # In place of an intercept, which the first has no use for: between a picture and its copy it is zero.
    gram[1] += gram[1].mean() - gram[1].mean(0) - gram[1].mean(1)[:, None]
    ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / len(at) + 1e-12
    inverse = np.linalg.inv(gram + ridge[:, None, None] * np.eye(len(at)))
    # What is missing to the answers of a fold that was held out, without the classifier that never saw it.
    folds = np.arange(len(at)).reshape(FOLDS, -1)
    blocks = np.stack([inverse[:, fold[:, None], fold] for fold in folds], axis=1)
    missing = np.linalg.solve(blocks, (inverse @ answers).reshape(2, FOLDS, -1, 1)).reshape(2, -1)
    facing, rest = (answers - missing) * answers > 0
    better, worse = int((facing & ~rest).sum()), int((rest & ~facing).sum())
    # Better than the other one, and than chance: held-out answers of a classifier that knows nothing can be worse.
    p = max(binom.sf(better - 1, better + worse, 0.5), binom.sf(int(facing.sum()) - 1, len(at), 0.5))
    return Mirrored(classes, float(facing.mean()), float(rest.mean()), min(1.0, float(p) * pairs))


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
