"""The registry of methods, and the protocol that a differentiable method meets.

A method is one file in this folder (or in another package, by an entry point of the group `dnas.methods`)
with a subclass of `GradientMethod`; nothing else in dnas names it.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnas import derive
from dnas.architecture import Architecture
from dnas.errors import InputError
from dnas.mapping import MAPPINGS, Mapping, mapping_class
from dnas.relaxation import MixingWeights
from dnas.space import Space

BUILT_IN = {
    "dnas": "dnas.methods.dnas:DNAS",
    "pc-darts": "dnas.methods.pc_darts:PCDARTS",
}


class MethodOptions(BaseModel):
    """Options that every differentiable method has; a method's own class adds its own.

    Each is set by `--option NAME=VALUE` or under `[options]` in a configuration file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    partial_channels: int = Field(
        1, ge=1, description="K: 1/K of the channels pass through the operations (PC-DARTS §3.1)"
    )
    with_none: bool = Field(False, description="`none` is a candidate while searching; never exported")
    initial_scale: float = Field(1e-3, ge=0, description="standard deviation of the initial architecture parameters")


@dataclass(frozen=True)
class Progress:
    """Where a search stands, for what a method schedules.

    Attributes:
        epoch, epochs: This epoch, from 0, and how many there are, warm-up included.
        warmup_epochs: The first epochs, in which only weights move.
    """

    epoch: int = 0
    epochs: int = 1
    warmup_epochs: int = 0


class GradientMethod:
    """A method that relaxes the architecture and follows gradients.

    The search calls `mapping` once, `mixing` and `penalty` in each step, and `derive` at the end (and after
    each epoch, to watch). Subclasses set the class attributes and `mixing`, and override the rest at need.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    kind: ClassVar[str] = "gradient"
    mappings: ClassVar[tuple[str, ...]] = tuple(MAPPINGS)
    default_mapping: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions

    def __init__(self, options: MethodOptions, mapping: str, space: Space) -> None:
        if mapping not in self.mappings:
            mapping_class(mapping)
            raise InputError(
                f"--mapping {mapping} does not go with method {self.name}; choose from {', '.join(self.mappings)}"
            )
        self.options = options
        self.mapping_name = mapping
        self.space = space
        self.operations = ("none", *space.primitives) if options.with_none else space.primitives

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """What the method's paper sets for a data set, {"search": …, "train": …}, where it is not DARTS' default."""
        return {}

    def mapping(self, layers: int, seed: int) -> Mapping:
        """Fresh architecture parameters."""
        return self.new_mapping(layers, seed)

    def new_mapping(self, layers: int, seed: int, **details: Any) -> Mapping:
        """The mapping of this method's name, over its operations; `details` are the mapping's own arguments."""
        return mapping_class(self.mapping_name)(
            layers,
            len(self.space.edges),
            len(self.operations),
            scale=self.options.initial_scale,
            seed=seed,
            **details,
        )

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        """The mixing weights of this step, differentiable in the architecture parameters."""
        raise NotImplementedError

    def penalty(self, mapping: Mapping) -> torch.Tensor | None:
        """What the architecture step adds to the cross-entropy."""
        return None

    def skip_dropout(self, progress: Progress) -> float:
        """The probability with which the identity's output is dropped in this step."""
        return 0.0

    def derive(self, mapping: Mapping, progress: Progress) -> Architecture:
        """The architecture that the parameters stand for: by default the top edges by psi."""
        with torch.no_grad():
            psi = self.mixing(mapping, progress).psi
        return derive.top_edges(psi, self.operations, self.space, self.origin())

    def origin(self) -> dict[str, Any]:
        return {"method": self.name, "mapping": self.mapping_name}


@cache
def registry() -> Dict[str, type[GradientMethod]]:
    """Every method by name: those of dnas, then those of installed packages."""
    methods: dict[str, type[GradientMethod]] = {}
    for name, where in BUILT_IN.items():
        module, _, attribute = where.partition(":")
        methods[name] = getattr(import_module(module), attribute)
    for entry in entry_points(group="dnas.methods"):
        if entry.name in methods:
            raise InputError(f"method {entry.name!r} of {entry.value} has the name of another; rename its entry point")
        methods[entry.name] = entry.load()
    return methods


def list_methods() -> list[str]:
    """The names of all methods."""
    return list(registry())


def get_method(name: str) -> type[GradientMethod]:
    """The class of a method. Raises InputError listing the names."""
    if name not in registry():
        raise InputError(f"--method {name!r} is not known; choose from {', '.join(registry())}")
    return registry()[name]


def create(name: str, mapping: str | None, options: Dict[str, Any], space: Space) -> GradientMethod:
    """A method with checked options. Raises InputError naming the method, the option and its choices."""
    method = get_method(name)
    try:
        checked = method.Options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(method.Options.model_fields)
            raise InputError(f"--option {option}: method {name} has no such option; it has {known}") from None
        raise InputError(f"--option {option}={first['input']!r} for method {name}: {first['msg']}") from None
    return method(checked, mapping or method.default_mapping, space)
