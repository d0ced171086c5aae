"""Deriving an architecture again from the search of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.disk import read_toml
from dnas.errors import InputError, first_line
from dnas.methods.protocol import Progress, SupernetMethod
from dnas.methods.registry import create
from dnas.parts import registry as parts
from dnas.pipeline.config import parse
from dnas.pipeline.limits import feasible
from dnas.pipeline.model import read_tensors
from dnas.pipeline.spaces import searched
from dnas.pipeline.training_images import read_training_images
from dnas.runtime.checkpoint import newest
from dnas.runtime.names import CHECKPOINTS, CONFIG_FILE, PARAMETERS_FILE, SEARCH_STAGE
from dnas.settings import GradientSettings
from dnas.space.architecture import Architecture
from dnas.space.registry import get_space


def derive_again(path: str | Path, options: Mapping[str, Any]) -> Architecture:
    """Derive an architecture from the architecture parameters of a search, finished or not.

    Args:
        path: The run folder.
        options: Method options that take precedence over those of the run.

    Raises:
        InputError: There is no search in this folder, or an option does not fit.
    """
    path = Path(path)
    if not (path / CONFIG_FILE).is_file():
        raise InputError(f"{path} is not a run folder, since it has no config.toml; give the folder of a search")
    config = searched(parse(read_toml(path / CONFIG_FILE)))
    if config.search is None:
        raise InputError(
            f"{path} is a run of `dnas {config.command}`, which searches nothing; give the folder of a search"
        )
    method = create(config.method, config.mapping, {**config.options, **options}, get_space(config.space))
    for part in parts.create(config.with_parts, config.with_options):
        if part.derives:
            raise InputError(f"{path} was derived by {part.name}, from weights that are not kept; search again")
    if not isinstance(method, SupernetMethod):
        raise InputError(f"{path} is a search by {method.name}, which chose among trials; nothing can be derived again")
    record = read_training_images(path)
    if config.limits is not None and record is not None:
        method.feasible = feasible(config, record.info)
    mapping = method.mapping(config.search.layers, config.seed)
    epochs = config.search.epochs
    if (path / PARAMETERS_FILE).is_file():
        tensors = read_tensors(path / PARAMETERS_FILE)
        epoch = epochs
    else:
        checkpoint, _ = newest(path / CHECKPOINTS)
        if checkpoint is None or checkpoint.state["stage"] != SEARCH_STAGE:
            raise InputError(f"{path} has no checkpoint of its search yet; wait for one, or `dnas resume {path}`")
        tensors = checkpoint.part("mapping")
        epoch = max(1, checkpoint.state["step"] // config.search.steps_per_epoch)
    try:
        mapping.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the options do not fit the architecture parameters of {path}: {first_line(error)}") from None
    warmup = config.search.warmup_epochs if isinstance(config.search, GradientSettings) else 0
    architecture = method.derive(mapping, Progress(min(epoch, epochs) - 1, epochs, warmup))
    if architecture is None:
        raise InputError(f"{path}: {method.name} chose among candidates, so nothing can be derived again")
    return architecture
