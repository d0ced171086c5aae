"""The run whose trained weights a training starts with: checks, transfer of weights, and facts for the reports.

The new run folder keeps a copy of those weights and the record of their training images, so that resuming it does not
need the other run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnas.data.splits import DataInfo
from dnas.disk import read_json
from dnas.errors import InputError, SettingError
from dnas.network.network import params
from dnas.options import flag_of
from dnas.pipeline.config import Config
from dnas.pipeline.inputs import Data
from dnas.pipeline.model import Subject, fresh, read_info, read_shape, read_tensors
from dnas.pipeline.training_images import TrainingImages, read_training_images
from dnas.runtime.names import MODEL_FILE, ORIGIN_FILE, ORIGIN_IMAGES_FILE, RESULT_FILE, TRAINING_IMAGES_FILE
from dnas.runtime.runfolder import RunFolder
from dnas.space.architecture import Architecture

KINDS = {1: "gray", 3: "color"}  # of images, by their channels


@dataclass(frozen=True)
class Origin:
    """A run with a completed training.

    Attributes:
        shape: The settings of a training that are fixed by its weights.
        info: The facts of its data.
        images: The record of its training images; None for runs of earlier versions.
    """

    run: Path
    subject: Subject
    shape: Mapping[str, Any]
    info: DataInfo
    images: TrainingImages | None


def read_origin(run: Path) -> Origin:
    """Read the origin from a run folder. Raises InputError if nothing has been trained or a file is damaged."""
    path = run / MODEL_FILE
    if not path.is_file():
        raise InputError(
            f"--from {run} has no trained weights; give the folder of a training that has ended, or `dnas resume {run}`"
        )
    subject, shape = read_shape(path)
    return Origin(run, subject, shape, read_info(path), read_training_images(run))


def check(origin: Origin, config: Config, architecture: Architecture | None, info: DataInfo) -> None:
    """Raise InputError if these weights do not fit the network to train.

    Args:
        architecture: The architecture to train, at its depth; None for a reference network.
        info: The facts of the new training images.
    """
    name = config.handmade if architecture is None else architecture
    theirs = origin.subject if isinstance(origin.subject, Architecture) else origin.subject.name
    if name != theirs:
        layers = len(theirs) if isinstance(theirs, Architecture) else 0
        if layers and architecture is not None and len(architecture) != layers:
            key = "train.layers"
            raise SettingError(
                key, flag_of(key), f" is {layers} in the weights of {origin.run}, not {len(architecture)}; leave it out"
            )
        raise InputError(
            f"--from {origin.run}: its weights are of another network than the one to train; give it alone"
        )
    for setting, value in origin.shape.items():
        if (here := getattr(config.train, setting)) != value:
            key = f"train.{setting}"
            raise SettingError(
                key, flag_of(key), f" is {value} in the weights of {origin.run}, not {here}; leave it out"
            )
    if info.channels != origin.info.channels:
        raise InputError(
            f"--data {info.source}: its images are {KINDS[info.channels]}, and {origin.run} was trained on "
            f"{KINDS[origin.info.channels]} ones; give others, or train without --from"
        )


def keep(origin: Origin, folder: RunFolder) -> None:
    """Copy the initial weights of the training, and the record of their images, into a new run folder."""
    if not folder.writes:
        return
    folder.write_bytes(ORIGIN_FILE, (origin.run / MODEL_FILE).read_bytes())
    if origin.images is not None:
        folder.write_bytes(ORIGIN_IMAGES_FILE, (origin.run / TRAINING_IMAGES_FILE).read_bytes())


def without_seen(data: Data, images: TrainingImages | None) -> Data:
    """Return the data without the test images that the weights were trained on, as far as they can be recognized.

    Args:
        images: The record of the images that the weights were trained on.

    Raises:
        InputError: No test image is left.
    """
    test = data.test
    if images is None or test is None or not images.fits(data.info):
        return data
    seen = images.among(test.digests())
    if not seen.any():
        return data
    if seen.all():
        raise InputError(
            f"--data {data.info.source}: the weights of --from were trained on all its {len(test)} test images; give "
            "others"
        )
    rest = test.subset(torch.from_numpy((~seen).nonzero()[0]))
    return replace(data, test=replace(rest, left_out=test.left_out))


def take_over(network: nn.Module, path: Path, config: Config, subject: Subject, info: DataInfo) -> int:
    """Load the trained weights of a model.safetensors into a new network, and return the number of loaded weights.

    If the classes differ, the last layer keeps its initial weights. So does an auxiliary head, which is only used in
    training.

    Raises:
        InputError: A weight is not finite, or the file is damaged.
    """
    weights = read_tensors(path)
    own: dict[str, Tensor] = network.state_dict()
    if read_info(path).classes != info.classes:
        head = _head(subject, config, info, own)
        weights = {name: tensor for name, tensor in weights.items() if name not in head}
    else:
        head = set()
    auxiliary = {name for name in own if name.startswith("auxiliary.")}
    unlike = [name for name in own.keys() - head - auxiliary if _shape(own[name]) != _shape(weights.get(name))]
    if unlike or weights.keys() - own.keys():
        raise InputError(f"{path} does not fit the network, in {sorted(unlike or weights.keys() - own.keys())[0]!r}")
    network.load_state_dict(weights, strict=False)
    return sum(parameter.numel() for name, parameter in network.named_parameters() if name in weights)


def _head(subject: Subject, config: Config, info: DataInfo, own: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the tensors whose shape depends on the number of classes."""
    other = fresh(subject, config, replace(info, classes=(*info.classes, ""))).state_dict()
    return {name for name, tensor in own.items() if tensor.shape != other[name].shape}


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def facts(origin: Origin, config: Config, subject: Subject, data: Data, left_out: int) -> dict[str, Any]:
    """Return the facts for config.toml and result.json.

    Returns:
        The run, its data and test accuracy; the number of loaded weights and of all weights, and whether the last
        layer is new; the number of removed test images, if known.
    """
    network = fresh(subject, config, data.info)
    taken = take_over(network, origin.run / MODEL_FILE, config, subject, data.info)
    result = origin.run / RESULT_FILE
    accuracy = read_json(result).get("test_accuracy") if result.is_file() else None
    known = origin.images is not None and origin.images.fits(data.info)
    return {
        "run": config.from_run,
        "data": origin.info.source,
        **({} if accuracy is None else {"test_accuracy": accuracy}),
        "image_size": origin.info.image_size,
        "channels": origin.info.channels,
        "weights": taken,
        "of": params(network),
        "new_head": origin.info.classes != data.info.classes,
        **({"left_out": left_out} if known else {}),
    }


