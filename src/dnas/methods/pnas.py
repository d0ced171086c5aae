"""PNAS: cells grow node by node, and a predictor of accuracy selects those to train (Liu et al., ECCV 2018).

S_1 = cells of one node
S_b = the K best by f among the cells of S_{b-1} with one node more                               (algorithm 1)
f = the mean of an ensemble that is trained from scratch on all accuracies so far
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, MethodOptions, Trial, TrialMethod, best
from dnas.network.modules import construct
from dnas.rng import torch_stream
from dnas.settings import TrialSettings
from dnas.space.architecture import Architecture, stack
from dnas.space.protocol import LayerChoice, SearchSpace
from dnas.supernet.mapping import SHARED

# Learning rate of Adam for cells of one node, and for larger cells.
RATES = (0.01, 0.002)
CHUNK = 4096


class PNASOptions(MethodOptions):
    """Options of the predictor."""

    predictor: Literal["mlp", "lstm"] = Field("mlp", description="model of each member of the ensemble")
    ensemble: int = Field(5, ge=1, description="number of members; each leaves out another part of the trials")
    units: int = Field(100, ge=1, description="width of embeddings and hidden layers")
    predictor_steps: int = Field(100, ge=1, description="steps of Adam on all of its trials, per member and stage")


class PNAS(TrialMethod):
    """Growing cells × the best by the predictor × the best whole cell."""

    name = "pnas"
    title = "PNAS (progressive search)"
    paper = "Liu et al., Progressive Neural Architecture Search, ECCV 2018"
    # If every layer has its own cell, there are 49^L one-node architectures, so there is no small first stage.
    mappings = (SHARED,)
    Options = PNASOptions
    options: PNASOptions

    def __init__(self, options: PNASOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if not all(len(nodes(space, n)) for n in range(space.nodes)):
            raise InputError(
                f"--method pnas has one cell for both kinds of layers, which have too few operations in common in the "
                f"{space.name} space; choose another method or space"
            )

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """K = 256 after all cells of one node; 20 epochs, 24 channels, two normal cells between reduction cells."""
        trials = len(nodes(self.space, 0)) + 256 * (self.space.nodes - 1)
        return self.of_pair(data, {"trials": trials, "epochs": 20}, {"layers": 8, "channels": 24})

    def stages(self) -> list[int]:
        """Numbers of cells with 1, 2, … nodes to train: equal shares of the budget, if there are as many cells.

        If the budget is smaller than the number of nodes, the first stages are 0.
        """
        left, parents, counts = self.budget or TrialSettings().trials, 1, []
        for n in range(self.space.nodes):
            counts.append(min(parents * len(nodes(self.space, n)), left // (self.space.nodes - n)))
            left -= counts[-1]
            parents = max(1, counts[-1])
        return counts

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return a whole stage, whose cells can be trained in parallel.

        If the number of trials is not set, the last stage is repeated, each time with other cells and a predictor that
        was trained on complete cells.
        """
        cells, done = empty(self.space), 0
        for count in self.stages():
            if len(history) < done + count:
                return self._rest(self.beam(history[:done], cells, count, seed), history[done:], layers)
            parents = cells
            if count:
                cells = tokens(history[done : done + count], self.space)
            else:
                cells = self.beam([], cells, 1, seed)
            done += count
        if self.budget is not None:
            return []
        again = (len(history) - done) // count * count
        whole = history[done - count : done + again]
        cells = self.beam(history[: done + again], parents, count, seed, whole)
        return self._rest(cells, history[done + again :], layers)

    def _rest(self, cells: Tensor, judged: Sequence[Trial], layers: int) -> list[Candidate]:
        """Return the candidates of a stage that are not scored yet."""
        return [Candidate(self._stacked(cell, layers)) for cell in cells[len(judged) :]]

    def choose(self, history: Sequence[Trial]) -> Architecture:
        """Return the best cell with all nodes; if time ran out before, the predictor adds the missing nodes.

        Raises RunError if all of them failed, or all trials.
        """
        largest = max(len(trial.architecture.layers[0].nodes) for trial in history)
        last = [trial for trial in history if len(trial.architecture.layers[0].nodes) == largest]
        if largest == self.space.nodes:
            return best(last, self.name).architecture
        best(history, self.name)
        cells = tokens(last, self.space)
        while cells.shape[1] < self.space.nodes:
            cells = self.beam(history, cells, 1, 0)
        return self._stacked(cells[0], len(last[0].architecture))

    def beam(
        self, history: Sequence[Trial], cells: Tensor, count: int, seed: int, known: Sequence[Trial] = ()
    ) -> Tensor:
        """Return the `count` best [count, n + 1, 2 I] by the predictor, of the cells [N, n, 2 I] with one more node.

        If there are no trials to learn from, they are a uniform sample. Cells of the trials `known`, which all have
        n + 1 nodes, are left out.
        """
        cells = expand(cells, self.space)
        if known:
            done = {tuple(cell) for cell in tokens(known, self.space).flatten(1).tolist()}
            cells = cells[[tuple(cell) not in done for cell in cells.flatten(1).tolist()]]
        if any(trial.score is not None for trial in history):
            order = self.predicted(history, cells, seed).argsort(descending=True, stable=True)
        else:
            order = torch.randperm(len(cells), generator=torch_stream(seed, "candidate", cells.shape[1]))
        return cells[order[:count]]

    def predicted(self, history: Sequence[Trial], cells: Tensor, seed: int) -> Tensor:
        """Return [N]: the accuracies of cells [N, n, 2 I] that the ensemble predicts after training on the history."""
        ensemble = fit(history, self.space, self.options, seed)
        with torch.no_grad():
            return torch.cat([mean(ensemble, chunk) for chunk in torch.split(cells, CHUNK)])

    def _stacked(self, cell: Tensor, layers: int) -> Architecture:
        """Stack one cell for normal and reduction layers, as published; only their strides differ."""
        gene = decode(cell, self.space)
        return stack(gene, gene, layers, origin=self.origin(), space=self.space.name)


