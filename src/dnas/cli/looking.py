"""Commands that inspect data, runs and the machine: data, show, derive, evaluate, report, methods, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dnas.cli.app import FLAT, Debug, Json, Quiet, RunFolder, app, require_folder
from dnas.cli.printing import (
    print_answers,
    print_architecture,
    print_evaluation,
    print_findings,
    print_inspection,
    print_json,
)
from dnas.errors import InputError, RunError, calling
from dnas.options import (
    MANY,
    WHOLE,
    InspectedDataOptions,
    TestDataOptions,
)
from dnas.pipeline.overrides import add_options, given_options, nested, typed
from dnas.reporter import reporter
from dnas.units import size_text


@app.command(sort_key=2)
def derive(
    run: RunFolder,
    /,
    *,
    option: Annotated[
        list[str] | None, Parameter(name=["--option", "-o"], help="Option of the method, as NAME=VALUE; repeatable.")
    ] = None,
    out: Annotated[str | None, Parameter(help="File for the architecture, instead of stdout.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Derive an architecture again from the search of RUN, optionally with other options."""
    from dnas.pipeline.revisit import derive_again

    if out is not None:
        if Path(out).exists():
            raise InputError(f"--out {out} already exists; choose another file")
        require_folder("--out", out)
    given: dict[str, Any] = {}
    add_options(given, option or [], ["options"])
    architecture = derive_again(run, given.get("options", {}))
    if out is not None:
        architecture.save(out)
    if json:
        print_json(architecture.to_json())
    elif out is None:
        print_architecture(architecture)


