"""Drawings of chains show each layer: its block, kernel, channels and shortcut as the network has them."""

import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from drawing_tools import SVG, bands, box, document, overlap, printed, words_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.drawing import registry
from dnas.drawing.style import gene_tags
from dnas.drawing.svg import svg, thumbnail
from dnas.errors import InputError
from dnas.pages.template import kinds_of, legend, profile, thirds
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.blocks import BLOCKS, SKIP
from dnas.space.chain import MOBILE, RESNET, Block
from dnas.space.darts import DARTS
from dnas.space.operations import colour_of, group_of, label_of, operation, ordered
from dnas.space.primitives import PRIMITIVES
from dnas.space.registry import CHAINS, SPACES

KERNELS = {space.name: space.kernels for space in CHAINS}
SKIPPED = "#8A8A8A"
# Skips in a row, every reduction of the space, one of them the first layer, and blocks of each kind.
ODD = Architecture(
    (
        Block("mbconv6", 2),
        Block(SKIP, 0),
        Block(SKIP, 0),
        Block("mbconv3", 1),
        Block("mbconv1", 0),
        Block("mbconv6", 2),
    ),
    (0, 3, 4, 5),
    "mobile",
)


@st.composite
def chains(draw: st.DrawFn) -> Architecture:
    """A random architecture of a space of chains, or some blocks with reductions anywhere."""
    space = draw(st.sampled_from(CHAINS))
    if draw(st.booleans()):
        return sampling.sample(space, numpy_stream(draw(st.integers(0, 2**31)), "test"), draw(st.integers(3, 24)))
    layers = draw(st.integers(1, 12))
    reductions = draw(st.sets(st.integers(0, layers - 1)))
    blocks = []
    for k in range(layers):
        edge = draw(st.integers(0, len(space.kernels) - 1))
        blocks.append(Block(draw(st.sampled_from(space.choices(k in reductions, edge))), edge))
    return Architecture(tuple(blocks), tuple(reductions), space.name)


def sides(architecture: Architecture) -> list[str]:
    """The kernel of each layer in words; "" for a skip."""
    sizes = [KERNELS[architecture.space][block.place] for block in architecture.layers]
    return ["" if b.kind == SKIP else f"{size}×{size}" for b, size in zip(architecture.layers, sizes, strict=True)]


def shortcuts(architecture: Architecture) -> list[str]:
    """The shortcut of each layer if it changes the shape of its input, and if not; what is beside a shuffled block."""
    changed, same = {
        "resnet": ("1×1 convolution", "identity"),
        "resnet-d": ("mean, then 1×1", "identity"),
        "spos": ("two branches", "half passes by"),
        "shuffle": ("two branches", "half passes by"),
    }.get(architecture.space, ("none", "identity"))
    return [
        "" if block.kind == SKIP else changed if k in architecture.reductions else same
        for k, block in enumerate(architecture.layers)
    ]


def block_of(band: ET.Element) -> ET.Element:
    (group,) = (g for g in band.iter(f"{SVG}g") if g.get("class") == "block")
    return group


def boxes_of(band: ET.Element) -> list[tuple[str, list[float]]]:
    """Color and corners (x, y, right, right below, y below, left) of the box of a layer, if it has one."""
    paths = [path for path in block_of(band).findall(f"{SVG}path") if path.get("fill") not in (None, "none")]
    return [(p.get("fill", ""), [float(n) for n in re.findall(r"-?[\d.]+", p.get("d", ""))]) for p in paths]


def check(architecture: Architecture) -> None:
    """Every layer once, from top to bottom, with its block, kernel, channels and shortcut."""
    drawn = bands(document(architecture, title="T", subtitle="S"))
    assert [int(band.get("data-layer", -1)) for band in drawn] == list(range(len(architecture)))
    heights: list[float] = []
    units, tall = [], {}
    layers = zip(drawn, architecture.layers, sides(architecture), shortcuts(architecture), strict=True)
    for k, (band, block, side, shortcut) in enumerate(layers):
        words = [f"layer {k} · {block.kind}"] + ([f"kernel {side}", f"shortcut: {shortcut}"] if side else [])
        group, label = block_of(band), label_of(block.kind)
        assert group.findtext(f"{SVG}title") == " · ".join(words)
        assert words_of(band)[-2:] == [f"{label} · {side}", shortcut] if side else words_of(band)[-1] == label
        lines = group.findall(f"{SVG}path")
        arcs = [path for path in lines if path.get("class") == "shortcut"]
        assert len(arcs) == (shortcut not in ("", "none"))
        assert all((arc.get("stroke-dasharray") is None) == (shortcut == "identity") for arc in arcs)
        found = boxes_of(band)
        assert [colour for colour, _ in found] == ([BLOCKS[block.kind].colour] if side else [])
        assert bool(side) or [line.get("stroke") for line in lines] == [SKIPPED]
        for _, (left, top, right, outer, bottom, inner) in found:
            heights += [top, bottom]
            tall[side] = round(bottom - top, 1)
            outputs = 2.0 ** sum(reduction <= k for reduction in architecture.reductions)
            inputs = outputs / 2 if k in architecture.reductions else outputs
            units += [(right - left) / inputs] if right - left > 4.2 else []
            units += [(outer - inner) / outputs] if outer - inner > 4.2 else []
    assert heights == sorted(heights)
    assert not units or max(units) - min(units) < 0.25, "boxes are as wide as the channels"
    assert [tall[side] for side in sorted(tall)] == sorted(set(tall.values())), "and as high as the kernel"


