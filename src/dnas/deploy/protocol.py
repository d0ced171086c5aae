"""Interface of the formats of `dnas export`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dnas.data.splits import DataInfo
from dnas.errors import InputError, first_line
from dnas.pipeline.model import Trained
from dnas.space.architecture import Architecture

Floats = npt.NDArray[np.float32]
PREPROCESS_FORMAT = "dnas-preprocess/1"
# Names of the input and the output, in formats that have such names.
INPUT, OUTPUT = "images", "logits"
NOISE = "noise"


@dataclass(frozen=True, eq=False)
class Exported:
    """Trained network to be exported.

    Attributes:
        trained: Network in evaluation mode on the CPU.
        name: Name of the network, a Python identifier.
        title: Short description.
        calibration: Yields normalized training images, float32 [B, C, S, S].
    """

    trained: Trained
    name: str
    title: str
    calibration: Callable[[], Iterator[Floats]]

    @cached_property
    def network(self) -> nn.Module:
        """Return a copy of the network for tracing, without gradients and with contiguous tensors for every runtime."""
        plain = copy.deepcopy(self.trained.network)
        return plain.requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """Return the network as a program of torch.export, for any batch size."""
        return self.traced(2, ({0: torch.export.Dim("batch")},))

    def traced(self, batch: int, dynamic: Any = None) -> torch.export.ExportedProgram:
        """Return the network as a program of torch.export for this batch size, or for those that `dynamic` allows."""
        info = self.trained.info
        example = torch.zeros(batch, info.channels, info.image_size, info.image_size)
        return torch.export.export(self.network, (example,), dynamic_shapes=dynamic, strict=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Return the preprocessing of images and the meaning of outputs, as JSON."""
        return facts_of(self.trained.info)


class Format(ABC):
    """Export format for trained networks. A file in this folder with a subclass is a format of `dnas export`.

    Attributes:
        name: Value of `--format`.
        title: Description of the file for the model card.
        packages: Packages that must be importable for the export.
        install: Command that installs them.
        exact: Predictions must equal those of torch. If False, the loss of accuracy is reported instead.
        without: Packages that are hidden when the file is run.
        opening: Python code that is run in the folder and defines `answer`: normalized images, a float32 array
            [B, C, S, S], → logits. One thread. Empty for a format that computes nothing.
        usage: At most five lines of Python, to be run in the folder, that print the class of picture.png.
        files: Names of the written files, main file first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install 'dnas[export]'"
    exact: ClassVar[bool] = True
    without: ClassVar[tuple[str, ...]] = ("dnas",)
    opening: ClassVar[str] = ""
    usage: ClassVar[str] = ""

    def objection(self, trained: Trained) -> str | None:
        """Return the reason why the format does not support this network, as the end of a sentence; or None."""
        if isinstance(trained.subject, Architecture) and trained.subject.count(NOISE):
            return "its operation noise (space s4) makes predictions depend on the other images of a batch"
        return None

    @abstractmethod
    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        """Write the network into a folder, and return facts about the file, such as the opset, as JSON."""

    @property
    def file(self) -> str:
        """Name of the main file."""
        return self.files[0]


def facts_of(info: DataInfo) -> dict[str, Any]:
    """Return the content of preprocess.json: the preprocessing of images and the meaning of outputs."""
    return {
        "format": PREPROCESS_FORMAT,
        "classes": list(info.classes),
        "image_size": info.image_size,
        "channels": info.channels,
        "mean": list(info.mean),
        "std": list(info.std),
        "resize": info.resize,
        "values": list(info.values),
    }


def require_packages(form: Format) -> None:
    """Raise InputError, with the command to install it, if a package of a format is missing."""
    for package in form.packages:
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise InputError(f"--format {form.name} requires {package}; install it with: {form.install}") from None
        except (ImportError, OSError, RuntimeError) as error:
            raise InputError(
                f"--format {form.name} requires {package}, which cannot be imported ({first_line(error)}); "
                f"install it with: {form.install}"
            ) from None
