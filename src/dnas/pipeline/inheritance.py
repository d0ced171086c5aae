"""What a run hands on when it is named: its data, image size, preset and training are the defaults of what is done with
it. Whatever the user gives, as an option or in a configuration file, takes precedence.

`config.toml` has every setting in force and does not say who chose it. So a run hands on the settings of its training
that differ from those its preset chooses for its data; the others follow from the preset, on other data again.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from dnas.pipeline.training_images import read_training_images
from dnas.runtime.names import MODEL_FILE, RESULT_FILE
from dnas.settings import NetworkTrainSettings, TrainSettings, WidthTrainSettings, train_over
from dnas.space.plan import Shape
from dnas.space.registry import get_space

# Settings of a training that a run finds out from its images, so they are found out again for others.
MEASURED = ("flip",)


def inherit(
    settings: Mapping[str, Any], run: Path, config: Mapping[str, Any], shape: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the settings of a training that names a run, with those of the run beneath.

    Args:
        settings: What the user gives, nested.
        run: The run folder.
        config: The content of its config.toml; without any, nothing is handed on.
        shape: Of a training that begins with the weights of the run: the settings that these fix (`origin.py`). It sees
            images of the same size as the run, and its rates are lower.

    Raises:
        InputError: config.toml is not one, or the run's images are not there any more.
    """
    if not config:
        return dict(settings) if shape is None else {**settings, "train": train_over(settings.get("train", {}), shape)}
    own = _parsed(config)
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
    # A preset is a whole training, so one that the user chooses stands in place of the run's.
    if "preset" not in settings:
        # Of images in memory it is not known whether they are the run's.
        lost = () if same and own.data.source != IN_MEMORY else MEASURED
        if settings.get("budget"):
            lost = (*lost, *BUDGETED["train"])
        training = {name: value for name, value in _given_training(own).items() if name not in lost}
        inherited["preset"] = own.preset
    if shape is not None:
        if not own.from_run:  # whose own are low already
            inherited["origin"] = {"rates": {name: training.pop(name) for name in RATES if name in training}}
        training |= shape
    if training or "preset" not in settings:
        inherited["train"] = train_over(settings.get("train", {}), training)
    return inherited


def shape_of(run: Path, config: Mapping[str, Any]) -> Shape:
    """Return what a run's network was, or would be, trained with.

    Args:
        run, config: As of `inherit`.

    Raises:
        InputError: A file of the run is damaged.
    """
    shape: dict[str, Any] = {}
    if config:
        own = _parsed(config)
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
    return Shape(**{name: value for name, value in shape.items() if value})


def same_data(one: str, other: str) -> bool:
    """Return whether two sources are the same data set or folder."""
    if one == other or IN_MEMORY in (one, other) or one in known_names() or other in known_names():
        return one == other
    try:
        return Path(one).expanduser().samefile(Path(other).expanduser())
    except (OSError, RuntimeError):
        return False


def _is_there(path: Path) -> bool:
    return is_dir(path) or is_file(path)


def require_there(run: Path, source: str) -> None:
    """Raises InputError if a run's images are in a folder or file that does not exist any more."""
    if source == IN_MEMORY:
        raise InputError(f"the images of {str(run)!r} were given in memory; give --data, or in Python data=…")
    if source not in known_names() and not _is_there(Path(source).expanduser()):
        raise InputError(f"the images of {str(run)!r} are not at {source!r} any more; put them back or give --data")


def _parsed(config: Mapping[str, Any]) -> Config:
    # A run's search is not needed, and its method may be of a package that is not here.
    return parse(config if config.get("command") == "search" else {**config, "search": None})


def _training(own: Config) -> NetworkTrainSettings:
    """The training of a run; of a search the one that `dnas run` would have gone on with."""
    if own.train is not None:
        return own.train
    method = create(own.method, own.mapping or None, own.options, get_space(own.space))
    training = _preset(own, method)
    if own.limits is not None and own.limits.channels:
        return training.model_copy(update={"channels": own.limits.channels})
    return training


def _given_training(own: Config) -> dict[str, Any]:
    """The settings of a run's training that the preset would not choose for `dnas train` on its data."""
    training = _training(own)
    default = Config()
    method = create(default.method, None, {}, get_space(default.space))
    chosen = _preset(own, method)
    names = type(chosen).model_fields
    return {name: getattr(training, name) for name in names if getattr(training, name) != getattr(chosen, name)}


def _preset(own: Config, method: Method) -> NetworkTrainSettings:
    """The training that the preset of a run would choose on its data."""
    info, handmade = _info(own), bool(own.handmade)
    values = preset_settings(own.preset, method, info, own.data.train_images, handmade=handmade)["train"]
    if own.from_run:
        values = begun(values, {}, bool(own.origin.get("new_head")))
    settings = train_settings(own.handmade)
    fitting = {name: value for name, value in values.items() if name in settings.model_fields}
    return settings(**fitting).in_numbers(own.data.train_images, own.data.image_size)


def _info(own: Config) -> DataInfo:
    """What a preset asks of a data set: its name and the size of its images."""
    return DataInfo(own.data.source, (), 0, own.data.image_size, (), (), flip=False)