# --- SVG --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(chains())
def test_every_layer_is_drawn_with_what_it_is(architecture: Architecture) -> None:
    check(architecture)


@settings(max_examples=40, deadline=None)
@given(chains(), st.booleans(), st.sampled_from(("", "A title " * 30)))
def test_nothing_overlaps_or_leaves_the_drawing(architecture: Architecture, narrow: bool, title: str) -> None:
    root = document(architecture, title=title, subtitle=title, narrow=narrow)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    texts = sorted((box(text), text.text) for text in root.iter(f"{SVG}text"))
    for i, (here, words) in enumerate(texts):
        assert here[0] > 0 and here[2] < width and here[1] > 0 and here[3] < height, words
        for there, other in texts[i + 1 :]:
            assert there[0] >= here[2] or not overlap(here, there), (words, other)
    for band in bands(root):
        # The words of a layer start after its chip, which is the last small square of the band.
        chip = [rect for rect in band.findall(f"{SVG}rect") if rect.get("width") == "10"][-1]
        for _, (left, _, right, outer, _, inner) in boxes_of(band):
            assert max(right, outer) < float(chip.get("x", 0)) - 8
            tags = [box(text)[2] for text in band.findall(f"{SVG}text") if box(text)[0] < float(chip.get("x", 0))]
            assert min(left, inner) > max(tags), "a box covers a number or tag"


def test_stages_have_their_resolution_and_width_and_reductions_a_tint() -> None:
    for narrow in (False, True):
        root = document(sampling.sample(MOBILE, numpy_stream(0, "test"), 20), narrow=narrow)
        assert [word for word in words_of(root) if word.startswith("layers ")] == [
            "layers 0–5 · resolution 1 · width ×1",
            "layers 6–12 · resolution ½ · width ×2",
            "layers 13–19 · resolution ¼ · width ×4",
        ]
        marked = [rect.get("data-reduction") for rect in root.iter(f"{SVG}rect") if "data-reduction" in rect.attrib]
        assert marked == ["6", "13"]


def test_the_box_of_a_reduction_widens_and_the_others_do_not() -> None:
    for k, band in enumerate(bands(document(ODD))):
        for _, (left, _, right, outer, _, inner) in boxes_of(band):
            assert (outer - inner == pytest.approx(2 * (right - left), abs=0.4)) == (k in ODD.reductions)


@settings(max_examples=30, deadline=None)
@given(chains(), st.booleans())
def test_the_legend_counts_blocks_kernels_and_shortcuts(architecture: Architecture, narrow: bool) -> None:
    root = document(architecture, narrow=narrow)
    kinds = Counter(label_of(block.kind) for block in architecture.layers)
    kernels = Counter(side for side in sides(architecture) if side)
    legend = [word for word in words_of(root) if re.fullmatch(r".+ · \d+", word)]
    assert Counter(legend) == Counter(
        [f"{label} · {n}" for label, n in kinds.items()] + [f"kernel {side} · {n}" for side, n in kernels.items()]
    )
    around = {
        "shortcut by a 1×1 convolution": "1×1 convolution",
        "shortcut by a mean, then 1×1": "mean, then 1×1",
        "half of the channels passes by": "half passes by",
        "two branches": "two branches",
    }
    named = {shortcut for words, shortcut in around.items() if words in words_of(root)}
    assert named == {*shortcuts(architecture)} - {"", "none", "identity"}


@settings(max_examples=30, deadline=None)
@given(chains())
def test_screen_readers_get_a_title_and_all_counts(architecture: Architecture) -> None:
    root = document(architecture, title="a <b> & c")
    assert root.get("role") == "img" and root.get("aria-label") == root.findtext(f"{SVG}title") == "a <b> & c"
    told = root.findtext(f"{SVG}desc") or ""
    assert f"{len(set(architecture.layers))} distinct block" in told
    for label, n in Counter(label_of(block.kind) for block in architecture.layers).items():
        assert f"{label} {n}" in told
    for side, n in Counter(side for side in sides(architecture) if side).items():
        assert f"{side} {n}" in told.split("Kernels: ")[1]
    assert document(architecture).findtext(f"{SVG}title", "").startswith(f"Architecture of {len(architecture)} layer")


def test_equal_blocks_and_only_they_share_a_tag() -> None:
    architecture = sampling.sample(RESNET, numpy_stream(1, "test"), 20)
    tags = gene_tags(architecture)
    for (a, first), (b, second) in itertools.combinations(zip(tags, architecture.layers, strict=True), 2):
        assert (a == b) == (first == second)
    assert all(tag in words_of(band) for tag, band in zip(tags, bands(document(architecture)), strict=True))


