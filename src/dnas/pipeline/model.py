"""The file of a trained network: its weights and everything required to rebuild it.

`model.safetensors` contains one tensor per weight and, in its header, the architecture, the width and the facts of the
data. No code is stored or executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from dnas.data.splits import DataInfo
from dnas.errors import InputError, first_line
from dnas.network.handmade import HandMade, build_handmade, get_handmade, parameters
from dnas.network.network import build
from dnas.pipeline.config import Config
from dnas.runtime.names import MODEL_FILE
from dnas.settings import NetworkTrainSettings, TrainSettings, WidthTrainSettings
from dnas.space.architecture import Architecture
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.training.build import built, to_device

MODEL_FORMAT = "dnas-model/1"


def model_bytes(
    network: nn.Module, subject: Architecture | HandMade, settings: NetworkTrainSettings, info: DataInfo
) -> bytes:
    """Return model.safetensors: weights without the auxiliary head, and a header to rebuild the network."""
    if isinstance(subject, Architecture):
        assert isinstance(settings, TrainSettings)
        shape: dict[str, Any] = {
            "architecture": subject.to_json(),
            "channels": settings.channels,
            "stem": settings.stem,
            "final_norm": settings.final_norm,
        }
    else:
        shape = {"handmade": subject.name}
        if isinstance(settings, WidthTrainSettings):
            shape["width"] = settings.width
    weights = {
        k: v.detach().cpu().contiguous() for k, v in network.state_dict().items() if not k.startswith("auxiliary.")
    }
    facts = {"format": MODEL_FORMAT, **shape, "data": asdict(info)}
    # One entry: safetensors writes several in an order that differs from run to run.
    return safetensors.torch.save(weights, {"dnas": json.dumps(facts)})


@dataclass(frozen=True)
class Trained:
    """A trained network of a run folder, in evaluation mode on the CPU, with the metadata of its file.

    Attributes:
        network: Normalized images → logits.
        info: Required format of the images.
        subject: Its architecture or reference network.
        channels, stem, final_norm: For a network that is built from an architecture, see `build`.
    """

    network: nn.Module
    info: DataInfo
    subject: Architecture | HandMade
    channels: int = 0
    stem: str = ""
    final_norm: bool = False


def load_model(run: str | Path) -> tuple[nn.Module, DataInfo]:
    """Return the trained network of a run folder in evaluation mode and the facts of its images; see `load_trained`."""
    trained = load_trained(run)
    return trained.network, trained.info


def load_trained(run: str | Path) -> Trained:
    """Return the trained network of a run folder.

    Reads model.safetensors only. Raises InputError if it is missing or damaged, or if a weight is not finite.
    """
    path = Path(run) / MODEL_FILE if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(f"{path} does not exist; train first with `dnas train` or `dnas run`")
    weights = read_tensors(path)
    try:
        facts = _facts(path)
        info = info_from_json(facts["data"])
        classes = len(info.classes)
        if "handmade" in facts:
            name, width = facts["handmade"], facts.get("width", 1.0)
            if "width" in facts:
                _check_size(path, parameters(name, classes, info.channels, width), weights)
            network = build_handmade(name, classes, info.channels, info.image_size, seed=0, width=width)
            trained = Trained(network, info, get_handmade(name))
        else:
            architecture = Architecture.from_json(facts["architecture"])
            shape = {"channels": facts["channels"], "classes": classes, "inputs": info.channels, "stem": facts["stem"]}
            _check_size(path, size(plan(architecture, **shape), info.image_size).params, weights)
            # Files of earlier versions, which did not have this norm, do not contain the key.
            more = {"stem": facts["stem"], "final_norm": facts.get("final_norm", False)}
            network = build(architecture, facts["channels"], classes, inputs=info.channels, **more)
            trained = Trained(network, info, architecture, facts["channels"], **more)
        network.load_state_dict(weights)
    except Exception as error:  # what a forged header leads to has many types
        if isinstance(error, InputError) and str(path) in str(error):
            raise
        raise InputError(f"{path} cannot be loaded: {first_line(error)}") from None
    to_device(network, "cpu").eval()
    return trained


def read_info(path: Path) -> DataInfo:
    """Return the facts of the images of a model.safetensors. Raises InputError if the file is damaged."""
    try:
        return info_from_json(_facts(path)["data"])
    except Exception as error:  # as above
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be loaded: {first_line(error)}") from None


def read_shape(path: Path) -> tuple[Subject, dict[str, Any]]:
    """Return the subject of a model.safetensors, and the settings of a training that are fixed by its weights.

    Raises InputError if the file is damaged.
    """
    try:
        facts = _facts(path)
        if "handmade" in facts:
            return get_handmade(facts["handmade"]), {"width": facts["width"]} if "width" in facts else {}
        shape = {name: facts[name] for name in ("channels", "stem")} | {"final_norm": facts.get("final_norm", False)}
        return Architecture.from_json(facts["architecture"]), shape
    except Exception as error:  # as above
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be loaded: {first_line(error)}") from None


def _facts(path: Path) -> dict[str, Any]:
    """Return the header of a model.safetensors. Raises InputError for another file."""
    with safetensors.safe_open(path, "pt") as file:
        facts: dict[str, Any] = json.loads((file.metadata() or {}).get("dnas", "{}"))
    if facts.get("format") != MODEL_FORMAT:
        raise InputError(f"{path} is not a model of dnas (its format is {facts.get('format')!r})")
    return facts


def _check_size(path: Path, wanted: int, weights: Mapping[str, Tensor]) -> None:
    """Raise InputError, before allocating memory, for a network with more parameters than its file contains."""
    held = sum(tensor.numel() for tensor in weights.values())
    if wanted > held:
        raise InputError(
            f"{path} cannot be loaded: its network has {wanted} parameters, but it contains {held} numbers"
        )


def info_from_json(facts: Mapping[str, Any]) -> DataInfo:
    """Return a DataInfo from the output of `dataclasses.asdict` after a round trip through JSON."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return DataInfo(**fields)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises InputError if it is damaged or a number is not finite."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be loaded: {first_line(error)}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            kind = "NaN" if tensor.isnan().any() else "infinite values"
            raise InputError(f"{path} cannot be used: the tensor {name!r} contains {kind}; restore it or train again")
    return tensors


# The subject of a run: a searched or given architecture, or a reference network.
Subject = Architecture | HandMade


def fresh(subject: Subject, config: Config, info: DataInfo) -> nn.Module:
    """Build the network that a run trains, initialized from its seed."""
    if isinstance(subject, HandMade):
        width = config.train.width if isinstance(config.train, WidthTrainSettings) else 1.0
        return build_handmade(subject.name, len(info.classes), info.channels, info.image_size, config.seed, width)
    assert isinstance(config.train, TrainSettings)
    return built(subject, config.train, info, config.seed)
