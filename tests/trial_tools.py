"""What tests of trial methods share: a search that trains tiny networks on noise."""

import torch

from dnas.data.splits import DataInfo, Split
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.trials import search_by_trials
from dnas.settings import TrialSettings
from dnas.space.darts import DARTS


class Scores(Session):
    """Keeps the accuracies of all trials; begins after those that are given."""

    def __init__(self, known):
        super().__init__(None, {})
        state = {"stage": "search", "step": len(known), "loop": {"scores": list(known)}}
        self._pending = Checkpoint(0, {}, state) if known else None
        self.scores = list(known)

    def metric(self, **values):
        if "trial" in values:
            self.scores.append(values["accuracy"])


def searched(name, mapping, options, trials, known=()):
    """What is found, the scores of all trials, and the method."""
    pictures = torch.randint(0, 256, (32, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8)
    labels = (pictures.float().mean((1, 2, 3)) * 4 / 256).long()
    info = DataInfo("digits", tuple("0123"), 1, 8, (0.5,), (0.29,), False)
    values = {"layers": 3, "channels": 4, "epochs": 1, "batch_size": 16, "trials": trials}
    method, session = create(name, mapping, options, DARTS), Scores(known)
    settings = TrialSettings(**values).resolved(32, 0.0, 8)
    found = search_by_trials(method, settings, Split(pictures, labels), info, seed=0, session=session)
    assert method.budget == trials
    return found, session.scores, method