# --- cells as tokens: for each node its I inputs in order, then their operations; -1 if a cell has no such node -------


def empty(space: SearchSpace) -> Tensor:
    """Return the cell without nodes, [1, 0, 2 I]."""
    return torch.zeros(1, 0, 2 * space.inputs_per_node, dtype=torch.int64)


def nodes(space: SearchSpace, n: int) -> Tensor:
    """Return all values of node n, each once, [B, 2 I]: 49, 147, 294 and 490 in the DARTS space.

    The cell is that of both kinds of layers, so its operations are those that an edge has in both.
    """
    first, count = space.node_edges[n][0], space.edges_of(n)
    both = [set(space.choices(False, first + e)) & set(space.choices(True, first + e)) for e in range(count)]
    offered = [[o for o, name in enumerate(space.primitives) if name in each] for each in both]
    inputs = combinations(range(count), space.inputs_per_node)
    return torch.tensor([taken + chosen for taken in inputs for chosen in product(*(offered[e] for e in taken))])


def expand(cells: Tensor, space: SearchSpace) -> Tensor:
    """Return every cell of [N, n, 2 I] with every further node, [N · B, n + 1, 2 I]."""
    further = nodes(space, cells.shape[1])
    return torch.cat([cells.repeat_interleave(len(further), 0), further.repeat(len(cells), 1)[:, None]], 1)


def tokens(trials: Sequence[Trial], space: SearchSpace) -> Tensor:
    """Return the cells of trials, padded to the largest, [N, n, 2 I]."""
    genes = [trial.architecture.layers[0].nodes for trial in trials]
    longest = max(len(gene) for gene in genes)
    rows = [
        [[source for _, source in node] + [space.primitives.index(op) for op, _ in node] for node in gene]
        for gene in genes
    ]
    padding = [-1] * (2 * space.inputs_per_node)
    return torch.tensor([row + [padding] * (longest - len(row)) for row in rows])


def decode(cell: Tensor, space: SearchSpace) -> LayerChoice:
    """Return the cell of tokens [n, 2 I] without padding."""
    inputs = space.inputs_per_node
    chosen: LayerChoice = space.layer(
        [
            [(space.primitives[op], source) for source, op in zip(node[:inputs], node[inputs:], strict=True)]
            for node in cell.tolist()
        ]
    )
    return chosen


# --- the predictor ----------------------------------------------------------------------------------------------------


