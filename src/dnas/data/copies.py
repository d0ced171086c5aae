"""Duplicate images: the same pixels, or nearly the same, as after compression, resizing or mirroring.

Near copies are found in thumbnails, as vectors without their mean and of length 1. Two images are a pair if their
distance is at most `NEAR`, which is a correlation of 0.98, and if it stands out: at most `STANDS_OUT` times the
distance of each to its 32nd neighbor. Trousers on black resemble each other as much as copies of a photograph do, but
not more than many other trousers.

Only neighbors in the first principal components are compared, by a k-d tree. A projection shortens distances, so no
pair is missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dnas.data.sources.samples import Bytes, Labels

NEAR = 0.2
STANDS_OUT = 0.27
# The rank of the neighbor whose distance shows how much images resemble each other that are not copies.
RANK = 32
# Thumbnails with less contrast than this, as a standard deviation of bytes, count as blank: only noise is left.
BLANK = 3.0
_COMPONENTS = 16
_SAMPLE = 256
_FITTED = 4096
_AT_ONCE = 2048

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Near copies.

    Attributes:
        positions: int64 [P, 2], smaller one first.
        mirrored: bool [P], whether one is the mirror image of the other.
    """

    positions: Labels
    mirrored: npt.NDArray[np.bool_]


def equal(digests: Labels) -> list[Labels]:
    """Return the positions of each digest that occurs more than once, ordered by the first position."""
    order = np.argsort(digests, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(digests[order])) + 1)
    return sorted((run for run in runs if len(run) > 1), key=lambda run: int(run[0]))


def near(thumbs: Bytes) -> Pairs:
    """Return the near copies among thumbnails [N, H, W, C], which should all be different."""
    contrast = thumbs.reshape(len(thumbs), -1).std(1)
    used = np.flatnonzero(contrast >= BLANK)
    nothing = Pairs(np.zeros((0, 2), np.int64), np.zeros(0, bool))
    if len(used) < 2:
        return nothing
    search = _Search(thumbs[used])
    found = [search.within(mirrored) for mirrored in (False, True)]
    pairs = np.concatenate([pairs for pairs, _ in found])
    distances = np.concatenate([distances for _, distances in found])
    mirrored = np.repeat([False, True], [len(pairs) for pairs, _ in found])
    # For an image that resembles its own mirror image, both are found: the closer one counts.
    order = np.lexsort((distances, pairs[:, 1], pairs[:, 0]))
    pairs, distances, mirrored = pairs[order], distances[order], mirrored[order]
    first = np.ones(len(pairs), bool)
    first[1:] = (np.diff(pairs, axis=0) != 0).any(1)
    pairs, distances, mirrored = pairs[first], distances[first], mirrored[first]
    kept = search.stand_out(pairs, distances)
    return Pairs(used[pairs[kept]], mirrored[kept])


class _Search:
    """Thumbnails [N, H, W, C], and a k-d tree of their projections."""

    def __init__(self, thumbs: Bytes) -> None:
        from scipy.spatial import cKDTree

        self.thumbs = thumbs
        every = np.arange(len(thumbs))
        fitted = _vectors(thumbs[:: -(-len(thumbs) // _FITTED)])
        basis = np.linalg.eigh(fitted.T @ fitted)[1][:, ::-1][:, :_COMPONENTS]
        self.projected = [self._projected(every, basis, mirrored) for mirrored in (False, True)]
        self.tree = cKDTree(self.projected[0])
        self.radius = min(NEAR, STANDS_OUT * self._usual())

    def _projected(self, positions: Labels, basis: Vectors, mirrored: bool) -> Vectors:
        parts = np.array_split(positions, -(-len(positions) // _AT_ONCE))
        return np.concatenate([self._of(part, mirrored) @ basis for part in parts])

    def _of(self, positions: Labels, mirrored: bool = False) -> Vectors:
        return _vectors(self.thumbs[positions, :, ::-1] if mirrored else self.thumbs[positions])

    def _distances(self, one: Labels, other: Labels, mirrored: bool = False) -> npt.NDArray[np.float32]:
        found = np.empty(len(one), np.float32)
        for start in range(0, len(one), _AT_ONCE):
            span = slice(start, start + _AT_ONCE)
            found[span] = np.linalg.norm(self._of(one[span], mirrored) - self._of(other[span]), axis=1)
        return found

    def within(self, mirrored: bool) -> tuple[Labels, npt.NDArray[np.float32]]:
        """Return pairs at most `NEAR` apart [P, 2], of each image with its nearest neighbors, and their distances."""
        pairs, distances = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
        neighbours = min(RANK + 1, len(self.thumbs))
        for start in range(0, len(self.thumbs), _AT_ONCE):
            asked = self.projected[mirrored][start : start + _AT_ONCE]
            found, places = self.tree.query(asked, neighbours, distance_upper_bound=self.radius, workers=-1)
            rows, columns = np.nonzero(np.isfinite(found))
            one, other = rows + start, np.asarray(places)[rows, columns]
            one, other = one[one != other], other[one != other]
            apart = self._distances(one, other, mirrored)
            close = apart <= self.radius
            pairs.append(np.sort(np.stack([one[close], other[close]], 1), 1))
            distances.append(apart[close])
        return np.concatenate(pairs), np.concatenate(distances)

    def _usual(self) -> float:
        """Return a distance to the 32nd neighbor that few images exceed, from a sample."""
        if len(self.thumbs) <= 2 * RANK:
            return np.inf
        sample = self._of(np.arange(0, len(self.thumbs), -(-len(self.thumbs) // _SAMPLE)))
        parts = np.array_split(np.arange(len(self.thumbs)), -(-len(self.thumbs) // _AT_ONCE))
        alike = np.concatenate([sample @ self._of(part).T for part in parts], 1)
        nearest = -np.partition(-alike, RANK, axis=1)[:, RANK]
        return float(np.percentile(np.sqrt(np.maximum(0, 2 - 2 * nearest)), 95))

    def stand_out(self, pairs: Labels, distances: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return which pairs are closer than images that are not copies, bool [P]."""
        if len(self.thumbs) <= 2 * RANK or not len(pairs):
            return np.ones(len(pairs), bool)
        paired, places = np.unique(pairs, return_inverse=True)
        usual = np.empty(len(paired), np.float32)
        neighbours = min(2 * RANK + 1, len(self.thumbs))
        for start in range(0, len(paired), _AT_ONCE // 8):
            asked = paired[start : start + _AT_ONCE // 8]
            around = np.asarray(self.tree.query(self.projected[0][asked], neighbours, workers=-1)[1])
            apart = self._distances(np.repeat(asked, neighbours), around.reshape(-1)).reshape(len(asked), -1)
            usual[start : start + len(asked)] = np.partition(apart, RANK, axis=1)[:, RANK]
        least = usual[places.reshape(pairs.shape)].min(1)
        stands: npt.NDArray[np.bool_] = distances <= STANDS_OUT * least
        return stands


def _vectors(thumbs: Bytes) -> Vectors:
    """Return thumbnails as vectors [N, D] without their mean, of length 1."""
    vectors = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors


def joined(count: int, pairs: Labels) -> list[Labels]:
    """Return the positions of each group of two or more connected by pairs, ordered by the first position."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return equal(connected_components(links, directed=False)[1].astype(np.int64))
