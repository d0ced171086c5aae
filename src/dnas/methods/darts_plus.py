"""DARTS+: DARTS that stops before skip connections take over (Liang et al., 2019).

    criterion 1     stop when the derived normal cell has two or more skip connections
    criterion 1*    stop when the order of the learnable operations' alpha has not changed for ten epochs

Everything else is as in DARTS, first order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, GradientOptions, Progress, SearchState
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, softmax


class DARTSPlusOptions(GradientOptions):
    """Options of the stopping criteria; `none` competes in the softmax, as in DARTS."""

    with_none: bool = Field(True, description="`none` is a candidate while searching, as in DARTS")
    stop: Literal["skips", "ranking", "both"] = Field(
        "skips", description="what ends the search: skip connections (criterion 1), a stable ranking (1*), or either"
    )
    skips: float = Field(
        2.0,
        gt=0,
        description="criterion 1: stop at so many skip connections per normal cell, averaged over all of them",
    )
    ranking: Literal["order", "best"] = Field(
        "order",
        description="criterion 1*: compare the whole order of the learnable operations of each edge, or only the first",
    )
    patience: int = Field(
        0,
        ge=0,
        description="criterion 1*: epochs without a change; 0: a sixth of the epochs of the search, so 10 of 60",
    )


class DARTSPlus(GradientMethod):
    """Any mapping × softmax × first order, stopped early × top two edges."""

    name = "darts-plus"
    title = "DARTS+"
    paper = "Liang et al., DARTS+: Improved Differentiable Architecture Search with Early Stopping, arXiv 1909.06035"
    default_mapping = SHARED
    Options = DARTSPlusOptions
    options: DARTSPlusOptions

    def __init__(self, options: DARTSPlusOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        for option, idle in (("skips", "ranking"), ("ranking", "skips"), ("patience", "skips")):
            value = getattr(options, option)
            if options.stop == idle and value != DARTSPlusOptions.model_fields[option].default:
                raise InputError(f"--option {option}={value} does not apply to stop={idle}")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The proxy of DARTS: 8 layers without warm-up, for at most 60 epochs, trained with 20 layers."""
        return self.of_pair(data, proxy={"warmup_epochs": 0, "epochs": 60})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        return expand(softmax(mapping.terms()), None, mapping.layers)

    def after_epoch(self, search: SearchState, progress: Progress) -> Architecture | None:
        """End the search if a criterion is met: the first one returns the architecture of the epoch before, which it
        protects, and the second one that of this epoch."""
        if progress.epoch < progress.warmup_epochs:
            return None  # without updates of the architecture, its ranking would seem stable
        memory = search.memory
        now, ranking = self.derive(search.mapping, progress), self.ranked(search.mapping, progress)
        before = Architecture.from_json(memory["before"]) if memory else now
        calm = memory["calm"] + 1 if ranking == memory.get("ranking") else 0
        memory.update(before=now.to_json(), ranking=ranking, calm=calm)
        # The criterion is met when the limit is crossed: a search that starts above it has no earlier architecture.
        limit = self.options.skips
        if self.options.stop != "ranking" and normal_skips(before) < limit <= normal_skips(now):
            return self._stopped("skips", progress.epoch + 1, before, now)
        patience = self.options.patience or max(1, round(progress.epochs / 6))
        if self.options.stop != "skips" and calm >= patience:
            return self._stopped("ranking", progress.epoch + 1, now, before)
        return None

    def ranked(self, mapping: Mapping, progress: Progress) -> list[Any]:
        """Return [L, E, n] as lists: the learnable operations of each edge, strongest first."""
        learnable = [o for o, name in enumerate(self.operations) if self.space.operation_params(name)]
        with torch.no_grad():
            scores = self.scores(mapping, progress)[..., learnable].to("cpu", torch.float64)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        ranking: list[Any] = order[..., : 1 if self.options.ranking == "best" else None].tolist()
        return ranking

    def _stopped(self, rule: str, epoch: int, taken: Architecture, other: Architecture) -> Architecture:
        stop = {"rule": rule, "epoch": epoch, "other": other.to_json()["layers"]}
        return replace(taken, origin={**self.origin(), "stop": stop})


def normal_skips(architecture: Architecture) -> float:
    """Return the mean number of skip connections over the normal layers, which have one cell under `shared`."""
    normal = [cell for k, cell in enumerate(architecture.layers) if k not in architecture.reductions]
    skips: list[bool] = [op == "skip_connect" for cell in normal for node in cell.nodes for op, _ in node]
    return sum(skips) / len(normal)
