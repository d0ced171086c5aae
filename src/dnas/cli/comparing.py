"""Commands that make many runs: compare, rank."""

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
        ("dnas compare --methods dnas,darts,random --seeds 4", "three methods, four seeds each, in the folder study"),
        ("dnas compare --resume study --seeds 8", "four seeds more"),
        ("dnas compare --resume study --methods +gdas", "one method more, by the same settings"),
    ),
)
def compare(
    *,
    methods: Annotated[
        str,
        Parameter(
            help="Names, with commas between them; METHOD+PART+… with parts that the others need not have; +NAME adds "
            "to a study."
        ),
    ] = "",
    mappings: Annotated[
        str,
        Parameter(
            help="Names, with commas; a method is run under those it knows. default: its own. [default: each method's "
            "own]"
        ),
    ] = "",
    seeds: Annotated[
        int | None, WHOLE, Parameter(help=f"Searches with every method, by the seeds 0, 1, … [default: {SEEDS}]")
    ] = None,
    training_seeds: Annotated[
        int | None, WHOLE, Parameter(help="Trainings of every network that is found. [default: 1]")
    ] = None,
    architectures: Annotated[
        str, Parameter(help="Published names and hand-made networks, with commas: trained by the same trainer.")
    ] = "",
    resume: Annotated[
        str | None,
        Parameter(
            help="A study to go on with, or to add seeds, methods, mappings or architectures to; it keeps its settings."
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
    """Compare methods × mappings × seeds on one protocol, beside random networks of the same size.

    The study's folder is --out. --resume goes on with one, and adds to it what is given besides.
    """
    now = begin_execution(execute)
    from dnas.study.growth import asked, called

    given = given_options(data, search, both, common)
    for option, instead in (("method", "--methods"), ("mapping", "--mappings"), ("seed", "--seeds")):
        if given.pop(option) is not None:
            raise InputError(f"--{option} cannot be used with `dnas compare`; use {instead}")
    out = given.pop("out")
    if resume is not None and out is not None:
        raise InputError(f"--out {out} cannot be used with --resume {resume}, which is the study's folder; remove one")
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
        int | None, WHOLE, Parameter(help="How many random ones are ranked. [default: 20]")
    ] = None,
    methods: Annotated[
        str | None,
        Parameter(
            help="Whose supernets judge them, with commas; METHOD+PART+… with parts; +NAME adds to a ranking. "
            "[default: dnas]"
        ),
    ] = None,
    proxy_layers: Annotated[str, Parameter(help="Depths of shallower trainings, with commas.")] = "",
    proxy_epochs: Annotated[str, Parameter(help="Lengths of shorter trainings, with commas.")] = "",
    resume: Annotated[
        str | None,
        Parameter(
            help="A ranking to go on with, or to add architectures, methods or shorter trainings to; it keeps its "
            "settings."
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
    """Ask how well supernets, shallower and shorter trainings rank architectures against full training.

    The ranking's folder is --out. --resume goes on with one, and adds to it what is given besides.
    """
    now = begin_execution(execute)
    from dnas.study.ranking_design import asked, called

    given = given_options(data, search, both, common)
    for option in ("method", "mapping"):
        if given.pop(option) is not None:
            raise InputError(f"--{option} cannot be used with `dnas rank`; use --methods, which search shared cells")
    for option in ("max_params", "max_macs", "max_ram", "max_size", "ram_precision"):
        if (value := given.pop(option)) is not None:
            raise InputError(f"{flag(option)} {value} cannot be used with `dnas rank`, which ranks whatever it draws")
    out = given.pop("out")
    if resume is not None and out is not None:
        raise InputError(
            f"--out {out} cannot be used with --resume {resume}, which is the ranking's folder; remove one"
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
    from dnas.study.compare import carry_through

    failed, summary = carry_through(out, settings, processes, cluster, reporter(quiet), now)
    if as_json:
        print_json(summary)
    else:
        print_study(summary, out)
    if failed:
        raise RunError(f"{len(failed)} runs of {out} failed: {', '.join(failed)}; {out / FAILED_FILE} says why")


def carry_out_ranking(
    out: Path,
    settings: RankingSettings,
    processes: int,
    cluster: ClusterOptions,
    quiet: bool,
    as_json: bool,
    now: Execution,
) -> None:
    from dnas.study.ranking import carry_through

    summary = carry_through(out, settings, processes, cluster, reporter(quiet), now)
    if as_json:
        print_json(summary)
    else:
        print_ranking(summary, out)