class Predictor(nn.Module):
    """A member of the ensemble: cells [N, n, 2 I] → accuracies [N]; padding has no effect.

    "mlp" reads the mean over the nodes of a cell of the concatenated embeddings of their tokens; "lstm" reads token by
    token. All inputs share one table of embeddings, and all operations another.
    """

    def __init__(self, space: SearchSpace, kind: str, units: int) -> None:
        super().__init__()
        self.inputs = space.inputs_per_node
        self.states = nn.Embedding(space.edges_of(space.nodes - 1), units)
        self.operations = nn.Embedding(len(space.primitives), units)
        self.body: nn.Module
        if kind == "lstm":
            self.body = nn.LSTM(units, units, batch_first=True)
        else:
            wide = nn.Linear(2 * self.inputs * units, units)
            self.body = nn.Sequential(wide, nn.ReLU(), nn.Linear(units, units), nn.ReLU())
        self.head = nn.Linear(units, 1)

    def forward(self, cells: Tensor) -> Tensor:
        there = cells[:, :, 0] >= 0
        count = there.sum(1)
        index = cells.clamp_min(0)
        embedded = torch.cat([self.states(index[:, :, : self.inputs]), self.operations(index[:, :, self.inputs :])], 2)
        if isinstance(self.body, nn.LSTM):
            outputs, _ = self.body(embedded.flatten(1, 2))
            read = outputs[torch.arange(len(cells)), 2 * self.inputs * count - 1]
        else:
            read = self.body((embedded.flatten(2) * there[:, :, None]).sum(1) / count[:, None])
        out: Tensor = self.head(read).squeeze(1).sigmoid()
        return out


def fresh(space: SearchSpace, options: PNASOptions, accuracy: float, generator: torch.Generator) -> Predictor:
    """Return an untrained predictor: embeddings uniform in ±0.1, and a bias such that it predicts about this accuracy.

    The published bias, 1.8, corresponds to 86%.
    """
    predictor = construct(lambda: Predictor(space, options.predictor, options.units), generator)
    assert isinstance(predictor, Predictor)
    with torch.no_grad():
        for table in (predictor.states, predictor.operations):
            table.weight.uniform_(-0.1, 0.1, generator=generator)
        if isinstance(predictor.body, nn.LSTM):
            for parameter in predictor.body.parameters():
                parameter.uniform_(-1 / math.sqrt(options.units), 1 / math.sqrt(options.units), generator=generator)
        predictor.head.bias.fill_(torch.logit(torch.tensor(accuracy), eps=0.01))
    return predictor


def fit(history: Sequence[Trial], space: SearchSpace, options: PNASOptions, seed: int) -> list[Predictor]:
    """Train an ensemble by Adam on the mean absolute error. Each member leaves out its own part of the trials.

    A failed trial counts like the worst one. At least one trial must have a score.
    """
    cells = tokens(history, space)
    worst = min(trial.score for trial in history if trial.score is not None)
    accuracies = torch.tensor([worst if trial.score is None else trial.score for trial in history])
    members = []
    for m, seen in enumerate(shares(len(history), options.ensemble, seed)):
        generator = torch_stream(seed, "predictor", len(history), m)
        member = fresh(space, options, float(accuracies[seen].mean()), generator)
        optimizer = torch.optim.Adam(member.parameters(), RATES[cells.shape[1] > 1])
        for _ in range(options.predictor_steps):
            optimizer.zero_grad()
            (member(cells[seen]) - accuracies[seen]).abs().mean().backward()
            optimizer.step()
        settle(member, cells[seen])
        members.append(member)
    return members


def settle(member: Predictor, cells: Tensor) -> None:
    """Give states that no cell of [N, n, 2 I] reads the embedding of the last state that one does.

    Each stage adds a state that could not be read before: the node of the previous stage. Without this, the cells that
    read it would be ranked by its random initial embedding.
    """
    last = int(cells[:, :, : member.inputs].max())
    with torch.no_grad():
        member.states.weight[last + 1 :] = member.states.weight[last]


def shares(trials: int, members: int, seed: int) -> Tensor:
    """Return [members, trials] of bool: the trials of each member. Each trial is held out from one member, unless that
    member would have none."""
    part = torch.randperm(trials, generator=torch_stream(seed, "parts", trials)) % members
    seen = part != torch.arange(members)[:, None]
    return seen | ~seen.any(1, keepdim=True)


def mean(ensemble: Sequence[Predictor], cells: Tensor) -> Tensor:
    """Return [N]: the mean prediction of the members for cells [N, n, 2 I]."""
    return torch.stack([member(cells) for member in ensemble]).mean(0)
