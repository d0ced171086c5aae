"""SPOS: a supernet in which every step trains one uniform path, then evolution on its weights (Guo et al., ECCV 2020).

    w* = argmin_w E_{a ~ U} L_train(a, w)        one architecture a per step, only its weights are updated       (§3.2)
    a* = argmax_a accuracy_val(a, w*)            by a genetic algorithm that trains nothing                      (§3.4)

Batch-norm statistics depend on the path, so the paper recomputes them for each evaluated architecture. Batch norms of
this supernet always use the statistics of the current batch (`Search.accuracy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, Progress, SupernetMethod, SupernetOptions, Trial
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture
from dnas.space.protocol import LayerChoice, SearchSpace, layer_kinds, reduction_layers
from dnas.supernet.mapping import SHARED
from dnas.supernet.relaxation import MixingWeights

TRIES = 10  # draws per requested child, as in the authors' code


class SPOSOptions(SupernetOptions):
    """Options of the evolution; defaults are those of the paper."""

    population: int = Field(50, ge=2, description="architectures per generation")
    generations: int = Field(20, ge=2, description="number of generations, of which the first is uniform")
    parents: int = Field(10, ge=1, description="best architectures of all generations so far, which have children")
    mutants: float = Field(0.5, ge=0, le=1, description="share of a generation that are mutants of one parent")
    crossovers: float = Field(0.5, ge=0, le=1, description="share of a generation that are crossovers of two parents")
    mutation_probability: float = Field(
        0.1, gt=0, le=1, description="probability that an operation or an input of a mutant is drawn again"
    )


class SPOS(SupernetMethod):
    """Uniform paths × evolution on the accuracy of the supernet."""

    name = "spos"
    title = "SPOS"
    paper = "Guo et al., Single Path One-Shot Neural Architecture Search with Uniform Sampling, ECCV 2020"
    default_mapping = SHARED
    Options = SPOSOptions
    # Each operation is executed in one of 12 steps, so there are more steps, which are cheap, with a smaller rate: at
    # the learning rate of other quick searches, the loss of random paths rises above that of chance.
    quick: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "search": {"epochs": 60, "learning_rate": 0.025},
        "options": {"population": 20, "generations": 5, "parents": 4},
    }
    options: SPOSOptions

    def __init__(self, options: SPOSOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.mutants + options.crossovers > 1:
            raise InputError(
                f"--option mutants={options.mutants} and crossovers={options.crossovers} must add up to at most 1"
            )
        if options.mutants + options.crossovers == 0:
            raise InputError("--option mutants=0 and crossovers=0 cannot be used together; set one of them")
        if options.parents > options.population:
            raise InputError(f"--option parents={options.parents} must be at most population={options.population}")
        if options.mutants == 0 and options.mutation_probability != SPOSOptions().mutation_probability:
            raise InputError(
                f"--option mutation_probability={options.mutation_probability} does not apply to mutants=0"
            )

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The paper has no search in this space, so the supernet is trained like that of DARTS."""
        return self.of_pair(data)

    def mixing(self, mapping: Any, progress: Progress) -> MixingWeights:
        return self.uniform_path(mapping, progress)

    def judged_images(self, validation: int) -> tuple[float, float]:
        return 0.0, self.options.generations * self.options.population * validation

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return the next generation: new mutants and crossovers of the best so far, and uniform architectures if there
        are too few of them."""
        options = self.options
        if len(history) >= options.generations * options.population:
            return []
        rng = numpy_stream(seed, "candidate", len(history))
        elite = sorted(history, key=lambda trial: trial.score or 0.0, reverse=True)[: options.parents]
        parents = [self._genes(trial.architecture) for trial in elite]
        known = {trial.architecture for trial in history}
        children: list[Architecture] = []

        def add(count: int, child: Callable[[], Architecture]) -> None:
            wanted = len(children) + count
            for _ in range(TRIES * count):
                if len(children) < wanted and (new := child()) not in known:
                    known.add(new)
                    children.append(new)

        def parent() -> list[LayerChoice]:
            return parents[int(rng.integers(len(parents)))]

        def uniform() -> Architecture:
            return self.uniform(rng, layers)

        if parents:
            add(int(options.mutants * options.population), lambda: self._network(self.mutate(rng, parent()), layers))
            add(
                int(options.crossovers * options.population),
                lambda: self._network(self.cross(rng, parent(), parent()), layers),
            )
        add(options.population - len(children), uniform)
        # In a very small space, architectures repeat.
        children += [uniform() for _ in range(options.population - len(children))]
        return [Candidate(child) for child in children]

    def mutate(self, rng: np.random.Generator, genes: Sequence[LayerChoice]) -> list[LayerChoice]:
        """Draw each operation and each input again with the mutation probability, inputs among those still free.

        If a new input does not have the operation, the operation is always drawn again.
        """

        def redrawn() -> bool:
            return bool(rng.random() < self.options.mutation_probability)

        mutant = []
        kinds = (0, 1) if self.mapping_name == SHARED else layer_kinds(len(genes))
        for gene, kind in zip(genes, kinds, strict=False):
            nodes = []
            for n, node in enumerate(gene.nodes):
                slots = list(node)
                for s, (operation, source) in enumerate(node):
                    another = redrawn()
                    if redrawn():
                        taken = [other for i, (_, other) in enumerate(slots) if i != s]
                        free = [state for state in range(self.space.edges_of(n)) if state not in taken]
                        source = free[int(rng.integers(len(free)))]
                    choices = self.space.choices(bool(kind), self.space.node_edges[n][0] + source)
                    if another or operation not in choices:
                        operation = choices[int(rng.integers(len(choices)))]
                    slots[s] = (operation, source)
                nodes.append(tuple(slots))
            mutant.append(self.space.layer(nodes))
        return mutant

    def cross(
        self, rng: np.random.Generator, one: Sequence[LayerChoice], other: Sequence[LayerChoice]
    ) -> list[LayerChoice]:
        """Return cells in which each node, with its inputs and operations, is from one of the parents."""
        return [
            self.space.layer([pair[int(rng.integers(2))] for pair in zip(a.nodes, b.nodes, strict=True)])
            for a, b in zip(one, other, strict=True)
        ]

    def _genes(self, architecture: Architecture) -> list[LayerChoice]:
        """Return the free cells: of a normal and a reduction layer if cells are shared, else of all layers."""
        if self.mapping_name != SHARED:
            return list(architecture.layers)
        reduction = architecture.reductions[0]
        return [architecture.layers[0], architecture.layers[reduction]]

    def _network(self, genes: Sequence[LayerChoice], layers: int) -> Architecture:
        """Return the architecture with these free cells."""
        reductions = reduction_layers(layers)
        cells = [genes[k in reductions] for k in range(layers)] if self.mapping_name == SHARED else genes
        return Architecture(tuple(cells), reductions, self.space.name)
