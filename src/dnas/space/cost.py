"""Activation memory of a planned network at inference on one image.

A network is a list of `Step`s in the order in which `network/network.py` executes them and `dnas export` writes them.
Batch norms are part of the preceding convolution, chains that begin with a ReLU share the rectified state, and nodes
add two tensors at a time. A tensor is live from the step that writes it to the last step that reads it. An
element-wise step may overwrite an input that is not read again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from dnas.space.network_plan import LayerPlan, NetworkPlan
from dnas.space.primitives import (
    Branches,
    Chain,
    Conv,
    FactorizedReduce,
    HardSwish,
    Identity,
    Mean,
    Norm,
    ReLU,
    ReLU6,
    SqueezeExcite,
    Strided,
    Zero,
)

# Bytes per number.
PRECISIONS = {"float32": 4, "int8": 1}


@dataclass(frozen=True)
class Step:
    """One computation, which reads tensors (given by their indices) and writes one.

    Attributes:
        name: Readable name with the layer: "layer 3: Conv".
        size: Number of elements written.
        overwrites: True if the step can overwrite an input of this size.
    """

    name: str
    reads: tuple[int, ...]
    writes: int
    size: int
    overwrites: bool = False


@dataclass(frozen=True)
class Memory:
    """Peak number of live elements, and the step at which it occurs."""

    numbers: int
    step: str

    def bytes(self, precision: str) -> int:
        """Return the peak in bytes. Args: precision: A key of `PRECISIONS`."""
        return self.numbers * PRECISIONS[precision]


@dataclass
class Program:
    """Steps in order of execution.

    Attributes:
        sizes: Sizes of the initial tensors, by index.
        kept: Tensors needed after the last step.
    """

    sizes: dict[int, int]
    steps: list[Step] = field(default_factory=list)
    kept: tuple[int, ...] = ()
    layer: str = ""

    def __post_init__(self) -> None:
        self._numbers = count(max(self.sizes, default=-1) + 1)

    def add(self, name: str, reads: Sequence[int], size: int, overwrites: bool = False) -> int:
        """Append a step and return the index of the tensor it writes."""
        step = Step(f"{self.layer}: {name}", tuple(reads), next(self._numbers), size, overwrites)
        self.steps.append(step)
        return step.writes

    @property
    def size(self) -> dict[int, int]:
        """Return the sizes of all tensors, by index."""
        return self.sizes | {step.writes: step.size for step in self.steps}


def peak(program: Program) -> Memory:
    """Return the peak memory of a program in its own order. A tensor that is never read is live only in its step."""
    size = program.size
    last = dict.fromkeys(program.sizes, -1)
    for i, step in enumerate(program.steps):
        last |= dict.fromkeys((*step.reads, step.writes), i)
    last |= dict.fromkeys(program.kept, len(program.steps))
    live = sum(program.sizes.values())
    most = Memory(live, "the image")
    for i, step in enumerate(program.steps):
        dying = [tensor for tensor in {*step.reads} if last[tensor] == i]
        over = step.overwrites and any(size[tensor] == step.size for tensor in dying)
        needed = live + (0 if over else step.size)
        if needed > most.numbers:
            most = Memory(needed, step.name)
        live += step.size - sum(size[tensor] for tensor in dying)
        if last[step.writes] == i:
            live -= step.size
    return most


# --- networks as programs -----------------------------------------------------------------------------------

BEFORE, PREVIOUS = 0, 1  # tensors in the program of a layer: the rectified outputs of the two preceding layers


def programs(network: NetworkPlan, image_size: int, image_channels: int, final_norm: bool = False) -> list[Program]:
    """Return the steps of a network at inference, from an image [C, S, S] to the logits: stem, each layer, classifier.

    Each part keeps the tensors that later parts read, so the memory of the network is the maximum over its parts.

    Args:
        final_norm: As in `TrainSettings`.
    """
    stem = Program({0: image_channels * image_size**2}, layer="stem")
    before, pixels_before = _chain(stem, network.stem.first, 0, image_size)
    width = network.stem.width
    if network.rectifies:
        before = stem.add("ReLU", (before,), stem.steps[-1].size, overwrites=True)
    previous, pixels = before, pixels_before
    if network.stem.second:
        previous, pixels = _chain(stem, network.stem.second, before, pixels_before, width, rectified=True)
        previous = stem.add("ReLU", (previous,), stem.steps[-1].size, overwrites=True)
    stem.kept = (before, previous)
    parts = [stem]
    widths = (width, width)
    for k, layer in enumerate(network.layers):
        alone, last = k == 0 and before == previous, k == len(network.layers) - 1
        if not network.looks_back:
            alone = last = True
        part = layer_program(layer, Reads(*widths, pixels_before, pixels, alone, last), f"layer {k}")
        parts.append(part)
        pixels_before, pixels = pixels, side_after(layer, pixels_before, pixels)
        widths = (widths[1], layer.outputs)
    end = Program({PREVIOUS: widths[1] * pixels**2}, layer="classifier")
    last_one, pixels = _chain(end, network.head, PREVIOUS, pixels, widths[1])
    numbers = network.features * pixels**2
    features = end.add("norm", (last_one,), numbers) if final_norm else last_one
    rows = end.add("transpose", (features,), numbers)
    mean = end.add("mean", (rows,), network.features)
    end.kept = (end.add("linear", (mean,), network.classes),)
    return [*parts, end]


@dataclass(frozen=True)
class Reads:
    """Inputs of a layer.

    Attributes:
        before, previous: Channels of the outputs of the two preceding layers.
        pixels_before, pixels: Their side lengths in pixels.
        alone: True if both are the same tensor, the output of the stem, or if the first is not read.
        last: True for the last layer, or if no layer looks back; otherwise the next layer reads `previous` again.
    """

    before: int
    previous: int
    pixels_before: int
    pixels: int
    alone: bool = False
    last: bool = False


def side_after(layer: LayerPlan, pixels_before: int, pixels: int) -> int:
    """Return the side length of the output of a layer, in pixels."""
    sides = {0: _side(layer.preprocess[0], pixels_before), 1: _side(layer.preprocess[1], pixels)}
    for edge in layer.edges:
        sides[edge.target] = _side(edge.chain, sides[edge.source])
    return sides[layer.concat[0]]


def _side(chain: Chain, side: int) -> int:
    for layer in chain:
        side = layer.out_size(side, side)[0]
    return side


def layer_program(planned: LayerPlan, reads: Reads, name: str = "layer", whole: bool = True) -> Program:
    """Return the steps of a layer, as computed by `NetworkLayer`.

    Args:
        whole: False if the remaining nodes of the layer are not known yet, so all states are kept for them.
    """
    sizes = {BEFORE: reads.before * reads.pixels_before**2, PREVIOUS: reads.previous * reads.pixels**2}
    if reads.alone:
        del sizes[BEFORE]
    layer = Program(sizes, layer=name)
    states: dict[int, int] = {}
    sides: dict[int, int] = {}
    inputs = (PREVIOUS if reads.alone else BEFORE, PREVIOUS)
    for state, (chain, read, side) in enumerate(
        zip(planned.preprocess, inputs, (reads.pixels_before, reads.pixels), strict=True)
    ):
        states[state], sides[state] = _chain(layer, chain, read, side, rectified=True)
    widths = dict(
        enumerate(
            planned.channels if chain else width
            for chain, width in zip(planned.preprocess, (reads.before, reads.previous), strict=True)
        )
    )
    rectified: dict[int, int] = {}
    for edge in planned.edges:
        source, target = edge.source, edge.target
        shares = isinstance(edge.chain[0], ReLU | FactorizedReduce)
        if shares and source not in rectified:
            numbers = widths.get(source, planned.channels) * sides[source] ** 2
            rectified[source] = layer.add("ReLU", (states[source],), numbers, overwrites=True)
        read = rectified[source] if shares else states[source]
        width = widths.get(source, planned.channels)
        out, sides[target] = _chain(layer, edge.chain, read, sides[source], width, rectified=shares)
        if target in states:
            out = layer.add("add", (states[target], out), planned.channels * sides[target] ** 2, overwrites=True)
        states[target] = out
    if not whole:
        layer.kept = (PREVIOUS, *(states[s] for s in states if s > 1))
        return layer
    numbers = planned.outputs * sides[planned.concat[0]] ** 2
    parts = [states[s] for s in planned.concat]
    out = layer.add("concat", parts, numbers) if len(parts) > 1 else parts[0]
    layer.kept = (out,) if reads.last else (PREVIOUS, out)
    return layer


def memory(network: NetworkPlan, image_size: int, image_channels: int, final_norm: bool = False) -> Memory:
    """Return the activation memory of a network for one image, in its order of execution."""
    parts = programs(network, image_size, image_channels, final_norm)
    return max((peak(part) for part in parts), key=lambda each: each.numbers)


def least_memory(network: NetworkPlan, image_size: int, image_channels: int, final_norm: bool = False) -> Memory:
    """Return the activation memory for one image if each layer is executed in its best order."""
    parts = programs(network, image_size, image_channels, final_norm)
    best = Memory(0, "")
    for part in sorted(parts, key=lambda part: -peak(part).numbers):
        if peak(part).numbers <= best.numbers:
            break
        best = max(best, peak(in_best_order(part)), key=lambda each: each.numbers)
    return best


# --- the best order -----------------------------------------------------------------------------------------


def in_best_order(program: Program) -> Program:
    """Reorder the steps to minimize the peak memory, by a search over the sets of executed steps.

    The sets are visited by increasing peak memory, so the first complete set is optimal. A step is executed
    immediately if it fits into the peak reached so far and does not increase the live memory. This is never worse,
    since the memory that it frees would also be freed if it ran later.
    """
    steps, size = program.steps, program.size
    readers: dict[int, int] = dict.fromkeys(size, 0)  # for each tensor, the steps that read it, as a bit mask
    for i, step in enumerate(steps):
        for tensor in step.reads:
            readers[tensor] |= 1 << i
    writer = {step.writes: i for i, step in enumerate(steps)}
    needs = [sum(1 << writer[t] for t in {*step.reads} if t in writer) for step in steps]
    everything = (1 << len(steps)) - 1

    def taken(done: int, i: int, live: int) -> tuple[int, int]:
        """Return the memory during step i and after it."""
        step, after = steps[i], done | 1 << i
        dying = [t for t in {*step.reads} if t not in program.kept and not readers[t] & ~after]
        over = step.overwrites and any(size[t] == step.size for t in dying)
        left = live - sum(size[t] for t in dying)
        if readers[step.writes] or step.writes in program.kept:
            left += step.size
        return live + (0 if over else step.size), left

    def ready(done: int) -> list[int]:
        return [i for i in range(len(steps)) if not done >> i & 1 and not needs[i] & ~done]

    def closed(done: int, live: int, most: int, order: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        moved = True
        while moved:
            moved = False
            for i in ready(done):
                during, left = taken(done, i, live)
                if during <= most and left <= live:
                    done, live, order, moved = done | 1 << i, left, (*order, i), True
        return done, live, order

    start = sum(program.sizes.values())
    queue: list[tuple[int, int, int, int, tuple[int, ...]]] = []
    seen: set[int] = set()
    ticket = count()

    def visit(done: int, live: int, most: int, order: tuple[int, ...]) -> None:
        done, live, order = closed(done, live, most, order)
        heapq.heappush(queue, (most, -len(order), next(ticket), live, order))

    visit(0, start, start, ())
    while True:
        most, _, _, live, order = heapq.heappop(queue)
        done = sum(1 << i for i in order)
        if done == everything:
            return replace(program, steps=[steps[i] for i in order])
        if done in seen:
            continue
        seen.add(done)
        for i in ready(done):
            during, left = taken(done, i, live)
            if done | 1 << i not in seen:
                visit(done | 1 << i, left, max(most, during), (*order, i))


def _chain(
    whole: Program, chain: Chain, tensor: int, side: int, channels: int = 0, rectified: bool = False
) -> tuple[int, int]:
    """Add the steps of a chain. Args: channels: Input channels; `rectified`: its first ReLU is already applied."""
    for i, layer in enumerate(chain):
        outer, side = side, layer.out_size(side, side)[0]
        match layer:
            case Identity():
                pass
            case ReLU() | ReLU6():
                if i or not rectified:
                    tensor = whole.add("ReLU", (tensor,), channels * side**2, overwrites=True)
            case HardSwish():
                tensor = whole.add("h-swish", (tensor,), channels * side**2, overwrites=True)
            case Mean():
                tensor = whole.add("mean", (tensor,), channels)
            case SqueezeExcite():
                gates = whole.add("mean", (tensor,), channels)
                gates = whole.add("convolution", (gates,), layer.hidden)
                gates = whole.add("ReLU", (gates,), layer.hidden, overwrites=True)
                gates = whole.add("convolution", (gates,), channels)
                gates = whole.add("gate", (gates,), channels, overwrites=True)
                tensor = whole.add("multiply", (tensor, gates), channels * side**2, overwrites=True)
            case Norm():
                channels = layer.channels  # part of the convolution
            case Conv():
                channels = layer.outputs
                tensor = whole.add("convolution", (tensor,), channels * side**2)
            case FactorizedReduce():
                inputs, channels, half = layer.inputs, layer.outputs, layer.outputs // 2
                grids = []
                for grid in ("even", "odd"):
                    rows = whole.add(f"{grid} rows", (tensor,), inputs * side * outer)
                    grids.append(whole.add(f"{grid} pixels", (rows,), inputs * side**2))
                halves = [
                    whole.add("convolution", (grid,), outputs * side**2)
                    for grid, outputs in zip(grids, (half, channels - half), strict=True)
                ]
                joined = whole.add("concat", halves, channels * side**2)
                tensor = whole.add("norm", (joined,), channels * side**2)
            case Branches():
                reads = [tensor, tensor]
                if layer.split:
                    reads = [whole.add("split", (tensor,), half * outer**2) for _, half in layer.parts]
                ends = [
                    _chain(whole, part, read, outer, inputs)[0]
                    for (part, inputs), read in zip(layer.parts, reads, strict=True)
                ]
                channels = layer.outputs
                tensor = whole.add("concat", ends, channels * side**2)
            case Zero():
                tensor = whole.add("zero", (tensor,), channels * side**2)
            case Strided():
                tensor = whole.add("pool", (tensor,), channels * side**2)
    return tensor, side
