"""Write trained networks for programs without dnas."""

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
    """Write the trained network of a run so that it runs without dnas; the content of export.json, and its `folder`.

    Args:
        format: One or several of those that `dnas export --help` lists.
        out: The folder; by default `export` in the run folder.
        data, data_dir: Images to test it on, and to calibrate int8 by; by default the run's.
        reporter: As of `run`.

    Raises:
        InputError: No trained network, an unknown format or one that cannot hold it, or a package is missing.
        RunError: What was written does not run, or does not agree with torch.
    """
    return write(run, [format] if isinstance(format, str) else format, out, data, data_dir, reporter)
