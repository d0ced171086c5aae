"""Shrinking: edges lose their weakest operations in stages, while skips drop out (Chen et al., P-DARTS, ICCV 2019).

The epochs that update the architecture are three stages of equal length. In the second, each edge keeps its
`keep_second` best operations, and in the third its `keep_third` best. In each stage the output of the identity is
dropped with a probability that starts at the value of the stage and falls linearly to 0, so that skip connections,
which need no training, do not win before other operations can.

The other half of P-DARTS, a deeper network in each stage, is not implemented: see docs/parts.md.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, Progress
from dnas.parts.protocol import Part, PartOptions, SearchView, require_top_edges
from dnas.settings import GradientSettings
from dnas.space.protocol import SearchSpace
from dnas.supernet import derive

STAGES = 3


class ShrinkingOptions(PartOptions):
    """Options; the numbers of operations are those of the paper, with `none` among the eight of its first stage."""

    keep_second: int = Field(5, ge=1, description="operations per edge in the second stage")
    keep_third: int = Field(3, ge=1, description="operations per edge in the third stage")
    dropout_first: float = Field(0.0, ge=0, lt=1, description="dropout of skips at the start of the first stage")
    dropout_second: float = Field(0.4, ge=0, lt=1, description="dropout of skips at the start of the second stage")
    dropout_third: float = Field(0.7, ge=0, lt=1, description="dropout of skips at the start of the third stage")


class Shrinking(Part):
    """Fewer operations per edge in each stage, and dropout of skips."""

    name = "shrinking"
    title = "Fewer operations in stages (P-DARTS)"
    paper = (
        "Chen et al., Progressive Differentiable Architecture Search: Bridging the Depth Gap Between Search and "
        "Evaluation, ICCV 2019"
    )
    Options = ShrinkingOptions
    options: ShrinkingOptions

    def check(self, method: GradientMethod, settings: GradientSettings) -> None:
        require_top_edges(self.name, method)
        second, third = self.options.keep_second, self.options.keep_third
        if third > second:
            raise InputError(
                f"--option {self.name}.keep_third={third} must be at most keep_second={second}, since edges "
                "only lose operations"
            )
        most = int((~derive.closed(method.operations, method.space, STAGES)).sum(-1).max())
        if third >= most:
            raise InputError(
                f"--with {self.name} would have no effect: an edge of --space {method.space.name} has at most {most} "
                f"operations to derive, and {self.name}.keep_third is {third}"
            )
        if (moving := settings.epochs - settings.warmup) < STAGES:
            raise InputError(
                f"--with {self.name} requires {STAGES} epochs that update the architecture, one per stage, "
                f"got {moving}; "
                "use more --epochs, or fewer search.warmup_epochs"
            )

    def closing(self, search: SearchView, step: int) -> Tensor | None:
        progress = search.progress(step, draw=1)
        stage, _ = position(progress)
        if stage == 0:
            return None
        keep = self.options.keep_second if stage == 1 else self.options.keep_third
        return beyond(search.closings.ranking(progress), search.method.operations, search.method.space, keep)

    def skip_dropout(self, search: SearchView, progress: Progress) -> float:
        stage, passed = position(progress)
        options = self.options
        return (options.dropout_first, options.dropout_second, options.dropout_third)[stage] * (1 - passed)

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        """Return the mean number of remaining operations per edge."""
        left = (~search.closings.closed).sum(-1).double().mean()
        return {f"{self.name}.operations": float(left), f"{self.name}.dropout": self.skip_dropout(search, progress)}


def position(progress: Progress) -> tuple[int, float]:
    """Return the stage, from 0, and the share of it that passed before this epoch; the warm-up is before the first."""
    moving = progress.epochs - progress.warmup_epochs
    passed = STAGES * max(0, progress.epoch - progress.warmup_epochs) / moving
    stage = min(STAGES - 1, int(passed))
    return stage, passed - stage


def beyond(scores: Tensor, operations: tuple[str, ...], space: SearchSpace, keep: int) -> Tensor:
    """Return [L, E, O] of bool: operations that are not among the `keep` best of their edge, the first of equals. The
    best one that can be derived always stays, if necessary instead of the last of them.

    Args:
        scores: [L, E, O], -∞ for closed operations.
    """
    ranked = scores.clone()
    derivable = scores.masked_fill(derive.closed(operations, space, len(scores)), -torch.inf)
    ranked.scatter_(-1, derivable.argmax(-1, keepdim=True), torch.inf)
    order = torch.argsort(ranked, dim=-1, descending=True, stable=True)
    return torch.ones_like(scores, dtype=torch.bool).scatter_(-1, order[..., :keep], False)
