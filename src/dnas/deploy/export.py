"""Export a run to a folder that works without dnas: write files, test them, compare them with torch, describe them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dnas.data.augment import normalise
from dnas.data.splits import DataInfo, load_train
from dnas.deploy import measure
from dnas.deploy.card import card
from dnas.deploy.protocol import Exported, Floats, Format, require_packages
from dnas.deploy.registry import get_formats
from dnas.disk import read_json, write_atomically
from dnas.errors import InputError
from dnas.network.network import macs, params
from dnas.pipeline.evaluation import Reading, images_to_test, reading_of
from dnas.pipeline.model import Trained, load_trained
from dnas.reporter import Reporter, Silent
from dnas.rng import torch_stream
from dnas.runtime.names import (
    CARD_FILE,
    CONFIG_FILE,
    EXPORT_FILE,
    EXPORT_FOLDER,
    MODEL_FILE,
    PREPROCESS_CODE,
    PREPROCESS_FILE,
)
from dnas.space.architecture import Architecture
from dnas.training.accuracy import answers

FORMAT = "dnas-export/1"
CALIBRATION = 512  # training images; fewer if there are fewer
CALIBRATION_BATCH = 32


def export(
    run: str | Path,
    formats: Sequence[str],
    out: str | Path | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Export the trained network of a run to some formats, and test each on the test images.

    Nothing is written to `out` unless all formats can be written and run, and exact formats agree with torch.

    Args:
        run: Run folder.
        formats: Names of formats, see `registry`.
        out: Folder to write; by default `export` in the run folder. Earlier exports of the same network in it are kept.
        source, data_dir: Other images for the test and the calibration, as in `evaluate`; by default those of the run.

    Returns:
        The content of export.json, with `folder` added.

    Raises:
        InputError: No trained network, an unknown format or one that does not support the network, a missing package.
        RunError: A written file does not run, or does not agree with torch.
    """
    reporter = reporter or Silent()
    chosen = get_formats(formats)
    for form in chosen:
        require_packages(form)
    trained = load_trained(run)
    for form in chosen:
        if objection := form.objection(trained):
            raise InputError(f"--format {form.name} cannot be used with {str(run)!r}: {objection}")
    reading = reading_of(run, trained.info, source, data_dir)
    out = Path(out) if out is not None else reading.folder / EXPORT_FOLDER
    digest = hashlib.sha256(_model(run).read_bytes()).hexdigest()
    earlier = _earlier(out, digest)
    tested, left_out = images_to_test(run, trained.info, reading)
    name = reading.folder.resolve().name
    exported = Exported(
        trained,
        "dnas_" + re.sub(r"\W+", "_", name).strip("_").lower(),
        _title(trained),
        _calibration(trained.info, reading),
    )
    with tempfile.TemporaryDirectory() as text, closing(tested):
        place = Path(text)
        pixels = place / "pixels.npy"
        measure.write_pixels(tested, pixels)
        logits = answers(trained.network, tested, trained.info).numpy()
        tests = measure.TestImages(pixels, tested.labels.numpy(), logits, trained.info)
        rows = []
        delivered = place / "delivered"
        delivered.mkdir()
        _write_json(delivered / PREPROCESS_FILE, exported.facts)
        code = resources.files("dnas.deploy") / "carried" / PREPROCESS_CODE
        (delivered / PREPROCESS_CODE).write_bytes(code.read_bytes())
        for form in chosen:
            reporter.say(f"{form.name}: writing {form.file}")
            rows.append(_written(form, exported, delivered, tests, place))
        accuracy = tests.accuracy(logits)
        record = {
            "format": FORMAT,
            "dnas": version("dnas"),
            "model": digest,
            "name": name,
            "network": exported.title,
            "params": params(trained.network),
            "macs": macs(trained.network, (trained.info.channels, *(trained.info.image_size,) * 2)),
            "data": Path(reading.source).name,
            "test_images": len(tested),
            "left_out": left_out,
            "test_accuracy": accuracy.value,
            "test_interval": list(accuracy.interval),
            "exports": [row for row in earlier if row["format"] not in formats] + rows,
        }
        _write_json(delivered / EXPORT_FILE, record)
        (delivered / CARD_FILE).write_text(card(record, trained), "utf-8")
        _deliver(delivered, out)
    # For the page of the run, wherever the folder is.
    if (reading.folder / CONFIG_FILE).is_file():
        write_atomically(reading.folder / EXPORT_FILE, _json(record))
    return {**record, "folder": str(out)}


def _written(form: Format, exported: Exported, folder: Path, tests: measure.TestImages, place: Path) -> dict[str, Any]:
    """Write, run and compare one format; return its row of export.json."""
    facts = form.write(exported, folder)
    row = {
        "format": form.name,
        "title": form.title,
        "file": form.file,
        "files": list(form.files),
        "exact": form.exact,
        "usage": form.usage,
        "bytes": sum((folder / name).stat().st_size for name in form.files),
        **facts,
    }
    if form.opening:
        figures, logits = measure.run(form, folder, tests, place)
        row |= measure.compared(form, logits, tests) | figures
    return row


def _calibration(info: DataInfo, reading: Reading) -> Callable[[], Iterator[Floats]]:
    def batches() -> Iterator[Floats]:
        shape: dict[str, Any] = {"image_size": info.image_size, "resize": info.resize, "channels": info.channels}
        split, _ = load_train(reading.source, **shape, **reading.how)
        with closing(split):
            order = torch.randperm(len(split), generator=torch_stream(0, "calibration"))[:CALIBRATION]
            for indices in torch.split(order, CALIBRATION_BATCH):
                yield normalise(split.batch(indices), info).numpy()

    return batches


def _title(trained: Trained) -> str:
    """Describe the network in a few words."""
    if not isinstance(trained.subject, Architecture):
        return trained.subject.title
    return f"searched network of {len(trained.subject)} layers and {trained.channels} initial channels"


def _model(run: str | Path) -> Path:
    return Path(run) / MODEL_FILE if Path(run).is_dir() else Path(run)


def _earlier(out: Path, digest: str) -> list[dict[str, Any]]:
    """Return the earlier exports of the same network in a folder. Raises InputError if it contains anything else."""
    if not out.exists():
        return []
    if not out.is_dir():
        raise InputError(f"--out {str(out)!r} is a file; choose a folder")
    if not (out / EXPORT_FILE).is_file():
        if any(out.iterdir()):
            raise InputError(f"--out {str(out)!r} contains other files; choose an empty or a new folder")
        return []
    record = read_json(out / EXPORT_FILE)
    if record.get("format") != FORMAT or record.get("model") != digest:
        raise InputError(f"--out {str(out)!r} contains exports of another network; remove it or choose another folder")
    rows: list[dict[str, Any]] = record["exports"]
    return rows


def _deliver(made: Path, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create --out {str(out)!r} ({error.strerror or error}); choose another") from None
    # export.json is written last, since it lists files that must exist.
    for path in sorted(made.iterdir(), key=lambda path: path.name == EXPORT_FILE):
        if path.is_dir():
            shutil.copytree(path, out / path.name, dirs_exist_ok=True)
        else:
            write_atomically(out / path.name, path.read_bytes())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(_json(value))
