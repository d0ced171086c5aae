"""The loop that searches and trainings share: what it calls, in which order, and where it goes on."""

import pytest
import torch

from dnas.errors import Interrupted
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import Session
from dnas.training.loop import run_steps

EPOCHS, STEPS_PER_EPOCH = 2, 3


class Sums:
    """Each step adds its number."""

    def __init__(self):
        self.sum, self.taken = 0, []

    def step(self, step):
        self.taken.append(step)
        self.sum += step
        return float(self.sum)

    def capture(self):
        return {"sum": torch.tensor(self.sum)}, {"next": self.taken[-1] + 1}

    def restore(self, checkpoint):
        self.sum = int(checkpoint.tensors["sum"])
        return checkpoint.state["loop"]["next"]


class Watched(Session):
    """Notes what it is told; a signal comes in one step."""

    def __init__(self, folder=None, stop=None):
        super().__init__(folder, {})
        self.told, self.stop = [], stop

    def metric(self, **values):
        self.told.append(values)
        super().metric(**values)

    def step_done(self, step, shown, capture):
        self.told.append((step, shown["loss"]))
        self.signum = 15 if step == self.stop else None
        super().step_done(step, shown, capture)


def run(sums, session, **changes):
    def end_epoch(step):
        return {"last": step}

    run_steps(
        sums,
        session,
        "train",
        "train",
        steps_per_epoch=STEPS_PER_EPOCH,
        end_epoch=end_epoch,
        **{"steps": EPOCHS * STEPS_PER_EPOCH, **changes},
    )


TOLD = [(1, 0.0), (2, 1.0), {"last": 2}, (3, 3.0), (4, 6.0), (5, 10.0), {"last": 5}, (6, 15.0)]


def test_a_metric_comes_at_the_end_of_each_epoch_before_its_step_is_done():
    session = Watched()
    run(Sums(), session)
    assert session.told == TOLD


def test_before_each_step_it_can_be_over():
    asked, sums = [], Sums()
    run(sums, Watched(), over=lambda step: asked.append(step) or step == 4)
    assert asked == [0, 1, 2, 3, 4] and sums.taken == [0, 1, 2, 3]


@pytest.mark.parametrize("stop", range(1, EPOCHS * STEPS_PER_EPOCH + 1))
def test_it_goes_on_from_the_checkpoint(tmp_path, stop):
    with RunFolder.create(tmp_path / "run") as folder:
        first = Watched(folder, stop)
        with pytest.raises(Interrupted):
            run(Sums(), first)
        second, sums = Watched(folder), Sums()
        second.resume()
        run(sums, second)
    assert first.told + second.told == TOLD
    assert sums.taken == list(range(stop, EPOCHS * STEPS_PER_EPOCH)) and sums.sum == 15


def test_the_last_epoch_may_be_cut_short():
    sums, session = Sums(), Watched()
    run(sums, session, steps=5)
    assert session.told == [*TOLD[:5], {"last": 4}, TOLD[5]]
