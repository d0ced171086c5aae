"""ENAS: a controller learns by reinforcement which paths of a supernet are good (Pham et al., ICML 2018, §2.4).

An LSTM generates the cells token by token: for each node two inputs, by attention, then their operations:

    input:     1.10 · tanh(v · tanh(W₁ h_state + W₂ h))        over the earlier states that are still free
    operation: (1.10 / 2.5) · tanh(W h + b) [± 0.25 in normal cells]

Each step updates the weights of one sampled architecture. After each epoch the controller is updated by REINFORCE,

    loss = -mean over samples of log p(sample) · (R - baseline),  R = validation accuracy + 10⁻⁴ · entropy
    baseline ← baseline + 0.01 (R - baseline), before it is used

At the end, the best of ten samples on the validation images is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from dnas.methods.protocol import Candidate, Progress, SearchState, SupernetMethod, SupernetOptions
from dnas.rng import torch_stream
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace, reduction_layers
from dnas.supernet.mapping import SHARED
from dnas.supernet.relaxation import MixingWeights, path


class ENASOptions(SupernetOptions):
    """Options; the published values are those of the authors' script for CIFAR-10 and of the code that it runs."""

    hidden: int = Field(64, ge=1, description="size of the LSTM of the controller")
    tanh_constant: float = Field(1.10, gt=0, description="bound of the logits, ±")
    operation_tanh_reduction: float = Field(2.5, gt=0, description="divisor of that bound for logits of operations")
    convolution_bias: float = Field(
        10.0,
        description="initial bias of the logits of convolutions, inside the tanh; 10 fixes them, 0 lets them learn",
    )
    normal_cell_bias: float = Field(
        0.25, description="added to the logits of convolutions in normal cells, and subtracted from the others"
    )
    controller_learning_rate: float = Field(0.0035, gt=0, description="learning rate of Adam for the controller")
    controller_beta1: float = Field(
        0.0, ge=0, lt=1, description="β1 of Adam for the controller; 0 in the authors' code"
    )
    controller_epsilon: float = Field(
        1e-3, gt=0, description="ε of Adam for the controller; 0.001 in the authors' code"
    )
    controller_steps: int = Field(30, ge=1, description="controller steps after each epoch")
    aggregates: int = Field(10, ge=1, description="architectures that are sampled per controller step")
    reward_images: int = Field(160, ge=1, description="validation images that score these, different in each step")
    baseline_decay: float = Field(0.99, ge=0, lt=1, description="decay of the moving average of rewards")
    entropy_weight: float = Field(1e-4, ge=0, description="weight of the entropy in the reward, without gradient")
    finalists: int = Field(10, ge=1, description="architectures sampled at the end, of which the best is kept")


Choose = Callable[[int, Tensor], Tensor]


class Written(NamedTuple):
    """Tokens [B, T] of a controller, with their log-probability [B] and the entropy [B] of its choices."""

    tokens: Tensor
    log_probability: Tensor
    entropy: Tensor


