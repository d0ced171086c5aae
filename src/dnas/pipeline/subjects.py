"""Networks given by the user: an architecture file, a run folder, a published architecture, or a reference network.
Used by the commands `train` and `show` and by `dnas.train`.

`dnas show` of an architecture does not need torch, so modules with torch are imported only where they are needed.
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
from dnas.settings import HALVING_STEM
from dnas.space.architecture import Architecture, at_depth
from dnas.space.network_plan import Shape
from dnas.space.published import PUBLISHED, load_published

# Networks with their own widths are for ImageNet.
LAID_OUT = Shape(classes=1000, image_size=224, stem=HALVING_STEM)


@dataclass(frozen=True)
class Named:
    """A network given by the user.

    Attributes:
        found: An architecture, or the name of a reference network.
        run: The run folder, if one was given.
        config: The content of its config.toml, otherwise empty.
        origin: True if a training starts with the weights of that run.
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
        """Name of a reference network; "" for an architecture."""
        return self.found if isinstance(self.found, str) else ""

    def beneath(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a training, with those of the given run as defaults; see `inheritance`."""
        if self.run is not None:
            from dnas.pipeline.inheritance import inherit
            from dnas.pipeline.origin import read_origin

            settings = inherit(settings, self.run, self.config, read_origin(self.run).shape if self.origin else None)
        if self.architecture is None or self.architecture.layout is None:
            return settings
        # Not those of a preset, which are for networks whose width follows from its initial channels.
        shape = self.shape()
        own = {"channels": shape.channels, "stem": shape.stem}
        return {**settings, "train": {**own, **settings.get("train", {})}}

    def shape(self) -> Shape:
        """Return the shape of the network: that of the given run, otherwise the default."""
        layout = None if self.architecture is None else self.architecture.layout
        default = Shape() if layout is None else replace(LAID_OUT, channels=layout.stem)
        if self.run is None:
            return default
        from dnas.pipeline.inheritance import shape_of

        return shape_of(self.run, self.config, default)


def named(subject: str | Path | Architecture, layers: int | None = None) -> Named:
    """Find the network given by the user.

    Args:
        subject: A path, a name or an architecture. An existing path takes precedence over a name.
        layers: The depth to which a pair of layers is stacked. None: that of the file or, for a published pair,
            20.

    Raises:
        InputError: There is no such network, or it cannot have this depth.
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
    if text in PUBLISHED:
        return Named(load_published(text, layers))
    from dnas.network.handmade import HANDMADE

    if text in HANDMADE:
        return Named(text)
    if len(path.parts) > 1 or path.suffix == ".json":
        raise InputError(f"{text!r} does not exist; give an architecture file, a run folder or a known name")
    known = [*PUBLISHED, *HANDMADE]
    choices = f"; choose from {', '.join(known)}, or give a file or a run folder"
    raise InputError(f"unknown architecture {text!r}{did_you_mean(text, known) or choices}")


def _at(architecture: Architecture, layers: int | None) -> Architecture:
    return architecture if layers is None else at_depth(architecture, layers)


def to_train(subject: str | Path | Architecture | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], Named]:
    """Find the network to train, and add it to the options.

    Args:
        subject: The network. None: that of the run whose weights the training starts with.
        options: The options of `dnas train` by their names in Python; None for those that are not given.

    Returns:
        The options and the given network, which is the run whose weights the training starts with, if there is one.

    Raises:
        InputError: As in `named`; no network is given; the weights belong to another network.
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
