"""NASNet: an LSTM generates architectures token by token and learns from their accuracy (Zoph et al., CVPR 2018).

For an architecture τ of tokens a_1 … a_T, with the policy π of the controller and the policy π_old that generated τ:

    r = π(τ) / π_old(τ),  π(τ) = Π_t π(a_t | a_1 … a_t-1)                                                  (A.2)
    L = -E min(r A, clip(r, 1 - ε, 1 + ε) A) - w H(π)                          (Schulman et al. 2017, eq. 7; A.2)
    A = accuracy - b,  b an exponential moving average of the accuracies before                             (A.2)

Here the controller generates cells of the search space: for each node its inputs, which differ, then their operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, MethodOptions, Trial, TrialMethod
from dnas.rng import torch_stream
from dnas.settings import TrialSettings
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace, layer_kinds, reduction_layers
from dnas.supernet.mapping import SHARED
from dnas.training import updates

# A.2, A.3: the learning rate, and 20,000 architectures in batches of 20.
PAPER_RATE, PAPER_UPDATES = 3.5e-4, 1000
# For a search with enough trials. A single architecture gives a poor estimate of the baseline.
LEAST_UPDATES, LEAST_BATCH = 30, 2
# A logit with a probability of exactly 0, which does not make the entropy NaN, as -∞ would.
CLOSED = -1e9


class NASNetOptions(MethodOptions):
    """Options of the controller and its updates."""

    hidden: int = Field(100, ge=1, description="units of the LSTM of the controller (A.2)")
    initial_range: float = Field(0.1, gt=0, description="initial weights of the controller are uniform in ± this (A.2)")
    learning_rate: float = Field(
        0.0,
        ge=0,
        description="learning rate of Adam; 0: 3.5e-4 (A.2) for the 1,000 updates of the paper, more for fewer",
    )
    batch_size: int = Field(20, ge=1, description="architectures per update (A.3); fewer below 600 trials")
    inner_epochs: int = Field(4, ge=1, description="steps of Adam per batch; not in the paper")
    clip: float = Field(0.2, gt=0, lt=1, description="ε: ratios beyond 1 ± ε have no gradient; not in the paper")
    ratio: Literal["architecture", "token"] = Field(
        "architecture", description="what a clipped ratio compares: probabilities of whole architectures or of tokens"
    )
    entropy_weight: float = Field(1e-5, ge=0, description="w: weight of the entropy (A.2)")
    baseline_decay: float = Field(0.95, ge=0, lt=1, description="decay of the moving average of accuracies (A.2)")


class Controller(nn.Module):
    """Policy over sequences of tokens. A token is a state that a node reads, or an operation.

    T tokens of V values: for each cell and node first its inputs, then their operations. Values are numbered states
    first, then operations. Values that a position does not allow have probability 0.

    Args:
        cells: Number of cells that a sequence describes.
        space: Search space of the cells.
        hidden: Units of the LSTM.
        initial_range: Initial weights are uniform in ± this.
        generator: Draws the initial weights.
    """

    legal: Tensor
    earlier: Tensor
    edge_of: Tensor
    closed: Tensor | None

    def __init__(
        self, cells: int, space: SearchSpace, hidden: int, initial_range: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        inputs, states = space.inputs_per_node, space.edges_of(space.nodes - 1)
        values = states + len(space.primitives)
        length = cells * space.nodes * 2 * inputs
        # [T, V]: values that a position allows. [T, T]: the positions of the earlier inputs of the same node.
        legal, earlier = torch.zeros(length, values, dtype=torch.bool), torch.zeros(length, length)
        for t in range(length):
            node, slot = t // (2 * inputs) % space.nodes, t % (2 * inputs)
            if slot < inputs:
                legal[t, : space.edges_of(node)] = True
                earlier[t, t - slot : t] = 1
            else:
                legal[t, states:] = True
        # [T]: the position of the edge of an operation. [T, S, V]: operations that this edge does not offer.
        edge_of, closed = torch.zeros(length, dtype=torch.long), None
        if space.per_edge:
            closed = torch.zeros(length, states, values, dtype=torch.bool)
            kinds = [0, 1] if cells == 2 else layer_kinds(cells)
            for t in (t for t in range(length) if t % (2 * inputs) >= inputs):
                cell, node = divmod(t // (2 * inputs), space.nodes)
                edge_of[t] = t - inputs
                for e in range(*space.node_edges[node]):
                    offered = space.choices(bool(kinds[cell]), e)
                    row = [False] * states + [name not in offered for name in space.primitives]
                    closed[t, space.edges[e][1]] = torch.tensor(row)
        self.register_buffer("edge_of", edge_of, False)
        self.register_buffer("closed", closed, False)
        self.register_buffer("legal", legal, False)
        self.register_buffer("earlier", earlier, False)
        self.embedding = nn.Parameter(torch.empty(values + 1, hidden))  # the last row starts a sequence
        # Initialized here, since the default initialization would draw from the global generator.
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True, device="meta").to_empty(device="cpu")
        self.weight = nn.Parameter(torch.empty(length, values, hidden))
        self.bias = nn.Parameter(torch.empty(length, values))
        for p in self.parameters():
            nn.init.uniform_(p, -initial_range, initial_range, generator=generator)
        # Updates are repeated when a search is resumed, so they must not differ by rounding.
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [N, T, V]: the log-probabilities of every value, given the tokens [N, T] before it."""
        before = F.pad(tokens[:, :-1], (1, 0), value=len(self.embedding) - 1)
        outputs, _ = self.lstm(self.embedding[before])
        return self._log_probabilities(outputs, tokens, 0)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return [N, T]: independent sequences."""
        tokens = torch.zeros(count, len(self.legal), dtype=torch.long)
        before, state = torch.full((count, 1), len(self.embedding) - 1), None
        for t in range(len(self.legal)):
            outputs, state = self.lstm(self.embedding[before], state)
            law = self._log_probabilities(outputs, tokens, t)[:, 0].exp()
            before = tokens[:, t : t + 1] = torch.multinomial(law, 1, generator=generator)
        return tokens

    def _log_probabilities(self, outputs: Tensor, tokens: Tensor, first: int) -> Tensor:
        """Return the log-probabilities at positions from `first` on, from the LSTM outputs [N, positions, H] there."""
        span = slice(first, first + outputs.shape[1])
        logits = torch.einsum("nth,tvh->ntv", outputs, self.weight[span]) + self.bias[span]
        taken = self.earlier[span] @ F.one_hot(tokens, logits.shape[2]).to(logits)
        forbidden = ~self.legal[span] | (taken > 0)
        if self.closed is not None:
            places = torch.arange(first, first + outputs.shape[1])
            edges = tokens[:, self.edge_of[span]].clamp_max(self.closed.shape[1] - 1)
            forbidden = forbidden | self.closed[places, edges]
        return logits.masked_fill(forbidden, CLOSED).log_softmax(2)


def surrogate(ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return -mean_n Σ_t min(r A, clip(r, 1 - ε, 1 + ε) A) (Schulman et al. 2017, eq. 7).

    Args:
        ratios: r, [N, R]: R ratios per architecture.
        advantages: A, [N].
        clip: ε.
    """
    gain = advantages[:, None]
    return -torch.minimum(ratios * gain, ratios.clamp(1 - clip, 1 + clip) * gain).sum(1).mean()


