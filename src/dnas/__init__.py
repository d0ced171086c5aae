"""dnas: neural architecture search of whole networks.

The public names are listed here and loaded on first use, so that `import dnas` stays fast. Unless torch is already
imported, this sets environment variables that limit how long waiting threads spin (`dnas.runtime.waiting`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dnas.runtime.waiting import bound_spinning

if TYPE_CHECKING:
    from dnas.api.building import build as build
    from dnas.api.estimator import DNASClassifier as DNASClassifier
    from dnas.api.exporting import export as export
    from dnas.api.looking import inspect_data as inspect_data
    from dnas.api.results import Baseline as Baseline
    from dnas.api.results import FrontResult as FrontResult
    from dnas.api.results import RankingResult as RankingResult
    from dnas.api.results import RunResult as RunResult
    from dnas.api.results import SearchResult as SearchResult
    from dnas.api.results import StudyResult as StudyResult
    from dnas.api.results import TrainResult as TrainResult
    from dnas.api.results import load as load
    from dnas.api.resuming import resume as resume
    from dnas.api.runs import run as run
    from dnas.api.runs import search as search
    from dnas.api.runs import train as train
    from dnas.api.studies import compare as compare
    from dnas.api.studies import rank as rank
    from dnas.errors import InputError as InputError
    from dnas.errors import Interrupted as Interrupted
    from dnas.errors import RunError as RunError
    from dnas.methods.registry import get_method as get_method
    from dnas.methods.registry import list_methods as list_methods
    from dnas.network.network import macs as macs
    from dnas.network.network import params as params
    from dnas.pipeline.extensions import register as register
    from dnas.space.architecture import Architecture as Architecture
    from dnas.space.architecture import parse_genotype as parse_genotype
    from dnas.space.architecture import stack as stack
    from dnas.space.darts_cell import Cell as Cell
    from dnas.space.published import load_published as load_published

_HOME = {
    "Architecture": "dnas.space.architecture",
    "Baseline": "dnas.api.results",
    "Cell": "dnas.space.darts_cell",
    "DNASClassifier": "dnas.api.estimator",
    "FrontResult": "dnas.api.results",
    "InputError": "dnas.errors",
    "Interrupted": "dnas.errors",
    "RankingResult": "dnas.api.results",
    "RunError": "dnas.errors",
    "RunResult": "dnas.api.results",
    "SearchResult": "dnas.api.results",
    "StudyResult": "dnas.api.results",
    "TrainResult": "dnas.api.results",
    "build": "dnas.api.building",
    "compare": "dnas.api.studies",
    "export": "dnas.api.exporting",
    "get_method": "dnas.methods.registry",
    "inspect_data": "dnas.api.looking",
    "list_methods": "dnas.methods.registry",
    "load": "dnas.api.results",
    "load_published": "dnas.space.published",
    "macs": "dnas.network.network",
    "params": "dnas.network.network",
    "parse_genotype": "dnas.space.architecture",
    "rank": "dnas.api.studies",
    "register": "dnas.pipeline.extensions",
    "resume": "dnas.api.resuming",
    "run": "dnas.api.runs",
    "search": "dnas.api.runs",
    "stack": "dnas.space.architecture",
    "train": "dnas.api.runs",
}
__all__ = list(_HOME)

bound_spinning()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dnas")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
