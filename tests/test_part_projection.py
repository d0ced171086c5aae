"""Projection: which factors are taken away, that the planted is found by what is missed, cost, limits, resuming."""

import pytest
import torch
from parts_tools import taken

from dnas import parts
from dnas.errors import InputError
from dnas.methods.registry import create
from dnas.parts.projection import factors
from dnas.searching.loop import search_supernet
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.space.protocol import layer_kinds
from dnas.space.registry import get_space
from dnas.testing import LAYERS, PlantedSupernet, Recorder, agreement, pictures, plant

EDGES, OPERATIONS = len(DARTS.edges), len(DARTS.primitives)
IMAGES = 32

ACTS = {"by": ({}, "loss"), "images": ({}, 5)}


def found(name="darts", mapping="shared", *, options=None, start=None, planted=None, with_parts=None, **changes):
    split, info = pictures(2 * IMAGES)
    method = create(name, mapping, {"with_none": False, **(options or {})}, DARTS)
    values = {"layers": LAYERS, "channels": 8, "epochs": 2, "warmup_epochs": 0, "batch_size": IMAGES, "pad": 0}
    values |= {"architecture_learning_rate": 1e-9, "watch_images": 0} | changes
    settings = GradientSettings(**values).resolved(2 * IMAGES, 1.0, 8)
    with_parts = taken("projection", projection={"by": "loss"}) if with_parts is None else with_parts
    parts.check(with_parts, method, settings)
    session = Recorder(start)
    supernet = PlantedSupernet(planted or plant(mapping, 0), method.operations, method.space)
    return search_supernet(
        method, settings, split, info, seed=0, session=session, supernet=supernet, with_parts=with_parts
    ), session


@pytest.mark.parametrize(
    ("mapping", "operations", "edges"),
    [
        ("decoupled", EDGES * OPERATIONS + 6 * OPERATIONS, 6 * EDGES),
        ("full", 6 * EDGES * OPERATIONS, 6 * EDGES),
        ("shared", 2 * EDGES * OPERATIONS, 2 * EDGES),
    ],
)
def test_factors_are_those_of_the_mapping_and_cover_everything_alike(mapping, operations, edges):
    method = create("darts", mapping, {"with_none": False}, DARTS)
    every = list(factors(method, 6))
    of_edges = [each for each in every if each[1].any()]
    assert (len(every) - len(of_edges), len(of_edges)) == (operations, edges)
    covered = sum(ops.int() for ops, edge in every if not edge.any())
    assert (covered == (2 if mapping == "decoupled" else 1)).all()
    assert (sum(edge.int() for _, edge in of_edges) == 1).all()
    for ops, edge in of_edges:
        assert torch.equal(ops, edge[..., None].expand_as(ops))
    if mapping == "shared":
        assert all(
            torch.equal(ops[k], ops[kind]) for ops, _ in every for k, kind in enumerate(layer_kinds(6)) if kind == 0
        )


def test_what_cannot_be_derived_is_not_measured():
    """`none` is among the operations of s3, and s1 has two an edge, others in reductions."""
    s3 = create("darts", "shared", {}, get_space("s3"))
    assert s3.operations[0] == "none"
    assert not any(ops[..., 0].any() for ops, edge in factors(s3, 6) if not edge.any())
    s1 = create("darts", "full", {}, get_space("s1"))
    assert sum(not edge.any() for _, edge in factors(s1, 6)) == 6 * EDGES * 2


@pytest.mark.parametrize("name", ["darts", "dnas"])
@pytest.mark.parametrize("mapping", ["shared", "full", "decoupled"])
def test_what_the_supernet_misses_is_kept_whatever_the_parameters_are(name, mapping):
    """These rest at their initial noise, so that the method's own derivation finds what chance finds."""
    planted = plant(mapping, 1)
    own, _ = found(
        name, mapping, planted=planted, with_parts=(), options={} if name == "darts" else {"partial_channels": 1}
    )
    projected, _ = found(name, mapping, planted=planted, options={} if name == "darts" else {"partial_channels": 1})
    assert agreement(own.architecture, planted) < 0.5
    # Under `decoupled` a sum of two worths cannot tell every planted pair.
    assert agreement(projected.architecture, planted) > (0.5 if mapping == "decoupled" else 0.99)
    assert projected.architecture.origin["with"] == ["projection"]


def test_it_costs_what_it_measures_and_limits_leave_room_for_it():
    plain, _ = found(with_parts=())
    projected, session = found()
    measurements = 2 * (EDGES * OPERATIONS + EDGES)
    assert len(session.checkpoints[-1].state["loop"]["scores"]) == measurements
    more = projected.cost["step_equivalents"] - plain.cost["step_equivalents"]
    assert more == pytest.approx(measurements / 3)
    limited, _ = found(epochs=50, steps=90)
    assert 88 < limited.cost["step_equivalents"] < 94


def test_accuracy_decides_by_default():
    (part,) = taken("projection")
    search = type("Search", (), {"weights": [torch.zeros(1)], "judge": lambda self, what, images: (0.25, 3.0)})()
    mixing = type("Mixing", (), {"to": lambda self, like: self})()
    assert part.measure(search, mixing) == 0.25
    (part,) = taken("projection", projection={"by": "loss"})
    assert part.measure(search, mixing) == -3.0


def test_another_derivation_beside_it_is_refused():
    method = create("fair-darts", None, {"derivation": "threshold"}, DARTS)
    with pytest.raises(InputError, match="derivation=threshold cannot be used with --with projection"):
        parts.check(taken("projection"), method, GradientSettings())