class Controller(nn.Module):
    """Generator of cells: for each node its inputs, then their operations; each cell continues from the one before.

    Args:
        layers: Depth L.
        shared: Whether it generates two cells, for normal and reduction layers, instead of one per layer.
        seed: Seed of the initial parameters, uniform in ±0.1.
    """

    lstm: Tensor
    start: Tensor
    embedding: Tensor
    operation: Tensor
    key: Tensor
    query: Tensor
    score: Tensor
    preference: Tensor
    closed: Tensor

    def __init__(self, space: SearchSpace, layers: int, shared: bool, options: ENASOptions, seed: int) -> None:
        super().__init__()
        self.space, self.options = space, options
        self.reductions = reduction_layers(layers)
        kinds = [k in self.reductions for k in range(layers)]
        self.written_kinds = [False, True] if shared else kinds
        self.cell_of_layer = [int(kind) for kind in kinds] if shared else list(range(layers))
        h, operations = options.hidden, len(space.primitives)
        generator = torch_stream(seed, "architecture")
        shapes = {
            "lstm": (2 * h, 4 * h),
            "start": (1, h),
            "embedding": (operations, h),
            "operation": (h, operations),
            "key": (h, h),
            "query": (h, h),
            "score": (h,),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-0.1, 0.1, generator=generator)))
        convolutions = torch.tensor([float(space.operation_params(name) > 0) for name in space.primitives])
        self.bias = nn.Parameter(options.convolution_bias * convolutions)
        edges = range(len(space.edges))
        choices = [[space.choices(kind, e) for e in edges] for kind in (False, True)]
        # [2, E, O]: operations that edges of normal and reduction layers do not have.
        closed = torch.tensor([[[name not in edge for name in space.primitives] for edge in kind] for kind in choices])
        self.register_buffer("closed", closed, False)
        self.register_buffer("preference", options.normal_cell_bias * (2 * convolutions - 1), False)

    def forward(self, choose: Choose, batch: int) -> Written:
        """Generate `batch` architectures; `choose` returns token t, [B], from its logits [B, choices]."""
        options, space = self.options, self.space
        nothing = self.start.new_zeros(batch, options.hidden)
        start = self.start.expand(batch, -1)
        h = c = nothing
        tokens: list[Tensor] = []
        log_probabilities: list[Tensor] = []
        entropies: list[Tensor] = []

        def read(x: Tensor) -> Tensor:
            nonlocal h, c
            i, f, o, g = (torch.cat([x, h], 1) @ self.lstm).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            return h

        def write(logits: Tensor) -> Tensor:
            token = choose(len(tokens), logits.detach())
            tokens.append(token)
            log = logits.log_softmax(1)
            log_probabilities.append(log.gather(1, token[:, None])[:, 0])
            entropies.append(torch.special.entr(log.detach().exp()).sum(1))
            return token

        for reduction in self.written_kinds:
            # A chosen state is represented by the LSTM output after it, and an input of the layer by zeros.
            outputs = [nothing] * space.edges_of(0)
            keys = [read(start) @ self.key for _ in outputs]
            for first, _ in space.node_edges:
                x, taken = start, nothing.new_zeros(batch, 0, dtype=torch.long)
                for _ in range(space.inputs_per_node):
                    match = torch.tanh(torch.stack(keys, 1) + (read(x) @ self.query)[:, None]) @ self.score
                    logits = options.tanh_constant * match.tanh()
                    token = write(logits.scatter(1, taken, -torch.inf))
                    taken = torch.cat([taken, token[:, None]], 1)
                    x = torch.stack(outputs, 1)[torch.arange(batch, device=token.device), token]
                for source in taken.unbind(1):
                    logits = (read(x) @ self.operation + self.bias).tanh()
                    logits = options.tanh_constant / options.operation_tanh_reduction * logits
                    logits = logits if reduction else logits + self.preference
                    closed = self.closed[int(reduction), first + source]
                    x = self.embedding[write(logits.masked_fill(closed, -torch.inf))]
                outputs.append(read(x))
                keys.append(h @ self.key)
        return Written(
            torch.stack(tokens, 1), torch.stack(log_probabilities, 1).sum(1), torch.stack(entropies, 1).sum(1)
        )

    def architectures(self, tokens: Tensor, origin: dict[str, Any]) -> list[Architecture]:
        """Return the architectures of tokens [B, T]."""
        k = self.space.inputs_per_node
        # [B, cells, nodes, inputs or operations, slots]
        shape = (len(tokens), len(self.written_kinds), self.space.nodes, 2, k)
        found = []
        for cells in tokens.view(shape).tolist():
            genes = [
                self.space.layer([[(self.space.primitives[o], s) for s, o in zip(*node, strict=True)] for node in cell])
                for cell in cells
            ]
            layers = tuple(genes[cell] for cell in self.cell_of_layer)
            found.append(Architecture(layers, self.reductions, self.space.name, origin))
        return found


def sampling(generator: torch.Generator) -> Choose:
    """Return a function that samples tokens by their probabilities."""

    def choose(t: int, logits: Tensor) -> Tensor:
        return torch.multinomial(logits.softmax(1).cpu(), 1, generator=generator)[:, 0].to(logits.device)

    return choose


def greedy(t: int, logits: Tensor) -> Tensor:
    """Return the most likely token, the first of equals."""
    return logits.argmax(1)


