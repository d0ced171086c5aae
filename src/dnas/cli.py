"""The command line. Results go to stdout, everything else to stderr; torch is imported where a command needs it.

Exit codes: 0 done, 1 the run failed, 2 the user's input is wrong, 128 + its number stopped by a signal after a
checkpoint (130 SIGINT, 138 SIGUSR1, 143 SIGTERM), 75 likewise by --time-limit.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from dnas.console import (
    print_architecture,
    print_evaluation,
    print_findings,
    print_json,
    print_ranking,
    print_result,
    print_study,
)
from dnas.errors import InputError, Interrupted, RunError, calling
from dnas.execution import Execution, execution, follows, launched
from dnas.memory import is_short, shortage
from dnas.options import (
    WHOLE,
    BothOptions,
    ClusterOptions,
    Command,
    DataOptions,
    ExecutionOptions,
    RankingRunOptions,
    RunOptions,
    SearchOptions,
    StudyRunOptions,
    StudySearchOptions,
    TestDataOptions,
    nested,
    typed,
)
from dnas.unreadable import Unreadable

if TYPE_CHECKING:
    from dnas.cluster import RaySettings
    from dnas.ranking import RankingSettings
    from dnas.study import StudySettings
    from dnas.subjects import Named


def _shown(default: object) -> str | None:
    """What the help prints as a default: not that a flag is off, nor what stands for an automatic value."""
    return None if default in (None, False, 0, "") else str(default)


app = App(
    name="dnas",
    help="Neural architecture search of whole networks: every layer may differ.",
    version_flags=["--version"],
    default_parameter=Parameter(negative="", show_default=_shown),
    suppress_keyboard_interrupt=False,
)
_FLAT = Parameter(name="*")
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON value on stdout, everything else on stderr.")]
Quiet = Annotated[bool, Parameter(name="--quiet", help="No progress.")]
Debug = Annotated[bool, Parameter(name="--debug", help="A traceback where there is an error.")]
Processes = Annotated[
    int,
    WHOLE,
    Parameter(help="Runs at a time. [default: one a thread on the CPU, else 1; what a cluster has room for]"),
]
Threads = Annotated[
    int, WHOLE, Parameter(help="Threads of every run. [default: the machine's, shared by its runs; 1 on a cluster]")
]


@app.command(sort_key=0)
def run(
    *,
    data: Annotated[DataOptions, _FLAT] = DataOptions(),
    search: Annotated[SearchOptions, _FLAT] = SearchOptions(),
    both: Annotated[BothOptions, _FLAT] = BothOptions(),
    common: Annotated[RunOptions, _FLAT] = RunOptions(),
    execute: Annotated[ExecutionOptions, _FLAT] = ExecutionOptions(),
    no_baseline: Annotated[bool, Parameter(help="Do not train a random network of the same size.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search, derive, train, test and draw, in one run folder.

    With no options: the DNAS method on scikit-learn's digits, in minutes on two cores.
    """
    now = _execution(execute)
    given = _given(data, search, both, common)
    if no_baseline:
        given["baseline"] = False
    print_result(_start("run", given, quiet, now), json)


