"""Commands that make a run: run, search, train, resume."""

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
        ("dnas run", "digits, in minutes on two cores"),
        ("dnas run --data PATH --budget 10m", "your own pictures, in ten minutes"),
        (
            "dnas run --data cifar10 --method gdas --mapping full --seed 1",
            "another search, with a table for every layer",
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
    no_baseline: Annotated[
        bool, Parameter(group=TRAIN, help="Do not train a random network of the same size.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search, derive, train, test and draw, in one run folder.

    With no options: the DNAS method on scikit-learn's digits, in minutes on two cores.
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
    """Search and derive only."""
    now = begin_execution(execute)
    print_result(_start("search", given_options(data, search, common), quiet, now), json)


@app.command(
    sort_key=3,
    help_epilogue=examples(
        ("dnas train RUN --channels 48", "the network of a run again, three times as wide"),
        ("dnas train --from RUN --epochs 10", "ten epochs more of a training that has ended"),
        ("dnas train --from RUN --data PATH", "fine-tune it on other pictures, maybe with other classes"),
    ),
)
def train(
    architecture: Annotated[
        str | None,
        Parameter(
            help="An architecture file, a run folder, a published name, or a hand-made network (resnet8). With --from "
            "it may be left out."
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
        Parameter(name=["--option", "-o"], group=TRAIN, help="train.NAME=VALUE of a setting; repeatable."),
    ] = None,
    baseline: Annotated[bool, Parameter(group=TRAIN, help="Also train a random network of the same size.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train and test one architecture or hand-made network; with --from, go on with the trained weights of a run.

    A run hands on its data, image size, preset and training; options and --config take precedence.
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
        Parameter(help="Of a study or a ranking: runs at a time. [default: one a thread on the CPU, else 1]"),
    ] = 0,
    seeds: Annotated[str | None, Parameter(show=False)] = None,
    methods: Annotated[str | None, Parameter(show=False)] = None,
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on from the last checkpoint of RUN, or with a study or a ranking; the result is the same, to the bit, as
    without the interruption.

    Where all is done it says what came out, so a job script may call it again and again.
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
        raise InputError(f"--processes {processes} has no use here: {run} is one run; leave it out")
    elif cluster != ClusterOptions():
        raise InputError(f"--ray is for studies and rankings, and {run} is one run; leave it out")
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
