"""The scalars of metrics.jsonl as the event files that TensorBoard shows, with the extra `dnas[tensorboard]`.

    RUN/tensorboard/STAGE       one TensorBoard run a stage, so that "train" and "baseline" lie in one chart

metrics.jsonl is what counts. Whenever an execution begins, the files are written anew from it, so no point is there
twice, none is missing, and what came after the checkpoint that is resumed is gone, from a running TensorBoard, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.disk import writing
from dnas.errors import InputError
from dnas.runtime.names import METRICS_FILE
from dnas.runtime.runfolder import read_metrics

FOLDER = "tensorboard"
# What counts a stage's lines: its epochs, or its trials.
STEPS = ("epoch", "trial")


def require_tensorboard() -> None:
    """Raises InputError where the package is not there."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError(
            "--tensorboard needs the package tensorboard: pip install 'dnas[tensorboard]', or leave the option out"
        ) from None


class Scalars:
    """Writers of event files, by stage, until `close`. Holds what metrics.jsonl of the run folder `run` has now."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._writers: dict[str, Any] = {}
        if (run / METRICS_FILE).exists():
            for line in read_metrics(run / METRICS_FILE):
                self.add(line)

    def add(self, values: Mapping[str, Any]) -> None:
        """The numbers of one line of metrics.jsonl. Raises RunError when the system refuses."""
        step = next((values[key] for key in STEPS if key in values), None)
        if step is None:
            return
        with writing(self._folder):
            writer = self._writer(str(values["stage"]))
            for key, value in values.items():
                if key not in STEPS and isinstance(value, int | float) and not isinstance(value, bool):
                    writer.add_scalar(key, value, step)

    def flush(self) -> None:
        with writing(self._folder):
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        with writing(self._folder):
            for writer in self._writers.values():
                writer.close()
        self._writers = {}

    def _writer(self, stage: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if stage not in self._writers:
            folder = self._folder / stage
            # Emptied, not deleted: a TensorBoard that is at such a file would never get to the next. That one tells it
            # to drop the points that it has read.
            for old in folder.glob("events.out.tfevents.*"):
                os.truncate(old, 0)
            self._writers[stage] = SummaryWriter(str(folder), purge_step=0)
        return self._writers[stage]