@app.command(name="search", sort_key=1)
def search_(
    *,
    data: Annotated[DataOptions, _FLAT] = DataOptions(),
    search: Annotated[SearchOptions, _FLAT] = SearchOptions(),
    common: Annotated[RunOptions, _FLAT] = RunOptions(),
    execute: Annotated[ExecutionOptions, _FLAT] = ExecutionOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search and derive only."""
    now = _execution(execute)
    print_result(_start("search", _given(data, search, common), quiet, now), json)


@app.command(sort_key=2)
def derive(
    run: Path,
    /,
    *,
    option: Annotated[list[str] | None, Parameter(name=["--option", "-o"], help="NAME=VALUE of the method.")] = None,
    out: Annotated[str | None, Parameter(help="Write the architecture file here, and not to stdout.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Derive an architecture again from a searched RUN, with other options if you like."""
    from dnas.pipeline import derive_again

    if out is not None:
        if Path(out).exists():
            raise InputError(f"--out {out} exists; choose another file")
        _require_folder("--out", out)
    architecture = derive_again(run, option or [])
    if out is not None:
        architecture.save(out)
    if json:
        print_json(architecture.to_json())
    elif out is None:
        print_architecture(architecture)


@app.command(sort_key=3)
def train(
    architecture: Annotated[
        str, Parameter(help="An architecture file, a run folder, a published name, or a hand-made network (vgg16-bn).")
    ],
    /,
    *,
    data: Annotated[DataOptions, _FLAT] = DataOptions(),
    common: Annotated[RunOptions, _FLAT] = RunOptions(),
    execute: Annotated[ExecutionOptions, _FLAT] = ExecutionOptions(),
    option: Annotated[
        list[str] | None,
        Parameter(name=["--option", "-o"], help="train.NAME=VALUE of a setting; repeatable."),
    ] = None,
    baseline: Annotated[bool, Parameter(help="Also train a random network of the same size.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train and test one architecture or hand-made network.

    A run hands on its data, image size, preset and training; options and --config take precedence.
    """
    now = _execution(execute)
    from dnas.subjects import to_train

    given = _given(data, common) | {"baseline": baseline, "option": option}
    given, found = to_train(architecture, given)
    print_result(_start("train", given, quiet, now, found), json)


@app.command(sort_key=4)
def evaluate(
    run: Path,
    /,
    *,
    data: Annotated[TestDataOptions, _FLAT] = TestDataOptions(),
    device: Annotated[str, Parameter(help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test the trained network of RUN, on its own test images or on those of --data.

    Of a folder that is not split into train and test all images are tested, without those that RUN was trained on.
    """
    from dnas.config import DataSettings
    from dnas.evaluation import evaluate as test
    from dnas.progress import reporter
    from dnas.validation import checked

    given = _given(data) | {"device": device}
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
        reporter(json),
    )
    print_evaluation(result, json)


@app.command(sort_key=5)
def resume(
    run: Path,
    /,
    *,
    processes: Annotated[
        int,
        WHOLE,
        Parameter(help="Of a study or a ranking: runs at a time. [default: one a thread on the CPU, else 1]"),
    ] = 0,
    execute: Annotated[ExecutionOptions, _FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, _FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on from the last checkpoint of RUN, or with a study or a ranking; the result is the same, to the bit, as
    without the interruption.

    Where all is done it says what came out, so a job script may call it again and again.
    """
    now = _execution(execute)
    from dnas import pipeline, ranking, study
    from dnas.progress import reporter

    if (run / study.FILE).is_file():
        _compare(run, study.read_study(run), processes, cluster, quiet, json, now)
    elif (run / ranking.FILE).is_file():
        _rank(run, ranking.read_ranking(run), processes, cluster, quiet, json, now)
    elif processes:
        raise InputError(f"--processes {processes} has no use here: {run} is one run; leave it out")
    elif cluster != ClusterOptions():
        raise InputError(f"--ray is for studies and rankings, and {run} is one run; leave it out")
    else:
        print_result(pipeline.resume(run, reporter=reporter(quiet), execution=now), json)


@app.command(sort_key=6)
def compare(
    *,
    methods: Annotated[str, Parameter(help="Names, with commas between them.")] = "",
    mappings: Annotated[
        str, Parameter(help="Names, with commas; a method is run under those it knows. [default: each method's own]")
    ] = "",
    seeds: Annotated[int, WHOLE, Parameter(help="Searches with every method, by the seeds 0, 1, …")] = 4,
    training_seeds: Annotated[int, WHOLE, Parameter(help="Trainings of every network that is found.")] = 1,
    architectures: Annotated[
        str, Parameter(help="Published names and hand-made networks, with commas: trained by the same trainer.")
    ] = "",
    processes: Processes = 0,
    threads: Threads = 0,
    data: Annotated[DataOptions, _FLAT] = DataOptions(),
    search: Annotated[StudySearchOptions, _FLAT] = StudySearchOptions(),
    both: Annotated[BothOptions, _FLAT] = BothOptions(),
    common: Annotated[StudyRunOptions, _FLAT] = StudyRunOptions(),
    execute: Annotated[ExecutionOptions, _FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, _FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods × mappings × seeds on one protocol, beside random networks of the same size.

    The study's folder is --out; give it again to go on, or to add methods or seeds.
    """
    now = _execution(execute)
    from dnas.study import StudySettings
    from dnas.validation import checked

    given = _given(data, search, both, common)
    for option, instead in (("method", "--methods"), ("mapping", "--mappings"), ("seed", "--seeds")):
        if given.pop(option) is not None:
            raise InputError(f"--{option} cannot be used with `dnas compare`; use {instead}")
    out = Path(given.pop("out") or "study")
    lists = {"methods": methods, "mappings": mappings, "architectures": architectures}
    own = {key: f"--{key.replace('_', '-')}" for key in (*lists, "seeds", "training_seeds", "threads")}
    with calling(typed("run", given) | own | {"method": "--methods", "mapping": "--mappings"}):
        run = nested("run", given)
        del run["command"]
        settings = checked(
            StudySettings,
            {
                **{key: _names(text) for key, text in lists.items()},
                "seeds": seeds,
                "training_seeds": training_seeds,
                "threads": threads,
                "run": run,
            },
        )
        _compare(out, settings, processes, cluster, quiet, json, now)


@app.command(sort_key=6)
def rank(
    *,
    architectures: Annotated[int, WHOLE, Parameter(help="How many random ones are ranked.")] = 20,
    methods: Annotated[str, Parameter(help="Whose supernets judge them, with commas.")] = "dnas",
    proxy_layers: Annotated[str, Parameter(help="Depths of shallower trainings, with commas.")] = "",
    proxy_epochs: Annotated[str, Parameter(help="Lengths of shorter trainings, with commas.")] = "",
    processes: Processes = 0,
    threads: Threads = 0,
    data: Annotated[DataOptions, _FLAT] = DataOptions(),
    search: Annotated[StudySearchOptions, _FLAT] = StudySearchOptions(),
    both: Annotated[BothOptions, _FLAT] = BothOptions(),
    common: Annotated[RankingRunOptions, _FLAT] = RankingRunOptions(),
    execute: Annotated[ExecutionOptions, _FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, _FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ask how well supernets, shallower and shorter trainings rank architectures against full training.

    The folder is --out; give it again to go on.
    """
    now = _execution(execute)
    from dnas.ranking import RankingSettings
    from dnas.validation import checked

    given = _given(data, search, both, common)
    for option in ("method", "mapping"):
        if given.pop(option) is not None:
            raise InputError(f"--{option} cannot be used with `dnas rank`; use --methods, which search shared cells")
    out = Path(given.pop("out") or "ranking")
    seed = given.pop("seed")
    own = {
        "count": "--architectures",
        "methods": "--methods",
        "method": "--methods",
        "layers": "--proxy-layers",
        "epochs": "--proxy-epochs",
        "threads": "--threads",
    }
    with calling(typed("run", given) | own):
        run = nested("run", given)
        del run["command"]
        values = {
            "count": architectures,
            "methods": _names(methods),
            "layers": _numbers("--proxy-layers", proxy_layers),
            "epochs": _numbers("--proxy-epochs", proxy_epochs),
            "seed": 0 if seed is None else seed,
            "threads": threads,
            "run": run,
        }
        _rank(out, checked(RankingSettings, values), processes, cluster, quiet, json, now)


@app.command(sort_key=7)
def show(
    architecture: Annotated[
        str, Parameter(help="An architecture file, a run folder, a published name, or a hand-made network (vgg16-bn).")
    ],
    /,
    *,
    layers: Annotated[int | None, WHOLE, Parameter(help="Depth at which a published cell pair is stacked.")] = None,
    channels: Annotated[
        int | None, WHOLE, Parameter(help="Width of the first cells. [default: the run's, else 36]")
    ] = None,
    classes: Annotated[
        int | None, WHOLE, Parameter(help="Classes of the classifier. [default: the run's, else 10]")
    ] = None,
    image_size: Annotated[
        int | None, WHOLE, Parameter(help="Pixels of a side, for the MACs. [default: the run's, else 32]")
    ] = None,
    image_channels: Annotated[
        int | None, WHOLE, Parameter(help="Channels of an image. [default: the run's, else 3]")
    ] = None,
    stem: Annotated[
        str | None, Parameter(help="cifar, tiny-imagenet or imagenet. [default: the run's, else cifar]")
    ] = None,
    svg: Annotated[str | None, Parameter(help="Also write the picture to this file.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show an architecture: its layers, parameters, multiply-accumulates and a drawing.

    Of a hand-made network it tells the size. A run is shown as it is trained.
    """
    from dnas.plan import plan, size
    from dnas.subjects import named

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
                raise InputError(f"--{option} {given} has no use with {found}, whose shape is its own; leave it out")
        _show_handmade(found, classes, image_size, image_channels, json)
        return
    channels = shape.channels if channels is None else channels
    with calling(typed_here):
        network = plan(found, channels=channels, classes=classes, inputs=image_channels, stem=stem or shape.stem)
    cost = size(network, image_size)
    if svg is not None:
        from dnas.draw import svg as draw_svg

        _require_folder("--svg", svg)

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


@app.command(sort_key=7)
def report(
    path: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file. [default: report.html in PATH]")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a page of HTML about a RUN, finished or not, or about a study of `dnas compare`."""
    from dnas.report import report as write

    if out is not None:
        _require_folder("--out", str(out))
    page = write(path, out)
    if json:
        print_json({"report": str(page), "bytes": page.stat().st_size})
    else:
        print(page)


@app.command(sort_key=8)
def methods(name: str | None = None, /, *, json: Json = False, debug: Debug = False) -> None:
    """List the methods; or the options of one, with all settings of its search and of a training."""
    from dnas.config import sections
    from dnas.methods import get_method, registry

    if name is None:
        listed = [_describe(method) for method in registry().values()]
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
        # Settings with their defaults without a preset.
        for option in [*method["options"], *method.get("settings", ())]:
            print(f"  --option {option['name']}={option['default']}: {option['description']}")


@app.command(sort_key=9)
def doctor(
    *,
    data_dir: Annotated[
        str | None, Parameter(help="Where named data sets lie. [default: $DNAS_DATA_DIR or ~/.cache/dnas]")
    ] = None,
    out: Annotated[str, Parameter(help="Where runs are to go.")] = "runs",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell what this machine has and lacks: torch, disk, memory, GPU, clock, data sets; and run a short self-test."""
    from dnas.doctor import examine

    findings = examine(data_dir, out)
    if json:
        print_json(findings)
    else:
        print_findings(findings)
    if not findings["self_test"]["passed"]:
        raise RunError("the self-test failed; see the lines above")


# --- the edge: exceptions to exit codes -------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit the process with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed()
    if follows():
        # The first of torchrun's ranks prints what comes out.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A letter that the locale lacks is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_call(arguments))


def _open_closed() -> None:
    """Where the caller has closed stdin, stdout or stderr, open nothing in its place.

    Else the next file that is opened would have its number, and what is printed would go there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # something else has the number by now
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _call(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), 2, debug)
    except InputError as error:
        if debug and isinstance(error, Unreadable):
            print(*error.lines(), sep="\n", file=sys.stderr)
        return _fail(str(error), 2, debug)
    except RunError as error:
        return _fail(str(error), 1, debug)
    except Interrupted as stop:
        if not follows():
            print(stop, file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(_unexpected(error), 1, debug)
    return 0


def _unexpected(error: Exception) -> str:
    """What to say of an error that is not one of ours: memory, a disk, or else a defect of this program."""
    if is_short(error):
        return f"{shortage(error)}; give a smaller --image-size, --batch-size or --channels, or end other programs"
    if isinstance(error, OSError):
        name = f" {error.filename}" if error.filename else ""
        return f"cannot use{name}: {error.strerror or error}; free space or choose another place"
    return f"internal error, {type(error).__name__}: {error}; please report it with --debug"


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    who = f"rank {os.environ['RANK']}: " if follows() else ""
    print(f"error: {who}{' '.join(message.splitlines())}", file=sys.stderr)
    return code


def _start(
    command: Command, given: dict[str, Any], quiet: bool, now: Execution, subject: Named | None = None
) -> dict[str, Any]:
    from dnas.pipeline import start
    from dnas.progress import reporter

    out = given.pop("out", None)
    with calling(typed(command, given)):
        settings, architecture = nested(command, given), None
        if subject is not None:
            settings, architecture = subject.beneath(settings), subject.architecture
        return start(settings, out=out, architecture=architecture, reporter=reporter(quiet), execution=now)


def _execution(options: ExecutionOptions) -> Execution:
    """Called first in a command, since --time-limit counts from here, before torch is imported."""
    return execution(**asdict(options))


def _compare(
    out: Path,
    settings: StudySettings,
    processes: int,
    cluster: ClusterOptions,
    quiet: bool,
    as_json: bool,
    now: Execution,
) -> None:
    _require_no_ranks(out)
    if processes < 0:
        raise InputError(f"--processes must be at least 1, got {processes}")
    from dnas.progress import reporter
    from dnas.study import compare
    from dnas.tables import keep

    ray = _ray_settings(cluster)
    failed = compare(out, settings, processes=processes, ray=ray, reporter=reporter(quiet), execution=now)
    summary = keep(out)
    if as_json:
        print_json(summary)
    else:
        print_study(summary, out)
    if failed:
        raise RunError(f"{len(failed)} runs of {out} failed: {', '.join(failed)}; see their log.txt")


def _rank(
    out: Path,
    settings: RankingSettings,
    processes: int,
    cluster: ClusterOptions,
    quiet: bool,
    as_json: bool,
    now: Execution,
) -> None:
    _require_no_ranks(out)
    if processes < 0:
        raise InputError(f"--processes must be at least 1, got {processes}")
    from dnas.progress import reporter
    from dnas.ranking import rank

    ray = _ray_settings(cluster)
    summary = rank(out, settings, processes=processes, ray=ray, reporter=reporter(quiet), execution=now)
    if as_json:
        print_json(summary)
    else:
        print_ranking(summary, out)


def _ray_settings(options: ClusterOptions) -> RaySettings | None:
    from dnas.cluster import RaySettings

    if options.ray is None:
        for name, value in (("retries", options.ray_retries), ("timeout", options.ray_timeout)):
            if value is not None:
                raise InputError(f"--ray-{name} {value} is for a cluster; give --ray, too, or leave it out")
        return None
    return RaySettings(options.ray, 3 if options.ray_retries is None else options.ray_retries, options.ray_timeout)


def _require_no_ranks(folder: Path) -> None:
    if launched():
        raise InputError(
            f"torchrun's ranks make one run together, and {folder} is for many; start it without, or --ray"
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str) -> list[int]:
    for name in _names(text):
        if not name.isdecimal():
            raise InputError(f"{option} must be whole numbers with commas between them, got {name!r}")
    return [int(name) for name in _names(text)]


def _given(*groups: Any) -> dict[str, Any]:
    return {k: v for group in groups for k, v in asdict(group).items()}


def _require_folder(option: str, file: str) -> None:
    if not Path(file).parent.is_dir():
        raise InputError(f"{option} {file}: there is no folder {Path(file).parent}; make it first")


def _describe(method: Any) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "kind": method.kind,
        "mappings": list(method.mappings),
        "default_mapping": method.default_mapping,
        "paper": method.paper,
        "options": [
            {"name": key, "default": field.default, "description": field.description}
            for key, field in method.Options.model_fields.items()
        ],
    }


def _show_handmade(name: str, classes: int, image_size: int, image_channels: int, as_json: bool) -> None:
    from dnas.handmade import build_handmade, get_handmade
    from dnas.network import macs, params

    if classes < 2:
        raise InputError(f"classes is {classes}; a classifier needs at least 2")
    entry = get_handmade(name)
    network = build_handmade(name, classes, image_channels, image_size, seed=0)
    size = {"params": params(network), "macs": macs(network, (image_channels, image_size, image_size))}
    if as_json:
        shape = {"classes": classes, "image_size": image_size}
        print_json({"name": name, "title": entry.title, "paper": entry.paper, **shape, **size})
        return
    print(
        f"{entry.title}: {size['params']:,} parameters, {size['macs']:,} multiply-accumulates at {classes} classes, "
        f"{image_size}×{image_size} images; made by hand, so there is no architecture to draw"
    )
