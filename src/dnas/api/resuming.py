"""Go on with what was interrupted.

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
    """Go on from the last checkpoint of a run folder, or with a study or a ranking. As `dnas resume`.

    The result is the same, to the bit, as without the interruption (CPU, or `deterministic`). If nothing is left to
    do, it is the result that is there.

    Args:
        run: A run folder, or the folder of a study or a ranking.
        data: The images of a run that was given images in memory: the same ones again.
        processes: Of a study or a ranking: runs at a time. [default: one a thread on the CPU, else 1]
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: a checkpoint after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; requires dnas[tensorboard].
        ray: Execute the runs on a Ray cluster: auto, or HOST:PORT of its head node. All nodes must share out. [default:
            this machine]
        ray_retries: Number of retries for a run whose process or node was lost. [default: 3]
        ray_timeout: Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and the
            run is retried. [default: never]
        on_epoch: Of a run, as of `run`.
        progress: As of `run`.
        reporter: As of `run`.

    Returns:
        What the function that began it would have returned.

    Raises:
        InputError: Not a run folder, in use, or its configuration, images or format have changed.
        RunError: It failed; it can be resumed.
        Interrupted: As of `run`.
    """
    given: dict[str, Any] = locals()
    started = Started.of(given)
    path = Path(run)
    cluster = ClusterOptions(**{name: given[name] for name in names(ClusterOptions)})
    for file, kind in ((STUDY_FILE, "study"), (RANKING_FILE, "ranking")):
        if (path / file).is_file() and (data is not None or on_epoch is not None):
            raise InputError(f"data and on_epoch are for runs, and {path} is a {kind}; leave them out")
    if (path / STUDY_FILE).is_file():
        return carry_out(path, read_study(path), processes, cluster, started)
    if (path / RANKING_FILE).is_file():
        return carry_out_ranking(path, read_ranking(path), processes, cluster, started)
    if processes or cluster != ClusterOptions():
        what = f"processes={processes}" if processes else "ray"
        raise InputError(f"{what} is for studies and rankings, and {path} is one run; leave it out")
    return result_of(pipeline.resume(path, reporter=started.reporter, execution=started.execution, given=started.place))
