"""From scores to genes, against oracles that try every choice."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.network.network import build
from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.space.registry import SPACES
from dnas.supernet.derive import threshold, top_edges

WITH_NONE = ("none", *DARTS.primitives)


def scores(seed, layers, operations, levels=0):
    """Random scores; with few `levels` there are many ties."""
    generator = torch_stream(seed, "test")
    values = torch.rand(layers, 14, len(operations), generator=generator, dtype=torch.float64)
    return (values * levels).floor() / levels if levels else values


def best_gene(layer, operations):
    """Of all genes the one with the largest total score; in a tie the one with the first edges and operations."""
    nodes, first = [], 0
    for n in range(4):
        edges = []
        for source in range(n + 2):
            row = layer[first + source].tolist()
            allowed = [o for o, name in enumerate(operations) if name != "none"]
            o = max(allowed, key=lambda o: (row[o], -o))
            edges.append((row[o], source, operations[o]))
        # The pair whose sorted strengths are largest; ties go to the smaller sources.
        pair = max(
            combinations(edges, 2),
            key=lambda p: (sorted((e[0] for e in p), reverse=True), sorted(-e[1] for e in p)[::-1]),
        )
        nodes.append(tuple((op, source) for _, source, op in pair))
        first += n + 2
    return tuple(nodes)


@pytest.mark.parametrize("operations", [DARTS.primitives, WITH_NONE], ids=["7", "with_none"])
@given(seed=st.integers(0, 2**31), levels=st.sampled_from([0, 1, 2, 5]))
@settings(deadline=None, max_examples=30)
def test_top_edges_are_the_best_of_all_choices(operations, seed, levels):
    values = scores(seed, 3, operations, levels)
    architecture = top_edges(values, operations, DARTS)
    assert architecture.in_space and architecture.reductions == (1, 2)
    assert [cell.nodes for cell in architecture.layers] == [best_gene(layer, operations) for layer in values]


def test_none_is_never_exported_and_never_makes_an_edge_strong():
    values = scores(0, 4, WITH_NONE)
    expected = top_edges(values, WITH_NONE, DARTS)
    values[:, :, 0] = torch.rand(4, 14, generator=torch_stream(1, "test"), dtype=torch.float64) * 100
    assert top_edges(values, WITH_NONE, DARTS) == expected
    assert top_edges(values[:, :, 1:], DARTS.primitives, DARTS) == expected


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_only_the_order_of_scores_matters(seed):
    values = scores(seed, 3, DARTS.primitives)
    assert top_edges(values, DARTS.primitives, DARTS) == top_edges(values.exp() * 3, DARTS.primitives, DARTS)
    assert top_edges(values, DARTS.primitives, DARTS) != top_edges(-values, DARTS.primitives, DARTS)


def test_close_scores_in_float32_keep_their_order():
    values = torch.full((3, 14, 7), 1.0)
    values[:, 13, 6] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    nodes = top_edges(values, DARTS.primitives, DARTS).layers[0].nodes
    assert nodes[3] == (("max_pool_3x3", 0), ("dil_conv_5x5", 4))
    assert nodes[:3] == ((("max_pool_3x3", 0), ("max_pool_3x3", 1)),) * 3


def test_all_ties_go_to_the_first():
    nodes = top_edges(torch.zeros(3, 14, 8), WITH_NONE, DARTS).layers[0].nodes
    assert nodes == ((("max_pool_3x3", 0), ("max_pool_3x3", 1)),) * 4


def test_origin_is_kept():
    assert top_edges(torch.zeros(3, 14, 7), DARTS.primitives, DARTS, {"a": 1}).origin == {"a": 1}


@given(seed=st.integers(0, 2**31), minimum=st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=60)
def test_threshold_keeps_exactly_the_strong_of_the_top_edges_and_always_an_output(seed, minimum):
    """A layer without output keeps one more: the strongest that reads one of its two inputs."""
    values, weights = scores(seed, 4, DARTS.primitives), scores(seed + 1, 4, DARTS.primitives)
    top = top_edges(values, DARTS.primitives, DARTS)
    got = threshold(values, weights, DARTS.primitives, DARTS, minimum)
    first = [0, 2, 5, 9]
    for k, (whole, thin) in enumerate(zip(top.layers, got.layers, strict=True)):
        weight = {
            (n, source): weights[k, first[n] + source, DARTS.primitives.index(op)].item()
            for n, node in enumerate(whole.nodes)
            for op, source in node
        }
        strong = {place for place, w in weight.items() if w >= minimum}
        kept = {(n, source) for n, node in enumerate(thin.nodes) for _, source in node}
        assert all(set(node) <= set(old) for node, old in zip(thin.nodes, whole.nodes, strict=True))
        if any(source < 2 for _, source in strong):
            assert kept == strong
        else:
            rescued = max((p for p in weight if p[1] < 2), key=lambda p: weight[p])
            assert kept == strong | {rescued}
        assert thin.concat
    assert got.in_space == (got.layers == top.layers)
    assert got.space in (*SPACES, "free")


@pytest.mark.parametrize("minimum", [0.3, 0.9, 1.0])
def test_what_a_threshold_leaves_builds(minimum):
    values = scores(0, 3, DARTS.primitives)
    architecture = threshold(values, values, DARTS.primitives, DARTS, minimum)
    assert build(architecture, 4, 3).eval()(torch.zeros(1, 3, 8, 8)).isfinite().all()


def test_a_threshold_that_nothing_misses_is_top_edges():
    values = scores(0, 4, DARTS.primitives) + 0.1
    assert threshold(values, values, DARTS.primitives, DARTS, 0.1) == top_edges(values, DARTS.primitives, DARTS)


def test_a_weight_that_equals_the_threshold_is_kept():
    weights = torch.full((3, 14, 7), 0.5)
    whole = threshold(scores(0, 3, DARTS.primitives), weights, DARTS.primitives, DARTS, 0.5)
    assert whole == top_edges(scores(0, 3, DARTS.primitives), DARTS.primitives, DARTS)
