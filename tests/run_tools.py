"""Run folders as a finished `dnas run` leaves them, with a network that nobody trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from dnas.data.splits import fingerprint, load_train
from dnas.pipeline.config import resolve
from dnas.pipeline.model import MODEL_FILE, model_bytes
from dnas.pipeline.training_images import TRAINING_IMAGES_FILE, TrainingImages
from dnas.runtime.names import FINALS_STAGE
from dnas.runtime.session import Session
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.published import load_published
from dnas.training.build import built

SMALL = {"channels": 4, "epochs": 1, "batch_size": 4}


def make_run(
    folder: Path,
    source: str | Path,
    *,
    image_size: int | None = None,
    record: bool = True,
    architecture: Architecture | None = None,
    **overrides: Any,
) -> Path:
    """A run folder on the images of `source`; without a record of them, as versions before wrote it."""
    split, info = load_train(str(source), image_size=image_size)
    architecture = architecture or load_published("DARTS_V2", 3)
    given = {"command": "train", "data": {"source": str(source)}, "train": SMALL, **overrides}
    config, _ = resolve(given, info, len(split), fingerprint(split))
    assert isinstance(config.train, TrainSettings)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(tomli_w.dumps(config.to_toml()), "utf-8")
    (folder / "architecture.json").write_text(architecture.dumps())
    network = built(architecture, config.train, info, seed=0)
    (folder / MODEL_FILE).write_bytes(model_bytes(network, architecture, config.train, info))
    if record:
        (folder / TRAINING_IMAGES_FILE).write_bytes(TrainingImages.of(split, info).to_bytes())
    return folder


def interrupt_finals(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Interrupt every fourth step of the finals, and the moment after their end. Returns the counter of the steps."""
    step_done, complete, steps = Session.step_done, Session.complete, itertools.count(1)

    def stopping(self: Session, *arguments: Any) -> None:
        step_done(self, *arguments)
        if self._stage == FINALS_STAGE and next(steps) % 4 == 1:
            raise KeyboardInterrupt

    def stopped_after(self: Session, *arguments: Any) -> None:
        complete(self, *arguments)
        if self._stage == FINALS_STAGE:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "step_done", stopping)
    monkeypatch.setattr(Session, "complete", stopped_after)
    return steps
