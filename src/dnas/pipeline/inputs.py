"""Inputs of a run, and the checks that are possible before reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnas.data.inspection import Inspection, inspect_data
from dnas.data.overview import overview
from dnas.data.sources.protocol import Columns, Place
from dnas.data.splits import DataInfo, Split, fingerprint, load_splits, load_train
from dnas.errors import InputError, calling
from dnas.pipeline.config import Config, check_budget, draft, resolve
from dnas.pipeline.limits import check_limits
from dnas.pipeline.machine import check_machine
from dnas.pipeline.overrides import nested, typed
from dnas.reporter import Reporter
from dnas.runtime import distributed
from dnas.settings import AUTO_RESIZE, DataSettings
from dnas.space.registry import AUTO
from dnas.validation import checked


@dataclass(frozen=True)
class Data:
    """Data of a run. `test` is None if nothing is tested. The search never gets the test set."""

    train: Split
    info: DataInfo
    test: Split | None
    fingerprint: str

    def close(self) -> None:
        """Stop the worker processes."""
        for split in (self.train, self.test):
            if split is not None:
                split.close()


def load_data(
    config: Config, reporter: Reporter | None = None, channels: int | None = None, given: Place | None = None
) -> Data:
    """Load both splits of the configured data set. Raises InputError.

    Args:
        channels: Channels in a resumed run, since an earlier version read some grayscale images as color.
        given: The place of images in the memory of the caller.
    """
    how = {"channels": channels, "given": given, **_reading(config, reporter)}
    test: Split | None = None
    # Only one process per machine downloads or lists the data for the first time.
    with distributed.first_on_machine():
        if config.command == "search":
            train, info = load_train(config.data.source, **how)
        else:
            # Both splits use the same storage, which is recorded in config.toml, so that a resumed run uses it again.
            train, info, test = load_splits(config.data.source, **how)
    prints = [fingerprint(split) for split in (train, test) if split is not None]
    return Data(train, info, test, "-".join(p[:32] for p in prints))


def _reading(config: Config, reporter: Reporter | None) -> dict[str, Any]:
    """Return the reading options of the images."""
    data = config.data
    return {
        "data_dir": data.data_dir or None,
        "image_size": data.image_size or None,
        "resize": data.resize,
        "memory": data.memory,
        "workers": data.workers,
        "columns": Columns(data.image_column, data.label_column, data.root),
        "reporter": reporter,
        "skip_broken": data.skip_broken,
    }


def checked_draft(overrides: Mapping[str, Any]) -> Config:
    """Check everything that can be checked before reading images, and choose the backend. Raises InputError."""
    check_budget(overrides)
    config, _ = draft(overrides)
    check_machine(config.device, config.backend, config.handmade)
    return config


def check_runs(runs: Sequence[Mapping[str, Any]], *, here: bool, reporter: Reporter | None = None) -> DataInfo:
    """Check the settings of runs with the same images, as `start` does, and return the facts of the images.

    Args:
        runs: Overrides, as in `start`.
        here: True if they run on this machine, so it must have everything they require.

    Raises:
        InputError: One of them cannot be started.
    """
    for run in runs:
        check_budget(run)
        if run.get("space") == AUTO:
            raise InputError("--space auto cannot be used in a study, whose searches have one space; give one space")
    drafts = [checked_draft(run) if here else draft(run)[0] for run in runs]
    for each in drafts:
        if each.limits is not None:
            check_limits(each.limits, "compare", each.space)
    train, info = load_train(drafts[0].data.source, **_reading(drafts[0], reporter))
    if reporter is not None:
        for line in overview(info, train):
            reporter.say(line)
    for run in runs:
        resolve(run, info, len(train), "", train.memory)
    return info


def inspected(source: str, options: Mapping[str, Any], reporter: Reporter | None = None) -> Inspection:
    """Inspect a data set with the options of `dnas data`. Raises InputError."""
    with calling(typed("train", options)):
        given = nested("train", dict(options)).get("data", {})
        data = checked(DataSettings, {"resize": AUTO_RESIZE, **given}, "data")
    return inspect_data(
        source,
        data_dir=data.data_dir or None,
        image_size=data.image_size or None,
        resize=data.resize,
        columns=Columns(data.image_column, data.label_column, data.root),
        reporter=reporter,
    )
