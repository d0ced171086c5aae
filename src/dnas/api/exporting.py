"""Export trained networks for programs without dnas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnas.deploy.export import export as write
from dnas.reporter import Reporter


def export(
    run: str | Path,
    format: str | Sequence[str] = "onnx",
    *,
    out: str | Path | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Export the trained network of a run for programs without dnas; return the content of export.json, and `folder`.

    Args:
        run: The run folder.
        format: One or several formats; `dnas export --help` lists them.
        out: The folder; by default `export` in the run folder.
        data: Images for tests and for the calibration of int8; by default those of the run.
        data_dir: Folder of the named data sets, as for `run`.
        reporter: As for `run`.

    Raises:
        InputError: There is no trained network, a format is unknown or does not support it, or a package is missing.
        RunError: An exported file does not run, or its results differ from those of torch.
    """
    return write(run, [format] if isinstance(format, str) else format, out, data, data_dir, reporter)
