"""A network as readable Python source that only requires torch, rather than an interpreter of a description.

Tensors keep their names, so that the weights of the run fit (in reference networks, dots between parts become _).
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dnas.deploy.source_parts import BRANCHES, SQUEEZE_EXCITE
from dnas.errors import InputError
from dnas.pipeline.model import Trained
from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.darts_plan import preprocess
from dnas.space.network_plan import NetworkPlan
from dnas.space.plan import plan
from dnas.space.primitives import (
    PRIMITIVES,
    AvgPool,
    Branches,
    Chain,
    Conv,
    FactorizedReduce,
    HardSwish,
    Identity,
    Layer,
    MaxPool,
    Norm,
    ReLU,
    ReLU6,
    SqueezeExcite,
    Zero,
)


class _Name(str):
    """Variable of the code in place of a number."""

    def __repr__(self) -> str:
        return str(self)


_CHANNELS, _STRIDE = cast(int, _Name("channels")), cast(int, _Name("stride"))

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


def network_code(trained: Trained) -> tuple[str, dict[str, Tensor]]:
    """Return the source of a class `Network`, and the tensors for its `load_state_dict`."""
    if isinstance(trained.subject, Architecture):
        weights = {name: t for name, t in trained.network.state_dict().items() if not name.startswith("auxiliary.")}
        layout = plan(
            trained.subject,
            channels=trained.channels,
            classes=len(trained.info.classes),
            inputs=trained.info.channels,
            stem=trained.stem,
        )
        if layout.looks_back:
            return _architecture_code(trained, trained.subject, layout), weights
        return _chain_code(trained, layout), weights
    return _traced_code(trained.network)


# --- networks of cells ----------------------------------------------------------------------------------------


def _architecture_code(trained: Trained, architecture: Architecture, layout: NetworkPlan) -> str:
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
    for k, cell in enumerate(layout.cells):
        width = cell.channels
        cells.append(f"{named[k]}({before}, {previous}, {width}{', halved=True' if halved else ''}),")
        before, previous, halved = previous, cell.outputs, k in architecture.reductions
    second = [f"self.stem_second = {_chain(layout.stem.second)}"] if layout.stem.second else []
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
        {_lines(8, f"self.stem = {_chain(layout.stem.first)}", *second)}
        # Channels of the two layers before, and of each node.
        self.cells = nn.ModuleList([
            {_lines(12, *cells)}
        ])
        {_lines(8, *norm, f"self.classifier = nn.Linear({layout.features}, {layout.classes})")}

    def features(self, images):
        """Return the output of the last layer, [B, {layout.features}, S', S']."""
        {_lines(8, *start)}
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


def _chain_code(trained: Trained, layout: NetworkPlan) -> str:
    """Return the source of a network whose layers read the previous one alone: sums of operations on its output."""
    info = trained.info
    assert not layout.stem.second, "a layer reads one output"
    layers = []
    for layer in layout.cells:
        operations = [_wrapped_chain(edge.chain, 20) + "," for edge in layer.edges]
        layers.append(f"Layer(\n{' ' * 16}{_lines(16, *operations)}\n{' ' * 12})," if operations else "Layer(),")
    norm = [f"self.final_norm = nn.BatchNorm2d({layout.features}, affine=False)"] if trained.final_norm else []
    classifier = f"self.classifier = nn.Linear({layout.features}, {layout.classes})"
    text = "".join(layers)
    parts = (SQUEEZE_EXCITE if "SqueezeExcite(" in text else "") + (BRANCHES if "Branches(" in text else "")
    return f'''{parts}

class Layer(nn.Module):
    """The sum of operations on the input, or the input itself if there are none."""

    def __init__(self, *operations):
        super().__init__()
        self.operations = nn.ModuleList(operations)

    def forward(self, x):
        return sum(operation(x) for operation in self.operations) if self.operations else x


class Network(nn.Module):
    """Normalized images [B, {info.channels}, S, S] → logits [B, {len(info.classes)}]."""

    def __init__(self):
        super().__init__()
        self.stem = {_chain(layout.stem.first)}
        self.cells = nn.ModuleList([
            {_lines(12, *layers)}
        ])
        self.head = {_chain(layout.head)}
        {_lines(8, *norm, classifier)}

    def features(self, images):
        """Return the output of the last layer, [B, {layout.features}, S', S']."""
        x = self.stem(images)
        for cell in self.cells:
            x = cell(x)
        {"return self.final_norm(self.head(x))" if norm else "return self.head(x)"}

    def forward(self, images):
        return self.classifier(self.features(images).mean((2, 3)))
'''


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
        code = f"{op}(channels, {stride})" if len(chain) > 1 else _chain(chain)
        rows.append(f"{code},  # {number}: {op} from state {source} to {target}")
    for target, group in groupby(enumerate(edges), key=lambda each: each[1][2]):
        terms = " + ".join(f"operations[{number}](s{source})" for number, (_, source, _) in group)
        sums.append(f"s{target} = {terms}")
    before, previous = cast(int, _Name("before")), cast(int, _Name("previous"))
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
            {_chain(reduced)}
            if halved
            else {_chain(plain)},
            {_chain(second)},
        ])
        self.operations = nn.ModuleList([
            {_lines(12, *rows)}
        ])

    def forward(self, before, previous):
        operations = self.operations
        s0, s1 = self.preprocess[0](before), self.preprocess[1](previous)
        {_lines(8, *sums)}
        return torch.cat([{", ".join(f"s{state}" for state in gene.concat)}], 1)
'''


def _function(operation: str) -> str:
    """Return the function that creates an operation."""
    layers = PRIMITIVES[operation].chain(_CHANNELS, _STRIDE)
    return f"""