def test_a_drawing_without_a_picture_is_an_error_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.PICTURES, Block)
    with pytest.raises(InputError, match=r"layers of the 'mobile' space \(Block\) cannot be drawn"):
        svg(ODD)


def test_a_thousand_reductions_can_be_drawn() -> None:
    many = Architecture((Block("basic", 0),) * 1000, tuple(range(1000)), "resnet")
    assert len(bands(document(many))) == 1000


@settings(max_examples=20, deadline=None)
@given(chains())
def test_a_thumbnail_has_a_strip_per_layer_in_the_color_of_its_block(architecture: Architecture) -> None:
    root = ET.fromstring(thumbnail(architecture, title="<t>"))
    assert root.findtext("title") == "<t>"
    strips = {path.get("fill"): path.get("d", "").count("M") for path in root.iter("path")}
    assert strips == Counter(colour_of(block.kind, "") for block in architecture.layers)


# --- terminal ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(chains(), st.sampled_from((100, 60, 40)))
def test_terminal_has_a_line_per_layer(architecture: Architecture, width: int) -> None:
    lines = printed(architecture, width)
    assert all(len(line) <= width for line in lines)
    heads = [match for line in lines if (match := re.fullmatch(r" *(\d+) ([NR]) ([A-Z]+) +(.+)", line))]
    layers = zip(architecture.layers, sides(architecture), shortcuts(architecture), strict=True)
    marks = {"": "", "none": "", "identity": " +"} | {s: f", {s}" for s in ("two branches", "half passes by")}
    expected = [f"{label_of(b.kind)} {side}".strip() + marks.get(s, f" + {s}") for b, side, s in layers]
    assert [int(head[1]) for head in heads] == list(range(len(architecture)))
    assert [head[2] == "R" for head in heads] == [k in architecture.reductions for k in range(len(architecture))]
    assert [head[3] for head in heads] == list(gene_tags(architecture))
    assert [head[4] for head in heads] == expected
    assert "equal letters: equal blocks" in " ".join(lines)


# --- one look-up for all spaces -------------------------------------------------------------------------


def test_every_operation_of_every_space_has_a_label_and_a_color_of_its_own_in_it() -> None:
    for space in SPACES.values():
        looks = [(label_of(name), colour_of(name, "")) for name in space.primitives]
        assert all(re.fullmatch("#[0-9A-F]{6}", colour) and label for label, colour in looks)
        assert len({label for label, _ in looks}) == len({colour for _, colour in looks}) == len(looks)
    assert operation("mbconv6") is BLOCKS["mbconv6"] and operation("sep_conv_3x3") is PRIMITIVES["sep_conv_3x3"]
    assert (operation("gone"), label_of("gone"), colour_of("gone", "#000000")) == (None, "gone", "#000000")
    assert not set(BLOCKS) & set(PRIMITIVES)


def test_operations_are_sorted_in_the_order_of_their_definition() -> None:
    assert ordered([*reversed(DARTS.primitives)]) == list(DARTS.primitives)
    assert ordered(["zz", "shuffle", "bottleneck", "mbconv6", "aa", "basic", "mbconv1", SKIP]) == [
        SKIP, "mbconv1", "mbconv6", "basic", "bottleneck", "shuffle", "aa", "zz",
    ]  # fmt: skip


def test_tables_by_depth_group_primitives_and_list_each_kind_of_block() -> None:
    groups = {name: group_of(name) for name in PRIMITIVES}
    assert {name for name, group in groups.items() if group == "convolutions"} == {
        name for name in PRIMITIVES if name.startswith(("sep_", "dil_", "conv_"))
    }
    assert {name for name, group in groups.items() if group == "pools"} == {"max_pool_3x3", "avg_pool_3x3"}
    assert groups[SKIP] == "skips" and groups["none"] is groups["noise"] is None
    cells = sampling.sample(DARTS, numpy_stream(0, "test"), 6)
    every = ["convolutions", "pools", "skips"]
    assert kinds_of([profile(cells)]) == kinds_of([[{SKIP: 1}]]) == every
    assert kinds_of([profile(ODD)]) == ["mb ×1", "mb ×3", "mb ×6", "skips"]
    assert kinds_of([profile(ODD), profile(cells)]) == ["convolutions", "pools", "mb ×1", "mb ×3", "mb ×6", "skips"]
    assert thirds([profile(ODD)], kinds_of([profile(ODD)])) == [
        ("mb ×1", ["0%", "0%", "50%"]),
        ("mb ×3", ["0%", "50%", "0%"]),
        ("mb ×6", ["50%", "0%", "50%"]),
        ("skips", ["50%", "50%", "0%"]),
    ]
    names = [SKIP, "mbconv1", "mbconv3", "mbconv6"]
    assert legend(profile(ODD)) == [(label_of(name), colour_of(name, "")) for name in names]
