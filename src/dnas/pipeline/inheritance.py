"""Settings inherited from a run: its data, image size, preset and training are the defaults of commands that use it.
Options and configuration files of the user take precedence.

`config.toml` contains all resolved settings, but not who chose them. Therefore only those settings of the training are
inherited that differ from what the preset of the run chooses for its data. The preset determines the others, for other
data as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnas.data.sources.protocol import IN_MEMORY
from dnas.data.sources.registry import names as known_names
from dnas.data.sources.tree import is_dir, is_file
from dnas.data.splits import DataInfo
from dnas.disk import read_json
from dnas.errors import InputError
from dnas.methods.protocol import Method
from dnas.methods.registry import create
from dnas.pipeline.config import BUDGETED, Config, parse, train_settings
from dnas.pipeline.model import read_info
from dnas.pipeline.presets import RATES, begun, preset_settings
from dnas.pipeline.spaces import of_network
from dnas.pipeline.training_images import read_training_images
from dnas.runtime.names import ARCHITECTURE_FILE, MODEL_FILE, RESULT_FILE
from dnas.settings import NetworkTrainSettings, TrainSettings, WidthTrainSettings, train_over
from dnas.space.architecture import Architecture
from dnas.space.network_plan import Shape
from dnas.space.registry import AUTO, get_space

# Settings of a training that a run derives from its images, so they are derived again for other images.
MEASURED = ("flip",)


def inherit(
    settings: Mapping[str, Any], run: Path, config: Mapping[str, Any], shape: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the settings of a training that uses a run, with those of the run as defaults.

    Args:
        settings: Nested settings of the user.
        run: The run folder.
        config: The content of its config.toml; if empty, nothing is inherited.
        shape: For a training that starts with the weights of the run: the settings fixed by these weights
            (`origin.py`). The image size is that of the run, and learning rates are lower.

    Raises:
        InputError: config.toml is invalid, or the images of the run no longer exist.
    """
    if not config:
        return dict(settings) if shape is None else {**settings, "train": train_over(settings.get("train", {}), shape)}
    own = _parsed(run, config)
    data = dict(settings.get("data", {}))
    theirs: dict[str, Any] = {"data_dir": own.data.data_dir} if own.data.data_dir else {}
    same = "source" not in data or same_data(data["source"], own.data.source)
    if same:
        if data.get("source") != IN_MEMORY:
            require_there(run, own.data.source)
        same_reading = ("source", "image_column", "label_column", "root", "image_size", "resize", "skip_broken")
        theirs |= {name: getattr(own.data, name) for name in same_reading}
    elif shape is not None:
        theirs["image_size"] = own.data.image_size
    inherited = {**settings, "data": {**theirs, **data}}
    training: dict[str, Any] = {}
    # A preset defines a whole training, so a preset chosen by the user replaces the settings of the run.
    if "preset" not in settings:
        # Images in memory may or may not be those of the run.
        lost = () if same and own.data.source != IN_MEMORY else MEASURED
        if settings.get("budget"):
            lost = (*lost, *BUDGETED["train"])
        training = {name: value for name, value in _given_training(own).items() if name not in lost}
        inherited["preset"] = own.preset
    if shape is not None:
        if not own.from_run:  # otherwise its learning rates are already low
            inherited["origin"] = {"rates": {name: training.pop(name) for name in RATES if name in training}}
        training |= shape
    if training or "preset" not in settings:
        inherited["train"] = train_over(settings.get("train", {}), training)
    return inherited


def shape_of(run: Path, config: Mapping[str, Any], default: Shape | None = None) -> Shape:
    """Return the shape of the network that a run has trained or would train.

    Args:
        run, config: As in `inherit`.
        default: What the files of the run do not contain. None: the default of `Shape`.

    Raises:
        InputError: A file of the run is damaged.
    """
    shape: dict[str, Any] = {}
    if config:
        own = _parsed(run, config)
        training = _training(own)
        shape["image_size"] = own.data.image_size
        if isinstance(training, TrainSettings):
            shape |= {"channels": training.channels, "stem": training.stem, "final_norm": training.final_norm}
        elif isinstance(training, WidthTrainSettings):
            shape["width"] = training.width
    record = read_training_images(run)
    if record is not None or is_file(run / MODEL_FILE):
        info = read_info(run / MODEL_FILE) if record is None else record.info
        shape |= {"classes": len(info.classes), "image_size": info.image_size, "image_channels": info.channels}
    elif is_file(run / RESULT_FILE):
        shape["classes"] = read_json(run / RESULT_FILE).get("classes")
    return replace(default or Shape(), **{name: value for name, value in shape.items() if value})


def same_data(one: str, other: str) -> bool:
    """Return True if two sources are the same data set or folder."""
    if one == other or IN_MEMORY in (one, other) or one in known_names() or other in known_names():
        return one == other
    try:
        return Path(one).expanduser().samefile(Path(other).expanduser())
    except (OSError, RuntimeError):
        return False


def _is_there(path: Path) -> bool:
    return is_dir(path) or is_file(path)


def require_there(run: Path, source: str) -> None:
    """Raise InputError if the images of a run are in a folder or file that no longer exists."""
    if source == IN_MEMORY:
        raise InputError(f"the images of {str(run)!r} were given in memory; give --data, or in Python data=…")
    if source not in known_names() and not _is_there(Path(source).expanduser()):
        raise InputError(f"the images of {str(run)!r} are no longer at {source!r}; restore them or give --data")


def _parsed(run: Path, config: Mapping[str, Any]) -> Config:
    # The search of the run is not needed, and its method may be from a package that is not installed.
    own = parse(config if config.get("command") == "search" else {**config, "search": None})
    if own.space != AUTO or not is_file(run / ARCHITECTURE_FILE):
        return own
    return of_network(own, Architecture.load(run / ARCHITECTURE_FILE).space)


def _training(own: Config) -> NetworkTrainSettings:
    """Return the training of a run; for a search, the training with which `dnas run` would have continued."""
    if own.train is not None:
        return own.train
    method = create(own.method, own.mapping or None, own.options, get_space(own.space))
    training = _preset(own, method)
    if own.limits is not None and own.limits.channels:
        return training.model_copy(update={"channels": own.limits.channels})
    return training


def _given_training(own: Config) -> dict[str, Any]:
    """Return the training settings of a run that differ from the preset of `dnas train` on its data."""
    training = _training(own)
    default = Config()
    method = create(default.method, None, {}, get_space(default.space))
    chosen = _preset(own, method)
    names = type(chosen).model_fields
    return {name: getattr(training, name) for name in names if getattr(training, name) != getattr(chosen, name)}


def _preset(own: Config, method: Method) -> NetworkTrainSettings:
    """Return the training that the preset of a run would choose on its data."""
    info, handmade = _info(own), bool(own.handmade)
    values = preset_settings(own.preset, method, info, own.data.train_images, handmade=handmade)["train"]
    if own.from_run:
        values = begun(values, {}, bool(own.origin.get("new_head")))
    settings = train_settings(own.handmade)
    fitting = {name: value for name, value in values.items() if name in settings.model_fields}
    return settings(**fitting).in_numbers(own.data.train_images, own.data.image_size)


def _info(own: Config) -> DataInfo:
    """Return the facts of a data set that a preset depends on: its name and the size of its images."""
    return DataInfo(own.data.source, (), 0, own.data.image_size, (), (), flip=False)
