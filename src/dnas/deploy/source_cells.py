"""The code of a network of cells: a class for each different layer, and a function for each operation."""

from __future__ import annotations

from itertools import groupby
from typing import cast

from dnas.deploy.source_layers import chain_code, layer_code, lines
from dnas.deploy.source_parts import BRANCHES
from dnas.pipeline.model import Trained
from dnas.space.architecture import Architecture
from dnas.space.darts_cell import Cell
from dnas.space.darts_plan import preprocess
from dnas.space.network_plan import NetworkPlan
from dnas.space.primitives import PRIMITIVES


class Name(str):
    """Variable of the code in place of a number."""

    def __repr__(self) -> str:
        return str(self)


_CHANNELS, _STRIDE = cast(int, Name("channels")), cast(int, Name("stride"))

_REDUCE = '''

class FactorizedReduce(nn.Module):
    """Halve the resolution without losing pixels: 1×1 convolutions of the even and of the odd pixels, concatenated."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.relu(x)
        even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
        # If a side is odd, the grid of odd pixels is one pixel shorter.
        odd = F.pad(odd, (0, even.shape[3] - odd.shape[3], 0, even.shape[2] - odd.shape[2]))
        return self.norm(torch.cat([self.even(even), self.odd(odd)], 1))
'''
_ZERO = '''

class Zero(nn.Module):
    """Zeros in place of an operation."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * 0.0
'''


def graph_code(trained: Trained, architecture: Architecture, layout: NetworkPlan) -> str:
    """Return the source of the network of an architecture whose layers read the two before them."""
    info = trained.info
    kinds: dict[tuple[Cell, bool], list[int]] = {}
    for k, gene in enumerate(architecture.layers):
        kinds.setdefault((gene, k in architecture.reductions), []).append(k)
    operations: dict[str, None] = {}  # in order of use
    classes, named = [], {}
    for (gene, reduces), layers in kinds.items():
        name = f"Layer{layers[0]}"
        named.update(dict.fromkeys(layers, name))
        classes.append(_layer_class(name, layers, gene, reduces, operations))
    cells, width, previous, before = [], 0, layout.stem.width, layout.stem.width
    halved = bool(layout.stem.second)
    for k, layer in enumerate(layout.layers):
        width = layer.channels
        cells.append(f"{named[k]}({before}, {previous}, {width}{', halved=True' if halved else ''}),")
        before, previous, halved = previous, layer.outputs, k in architecture.reductions
    second = [f"self.stem_second = {chain_code(layout.stem.second)}"] if layout.stem.second else []
    norm = [f"self.final_norm = nn.BatchNorm2d({layout.features}, affine=False)"] if trained.final_norm else []
    start = (
        ["before = self.stem(images)", "previous = self.stem_second(before)"]
        if layout.stem.second
        else ["before = previous = self.stem(images)"]
    )
    network = f'''

class Network(nn.Module):
    """Normalized images [B, {info.channels}, S, S] → logits [B, {len(info.classes)}]."""

    def __init__(self):
        super().__init__()
        {lines(8, f"self.stem = {chain_code(layout.stem.first)}", *second)}
        # Channels of the two layers before, and of each node.
        self.cells = nn.ModuleList([
            {lines(12, *cells)}
        ])
        {lines(8, *norm, f"self.classifier = nn.Linear({layout.features}, {layout.classes})")}

    def features(self, images):
        """Return the output of the last layer, [B, {layout.features}, S', S']."""
        {lines(8, *start)}
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return {"self.final_norm(previous)" if norm else "previous"}

    def forward(self, images):
        return self.classifier(self.features(images).mean((2, 3)))
'''
    functions = "".join(_function(name) for name in operations)
    text = functions + "".join(classes) + network
    parts = (_REDUCE if "FactorizedReduce(" in text else "") + (_ZERO if "Zero(" in text else "")
    parts += BRANCHES if "Branches(" in text else ""
    return "\n".join(line for line in (parts + text).splitlines() if line.strip() or not line) + "\n"


def _layer_class(name: str, layers: list[int], gene: Cell, reduces: bool, operations: dict[str, None]) -> str:
    """Return the class of layers with the same cell; adds the functions that it calls to `operations`."""
    live = gene.live_states
    edges = [(op, source, 2 + n) for n, node in enumerate(gene.nodes) for op, source in node if source in live]
    rows, sums = [], []
    for number, (op, source, target) in enumerate(edges):
        stride = 2 if reduces and source < 2 else 1
        chain = PRIMITIVES[op].chain(_CHANNELS, stride)
        if len(chain) > 1:
            operations[op] = None
        code = f"{op}(channels, {stride})" if len(chain) > 1 else chain_code(chain)
        rows.append(f"{code},  # {number}: {op} from state {source} to {target}")
    for target, group in groupby(enumerate(edges), key=lambda each: each[1][2]):
        terms = " + ".join(f"operations[{number}](s{source})" for number, (_, source, _) in group)
        sums.append(f"s{target} = {terms}")
    before, previous = cast(int, Name("before")), cast(int, Name("previous"))
    (reduced, second), (plain, _) = (preprocess(before, previous, _CHANNELS, shrunk) for shrunk in (True, False))
    which = "layer" if len(layers) == 1 else "layers"
    kind = "halves the resolution" if reduces else "keeps the resolution"
    return f'''

class {name}(nn.Module):
    """{which.capitalize()} {", ".join(map(str, layers))}: {kind}. States 0 and 1 are the two previous layers.

    `halved`: the layer before the previous one has twice the resolution.
    """

    def __init__(self, before, previous, channels, halved=False):
        super().__init__()
        self.preprocess = nn.ModuleList([
            {chain_code(reduced)}
            if halved
            else {chain_code(plain)},
            {chain_code(second)},
        ])
        self.operations = nn.ModuleList([
            {lines(12, *rows)}
        ])

    def forward(self, before, previous):
        operations = self.operations
        s0, s1 = self.preprocess[0](before), self.preprocess[1](previous)
        {lines(8, *sums)}
        return torch.cat([{", ".join(f"s{state}" for state in gene.concat)}], 1)
'''


def _function(operation: str) -> str:
    """Return the function that creates an operation."""
    layers = PRIMITIVES[operation].chain(_CHANNELS, _STRIDE)
    return f"""

def {operation}(channels, stride):
    return nn.Sequential(
        {lines(8, *(layer_code(layer, 8) + "," for layer in layers))}
    )
"""
