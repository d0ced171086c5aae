"""A network as readable Python source that only requires torch, rather than an interpreter of a description.

Tensors keep their names, so that the weights of the run fit (in reference networks, dots between parts become _).
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dnas.deploy.source_cells import graph_code
from dnas.deploy.source_layers import chain_code, lines, side, wrapped_chain
from dnas.deploy.source_parts import BRANCHES, SQUEEZE_EXCITE
from dnas.pipeline.model import Trained
from dnas.space.architecture import Architecture
from dnas.space.network_plan import NetworkPlan
from dnas.space.plan import plan


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
            return graph_code(trained, trained.subject, layout), weights
        return _chain_code(trained, layout), weights
    return _traced_code(trained.network)


def _chain_code(trained: Trained, layout: NetworkPlan) -> str:
    """Return the source of a network whose layers read the previous one alone: sums of operations on its output."""
    info = trained.info
    assert not layout.stem.second, "a layer reads one output"
    layers = []
    for layer in layout.layers:
        operations = [wrapped_chain(edge.chain, 20) + "," for edge in layer.edges]
        layers.append(f"Layer(\n{' ' * 16}{lines(16, *operations)}\n{' ' * 12})," if operations else "Layer(),")
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
        self.stem = {chain_code(layout.stem.first)}
        self.cells = nn.ModuleList([
            {lines(12, *layers)}
        ])
        self.head = {chain_code(layout.head)}
        {lines(8, *norm, classifier)}

    def features(self, images):
        """Return the output of the last layer, [B, {layout.features}, S', S']."""
        x = self.stem(images)
        for layer in self.cells:
            x = layer(x)
        {"return self.final_norm(self.head(x))" if norm else "return self.head(x)"}

    def forward(self, images):
        return self.classifier(self.features(images).mean((2, 3)))
'''


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
        {lines(8, *made)}

    def forward(self, {given}):
        {lines(8, *body)}
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
        value = side(value) if isinstance(value, tuple) and len(value) == 2 else value
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