def sentences(facts: Mapping[str, Any], info: DataInfo) -> list[str]:
    """Return the lines that dnas prints at the start of a training.

    Args:
        facts: The output of `facts`.
        info: The facts of the images of this training.
    """
    every = facts["weights"] == facts["of"]
    weights = f"all {facts['of']:,}" if every else f"{facts['weights']:,} of {facts['of']:,}"
    accuracy = f" (test accuracy {facts['test_accuracy']:.4f})" if "test_accuracy" in facts else ""
    head = f"; a new head for {len(info.classes)} other classes" if facts["new_head"] else ""
    said = [f"begins with {weights} weights of {facts['run']}{accuracy}{head}"]
    size, kind = facts["image_size"], KINDS[facts["channels"]]
    if size != info.image_size:
        said.append(f"that run saw images of {size}×{size}, and these are {info.image_size}×{info.image_size}")
    if facts["data"] != info.source:
        said.append(f"images are read as {kind}, as those of {facts['data']}")
    if facts.get("left_out"):
        images = "1 test image is" if facts["left_out"] == 1 else f"{facts['left_out']} test images are"
        said.append(f"{images} left out, since that run was trained on {'it' if facts['left_out'] == 1 else 'them'}")
    if "left_out" not in facts:
        said.append(
            "warning: test images that that run was trained on cannot be recognized here, since it has no record of "
            "them or saw them in another size"
        )
    return said
