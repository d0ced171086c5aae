"""Commands that execute a run: run, search, train, resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dnas.cli.app import FLAT, Debug, Json, Quiet, app, begin_execution, examples
from dnas.cli.comparing import carry_out_ranking, carry_out_study
from dnas.cli.printing import (
    print_result,
)
from dnas.errors import InputError, calling
from dnas.options import (
    TRAIN,
    WHOLE,
    BothOptions,
    ClusterOptions,
    Command,
    DataOptions,
    ExecutionOptions,
    RunOptions,
    SearchOptions,
    WidthOptions,
)
from dnas.pipeline.overrides import given_options, nested, typed
from dnas.reporter import reporter
from dnas.runtime.execution import Execution
from dnas.study.names import RANKING_FILE, STUDY_FILE

if TYPE_CHECKING:
    from dnas.pipeline.subjects import Named


@app.command(
    sort_key=0,
    help_epilogue=examples(
        ("dnas run", "scikit-learn's digits, about a minute on two cores"),
        ("dnas run --data PATH --budget 10m", "your own images, in ten minutes"),
        (
            "dnas run --data cifar10 --method gdas --mapping full --seed 1",
            "another method, with separate parameters per layer",
        ),
    ),
)
def run(
    *,
    data: Annotated[DataOptions, FLAT] = DataOptions(),
    search: Annotated[SearchOptions, FLAT] = SearchOptions(),
    both: Annotated[BothOptions, FLAT] = BothOptions(),
    common: Annotated[RunOptions, FLAT] = RunOptions(),
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    no_baseline: Annotated[bool, Parameter(group=TRAIN, help="Do not train the random baseline.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search for an architecture, train it from scratch and test it, together with a random network of the same size.

    Without options: the DNAS method on scikit-learn's digits, about a minute on two cores.
    """
    now = begin_execution(execute)
    given = given_options(data, search, both, common)
    if no_baseline:
        given["baseline"] = False
    print_result(_start("run", given, quiet, now), json)


@app.command(name="search", sort_key=1)
def search_(
    *,
    data: Annotated[DataOptions, FLAT] = DataOptions(),
    search: Annotated[SearchOptions, FLAT] = SearchOptions(),
    common: Annotated[RunOptions, FLAT] = RunOptions(),
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search for an architecture without training it afterwards."""
    now = begin_execution(execute)
    print_result(_start("search", given_options(data, search, common), quiet, now), json)


@app.command(
    sort_key=3,
    help_epilogue=examples(
        ("dnas train RUN --channels 48", "train the network of a run again, three times as wide"),
        ("dnas train --from RUN --epochs 10", "continue a finished training for ten more epochs"),
        ("dnas train --from RUN --data PATH", "fine-tune it on other images, also with other classes"),
    ),
)
def train(
    architecture: Annotated[
        str | None,
        Parameter(
            help="Architecture file, run folder, published architecture, or reference network such as resnet8. "
            "Optional with --from."
        ),
    ] = None,
    /,
    *,
    data: Annotated[DataOptions, FLAT] = DataOptions(),
    common: Annotated[RunOptions, FLAT] = RunOptions(),
    sized: Annotated[WidthOptions, FLAT] = WidthOptions(),
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    option: Annotated[
        list[str] | None,
        Parameter(
            name=["--option", "-o"], group=TRAIN, help="Setting of the training, as train.NAME=VALUE; repeatable."
        ),
    ] = None,
    baseline: Annotated[
        bool, Parameter(group=TRAIN, help="Also train a random network of the same size (random baseline).")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train an architecture or a reference network and test it; with --from, start with the trained weights of a run.

    A run passes on its data, image size, preset and training settings. Options and --config take precedence.
    """
    now = begin_execution(execute)
    from dnas.pipeline.subjects import to_train

    given = given_options(data, common, sized) | {"baseline": baseline, "option": option}
    given, found = to_train(architecture, given)
    print_result(_start("train", given, quiet, now, found), json)


@app.command(sort_key=5)
def resume(
    run: Annotated[Path, Parameter(help="Run folder, study folder or ranking folder.")],
    /,
    *,
    processes: Annotated[
        int,
        WHOLE,
        Parameter(help="Number of runs in parallel, for a study or ranking. [default: one per CPU thread; 1 on a GPU]"),
    ] = 0,
    seeds: Annotated[str | None, Parameter(show=False)] = None,
    methods: Annotated[str | None, Parameter(show=False)] = None,
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Resume a run, study or ranking from its last checkpoint. The result is bit-for-bit identical to that of an
    uninterrupted run (on the CPU, or with --deterministic).

    If nothing is left to do, the result is printed again, so job scripts can always call this command.
    """
    now = begin_execution(execute)
    for option, value in (("seeds", seeds), ("methods", methods)):
        if value is not None:
            more = f"--{option} {value}"
            kind, command = ("ranking", "rank") if (run / RANKING_FILE).is_file() else ("study", "compare")
            raise InputError(f"{more} adds runs, which is for a {kind}: dnas {command} --resume {run} {more}")
    from dnas.pipeline import run as pipeline
    from dnas.study.design import read_study
    from dnas.study.ranking_design import read_ranking

    if (run / STUDY_FILE).is_file():
        carry_out_study(run, read_study(run), processes, cluster, quiet, json, now)
    elif (run / RANKING_FILE).is_file():
        carry_out_ranking(run, read_ranking(run), processes, cluster, quiet, json, now)
    elif processes:
        raise InputError(f"--processes does not apply to {str(run)!r}, which is a single run; remove it")
    elif cluster != ClusterOptions():
        raise InputError(f"--ray does not apply to {str(run)!r}, which is a single run; remove it")
    else:
        print_result(pipeline.resume(run, reporter=reporter(quiet), execution=now), json)


def _start(
    command: Command, given: dict[str, Any], quiet: bool, now: Execution, subject: Named | None = None
) -> dict[str, Any]:
    from dnas.pipeline.run import start

    out = given.pop("out", None)
    with calling(typed(command, given)):
        settings, architecture = nested(command, given), None
        if subject is not None:
            settings, architecture = subject.beneath(settings), subject.architecture
        return start(settings, out=out, architecture=architecture, reporter=reporter(quiet), execution=now)
