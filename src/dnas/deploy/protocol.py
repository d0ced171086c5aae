"""What a format of `dnas export` must give, and what it is given."""

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
# The name of the input and of the output, in formats that name them.
INPUT, OUTPUT = "images", "logits"
NOISE = "noise"


@dataclass(frozen=True, eq=False)
class Exported:
    """A trained network that is written in a format.

    Attributes:
        trained: The network, in evaluation mode on the CPU.
        name: What it is called, a Python identifier.
        title: What it is, in a few words.
        calibration: Yields normalized training images, float32 [B, C, S, S].
    """

    trained: Trained
    name: str
    title: str
    calibration: Callable[[], Iterator[Floats]]

    @cached_property
    def network(self) -> nn.Module:
        """A copy of the network to be traced: no gradients, and tensors in the order that every runtime knows."""
        plain = copy.deepcopy(self.trained.network)
        return plain.requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The network as torch.export has it, for any number of images."""
        return self.traced(2, ({0: torch.export.Dim("batch")},))

    def traced(self, batch: int, dynamic: Any = None) -> torch.export.ExportedProgram:
        """The network as torch.export has it, for so many images, or as many as `dynamic` allows."""
        info = self.trained.info
        example = torch.zeros(batch, info.channels, info.image_size, info.image_size)
        return torch.export.export(self.network, (example,), dynamic_shapes=dynamic, strict=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What its user must know of images and answers, as JSON."""
        return facts_of(self.trained.info)


class Format(ABC):
    """One way to write a trained network. A file of this folder with a subclass is a format of `dnas export`.

    Attributes:
        name: As `--format` has it.
        title: What is written, for the model card.
        packages: What must be importable here.
        install: The command that installs them.
        exact: Its answers must be those of torch; if not, the loss of accuracy is reported.
        without: Packages that it is run without.
        opening: Python that is run in the folder and defines `answer`: normalized images, a float32 array
            [B, C, S, S], → logits. One thread. Empty for a format that computes nothing.
        usage: Five lines or fewer of Python, to be run in the folder, which print the class of picture.png.
        files: The names of what is written, the main file first.
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
        """Why this network cannot be written so, as the end of a sentence; or None."""
        if isinstance(trained.subject, Architecture) and trained.subject.count(NOISE):
            return "it has the operation noise of space s4, by which answers depend on what else is in a batch"
        return None

    @abstractmethod
    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        """Write the network into a folder, and return what there is to know of it, such as an opset, as JSON."""

    @property
    def file(self) -> str:
        """The main file."""
        return self.files[0]


def facts_of(info: DataInfo) -> dict[str, Any]:
    """The content of preprocess.json: what pictures become, and what answers mean."""
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
    """Raises InputError naming a package of a format that is missing, and the command that installs it."""
    for package in form.packages:
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise InputError(f"--format {form.name} needs {package}, which is not installed: {form.install}") from None
        except (ImportError, OSError, RuntimeError) as error:
            raise InputError(
                f"--format {form.name} needs {package}, which cannot be imported ({first_line(error)}): {form.install}"
            ) from None
