"""Shrinking: stages, how many operations an edge keeps, which, and dropout of skips."""

import pytest
import torch
from parts_tools import search_with, taken

from dnas import parts
from dnas.errors import InputError
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.parts.shrinking import beyond, position
from dnas.rng import torch_stream
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.space.registry import get_space
from dnas.supernet.mapping import MAPPINGS

SMALL = {"search.epochs": 3, "search.warmup_epochs": 0}
ACTS = {
    "keep_second": ({}, 4),
    "keep_third": ({}, 1),
    "dropout_first": ({}, 0.9),
    "dropout_second": ({}, 0.0),
    "dropout_third": ({}, 0.0),
}


def shrinking(**options):
    return taken("shrinking", shrinking=options)


def test_stages_are_thirds_of_the_epochs_in_which_the_architecture_moves():
    found = [position(Progress(epoch, epochs=8, warmup_epochs=2)) for epoch in range(8)]
    assert found == [(0, 0.0)] * 3 + [(0, 0.5), (1, 0.0), (1, 0.5), (2, 0.0), (2, 0.5)]
    assert [position(Progress(epoch, epochs=4))[0] for epoch in range(4)] == [0, 0, 1, 2]


def test_dropout_begins_anew_in_each_stage_and_falls():
    (part,) = shrinking(dropout_first=0.2, dropout_second=0.4, dropout_third=0.6)
    found = [part.skip_dropout(None, Progress(epoch, epochs=6)) for epoch in range(6)]
    assert found == pytest.approx([0.2, 0.1, 0.4, 0.2, 0.6, 0.3])


def test_a_method_s_own_dropout_and_the_part_s_drop_independently():
    (part,) = shrinking(dropout_first=0.5)
    search = search_with([part], "dnas", options={"skip_dropout": 0.2}, epochs=3)
    seen = []
    search.supernet.forward = lambda images, mixing, draws: (
        seen.append(draws.probability) or torch.zeros(len(images), 4)
    )
    search.logits(search.batch(0, 0), 0, relaxed=False)
    assert seen == pytest.approx([1 - 0.8 * 0.5])


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_each_edge_keeps_its_best_from_stage_to_stage(mapping):
    search = search_with(shrinking(), "darts", mapping, {"with_none": False}, epochs=3, batch_size=4)
    steps = search.settings.steps_per_epoch
    for epoch, keep in enumerate((7, 5, 3)):
        ranking = search.closings.ranking(search.progress(epoch * steps, draw=1))
        search.step(epoch * steps)
        left = ~search.closings.closed
        assert (left.sum(-1) == keep).all()
        least = ranking.masked_fill(~left, torch.inf).amin(-1)
        assert (ranking.masked_fill(left, -torch.inf).amax(-1) <= least).all()
        search.step(epoch * steps + 1)
        assert torch.equal(~search.closings.closed, left)
    derived = search.closings.derived(search.progress(3 * steps - 1, draw=1))
    assert derived.in_space


def test_the_best_that_can_be_derived_stays():
    operations = ("none", *DARTS.primitives)
    scores = torch.rand(3, 14, 8, generator=torch_stream(0, "scores"))
    scores[..., 0] = 5.0
    only = ~beyond(scores, operations, DARTS, 1)
    assert (only.sum(-1) == 1).all() and not only[..., 0].any()
    assert torch.equal(only[..., 1:].int().argmax(-1), scores[..., 1:].argmax(-1))
    two = ~beyond(scores, operations, DARTS, 2)
    assert two[..., 0].all() and (two.sum(-1) == 2).all()


def test_what_could_not_act_is_refused():
    for options, values, said in (
        ({"keep_second": 2}, {}, "shrinking.keep_third=3 must be at most keep_second=2"),
        ({}, {"epochs": 4, "warmup_epochs": 2}, "requires 3 epochs that update the architecture, one per stage, got 2"),
    ):
        with pytest.raises(InputError, match=said):
            parts.check(shrinking(**options), create("darts", None, {}, DARTS), GradientSettings(**values))
    with pytest.raises(InputError, match="would have no effect: an edge of --space s1 has at most 2"):
        parts.check(shrinking(), create("darts", None, {}, get_space("s1")), GradientSettings())
