"""What a chart draws is read back from its SVG, in units of the chart."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from dnas.pages import charts
from dnas.pages.charts import Interval, Point, Series
from dnas.space.primitives import PRIMITIVES

HOSTILE = "</title><script>alert('1')</script> & \"$\\frac{1}{$\" \x07 名前 \U0001f600"


def numbers(path: str) -> list[tuple[float, float]]:
    values = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", path)]
    return list(zip(values[::2], values[1::2], strict=True))


def paths(svg: str, style: str) -> list[list[tuple[float, float]]]:
    root = ET.fromstring(svg)
    return [numbers(e.get("d")) for e in root.iter("path") if style in (e.get("style") or "")]


def every_chart(name: str) -> list[str]:
    return [
        charts.lines("a", name, [Series(name, [1, 2], [0.5, 0.75])], unit="%", mark=(1, name)),
        charts.shares_over_time("b", name, [1, 2], {"skip_connect": [1, 2], "none": [3, 2]}),
        charts.shares_by_layer("c", name, [{"skip_connect": 2, "sep_conv_3x3": 6}] * 3, reductions=(1, 2)),
        charts.shares_by_layer("d", name, [{"skip_connect": 2}], small=True),
        charts.intervals("e", name, [Interval(name, 0.1, 0.05, 0.2, (0.1, 0.12)), Interval("b", 0.2)], label=name),
        charts.scatter("f", name, [Point("1", name, 3.0, 0.1, 0.05, 0.2)], x_label=name, y_label=name),
    ]


@pytest.mark.parametrize("svg", every_chart(HOSTILE), ids="abcdef")
def test_a_chart_is_named_closed_and_carries_nothing_of_a_document(svg):
    root = ET.fromstring(svg)
    assert root.tag == "svg" and root.get("role") == "img"
    named = root.get("aria-labelledby").split()
    assert [e.get("id") for e in root[:2]] == named and [e.tag for e in root[:2]] == ["title", "desc"]
    assert "<script" not in svg and "http" not in svg and "<style" not in svg and "DejaVu" not in svg
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(set(ids)) == len(ids) and all(i.startswith(named[0][0]) for i in ids)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    assert used <= set(ids)
    # Every colour is the page's or an operation's.
    colours = {c.upper() for c in re.findall(r"#[0-9a-fA-F]{6}", svg)}
    assert colours <= {p.colour for p in PRIMITIVES.values()}
    assert "var(--" in svg


def test_the_same_chart_is_the_same_text():
    assert every_chart("x") == every_chart("x")


def test_lines_are_drawn_to_scale():
    svg = charts.lines("a", "t", [Series("one", [1, 2, 3, 5], [0.0, 0.3, 0.1, 1.0])])
    (line,) = paths(svg, "stroke: var(--accent)")
    (x0, y0), *_, (x1, y1) = line
    assert [(x - x0) / (x1 - x0) for x, _ in line] == pytest.approx([0, 0.25, 0.5, 1], abs=1e-3)
    assert [(y - y0) / (y1 - y0) for _, y in line] == pytest.approx([0, 0.3, 0.1, 1.0], abs=1e-3)
    assert y1 < y0  # more is higher
    assert "from 0 in epoch 1 to 1 in epoch 5" in svg


def test_layers_are_stacked_to_the_whole_in_the_order_of_all_pictures():
    svg = charts.shares_by_layer("a", "t", [{"sep_conv_3x3": 6, "skip_connect": 2}, {"sep_conv_3x3": 4}])
    heights = {}
    for op in ("skip_connect", "sep_conv_3x3"):
        (shape,) = paths(svg, f"fill: {PRIMITIVES[op].colour.lower()}")
        middle = sorted({x for x, _ in shape})[1]
        heights[op] = [
            max(y for x, y in shape if side(x, middle)) - min(y for x, y in shape if side(x, middle))
            for side in (lambda x, m: x < m, lambda x, m: x > m)
        ]
    whole = heights["sep_conv_3x3"][1]
    assert heights["skip_connect"] == pytest.approx([whole / 4, 0], abs=0.02)
    assert heights["sep_conv_3x3"] == pytest.approx([3 * whole / 4, whole], abs=0.02)
    assert "skip 25% · 0% · –" in svg  # two layers have no deep third
    assert svg.index(PRIMITIVES["skip_connect"].colour.lower()) < svg.index(PRIMITIVES["sep_conv_3x3"].colour.lower())


def test_an_interval_reaches_from_low_to_high_around_its_mean():
    svg = charts.intervals(
        "a", "t", [Interval("r", 0.2, 0.1, 0.5), Interval("s", 0.3, 0.1, 0.5, strong=False)], label="x"
    )
    for style in ("accent", "soft"):
        bar = next(p for p in paths(svg, f"stroke: var(--{style}); stroke-width: 2.2") if len(p) == 2)
        assert bar[0][1] == bar[1][1] and bar[0][0] < bar[1][0]
    assert "r: 20.00% (10.00 to 50.00)" in svg


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.1))
def test_names_at_the_ends_of_lines_lie_apart_and_in_order(places, apart):
    moved = charts._spread(places, apart)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for a, b in pairwise(order):
        assert moved[b] - moved[a] >= apart - 1e-9
    assert max(moved) <= 1 + 1e-9
    if all(places[b] - places[a] >= apart for a, b in pairwise(order)):
        assert moved == pytest.approx(places)
