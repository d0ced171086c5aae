"""The scalars of metrics.jsonl as event files for TensorBoard, with the extra `dnas[tensorboard]`.

    RUN/tensorboard/STAGE       one TensorBoard run per stage, so that "train" and "baseline" share a chart

metrics.jsonl is authoritative. At the start of each execution the event files are rewritten from it, so that no point
is duplicated or missing, and points after the resumed checkpoint are removed, also from a running TensorBoard.
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
# The counter of the lines of a stage: epochs or trials.
STEPS = ("epoch", "trial")


def require_tensorboard() -> None:
    """Raise InputError if the package is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError(
            "--tensorboard requires tensorboard; install it with: pip install 'dnas[tensorboard]'"
        ) from None


class Scalars:
    """Writers of event files, by stage, until `close`; they start with the lines of metrics.jsonl in folder `run`."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._writers: dict[str, Any] = {}
        if (run / METRICS_FILE).exists():
            for line in read_metrics(run / METRICS_FILE):
                self.add(line)

    def add(self, values: Mapping[str, Any]) -> None:
        """Write the numbers of one line of metrics.jsonl. Raises RunError on a system error."""
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
            # Emptied, not deleted: a TensorBoard that is reading such a file would never move on to the next one, which
            # makes it drop the points that it has read.
            for old in folder.glob("events.out.tfevents.*"):
                os.truncate(old, 0)
            self._writers[stage] = SummaryWriter(str(folder), purge_step=0)
        return self._writers[stage]
