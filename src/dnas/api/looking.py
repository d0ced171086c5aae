"""Inspect a data set before a run.

`tests/signature_tools.py` writes the options into the signature and the docstring.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from dnas.api.beginning import plain
from dnas.data.inspection import Inspection
from dnas.pipeline.inputs import inspected
from dnas.reporter import Reporter


def inspect_data(
    data: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    resize: Literal["auto", "crop", "pad", "squeeze"] | None = None,
    reporter: Reporter | None = None,
) -> Inspection:
    """Inspect a data set as `dnas run` would read it, without a run. Like `dnas data`.

    Args:
        data: A name or a path, as for `run`.
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: The folder of the named data sets. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Side of the images in pixels, at least 8. [default: determined from the data]
        resize: How images become squares. crop: resize the shorter side and crop the center. pad: resize the longer
            side and pad with the mean color. squeeze: resize both sides. auto: pad if the longer side of most images is
            more than 1.6 times the shorter one, else crop. [default: auto]
        reporter: As for `run`.

    Returns:
        An `Inspection`: classes and counts, files that are left out and why, copies within and across the splits.

    Raises:
        InputError: There is no such data set, or it cannot be used.
    """
    given: dict[str, Any] = locals()
    options = {name: plain(value) for name, value in given.items() if name not in ("data", "reporter")}
    return inspected(str(data), {name: value for name, value in options.items() if value is not None}, reporter)
