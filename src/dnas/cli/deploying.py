"""Commands that use a trained network elsewhere: export, predict."""

from __future__ import annotations

import csv
import sys
from typing import Annotated

from cyclopts import Parameter

from dnas.cli.app import Debug, Json, Quiet, RunFolder, app, require_folder
from dnas.cli.printing import print_export, print_json
from dnas.errors import InputError, RunError
from dnas.options import WHOLE
from dnas.reporter import reporter


@app.command(sort_key=4)
def export(
    run: RunFolder,
    /,
    *,
    format: Annotated[
        list[str] | None,
        Parameter(
            name=["--format", "-f"],
            help="onnx, onnx-int8, torch, python, timm, executorch or darts; repeatable, or separated by commas. "
            "[default: onnx]",
        ),
    ] = None,
    out: Annotated[str | None, Parameter(help="Folder to create or to add files to. [default: export in RUN]")] = None,
    data: Annotated[
        str | None,
        Parameter(help="Images for the test and for int8 calibration, as in `dnas run`. [default: those of RUN]"),
    ] = None,
    data_dir: Annotated[str | None, Parameter(help="Folder of the named data sets. [default: that of RUN]")] = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Export the trained network of RUN to files that run without dnas, and test each file.

    Each file is run on the test images in a separate process, which measures its accuracy, size, memory and latency.
    """
    from dnas.deploy.export import export as write

    names = [name.strip() for text in format or ["onnx"] for name in text.split(",") if name.strip()]
    if out is not None:
        require_folder("--out", out)
    result = write(run, names, out, data, data_dir, reporter(quiet or json))
    if json:
        print_json(result)
    else:
        print_export(result)


@app.command(sort_key=4)
def predict(
    network: Annotated[str, Parameter(help="Run folder, folder of `dnas export`, or an ONNX file in it.")],
    pictures: Annotated[
        list[str],
        Parameter(
            allow_leading_hyphen=True,
            help="Image files, folders of images, or - for a list of files on stdin, one per line.",
        ),
    ],
    /,
    *,
    top: Annotated[int, WHOLE, Parameter(help="Number of classes to print per image.")] = 3,
    as_csv: Annotated[bool, Parameter(name="--csv", help="Print comma-separated values.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify PICTURES and print the most probable classes with their probabilities.

    Images are preprocessed as in training. An unreadable image is skipped and reported on stderr, and the exit code is
    then 1.
    """
    from dnas.deploy.predict import open_predictor, pictures_of
    from dnas.deploy.predict import predict as answers

    if top < 1:
        raise InputError(f"--top must be at least 1, got {top}")
    if as_csv and json:
        raise InputError("--csv cannot be used with --json; remove one")
    if not pictures:
        raise InputError("no images given; name files or folders, or use - for a list on stdin")
    predictor = open_predictor(network)
    top = min(top, len(predictor.classes))
    rows, skipped, count = [], [], 0
    table = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        numbers = ["", *(f"_{k + 1}" for k in range(1, top))]
        table.writerow(["picture", *(f"{word}{k}" for k in numbers for word in ("label", "probability"))])
    for answer in answers(predictor, pictures_of(pictures, sys.stdin), top):
        count += 1
        if answer.problem:
            skipped.append({"picture": answer.picture, "problem": answer.problem})
            print(f"skipped: {answer.problem}", file=sys.stderr)
        elif json:
            named = [{"label": label, "probability": share} for label, share in answer.classes]
            rows.append({"picture": answer.picture, **named[0], "top": named})
        elif as_csv:
            table.writerow([answer.picture, *(value for named in answer.classes for value in named)])
        else:
            print(f"{answer.picture}: {', '.join(f'{label} {share:.4f}' for label, share in answer.classes)}")
    if json:
        print_json({"network": network, "predictions": rows, "skipped": skipped})
    if skipped:
        raise RunError(f"{len(skipped)} of {count} images could not be read and were skipped")
    if not count:
        raise InputError("no images given: the list on stdin is empty")