@dataclass
class _Learnt:
    """A controller after its updates with these trials; `of` is everything else that it depends on."""

    of: tuple[Any, ...]
    controller: Controller
    optimizer: torch.optim.Optimizer
    trials: list[Trial] = field(default_factory=list)
    baseline: float | None = None


class NASNet(TrialMethod):
    """LSTM controller × PPO × trials × the best one."""

    name = "nasnet"
    title = "NASNet"
    paper = "Zoph et al., Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018"
    Options = NASNetOptions
    options: NASNetOptions
    _learnt: _Learnt | None = None

    def __init__(self, options: NASNetOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.inner_epochs == 1:
            # In the first step of a batch r = 1: nothing is clipped, and both ratios have the same gradient.
            for name, default in (("clip", 0.2), ("ratio", "architecture")):
                if getattr(options, name) != default:
                    raise InputError(f"--option {name}={getattr(options, name)} does not apply to inner_epochs=1")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """A.3, A.6: 20,000 trials of 20 epochs, two normal cells before, between and after the reduction cells."""
        return self.of_pair(data, {"trials": 20_000, "epochs": 20}, {"layers": 8, "channels": 32})

    @property
    def _trials(self) -> int:
        """Number of trials of the search, or the default if none is set."""
        return self.budget or TrialSettings().trials

    @property
    def batch(self) -> int:
        """Architectures per update: at most a thirtieth of the trials, but at least two, so that short runs learn."""
        return min(self.options.batch_size, max(LEAST_BATCH, math.ceil(self._trials / LEAST_UPDATES)), self._trials)

    @property
    def rate(self) -> float:
        """Learning rate of Adam: as set, or that of the paper for its number of updates, and more for fewer."""
        if self.options.learning_rate:
            return self.options.learning_rate
        updates = self._trials / self.batch
        return float(PAPER_RATE * max(1.0, PAPER_UPDATES / updates) ** (2 / 3))

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return the architectures of the controller after its updates by all complete batches, except scored ones.

        The updates are repeated from the seed, except those that this object already made.
        """
        number, judged = divmod(len(history), self.batch)
        learnt = self._learn(history[: number * self.batch], layers, seed)
        tokens = self._write(learnt.controller, seed, number)
        return [Candidate(self.architecture(row, layers)) for row in tokens[judged:].tolist()]

    def _write(self, controller: Controller, seed: int, number: int) -> Tensor:
        """Return [N, T]: the batch with this number."""
        return controller.sample(self.batch, torch_stream(seed, "controller-sample", number))

    def _learn(self, history: Sequence[Trial], layers: int, seed: int) -> _Learnt:
        """Return the controller after its updates by a history of complete batches."""
        of = (layers, seed, self.batch, self.rate)
        learnt = self._learnt
        if learnt is None or learnt.of != of or learnt.trials != list(history[: len(learnt.trials)]):
            options, cells = self.options, 2 if self.mapping_name == SHARED else layers
            generator = torch_stream(seed, "controller")
            controller = Controller(cells, self.space, options.hidden, options.initial_range, generator)
            learnt = _Learnt(of, controller, torch.optim.Adam(controller.parameters(), self.rate))
        for first in range(len(learnt.trials), len(history), self.batch):
            # The tokens as drawn, since an architecture does not contain the order in which inputs were generated.
            tokens = self._write(learnt.controller, seed, first // self.batch)
            learnt.trials += history[first : first + self.batch]
            self._update(learnt, tokens)
        self._learnt = learnt
        return learnt

    def _update(self, learnt: _Learnt, tokens: Tensor) -> None:
        """Update by PPO with the last batch of trials, whose tokens are [N, T]."""
        lowest = min((trial.score for trial in learnt.trials if trial.score is not None), default=0.0)
        rewards = [lowest if trial.score is None else trial.score for trial in learnt.trials[-len(tokens) :]]
        baseline = sum(rewards) / len(rewards) if learnt.baseline is None else learnt.baseline
        advantages = torch.tensor([reward - baseline for reward in rewards], dtype=torch.float64)
        with torch.no_grad():
            old = learnt.controller(tokens)
        parameters = list(learnt.controller.parameters())
        for _ in range(self.options.inner_epochs):
            loss = self.loss(learnt.controller(tokens), old, tokens, advantages)
            updates.apply(learnt.optimizer, parameters, updates.gradients_of(loss, parameters))
        decay = self.options.baseline_decay
        for reward in rewards:
            baseline = decay * baseline + (1 - decay) * reward
        learnt.baseline = baseline

    def loss(self, laws: Tensor, old: Tensor, tokens: Tensor, advantages: Tensor) -> Tensor:
        """Return the clipped surrogate minus the weighted entropy.

        Args:
            laws, old: [N, T, V]: log-probabilities now and when the tokens were drawn.
            tokens: [N, T].
            advantages: [N].
        """
        logs = (laws - old).gather(2, tokens[..., None])[..., 0]
        if self.options.ratio == "architecture":
            logs = logs.sum(1, keepdim=True)
        entropy = -(laws.exp() * laws).sum((1, 2)).mean()
        return surrogate(logs.exp(), advantages, self.options.clip) - self.options.entropy_weight * entropy

    def architecture(self, tokens: Sequence[int], layers: int) -> Architecture:
        """Return the architecture that T tokens describe."""
        inputs, states = self.space.inputs_per_node, self.space.edges_of(self.space.nodes - 1)
        nodes = [tokens[t : t + 2 * inputs] for t in range(0, len(tokens), 2 * inputs)]
        slots = [
            tuple((self.space.primitives[o - states], s) for s, o in zip(n[:inputs], n[inputs:], strict=True))
            for n in nodes
        ]
        genes = [self.space.layer(slots[n : n + self.space.nodes]) for n in range(0, len(slots), self.space.nodes)]
        reductions = reduction_layers(layers)
        if self.mapping_name == SHARED:
            genes = [genes[k in reductions] for k in range(layers)]
        return Architecture(tuple(genes), reductions, self.space.name, self.origin())
