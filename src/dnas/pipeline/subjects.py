"""What a user names where a network is wanted: an architecture file, a run folder, a published architecture, or a
hand-made network. The commands `train` and `show` and `dnas.train` find it here.

`dnas show` of an architecture needs no torch, so what does is imported where it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dnas.disk import read_toml
from dnas.errors import InputError, did_you_mean
from dnas.runtime.names import ARCHITECTURE_FILE, CONFIG_FILE
from dnas.space.architecture import Architecture, at_depth
from dnas.space.genotype import PAPER_LAYERS
from dnas.space.plan import Shape
from dnas.space.published import load_published, published


@dataclass(frozen=True)
class Named:
    """What was named.

    Attributes:
        found: An architecture, or the name of a hand-made network.
        run: The run folder, if one was named.
        config: The content of its config.toml, else empty.
        origin: Whether a training begins with the weights of that run.
    """

    found: Architecture | str
    run: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    origin: bool = False

    @property
    def architecture(self) -> Architecture | None:
        return None if isinstance(self.found, str) else self.found

    @property
    def handmade(self) -> str:
        """The name of a hand-made network; "" for an architecture."""
        return self.found if isinstance(self.found, str) else ""

    def beneath(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a training, with those of the run that was named beneath; see `inheritance`."""
        if self.run is None:
            return settings
        from dnas.pipeline.inheritance import inherit
        from dnas.pipeline.origin import read_origin

        return inherit(settings, self.run, self.config, read_origin(self.run).shape if self.origin else None)

    def shape(self) -> Shape:
        """Return what the size of the network depends on: that of the run that was named, else the usual one."""
        if self.run is None:
            return Shape()
        from dnas.pipeline.inheritance import shape_of

        return shape_of(self.run, self.config)


def named(subject: str | Path | Architecture, layers: int | None = None) -> Named:
    """Find what a user names.

    Args:
        subject: A path or a name. A path that exists takes precedence; an architecture stands for itself.
        layers: The depth at which a pair of cells is stacked; None: that of the file, or for a published pair
            `PAPER_LAYERS`.

    Raises:
        InputError: There is no such network, or it has not this depth.
    """
    if isinstance(subject, Architecture):
        return Named(_at(subject, layers))
    text = os.fspath(subject)
    path = Path(text)
    if path.is_dir():
        config = read_toml(path / CONFIG_FILE) if (path / CONFIG_FILE).is_file() else {}
        if config.get("handmade"):
            return Named(str(config["handmade"]), path, config)
        if not (path / ARCHITECTURE_FILE).is_file():
            raise InputError(f"{text!r} has no architecture.json; is it a run folder whose search has ended?")
        return Named(_at(Architecture.load(path / ARCHITECTURE_FILE), layers), path, config)
    if path.is_file():
        return Named(_at(Architecture.load(path), layers))
    if text in published():
        return Named(load_published(text, PAPER_LAYERS if layers is None else layers))
    from dnas.network.handmade import HANDMADE

    if text in HANDMADE:
        return Named(text)
    if len(path.parts) > 1 or path.suffix == ".json":
        raise InputError(f"{text!r} does not exist; give an architecture file, a run folder or a known name")
    choices = f"; choose from {', '.join([*published(), *HANDMADE])}, or give a file or a run folder"
    raise InputError(f"unknown architecture {text!r}{did_you_mean(text, [*published(), *HANDMADE]) or choices}")


def _at(architecture: Architecture, layers: int | None) -> Architecture:
    return architecture if layers is None else at_depth(architecture, layers)


def to_train(subject: str | Path | Architecture | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], Named]:
    """Find what is to be trained, and name it in the options.

    Args:
        subject: None: the network of the run with whose weights it begins.
        options: Those of `dnas train` by their names in Python; None where one is not given.

    Returns:
        The options, and what was named: the run with whose weights it begins, where there is one.

    Raises:
        InputError: As `named`; nothing is named; the weights are of another network.
    """
    run: str | Path | None = options.get("from_run")
    given = run if subject is None else subject
    if given is None:
        raise InputError("name what to train: an architecture file, a run folder, a published name, or --from RUN")
    if run is not None and not Path(run).is_dir():
        raise InputError(f"--from {run} is not a run folder; give the folder of a training that has ended")
    found = named(given)
    name = "" if isinstance(given, Architecture) else os.fspath(given)
    if run is not None:
        path = Path(run).absolute()
        origin = replace(named(path), origin=True)
        if origin.found != found.found:
            raise InputError(
                f"--from {run}: its weights are not of the network of {name or 'ARCHITECTURE'}; give it alone"
            )
        found, options = origin, {**options, "from_run": str(path)}
    return {**options, "architecture": name, "handmade": found.handmade}, found