@app.command(sort_key=4)
def evaluate(
    run: RunFolder,
    /,
    *,
    data: Annotated[TestDataOptions, FLAT] = TestDataOptions(),
    device: Annotated[str, Parameter(help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test the trained network of RUN on its own test images or on those of --data.

    If a folder is not split into train and test, all of its images are used except those that RUN was trained on.
    """
    from dnas.data.sources.protocol import Columns
    from dnas.pipeline.evaluation import evaluate as test
    from dnas.settings import DataSettings
    from dnas.validation import checked

    if data.resize is not None:
        raise InputError(
            f"--resize {data.resize} cannot be used with `dnas evaluate`: images are resized as in training"
        )
    given = given_options(data) | {"device": device}
    with calling(typed("train", given)):
        chosen = nested("train", given)
        settings = checked(DataSettings, chosen.get("data", {}), "data")
    result = test(
        run,
        data.data,
        data.data_dir,
        data.image_size,
        chosen["device"],
        settings.memory,
        settings.workers,
        Columns(settings.image_column, settings.label_column, settings.root),
        reporter(json),
        settings.skip_broken,
    )
    print_evaluation(result, json)


@app.command(name="data", sort_key=6)
def data_(
    path: Annotated[str, Parameter(help="Named data set, or a path as for --data in `dnas run`.")],
    /,
    *,
    options: Annotated[InspectedDataOptions, FLAT] = InspectedDataOptions(),
    sheet: Annotated[str | None, Parameter(help="Also write a contact sheet to this .png or .html file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Inspect a data set as a run would read it: classes, sizes, skipped files, duplicates, leaks into the test set.

    PATH is a value of --data: a named data set, a folder, an archive, a list or arrays. Nothing is trained.
    """
    from dnas.pages.sheet import require_sheet, write_sheet
    from dnas.pipeline.inputs import inspected

    if options.data is not None:
        raise InputError(f"--data cannot be used with `dnas data`; type: dnas data {options.data}")
    for flag, value in (("--data-memory", options.data_memory), ("--data-workers", options.data_workers)):
        if value is not None:
            raise InputError(f"{flag} cannot be used with `dnas data`, which loads no images into memory; remove it")
    if options.skip_broken:
        raise InputError("--skip-broken cannot be used with `dnas data`, which lists unreadable images; remove it")
    if sheet is not None:
        require_sheet(sheet)
    found = inspected(path, given_options(options), reporter(quiet or json))
    if sheet is not None:
        write_sheet(found, Path(sheet))
    if json:
        print_json(found.to_json() | ({"sheet": sheet} if sheet else {}))
    else:
        print_inspection(found, sheet)


@app.command(sort_key=7)
def show(
    architecture: Annotated[
        str,
        Parameter(help="Architecture file, run folder, published architecture, or reference network such as resnet8."),
    ],
    /,
    *,
    layers: Annotated[
        int | None, WHOLE, Parameter(help="Number of layers to which a published genotype is stacked.")
    ] = None,
    channels: Annotated[
        int | None, WHOLE, Parameter(help="Initial number of channels. [default: that of the run, else its own or 36]")
    ] = None,
    classes: Annotated[
        int | None, WHOLE, Parameter(help="Number of classes. [default: that of the run, else 10]")
    ] = None,
    image_size: Annotated[
        int | None,
        WHOLE,
        Parameter(help="Side length of an image in pixels, for the MACs. [default: that of the run, else 32]"),
    ] = None,
    image_channels: Annotated[
        int | None, WHOLE, Parameter(help="Number of image channels. [default: that of the run, else 3]")
    ] = None,
    stem: Annotated[
        str | None, Parameter(help="cifar, halving, tiny-imagenet or imagenet. [default: that of the run, else cifar]")
    ] = None,
    width: Annotated[
        float | None,
        Parameter(help="Channel multiplier of a reference network. [default: that of the run, else 1]"),
    ] = None,
    params: Annotated[
        int | None,
        MANY,
        Parameter(help="Choose --width so that a reference network has about this many parameters, such as 130k."),
    ] = None,
    svg: Annotated[str | None, Parameter(help="Also write a drawing to this SVG file.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show an architecture: its layers, parameters, multiply-accumulates (MACs) and a drawing.

    A reference network is shown by its size only, and a run with the settings of its training.
    """
    from dnas.pipeline.subjects import named
    from dnas.space.cost import PRECISIONS, least_memory
    from dnas.space.cost import memory as cost_of_memory
    from dnas.space.file_size import onnx_bytes
    from dnas.space.network_plan import size
    from dnas.space.plan import plan

    typed_here = {"layers": "--layers", "stem": "--stem"}
    with calling(typed_here):
        subject = named(architecture, layers)
    found, shape = subject.found, subject.shape()
    classes = shape.classes if classes is None else classes
    image_size = shape.image_size if image_size is None else image_size
    image_channels = shape.image_channels if image_channels is None else image_channels
    for option, value in (("image-size", image_size), ("image-channels", image_channels)):
        if value < 1:
            raise InputError(f"--{option} must be at least 1, got {value}")
    if isinstance(found, str):
        for option, given in (("layers", layers), ("channels", channels), ("stem", stem), ("svg", svg)):
            if given is not None:
                raise InputError(f"--{option} {given} cannot be used with {found}, whose shape is fixed; remove it")
        if classes < 2:
            raise InputError(f"classes must be at least 2, got {classes}")
        width = _width(found, classes, image_channels, width, params, shape.width)
        _show_handmade(found, classes, image_size, image_channels, width, json)
        return
    _width("", classes, image_channels, width, params, 1.0)
    channels = shape.channels if channels is None else channels
    with calling(typed_here):
        network = plan(found, channels=channels, classes=classes, inputs=image_channels, stem=stem or shape.stem)
    cost = size(network, image_size)
    counted = (network, image_size, image_channels, shape.final_norm)
    memory, least = cost_of_memory(*counted), least_memory(*counted)
    weights = {precision: cost.params * of_each for precision, of_each in PRECISIONS.items()}
    if svg is not None:
        from dnas.drawing.svg import svg as draw_svg

        require_folder("--svg", svg)

        text = draw_svg(
            found,
            title=Path(architecture).name,
            subtitle=f"{cost.params:,} parameters at {channels} channels",
        )
        Path(svg).write_text(text, "utf-8")
    if json:
        print_json(
            {
                "name": architecture,
                "layers": len(found),
                "channels": channels,
                "classes": classes,
                "image_size": image_size,
                "image_channels": image_channels,
                "stem": stem or shape.stem,
                "params": cost.params,
                "params_with_auxiliary": cost.params_with_auxiliary,
                "macs": cost.macs,
                "weight_bytes": weights,
                "onnx_bytes": onnx_bytes(network, shape.final_norm),
                "memory_bytes": {precision: memory.bytes(precision) for precision in PRECISIONS},
                "least_memory_bytes": {precision: least.bytes(precision) for precision in PRECISIONS},
                "in_space": found.in_space,
                "architecture": found.to_json(),
            }
        )
        return
    print_architecture(found)
    print(
        f"{cost.params:,} parameters, {cost.macs:,} multiply-accumulates at {channels} channels, {classes} classes, "
        f"{image_size}×{image_size} images" + ("" if found.in_space else "; outside the search space")
    )
    held = [
        f"{size_text(each.bytes('float32'))} in float32, {size_text(each.bytes('int8'))} in int8"
        for each in (memory, least)
    ]
    print(f"weights: {size_text(weights['float32'])} in float32, {size_text(weights['int8'])} in int8")
    print(
        f"activations for one image: {held[0]} ({memory.step}); "
        + (f"{held[1]} in the best order" if least.numbers < memory.numbers else "no order needs less")
    )
    print_answers(subject.run)


@app.command(sort_key=7)
def report(
    path: Annotated[Path, Parameter(help="Run folder or study folder.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="File to write. [default: report.html in PATH]")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a self-contained HTML report about a run, finished or not, or about a study of `dnas compare`."""
    from dnas.pages.report import report as write

    if out is not None:
        require_folder("--out", str(out))
    page = write(path, out)
    if json:
        print_json({"report": str(page), "bytes": page.stat().st_size})
    else:
        print(page)


@app.command(sort_key=8)
def methods(
    name: Annotated[str | None, Parameter(help="Method, or part with --parts, to list the options of.")] = None,
    /,
    *,
    parts: Annotated[bool, Parameter(help="List the parts that --with adds to a method, and their options.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List all search methods, or the options of one together with all settings of a search and a training."""
    from dnas.methods.registry import METHODS, get_method
    from dnas.pipeline.config import sections

    if parts:
        _list_parts(name, json)
        return
    if name is None:
        listed = [_describe(method) for method in METHODS.values()]
    else:
        listed = [_describe(get_method(name))]
        tables = {section: sections(get_method(name))[section] for section in ("search", "train")}
        listed[0]["settings"] = [
            {"name": f"{section}.{key}", "default": field.default, "description": field.description}
            for section, table in tables.items()
            for key, field in table.model_fields.items()
        ]
    if json:
        print_json(listed)
        return
    for method in listed:
        print(f"{method['name']}: {method['paper']}")
        mappings = ", ".join(method["mappings"])
        print(f"  kind: {method['kind']}; mappings: {mappings} (default {method['default_mapping']})")
        # The defaults are those without a preset.
        for option in [*method["options"], *method.get("settings", ())]:
            print(f"  --option {option['name']}={option['default']}: {option['description']}")


@app.command(sort_key=8, name="list")
def list_(
    kind: Annotated[str | None, Parameter(help="Only these. [default: all]")] = None,
    /,
    *,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List what can be named, kind by kind, and which package brings it.

    Kinds are methods, parts, primitives, blocks, relaxations, spaces, data-sources, export-formats and architectures.
    """
    from dnas.deploy.registry import FORMATS
    from dnas.errors import unknown
    from dnas.pipeline.extensions import NAMED

    kinds = {f"{registry.word}s".replace(" ", "-"): registry for registry in (*NAMED, FORMATS)}
    if kind is not None and kind not in kinds:
        raise unknown("kind", "kind", kind, kinds)
    chosen = kinds if kind is None else {kind: kinds[kind]}
    listed = {each: {name: registry.origin(name) for name in registry} for each, registry in chosen.items()}
    if json:
        print_json(listed)
        return
    for each, origins in listed.items():
        print(f"{each}:")
        for origin in dict.fromkeys(origins.values()):
            print(f"  {origin}: {', '.join(name for name, of in origins.items() if of == origin)}")


@app.command(sort_key=9)
def doctor(
    *,
    data_dir: Annotated[
        str | None, Parameter(help="Folder of the named data sets. [default: $DNAS_DATA_DIR or ~/.cache/dnas]")
    ] = None,
    out: Annotated[str, Parameter(help="Folder for runs.")] = "runs",
    latency: Annotated[bool, Parameter(help="Also measure operations for --max-latency.", negative="")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine (torch, disk, memory, GPU, clock, data sets) and run a short self-test."""
    from dnas.doctor import examine

    findings = examine(data_dir, out, latency)
    if json:
        print_json(findings)
    else:
        print_findings(findings)
    if not findings["self_test"]["passed"]:
        raise RunError("the self-test failed; see the findings above")


def _list_parts(name: str | None, json: bool) -> None:
    from dnas.parts.registry import PARTS, get_part

    found = PARTS.values() if name is None else [get_part(name)]
    listed = [
        {"name": part.name, "title": part.title, "paper": part.paper, "options": _options(part)} for part in found
    ]
    if json:
        print_json(listed)
        return
    for part in found:
        print(f"{part.name}: {part.paper}")
        for option in _options(part):
            print(f"  --option {part.name}.{option['name']}={option['default']}: {option['description']}")


def _options(owner: Any) -> list[dict[str, Any]]:
    """Describe the options of a method or part."""
    return [
        {"name": key, "default": field.default, "description": field.description}
        for key, field in owner.Options.model_fields.items()
    ]


def _describe(method: Any) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "kind": method.kind,
        "mappings": list(method.mappings),
        "default_mapping": method.default_mapping,
        "paper": method.paper,
        "options": _options(method),
    }


def _width(name: str, classes: int, inputs: int, width: float | None, params: int | None, default: float) -> float:
    """Return the width of a reference network to show, by the same rules as for a training."""
    given = {key: value for key, value in (("width", width), ("params", params)) if value is not None}
    if not given:
        return default
    from dnas.network.handmade import (
        handmade_of_size,
        require_width,
    )  # imports torch, which an architecture does not need
    from dnas.settings import WidthTrainSettings
    from dnas.validation import checked

    require_width(name, given)
    with calling({"train.width": "--width", "train.params": "--params"}):
        settings = checked(WidthTrainSettings, given, "train")
        settings.check()
        return handmade_of_size(name, settings.params, classes, inputs) if settings.params else settings.width


def _show_handmade(name: str, classes: int, image_size: int, image_channels: int, width: float, as_json: bool) -> None:
    from dnas.network.handmade import build_handmade, get_handmade
    from dnas.network.network import macs, params

    entry = get_handmade(name)
    network = build_handmade(name, classes, image_channels, image_size, seed=0, width=width)
    size = {"params": params(network), "macs": macs(network, (image_channels, image_size, image_size))}
    if as_json:
        shape = {"classes": classes, "image_size": image_size, **({"width": width} if entry.has_width else {})}
        print_json({"name": name, "title": entry.title, "paper": entry.paper, **shape, **size})
        return
    print(
        f"{entry.title}: {size['params']:,} parameters, {size['macs']:,} multiply-accumulates at "
        + (f"width {width:g}, " if entry.has_width else "")
        + f"{classes} classes, {image_size}×{image_size} images; a reference network has no architecture to draw"
    )
