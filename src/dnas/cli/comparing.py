"""Commands that execute many runs: compare, rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dnas.cli.app import (
    FLAT,
    Debug,
    Json,
    Processes,
    Quiet,
    Threads,
    app,
    begin_execution,
    examples,
    names_of,
    numbers_of,
)
from dnas.cli.printing import (
    print_json,
    print_ranking,
    print_study,
)
from dnas.errors import InputError, RunError, calling
from dnas.options import (
    WHOLE,
    BothOptions,
    ClusterOptions,
    DataOptions,
    ExecutionOptions,
    RankingRunOptions,
    StudyRunOptions,
    StudySearchOptions,
    flag,
)
from dnas.pipeline.overrides import given_options
from dnas.reporter import reporter
from dnas.runtime.execution import Execution
from dnas.study.names import FAILED_FILE, SEEDS

if TYPE_CHECKING:
    from dnas.study.design import StudySettings
    from dnas.study.ranking_design import RankingSettings


@app.command(
    sort_key=6,
    help_epilogue=examples(
        (
            "dnas compare --methods dnas,darts,random --seeds 4",
            "three methods with four seeds each, in the folder 'study'",
        ),
        ("dnas compare --resume study --seeds 8", "four more seeds"),
        ("dnas compare --resume study --methods +gdas", "one more method, with the same settings"),
    ),
)
def compare(
    *,
    methods: Annotated[
        str,
        Parameter(
            help="Search methods, separated by commas. METHOD+PART+… adds parts to one method; +NAME adds a method "
            "to an existing study."
        ),
    ] = "",
    mappings: Annotated[
        str,
        Parameter(
            help="Parameter sharing schemes, separated by commas. Each method runs with those that it supports. "
            "[default: the default of each method]"
        ),
    ] = "",
    seeds: Annotated[
        int | None, WHOLE, Parameter(help=f"Number of searches per method, with seeds 0, 1, … [default: {SEEDS}]")
    ] = None,
    training_seeds: Annotated[
        int | None, WHOLE, Parameter(help="Number of trainings per searched network. [default: 1]")
    ] = None,
    architectures: Annotated[
        str, Parameter(help="Published architectures and reference networks to train as well, separated by commas.")
    ] = "",
    resume: Annotated[
        str | None,
        Parameter(
            help="Study folder to resume, or to extend by seeds, methods, mappings or architectures. Its settings stay."
        ),
    ] = None,
    processes: Processes = 0,
    threads: Threads = 0,
    data: Annotated[DataOptions, FLAT] = DataOptions(),
    search: Annotated[StudySearchOptions, FLAT] = StudySearchOptions(),
    both: Annotated[BothOptions, FLAT] = BothOptions(),
    common: Annotated[StudyRunOptions, FLAT] = StudyRunOptions(),
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare search methods over several seeds, each against random networks of the same size.

    --out names the study folder. --resume continues a study, and adds the seeds, methods, mappings or architectures
    given with it.
    """
    now = begin_execution(execute)
    from dnas.study.growth import asked, called

    given = given_options(data, search, both, common)
    for option, instead in (("method", "--methods"), ("mapping", "--mappings"), ("seed", "--seeds")):
        if given.pop(option) is not None:
            raise InputError(f"--{option} cannot be used with `dnas compare`; use {instead}")
    out = given.pop("out")
    if resume is not None and out is not None:
        raise InputError(
            f"--out {out} cannot be used with --resume {resume}, which already names the study folder; remove one"
        )
    path = Path(resume or out or "study")
    texts = {"methods": methods, "mappings": mappings, "architectures": architectures}
    lists = {key: names_of(text) for key, text in texts.items()}
    counts = {"seeds": seeds, "training_seeds": training_seeds}
    with calling(called(given)):
        settings = asked(path, given, lists, counts, threads, adds=resume is not None)
        carry_out_study(path, settings, processes, cluster, quiet, json, now)


