"""The code of layers and of chains of layers, as modules of torch."""

from __future__ import annotations

from typing import Any

from dnas.errors import InputError
from dnas.space.primitives import (
    AvgPool,
    Branches,
    Chain,
    Conv,
    FactorizedReduce,
    HardSwish,
    Identity,
    Layer,
    MaxPool,
    Mean,
    Norm,
    ReLU,
    ReLU6,
    SqueezeExcite,
    Zero,
)


def lines(indent: int, *each: str) -> str:
    """Join lines of code that have this indent."""
    return ("\n" + " " * indent).join(each)


def chain_code(chain: Chain) -> str:
    """Return the code of layers in sequence, or of a single layer."""
    if len(chain) == 1 and not isinstance(chain[0], FactorizedReduce | Branches):
        return layer_code(chain[0])
    return f"nn.Sequential({', '.join(map(layer_code, chain))})"


def wrapped_chain(chain: Chain, indent: int) -> str:
    """Return the code of layers in sequence, a line each if there are several; `indent` of these lines."""
    if len(chain) == 1 and not isinstance(chain[0], Branches):
        return layer_code(chain[0])
    return call("nn.Sequential", indent, *(layer_code(layer, indent) for layer in chain))


def call(name: str, indent: int, *arguments: str) -> str:
    """Return the code of a call with a line per argument."""
    rows = lines(indent, *(f"{argument}," for argument in arguments))
    return f"{name}(\n{' ' * indent}{rows}\n{' ' * (indent - 4)})"


def layer_code(layer: Layer, indent: int = 0) -> str:
    """Return the code of a layer. Args: indent: of the line on which it begins."""
    match layer:
        case Branches():
            chains = (wrapped_chain(chain, indent + 8) if chain else "nn.Identity()" for chain, _ in layer.parts)
            left, right = (f"{name}={code}" for name, code in zip(("left", "right"), chains, strict=True))
            return call("Branches", indent + 4, left, right, f"split={layer.split}", f"turns={layer.turns}")
        case Identity():
            return "nn.Identity()"
        case ReLU():
            return "nn.ReLU()"
        case ReLU6():
            return "nn.ReLU6()"
        case HardSwish():
            return "nn.Hardswish()"
        case Mean():
            return "nn.AdaptiveAvgPool2d(1)"
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
                "stride": (side(layer.stride), 1),
                "padding": (side(layer.padding), 0),
                "dilation": (layer.dilation, 1),
                "groups": (layer.groups, 1),
            }
            more = "".join(f", {key}={value}" for key, (value, default) in options.items() if value != default)
            return f"nn.Conv2d({layer.inputs}, {layer.outputs}, {side(layer.kernel)}{more}, bias={layer.bias})"
    raise InputError(
        f"the operation {type(layer).__name__} has no code of torch's modules alone; leave out --format python and timm"
    )


def side(pair: tuple[int, int]) -> Any:
    """Write (3, 3) as 3."""
    return pair[0] if pair[0] == pair[1] else pair
