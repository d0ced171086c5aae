"""BANANAS: an ensemble predicts the error of architectures from their encoding (White et al., AAAI 2021).

    f_1 … f_M, each trained on all trials so far: encoding x → validation error y in percent               (§4)
    g_i ~ N(mean_m f_m(x_i), var_m f_m(x_i)) for every candidate i; those with the smallest g_i come next    (§4)

The candidates are mutations of the best architectures so far. Every round trains its predictors from scratch. If a
default is not the published value, `paper_options` has that value.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, count, islice, pairwise, repeat
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, MethodOptions, Trial, TrialMethod
from dnas.rng import numpy_stream, torch_stream
from dnas.space.architecture import Architecture
from dnas.space.protocol import LayerChoice, SearchSpace
from dnas.space.sampling import unseen
from dnas.supernet.mapping import SHARED
from dnas.training import updates

PREDICTOR_BATCH = 32
LOWER_BOUND = 4.5
# In percent: without it, an error at the lower bound would have infinite weight.
LEAST_EXCESS = 0.1


class BANANASOptions(MethodOptions):
    """Options of the rounds, their candidates and their predictors."""

    initial: int = Field(10, ge=1, description="number of random architectures at first; at most half of all trials")
    batch_size: int = Field(10, ge=1, description="trials per round; at most an eighth of all trials")
    candidates: int = Field(300, ge=1, description="architectures that the predictors rank per round; published: 100")
    candidates_from: Literal["parents", "mutation", "random"] = Field(
        "parents",
        description="candidates: mutations of the best trials in turn, or of the best one first, as published; or "
        "uniform draws",
    )
    mutations: int = Field(
        3, ge=1, description="largest number of mutations between a candidate and its parent; published: 1"
    )
    parents: int = Field(5, ge=1, description="number of the best trials that are mutated")
    encoding: Literal["edges", "path"] = Field(
        "edges", description="inputs of the predictors: the operation on each edge, or the paths, as published"
    )
    predictors: int = Field(5, ge=1, description="M: size of the ensemble; with 1 there is no variance")
    predictor_layers: int = Field(3, ge=1, description="hidden layers of a predictor; published: 10")
    predictor_width: int = Field(20, ge=1, description="units of a hidden layer")
    predictor_epochs: int = Field(60, ge=1, description="epochs of a predictor over the trials; published: 150")
    predictor_learning_rate: float = Field(0.01, gt=0, description="learning rate of Adam for the predictors")
    standardise: bool = Field(True, description="predict errors in units of their standard deviation")
    loss: Literal["mae", "mape"] = Field(
        "mae",
        description="mae: absolute error; mape: relative to the error above lower_bound, as published for this space",
    )
    lower_bound: float | None = Field(
        None, ge=0, lt=100, description="error in percent that loss=mape subtracts; 4.5 unless set"
    )


@lru_cache(10_000)
def paths(cell: LayerChoice, space: SearchSpace) -> frozenset[int]:
    """Return the indices of the paths of a layer from an input to a node, all of which continue to its output. The
    inputs of a chain are its kernels.

    The path from input s over operations o_0 … o_k-1, of q, has the index s · P + Σ_j q^j (o_j + 1) with
    P = Σ_{i ≤ nodes} q^i (2801 for DARTS), as in the authors' code; so 0 and P, the empty paths, never occur.
    """
    q = len(space.primitives)
    inputs = space.edges_of(0)
    reach: list[list[tuple[int, int]]] = [[(0, s * paths_of_an_input(space))] for s in range(inputs)]
    for node in cell.nodes:
        reach.append(
            [
                (length + 1, index + q**length * (space.primitives.index(op) + 1))
                for op, source in node
                for length, index in reach[source]
            ]
        )
    return frozenset(index for state in reach[inputs:] for _, index in state)


def paths_of_an_input(space: SearchSpace) -> int:
    """Return P = Σ_{i ≤ nodes} q^i, the number of paths that start at an input, including the empty one."""
    return sum(len(space.primitives) ** i for i in range(space.nodes + 1))


class Ensemble:
    """M fully connected networks with ReLU hidden layers, with independent weights and orders of examples.

    They are so small that calling a kernel costs more than its computation. All numbers are therefore in one tensor,
    which Adam updates at once, and the gradient is written out.

    Args:
        options: Number and shape of the networks.
        columns: Number of inputs that are not always 0.
        inputs: Number of all inputs, on which the initialization depends (Glorot uniform, as in the authors' code).
        generator: Draws the initial weights.
    """

    def __init__(self, options: BANANASOptions, columns: int, inputs: int, generator: torch.Generator) -> None:
        self.options = options
        widths = [columns, *repeat(options.predictor_width, options.predictor_layers), 1]
        self.shapes = [(before, after) for before, after in pairwise(widths)]
        self.numbers = torch.zeros(options.predictors * sum((before + 1) * after for before, after in self.shapes))
        self.weights, self.biases = self._parts(self.numbers)
        for layer, (weight, (before, after)) in enumerate(zip(self.weights, self.shapes, strict=True)):
            limit = (6 / ((before if layer else inputs) + after)) ** 0.5
            weight.uniform_(-limit, limit, generator=generator)

    def _parts(self, numbers: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return views with one number per parameter: weights [M, before, after] and biases [M, 1, after] per layer."""
        m, sizes = self.options.predictors, [before * after for before, after in self.shapes]
        sizes += [after for _, after in self.shapes]
        parts = torch.split(numbers, [m * size for size in sizes])
        weights = [part.view(m, *shape) for part, shape in zip(parts, self.shapes, strict=False)]
        return weights, [part.view(m, 1, -1) for part in parts[len(self.shapes) :]]

    def __call__(self, x: Tensor) -> Tensor:
        """Map [N, columns] or [M, N, columns] to predictions [M, N]."""
        return self._layers(x)[-1][..., 0]

    def _layers(self, x: Tensor) -> list[Tensor]:
        """Return the inputs of every layer [M, N, before], and the output [M, N, 1]."""
        found = [x.expand(self.options.predictors, *x.shape[-2:])]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            before = found[-1] if len(found) == 1 else found[-1].relu_()
            found.append(torch.baddbmm(bias, before, weight))
        return found

    def gradient(self, x: Tensor, y: Tensor, weights: Tensor, out: Tensor) -> None:
        """Write the gradient of Σ_m mean_n weights · |f_m - y| into `out`, which has the layout of `numbers`.

        Args:
            x: [M, N, columns].
            y, weights: [M, N].
        """
        layers = self._layers(x)
        to_weights, to_biases = self._parts(out)
        # The loss is a sum over networks, so the networks stay independent.
        back = (weights * (layers[-1][..., 0] - y).sign() / y.shape[1])[..., None]
        for k in reversed(range(len(self.weights))):
            torch.bmm(layers[k].mT, back, out=to_weights[k])
            torch.sum(back, 1, keepdim=True, out=to_biases[k])
            if k:
                back = torch.bmm(back, self.weights[k].mT).mul_(layers[k] > 0)

    def fit(self, x: Tensor, y: Tensor, weights: Tensor, generator: torch.Generator) -> None:
        """Minimize the mean of weights · |f - y| over N examples x [N, columns], y [N], weights [N]."""
        options = self.options
        numbers, gradient = nn.Parameter(self.numbers), torch.empty_like(self.numbers)
        optimizer = torch.optim.Adam([numbers], options.predictor_learning_rate, (0.9, 0.99), fused=True)
        for _ in range(options.predictor_epochs):
            order = torch.rand(options.predictors, len(y), generator=generator).argsort(1)
            for part in torch.split(order, PREDICTOR_BATCH, 1):
                rows = x.index_select(0, part.flatten()).view(*part.shape, -1)
                self.gradient(rows, y[part], weights[part], gradient)
                updates.apply(optimizer, [numbers], [gradient])


def thompson(predictions: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices [N], ascending by independent draws from N(mean_m, var_m), for predictions [M, N]."""
    spread, mean = torch.std_mean(predictions, 0, correction=0)
    return (mean + spread * torch.randn(mean.shape, generator=generator)).argsort(stable=True)


class BANANAS(TrialMethod):
    """Encoding × ensemble × independent Thompson sampling × mutation × trials × the best one."""

    name = "bananas"
    title = "BANANAS"
    paper = "White et al., BANANAS: Bayesian Optimization with Neural Architectures for NAS, AAAI 2021"
    Options = BANANASOptions
    options: BANANASOptions
    paper_options: ClassVar[Dict[str, Any]] = {
        "candidates": 100,
        "candidates_from": "mutation",
        "mutations": 1,
        "encoding": "path",
        "predictor_layers": 10,
        "predictor_epochs": 150,
    }

    def __init__(self, options: BANANASOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.batch_size > options.candidates:
            raise InputError(
                f"--option batch_size={options.batch_size} must be at most candidates={options.candidates}"
            )
        if options.candidates_from == "random":
            for name, default in (("parents", BANANASOptions().parents), ("mutations", BANANASOptions().mutations)):
                if getattr(options, name) != default:
                    raise InputError(
                        f"--option {name}={getattr(options, name)} does not apply to candidates_from=random"
                    )
        if options.loss != "mape" and options.lower_bound is not None:
            raise InputError(f"--option lower_bound={options.lower_bound} only applies to --option loss=mape")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """100 trials of 50 epochs. For the published cells, the authors' code trains the final network in each."""
        trials = {"trials": 100, "epochs": 50}
        network = {"layers": 20, "channels": 36, "batch_size": 96, "learning_rate_min": 0.0}
        return self.of_pair(data, trials, network)

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return the remaining random architectures, then rounds of architectures that the predictors choose.

        Failed trials neither train the predictors nor are mutated, but they are not proposed again.
        """
        number = len(history)
        judged = [trial for trial in history if trial.score is not None]
        missing = self.at_most(self.options.initial, 2) - number
        size = self.at_most(self.options.batch_size, 8)
        if missing > 0 or not judged:
            # The same as in random search, so that both methods start from the same trials.
            streams = (numpy_stream(seed, "candidate", i) for i in count(number))
            tried = (trial.architecture for trial in history)
            drawn = unseen((self.uniform(rng, layers) for rng in streams), tried, self.encoding)
            return [Candidate(architecture) for architecture in islice(drawn, missing if missing > 0 else size)]
        rng = numpy_stream(seed, "mutation", number)
        parents = sorted(judged, key=lambda trial: -(trial.score or 0.0))[: self.options.parents]
        often = range(self.options.candidates)
        in_turn = (parent for _ in often for parent in parents)
        best_first = (parent for parent in parents for _ in often)
        order = in_turn if self.options.candidates_from == "parents" else best_first
        mutations = (self.mutant(rng, parent.architecture, self.options.mutations) for parent in order)
        uniform = (self.uniform(rng, layers) for _ in repeat(None))
        source = uniform if self.options.candidates_from == "random" else chain(mutations, uniform)
        tried = (trial.architecture for trial in history)
        candidates = list(islice(unseen(source, tried, self.encoding), self.options.candidates))
        predictions = self.predict(judged, candidates, seed, number)
        chosen = thompson(predictions, torch_stream(seed, "acquisition", number))
        return [Candidate(candidates[i]) for i in chosen[:size].tolist()]

    def encoding(self, architecture: Architecture) -> frozenset[int]:
        """Return the indices at which the path encoding is 1: of the pair of cells, or of every layer if all differ."""
        size = self.space.edges_of(0) * paths_of_an_input(self.space)
        return frozenset(
            c * size + index for c, cell in enumerate(self._cells(architecture)) for index in paths(cell, self.space)
        )

    def edges(self, architecture: Architecture) -> frozenset[int]:
        """Return the indices at which the edge encoding is 1: one per operation on each edge of the same cells."""
        q, first, size = len(self.space.primitives), self.space.node_edges, self._edge_places
        return frozenset(
            c * size + (first[n][0] + source) * q + self.space.primitives.index(op)
            for c, cell in enumerate(self._cells(architecture))
            for n, node in enumerate(cell.nodes)
            for op, source in node
        )

    @property
    def _edge_places(self) -> int:
        """Length of the edge encoding of one cell: 98 for DARTS."""
        return len(self.space.edges) * len(self.space.primitives)

    def _cells(self, architecture: Architecture) -> Sequence[LayerChoice]:
        """Return a normal and a reduction cell if cells are shared, else the cells of all layers."""
        cells = architecture.layers
        if self.mapping_name == SHARED:
            reductions = architecture.reductions
            normal = next(k for k in range(len(cells)) if k not in reductions)
            return cells[normal], cells[reductions[0]]
        return cells

    def predict(self, judged: Sequence[Trial], candidates: Sequence[Architecture], seed: int, number: int) -> Tensor:
        """Return [M, N]: the errors of N candidates in percent, predicted after training on the scored trials."""
        options = self.options
        encoded = self.encoding if options.encoding == "path" else self.edges
        examples = [encoded(trial.architecture) for trial in judged]
        queries = [encoded(architecture) for architecture in candidates]
        # The other inputs are always 0, so they change no prediction and their weights have no gradient.
        column = {index: c for c, index in enumerate(sorted(frozenset().union(*examples, *queries)))}
        x = torch.zeros(len(examples) + len(queries), len(column))
        for row, encoding in enumerate(chain(examples, queries)):
            x[row, [column[index] for index in encoding]] = 1
        errors = torch.tensor([100 * (1 - (trial.score or 0.0)) for trial in judged])
        scale, shift = torch.ones(()), torch.zeros(())
        if options.standardise:
            scale, shift = errors.std(correction=0), errors.mean()
            scale = scale if scale > 0 else torch.ones(())
        weights = torch.ones_like(errors)
        if options.loss == "mape":
            bound = LOWER_BOUND if options.lower_bound is None else options.lower_bound
            weights = scale / (errors - bound).clamp_min(LEAST_EXCESS)
        cells = 2 if self.mapping_name == SHARED else len(candidates[0])
        paths_places = self.space.edges_of(0) * paths_of_an_input(self.space)
        inputs = cells * (paths_places if options.encoding == "path" else self._edge_places)
        ensemble = Ensemble(options, len(column), inputs, torch_stream(seed, "predictor", number))
        generator = torch_stream(seed, "predictor-order", number)
        ensemble.fit(x[: len(examples)], (errors - shift) / scale, weights, generator)
        with torch.no_grad():
            return ensemble(x[len(examples) :]) * scale + shift