@app.command(
    sort_key=6,
    help_epilogue=examples(
        ("dnas rank --methods spos --proxy-layers 3", "20 networks by a supernet and a shallow training"),
        ("dnas rank --resume ranking --architectures 40", "twenty networks more"),
        ("dnas rank --resume ranking --methods +dnas", "another supernet, by the same settings"),
    ),
)
def rank(
    *,
    architectures: Annotated[
        int | None, WHOLE, Parameter(help="Number of random architectures to rank. [default: 20]")
    ] = None,
    methods: Annotated[
        str | None,
        Parameter(
            help="Methods whose supernets score them, separated by commas; METHOD+PART+… with parts; +NAME adds to a "
            "ranking. [default: dnas]"
        ),
    ] = None,
    proxy_layers: Annotated[str, Parameter(help="Depths of shallower proxy trainings, separated by commas.")] = "",
    proxy_epochs: Annotated[str, Parameter(help="Epochs of shorter proxy trainings, separated by commas.")] = "",
    resume: Annotated[
        str | None,
        Parameter(
            help="Ranking to resume, or to add architectures, methods or proxy trainings to; it keeps its settings."
        ),
    ] = None,
    processes: Processes = 0,
    threads: Threads = 0,
    data: Annotated[DataOptions, FLAT] = DataOptions(),
    search: Annotated[StudySearchOptions, FLAT] = StudySearchOptions(),
    both: Annotated[BothOptions, FLAT] = BothOptions(),
    common: Annotated[RankingRunOptions, FLAT] = RankingRunOptions(),
    execute: Annotated[ExecutionOptions, FLAT] = ExecutionOptions(),
    cluster: Annotated[ClusterOptions, FLAT] = ClusterOptions(),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how well supernets, and shallower and shorter trainings, rank architectures compared with full training.

    --out names the ranking folder. --resume resumes a ranking and adds architectures, methods and proxy trainings to
    it.
    """
    now = begin_execution(execute)
    from dnas.study.ranking_design import asked, called

    given = given_options(data, search, both, common)
    for option in ("method", "mapping"):
        if given.pop(option) is not None:
            raise InputError(
                f"--{option} cannot be used with `dnas rank`; use --methods, which always search with --mapping shared"
            )
    for option in ("max_params", "max_macs", "max_ram", "max_size", "ram_precision"):
        if (value := given.pop(option)) is not None:
            raise InputError(f"{flag(option)} {value} cannot be used with `dnas rank`, which ranks whatever it draws")
    out = given.pop("out")
    if resume is not None and out is not None:
        raise InputError(
            f"--out {out} cannot be used with --resume {resume}, which names the folder of the ranking; remove one"
        )
    path = Path(resume or out or "ranking")
    chosen = {
        "count": architectures,
        "layers": numbers_of("--proxy-layers", proxy_layers),
        "epochs": numbers_of("--proxy-epochs", proxy_epochs),
        "seed": given.pop("seed"),
    }
    names = None if methods is None else names_of(methods)
    with calling(called(given)):
        settings = asked(path, given, names, chosen, threads, adds=resume is not None)
        carry_out_ranking(path, settings, processes, cluster, quiet, json, now)


def carry_out_study(
    out: Path,
    settings: StudySettings,
    processes: int,
    cluster: ClusterOptions,
    quiet: bool,
    as_json: bool,
    now: Execution,
) -> None:
    """Execute the missing runs of a study and print its tables."""
    from dnas.study.compare import carry_through

    failed, summary = carry_through(out, settings, processes, cluster, reporter(quiet), now)
    if as_json:
        print_json(summary)
    else:
        print_study(summary, out)
    if failed:
        raise RunError(
            f"{len(failed)} runs of {out} failed: {', '.join(failed)}; see {out / FAILED_FILE} for the reasons"
        )


def carry_out_ranking(
    out: Path,
    settings: RankingSettings,
    processes: int,
    cluster: ClusterOptions,
    quiet: bool,
    as_json: bool,
    now: Execution,
) -> None:
    """Execute the missing runs of a ranking and print its table."""
    from dnas.study.ranking import carry_through

    summary = carry_through(out, settings, processes, cluster, reporter(quiet), now)
    if as_json:
        print_json(summary)
    else:
        print_ranking(summary, out)