def {operation}(channels, stride):
    return nn.Sequential(
        {_lines(8, *(_layer(layer, 8) + "," for layer in layers))}
    )
"""


def _lines(indent: int, *lines: str) -> str:
    return ("\n" + " " * indent).join(lines)


def _chain(chain: Chain) -> str:
    """Return the code of layers in sequence, or of a single layer."""
    if len(chain) == 1 and not isinstance(chain[0], FactorizedReduce | Branches):
        return _layer(chain[0])
    return f"nn.Sequential({', '.join(map(_layer, chain))})"


def _wrapped_chain(chain: Chain, indent: int) -> str:
    """Return the code of layers in sequence, a line each if there are several; `indent` of these lines."""
    if len(chain) == 1 and not isinstance(chain[0], Branches):
        return _layer(chain[0])
    return _call("nn.Sequential", indent, *(_layer(layer, indent) for layer in chain))


def _call(name: str, indent: int, *arguments: str) -> str:
    """Return the code of a call with a line per argument."""
    rows = _lines(indent, *(f"{argument}," for argument in arguments))
    return f"{name}(\n{' ' * indent}{rows}\n{' ' * (indent - 4)})"


def _layer(layer: Layer, indent: int = 0) -> str:
    """Return the code of a layer. Args: indent: of the line on which it begins."""
    match layer:
        case Branches():
            chains = (_wrapped_chain(chain, indent + 8) if chain else "nn.Identity()" for chain, _ in layer.parts)
            left, right = (f"{name}={code}" for name, code in zip(("left", "right"), chains, strict=True))
            return _call("Branches", indent + 4, left, right, f"split={layer.split}")
        case Identity():
            return "nn.Identity()"
        case ReLU():
            return "nn.ReLU()"
        case ReLU6():
            return "nn.ReLU6()"
        case HardSwish():
            return "nn.Hardswish()"
        case SqueezeExcite():
            gate = "nn.Hardsigmoid()" if layer.hard else "nn.Sigmoid()"
            return f"SqueezeExcite({layer.channels}, {layer.hidden}, {gate})"
        case Zero():
            return f"Zero({layer.stride})"
        case Norm():
            return f"nn.BatchNorm2d({layer.channels})"
        case MaxPool():
            return f"nn.MaxPool2d(3, {layer.stride}, 1)"
        case AvgPool():
            return f"nn.AvgPool2d(3, {layer.stride}, 1, count_include_pad=False)"
        case FactorizedReduce():
            return f"FactorizedReduce({layer.inputs}, {layer.outputs})"
        case Conv():
            options = {
                "stride": (_side(layer.stride), 1),
                "padding": (_side(layer.padding), 0),
                "dilation": (layer.dilation, 1),
                "groups": (layer.groups, 1),
            }
            more = "".join(f", {key}={value}" for key, (value, default) in options.items() if value != default)
            return f"nn.Conv2d({layer.inputs}, {layer.outputs}, {_side(layer.kernel)}{more}, bias=False)"
    raise InputError(
        f"the operation {type(layer).__name__} has no code of torch's modules alone; leave out --format python and timm"
    )


def _side(pair: tuple[int, int]) -> Any:
    """Write (3, 3) as 3."""
    return pair[0] if pair[0] == pair[1] else pair


# --- reference networks ---------------------------------------------------------------------------------------

_OPERATORS: Mapping[Callable[..., Any], str] = {operator.add: "+", operator.mul: "*", operator.floordiv: "//"}


def _traced_code(network: nn.Module) -> tuple[str, dict[str, Tensor]]:
    """Return the source of a network of torch modules, traced along its forward pass, one line per call."""
    traced = fx.symbolic_trace(network)
    parts: dict[str, None] = {}
    body: list[str] = []
    for node in traced.graph.nodes:
        if node.op == "call_module":
            parts[node.target] = None
            body.append(f"{node.name} = self.{_flat(node.target)}({_arguments(node)})")
        elif node.op == "call_function" and node.target in _OPERATORS:
            body.append(f"{node.name} = {f' {_OPERATORS[node.target]} '.join(map(_argument, node.args))}")
        elif node.op == "call_function" and node.target is operator.getitem:
            body.append(f"{node.name} = {_argument(node.args[0])}[{_index(node.args[1])}]")
        elif node.op == "call_function":
            word = _name(node.target)
            home = "F" if getattr(F, word, None) is node.target else "torch"
            assert getattr(F if home == "F" else torch, word, None) is node.target, f"no code for {node.target}"
            body.append(f"{node.name} = {home}.{word}({_arguments(node)})")
        elif node.op == "call_method":
            first, *others = node.args
            rest = ", ".join([*map(_argument, others), *(f"{k}={_argument(v)}" for k, v in node.kwargs.items())])
            body.append(f"{node.name} = {_argument(first)}.{node.target}({rest})")
        elif node.op == "output":
            body.append(f"return {_argument(node.args[0])}")
        else:
            assert node.op == "placeholder", node.op
            given = node.name
    made = [f"self.{_flat(name)} = {_constructor(network.get_submodule(name))}" for name in parts]
    weights = {
        f"{_flat(name)}.{key}": tensor
        for name in parts
        for key, tensor in network.get_submodule(name).state_dict().items()
    }
    code = f'''

class Network(nn.Module):
    """Normalized images [B, C, S, S] → logits [B, classes]."""

    def __init__(self):
        super().__init__()
        {_lines(8, *made)}

    def forward(self, {given}):
        {_lines(8, *body)}
'''
    return code, weights


def _name(function: object) -> str:
    return str(getattr(function, "__name__", ""))


def _constructor(module: nn.Module) -> str:
    """Return the call that creates a torch module, from its repr, without arguments that equal their defaults."""
    call = ast.parse(repr(module), mode="eval").body
    assert isinstance(call, ast.Call) and getattr(nn, type(module).__name__, None) is type(module), module
    defaults = {name: p.default for name, p in inspect.signature(type(module)).parameters.items()}
    arguments = [ast.unparse(argument) for argument in call.args]
    for keyword in call.keywords:
        assert keyword.arg is not None
        value = ast.literal_eval(keyword.value)
        value = _side(value) if isinstance(value, tuple) and len(value) == 2 else value
        # A repr contains defaults that other versions of torch do not have.
        if defaults[keyword.arg] is inspect.Parameter.empty:
            arguments.append(repr(value))
        elif value != defaults[keyword.arg]:
            arguments.append(f"{keyword.arg}={value!r}")
    return f"nn.{type(module).__name__}({', '.join(arguments)})"


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _arguments(node: fx.Node) -> str:
    named = (f"{key}={_argument(value)}" for key, value in node.kwargs.items())
    return ", ".join([*map(_argument, node.args), *named])


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, list | tuple):
        inner = ", ".join(map(_argument, cast(Iterable[Any], value)))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)


def _index(value: Any) -> str:
    each = value if isinstance(value, tuple) else (value,)
    texts = []
    for part in each:
        if isinstance(part, slice):
            start, stop, step = ("" if x is None else _argument(x) for x in (part.start, part.stop, part.step))
            texts.append(f"{start}:{stop}" + (f":{step}" if step else ""))
        else:
            texts.append(_argument(part))
    return ", ".join(texts)
