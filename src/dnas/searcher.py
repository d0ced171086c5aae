"""Runs a method on the training split, whatever its kind."""

from __future__ import annotations

from dnas.data import DataInfo, Split
from dnas.judging import Found
from dnas.methods import Method, SupernetMethod, TrialMethod
from dnas.session import Session
from dnas.settings import SearchSettings, SupernetSettings, TrialSettings
from dnas.supernet_search import search_supernet
from dnas.trials import search_by_trials


def search_architecture(
    method: Method,
    settings: SearchSettings,
    split: Split,
    info: DataInfo,
    *,
    seed: int,
    session: Session,
    device: str = "cpu",
) -> Found:
    """Search with resolved settings of the method's own kind. See the two functions that it calls."""
    if isinstance(method, SupernetMethod) and isinstance(settings, SupernetSettings):
        return search_supernet(method, settings, split, info, seed=seed, session=session, device=device)
    assert isinstance(method, TrialMethod) and isinstance(settings, TrialSettings)
    return search_by_trials(method, settings, split, info, seed=seed, session=session, device=device)
