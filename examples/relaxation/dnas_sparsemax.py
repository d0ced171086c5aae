"""Sparsemax (Martins & Astudillo, ICML 2016): the point of the simplex next to the parameters, with many zeros."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dnas.supernet.relaxation import Relaxation, summed


def sparsemax(terms: Sequence[Tensor], share: float) -> Tensor:
    """Weights [L, E, O], of which those of an edge add up to 1: max(0, z - τ), algorithm 1 of the paper."""
    z = summed(terms)
    ordered = z.sort(-1, descending=True).values
    sums = ordered.cumsum(-1)
    ranks = torch.arange(1, z.shape[-1] + 1, device=z.device)
    support = (1 + ranks * ordered > sums).sum(-1, keepdim=True)
    return (z - (sums.gather(-1, support - 1) - 1) / support).relu()


SPARSEMAX = Relaxation(
    "sparsemax",
    "operations of an edge compete, and the weak ones get nothing",
    "Martins & Astudillo, From Softmax to Sparsemax, ICML 2016",
    sparsemax,
)