def advantages(rewards: Sequence[float], baseline: float | None, decay: float) -> tuple[list[float], float]:
    """Return R - baseline for each reward in turn, and the baseline after the last; it starts at the first reward."""
    found = []
    for reward in rewards:
        baseline = reward if baseline is None else baseline + (1 - decay) * (reward - baseline)
        found.append(reward - baseline)
    assert baseline is not None
    return found, baseline


def reinforce(log_probability: Tensor, advantage: Sequence[float]) -> Tensor:
    """Return -mean of log p [B] · advantage [B] (Williams 1992)."""
    return -(log_probability * log_probability.new_tensor(advantage)).mean()


class ENAS(SupernetMethod):
    """Shared or full × sampled paths × REINFORCE after each epoch × the best of ten samples."""

    name = "enas"
    title = "ENAS"
    paper = "Pham et al., Efficient Neural Architecture Search via Parameter Sharing, ICML 2018"
    default_mapping = SHARED
    Options = ENASOptions
    # Paths share the updates of the steps, so their weights need more steps than mixtures, and the controller fewer.
    quick: ClassVar[Dict[str, Dict[str, Any]]] = {
        "search": {"epochs": 30, "learning_rate": 0.025, "learning_rate_min": 0.0005},
        "options": {"controller_steps": 3},
    }
    options: ENASOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The authors' script for CIFAR-10: 6 + 2 layers, 150 epochs in cycles of 10, 20, 40 and 80."""
        own = {
            "epochs": 150,
            "train_share": 0.9,
            "batch_size": 160,
            "learning_rate": 0.05,
            "learning_rate_min": 0.0005,
            "learning_rate_cycles": 4,
            "nesterov": True,
            # Their l2 factor of 1e-4 multiplies Σ w², whose gradient is 2 w.
            "weight_decay": 2e-4,
        }
        return self.of_pair(data, own, {"layers": 8, "channels": 20})

    def mapping(self, layers: int, seed: int) -> Controller:
        return Controller(self.space, layers, self.mapping_name == SHARED, self.options, seed)

    def optimizer(self, mapping: Controller, settings: Any) -> torch.optim.Optimizer:
        options = self.options
        return torch.optim.Adam(
            mapping.parameters(),
            options.controller_learning_rate,
            (options.controller_beta1, 0.999),
            options.controller_epsilon,
        )

    def mixing(self, mapping: Controller, progress: Progress) -> MixingWeights:
        """Return the mixing weights of one sampled architecture; no other operation is executed."""
        (architecture,) = self._sampled(mapping, progress.generator(), 1)
        return path(architecture, self.operations, self.space).to(mapping.start)

    def after_epoch(self, search: SearchState, progress: Progress) -> Architecture | None:
        """Take the steps of the controller; all architectures of a step are scored on the same images."""
        controller, options = search.mapping, self.options
        for step in range(options.controller_steps):
            written = controller(sampling(progress.generator(step)), options.aggregates)
            first = (progress.epoch * options.controller_steps + step) * options.reward_images
            rewards = [
                search.accuracy(architecture, options.reward_images, first) + options.entropy_weight * entropy
                for architecture, entropy in zip(
                    controller.architectures(written.tokens, {}), written.entropy.tolist(), strict=True
                )
            ]
            advantage, search.memory["baseline"] = advantages(
                rewards, search.memory.get("baseline"), options.baseline_decay
            )
            search.follow(reinforce(written.log_probability, advantage))
        return None

    def judged_images(self, validation: int) -> tuple[float, float]:
        options = self.options
        each = min(options.reward_images, validation)
        return options.controller_steps * options.aggregates * each, options.finalists * validation

    def finalists(self, mapping: Controller, progress: Progress) -> list[Candidate]:
        generator = torch_stream(progress.seed, "finalists")
        return [Candidate(found) for found in self._sampled(mapping, generator, self.options.finalists)]

    def derive(self, mapping: Controller, progress: Progress) -> Architecture:
        """Return the architecture of the most likely tokens, which is only for the metrics and not the result."""
        with torch.no_grad():
            tokens = mapping(greedy, 1).tokens
        return mapping.architectures(tokens, self.origin())[0]

    def _sampled(self, mapping: Controller, generator: torch.Generator, count: int) -> list[Architecture]:
        with torch.no_grad():
            tokens = mapping(sampling(generator), count).tokens
        return mapping.architectures(tokens, self.origin())
