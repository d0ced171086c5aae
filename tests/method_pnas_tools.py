"""Cells as pnas knows them, their trials, and a score that is a sum over their nodes: for its tests."""

import torch

from dnas.methods import pnas
from dnas.methods.protocol import Trial
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.architecture import stack
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell


def random_cells(count, nodes, seed=0):
    """[count, nodes, 4]: uniform ones."""
    rng = numpy_stream(seed, "cells")
    architectures = [sampling.sample(DARTS, rng, 3) for _ in range(count)]
    return pnas.tokens([Trial(a, None) for a in architectures], DARTS)[:, :nodes]


def trials(cells, scores):
    """A history of cells [N, n, 4]."""
    genes = [pnas.decode(cell, DARTS) for cell in cells]
    return [Trial(stack(gene, gene, 3), s) for gene, s in zip(genes, scores, strict=True)]


class Additive:
    """A score to which every input and every operation of every node adds its own part, at `alike` nodes the same."""

    def __init__(self, seed, alike=False):
        generator = torch_stream(seed, "additive")
        tables = (torch.rand((1 if alike else 4, 7), generator=generator) / 20 for _ in range(2))
        self.inputs, self.operations = (table.expand(4, 7) for table in tables)

    def __call__(self, cells):
        parts = torch.zeros(len(cells))
        for n in range(cells.shape[1]):
            parts += self.inputs[n][cells[:, n, :2]].sum(1) + self.operations[n][cells[:, n, 2:]].sum(1)
        return parts

    def judge(self, number, candidate):
        return float(self(pnas.tokens([Trial(candidate.architecture, None)], DARTS)))

    def best(self):
        """By hand: at every node the two best inputs, and twice the best operation."""
        gene = []
        for n in range(4):
            inputs = sorted(sorted(range(n + 2), key=lambda s: -self.inputs[n][s].item())[:2])
            op = DARTS.primitives[int(self.operations[n].argmax())]
            gene.append(tuple((op, s) for s in inputs))
        return Cell(tuple(gene))
