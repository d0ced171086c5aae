"""Resume runs, studies and rankings.

`tests/signature_tools.py` writes the options into the signature and the docstring.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dnas.api.beginning import Started
from dnas.api.results import RankingResult, RunResult, SearchResult, StudyResult, TrainResult, result_of
from dnas.api.studies import carry_out, carry_out_ranking
from dnas.data.sources.objects import Images
from dnas.errors import InputError
from dnas.options import ClusterOptions, names
from dnas.pipeline import run as pipeline
from dnas.reporter import Reporter
from dnas.runtime.execution import OnEpoch
from dnas.study.design import read_study
from dnas.study.names import RANKING_FILE, STUDY_FILE
from dnas.study.ranking_design import read_ranking


def resume(
    run: str | Path,
    *,
    data: Images | None = None,
    processes: int = 0,
    checkpoint_every: float | str | None = None,
    time_limit: float | str | None = None,
    tensorboard: bool | None = None,
    ray: str | None = None,
    ray_retries: int | None = None,
    ray_timeout: float | str | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = False,
    reporter: Reporter | None = None,
) -> RunResult | SearchResult | TrainResult | StudyResult | RankingResult:
    """Resume a run from its last checkpoint, or a study or ranking. Like `dnas resume`.

    The result is bit-for-bit identical to that of an uninterrupted run (CPU, or `deterministic`). If nothing is left to
    do, the existing result is returned.

    Args:
        run: A run folder, or the folder of a study or a ranking.
        data: For a run whose images were given in memory: the same images again.
        processes: For a study or ranking: number of runs to execute in parallel. [default: one per thread on the CPU,
            else 1]
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: a checkpoint after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; requires dnas[tensorboard].
        ray: Execute the runs on a Ray cluster: auto, or HOST:PORT of its head node. All nodes must share out. [default:
            this machine]
        ray_retries: Number of retries for a run whose process or node was lost. [default: 3]
        ray_timeout: Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and the
            run is retried. [default: never]
        on_epoch: For runs, as for `run`.
        progress: As for `run`.
        reporter: As for `run`.

    Returns:
        The result of the function that started it.

    Raises:
        InputError: It is not a run folder, is in use, or its configuration, images or format have changed.
        RunError: It failed; it can be resumed.
        Interrupted: As for `run`.
    """
    given: dict[str, Any] = locals()
    started = Started.of(given)
    path = Path(run)
    cluster = ClusterOptions(**{name: given[name] for name in names(ClusterOptions)})
    for file, kind in ((STUDY_FILE, "study"), (RANKING_FILE, "ranking")):
        if (path / file).is_file() and (data is not None or on_epoch is not None):
            raise InputError(f"data and on_epoch do not apply to {str(path)!r}, which is a {kind}; remove them")
    if (path / STUDY_FILE).is_file():
        return carry_out(path, read_study(path), processes, cluster, started)
    if (path / RANKING_FILE).is_file():
        return carry_out_ranking(path, read_ranking(path), processes, cluster, started)
    if processes or cluster != ClusterOptions():
        what = f"processes={processes}" if processes else "ray"
        raise InputError(f"{what} does not apply to {str(path)!r}, which is a single run; remove it")
    return result_of(pipeline.resume(path, reporter=started.reporter, execution=started.execution, given=started.place))
