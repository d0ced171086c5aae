"""What this machine has, and whether dnas works on it: for bug reports and first runs."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

from dnas.config import environment
from dnas.data import load_test, load_train
from dnas.methods import create
from dnas.searcher import search_architecture
from dnas.session import Session
from dnas.settings import GradientSettings, TrainSettings
from dnas.sources import found
from dnas.space import DARTS
from dnas.trainer import built, measure_accuracy, train_network


def examine(data_dir: str | None = None) -> dict[str, Any]:
    """A JSON-able report: versions, devices, memory, data sets on disk, and a self-test of some seconds."""
    devices = {"cpu": f"{torch.get_num_threads()} threads of {psutil.cpu_count()} processors"}
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB"
    memory = psutil.virtual_memory()
    return {
        **environment(),
        "devices": devices,
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        "data": {"digits": "inside scikit-learn", **dict(found(data_dir))},
        "self_test": _self_test(),
    }


def _self_test() -> dict[str, Any]:
    """A tiny search and training on digits; the trained network must beat guessing by far."""
    began = time.monotonic()
    train, info = load_train("digits")
    session = Session(None, {})
    method = create("dnas", None, {}, DARTS)
    search = GradientSettings(layers=3, channels=8, epochs=2, warmup_epochs=1, images=128)
    found = search_architecture(
        method, search.resolved(len(train), 1.0, info.image_size), train, info, seed=0, session=session
    )
    settings = TrainSettings(channels=8, epochs=3, learning_rate=0.1, drop_path=0.0, cutout=0)
    settings = settings.resolved(len(train), info.image_size)
    network = train_network(
        built(found.architecture, settings, info, 0), settings, train, info, seed=0, session=session
    )
    accuracy = measure_accuracy(network, load_test("digits", info), info).value
    return {
        "passed": accuracy > 0.5,
        "accuracy": round(accuracy, 4),
        "seconds": round(time.monotonic() - began, 1),
    }
