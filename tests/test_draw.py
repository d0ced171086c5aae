"""The pictures say what the architecture is: edges, layers, reductions, equal genes; and nothing overlaps."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from drawing_tools import SVG, bands, box, document, overlap, printed, words_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dnas.drawing.style import gene_tags
from dnas.drawing.svg import svg
from dnas.drawing.terminal import terminal
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture, stack
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.primitives import PRIMITIVES
from dnas.space.published import load_published, published

# What no published genotype has: a node that reads one input four times, a dead node that is read.
ODD = Architecture(
    (
        Cell(
            (
                (("sep_conv_7x7", 0), ("conv_7x1_1x7", 0), ("sep_conv_3x3", 0), ("skip_connect", 0)),
                (),
                (("none", 3), ("dil_conv_5x5", 2)),
            ),
            (2,),
        ),
        Cell(((("skip_connect", 0),),)),
    ),
    (0, 1),
    "free",
)


def sample(seed: int, layers: int = 20) -> Architecture:
    return sampling.sample(DARTS, numpy_stream(seed, "sample"), layers)


def examples() -> dict[str, Architecture]:
    return {
        **{name: load_published(name, 8) for name in published()},
        "random": sample(0),
        "random, 3 layers": sample(1, 3),
        "random, 40 layers": sample(2, 40),
        "odd": ODD,
    }


EXAMPLES = pytest.mark.parametrize("architecture", examples().values(), ids=list(examples()))


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    """Any cell that can be built, with repeated inputs, dead nodes and a part of the nodes as output."""
    slots = [
        draw(st.lists(st.tuples(st.sampled_from(list(PRIMITIVES)), st.integers(0, n + 1)), max_size=5))
        for n in range(draw(st.integers(1, 7)))
    ]
    slots[0] = slots[0] or [("skip_connect", 0)]
    cell = Cell(tuple(map(tuple, slots)))
    return Cell(cell.nodes, tuple(draw(st.lists(st.sampled_from(cell.concat), unique=True))))


def edges(element: ET.Element) -> list[ET.Element]:
    return [g for g in element.iter(f"{SVG}g") if g.get("class") == "edge"]


def points(edge: ET.Element) -> list[tuple[float, float]]:
    """Start, top of the first bend, and end of an edge's line: M x y A … x y H x A … x y."""
    line = edge.findall(f"{SVG}path")[-1].get("d", "")
    n = [float(number) for number in re.findall(r"-?[\d.]+", line)]
    return [(n[0], n[1]), (n[7], n[8]), (n[-2], n[-1])]


def states(band: ET.Element) -> dict[str, ET.Element]:
    """The shape of every state by its label: the rectangle that comes right before the text."""
    found = {}
    for shape, label in itertools.pairwise(band):
        if shape.tag == f"{SVG}rect" and label.tag == f"{SVG}text" and re.fullmatch(r"[in]\d+", label.text or ""):
            found[label.text or ""] = shape
    return found


def check_edges(architecture: Architecture) -> None:
    """Every edge once, in its operation's colour, from the shape of its source to that of its node."""
    drawn = bands(document(architecture))
    assert [int(band.get("data-layer", -1)) for band in drawn] == list(range(len(architecture)))
    for k, (band, cell) in enumerate(zip(drawn, architecture.layers, strict=True)):
        expected: Counter[tuple[int, str, str]] = Counter()
        for n, node in enumerate(cell.nodes):
            for op, s in node:
                expected[n, f"input {s}" if s < 2 else f"node {s - 2}", op] += 1
        found: Counter[tuple[int, str, str]] = Counter()
        shapes = states(band)
        assert list(shapes) == ["i0", "i1", *(f"n{n}" for n in range(len(cell.nodes)))]
        lines = set()
        for edge in edges(band):
            title = edge.findtext(f"{SVG}title") or ""
            match = re.fullmatch(rf"layer {k} · node (\d+) ← ((\w)\w+ (\d+)) · (\w+)( · no signal)?", title)
            assert match, title
            found[int(match[1]), match[2], match[5]] += 1
            assert edge.findall(f"{SVG}path")[-1].get("stroke") == PRIMITIVES[match[5]].colour
            source = int(match[4]) + (2 if match[3] == "n" else 0)
            assert bool(match[6]) == (source not in cell.live_states)
            line = points(edge)
            for end, state in ((line[0], f"{match[3]}{match[4]}"), (line[-1], f"n{match[1]}")):
                left = float(shapes[state].get("x", 0))
                assert left < end[0] < left + float(shapes[state].get("width", 0))
            lines.add(tuple(line))
        assert found == expected
        assert len(lines) == sum(expected.values()), "two edges lie on one another"


# --- SVG --------------------------------------------------------------------------------------------


@EXAMPLES
def test_every_edge_is_drawn_once_with_its_operation(architecture: Architecture) -> None:
    check_edges(architecture)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 12))
def test_every_edge_of_a_random_architecture_is_drawn(seed: int, layers: int) -> None:
    check_edges(sample(seed, layers))


@settings(max_examples=60, deadline=None)
@given(st.lists(cells(), min_size=1, max_size=3))
def test_every_edge_of_a_cell_outside_the_space_is_drawn_apart(genes: list[Cell]) -> None:
    architecture = Architecture(tuple(genes), (), "free")
    check_edges(architecture)
    for band in bands(document(architecture)):
        lines = [(points(edge), (edge.findtext(f"{SVG}title") or "").split(" · ")[1]) for edge in edges(band)]
        for (line, words), (other_line, other_words) in itertools.combinations(lines, 2):
            (start, top, end), (other_start, other_top, other_end) = line, other_line
            beside = end[0] <= other_start[0] or other_end[0] <= start[0]
            assert beside or abs(top[1] - other_top[1]) > 3, "lines run along one another"
            above, other_above = top[1] < start[1], other_top[1] < other_start[1]
            if above != other_above:
                continue
            around = start[0] < other_start[0] and other_end[0] < end[0]
            inside = other_start[0] < start[0] and end[0] < other_end[0]
            if around or inside:
                assert (top[1] < other_top[1]) == (above == around), "an arc runs through one that it spans"
            if set(words.split(" ← ")) & set(other_words.split(" ← ")):
                assert around or inside or beside, "arcs that share an end cross"


def test_the_first_input_of_a_node_runs_above_and_the_second_below() -> None:
    architecture = sample(0)
    for band, cell in zip(bands(document(architecture)), architecture.layers, strict=True):
        for edge in edges(band):
            title = edge.findtext(f"{SVG}title") or ""
            node, kind, source = re.findall(r"node (\d+) ← (\w)\w+ (\d+)", title)[0]
            start, top, _ = points(edge)
            first = cell.nodes[int(node)][0][1] == int(source) + (2 if kind == "n" else 0)
            assert (top[1] < start[1]) == first


@EXAMPLES
def test_layers_run_from_top_to_bottom_and_reductions_are_marked(architecture: Architecture) -> None:
    root = document(architecture)
    heights = [float(states(band)["i0"].get("y", 0)) for band in bands(root)]
    assert heights == sorted(set(heights))
    marked = [rect.get("data-reduction") for rect in root.iter(f"{SVG}rect") if "data-reduction" in rect.attrib]
    assert marked == [str(k) for k in architecture.reductions]
    named = [k for k, band in enumerate(bands(root)) if "reduction ½" in words_of(band)]
    assert named == list(architecture.reductions)
    for k, band in enumerate(bands(root)):
        assert str(k) in words_of(band)[:2], "the layer's number"


def test_stages_follow_the_reductions() -> None:
    words = words_of(document(sample(0)))
    assert [word for word in words if word.startswith("layers ")] == [
        "layers 0–5 · resolution 1 · width ×1",
        "layers 6–12 · resolution ½ · width ×2",
        "layers 13–19 · resolution ¼ · width ×4",
    ]


@EXAMPLES
def test_the_gene_is_spelled_out_and_the_legend_counts(architecture: Architecture) -> None:
    root = document(architecture)
    for band, cell in zip(bands(root), architecture.layers, strict=True):
        spelled = words_of(band)[-2 * sum(map(len, cell.nodes)) - sum(not node for node in cell.nodes) :]
        expected = []
        for node in cell.nodes:
            expected += [] if node else ["no input"]
            for op, source in node:
                expected += [PRIMITIVES[op].label, f"← i{source}" if source < 2 else f"← n{source - 2}"]
        assert spelled == expected
    counts = Counter(op for cell in architecture.layers for node in cell.nodes for op, _ in node)
    legend = {word for word in words_of(root) if re.fullmatch(r".+ · \d+", word)}
    assert legend == {f"{PRIMITIVES[op].label} · {n}" for op, n in counts.items()}


@EXAMPLES
@pytest.mark.parametrize("words", [{}, {"title": "A title " * 40, "subtitle": "and its subtitle " * 40}])
def test_no_text_touches_another_text_or_an_edge(architecture: Architecture, words: dict[str, str]) -> None:
    root = document(architecture, **words)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    assert (root.get("width"), root.get("height")) == tuple(root.get("viewBox", "").split()[2:])
    texts = list(root.iter(f"{SVG}text"))
    boxes = sorted((box(text), text.text) for text in texts)
    for i, (here, words_here) in enumerate(boxes):
        assert here[0] > 0 and here[2] < width and here[1] > 0 and here[3] < height, words_here
        for there, other in boxes[i + 1 :]:
            if there[0] >= here[2]:  # boxes are sorted by their left side
                break
            assert not overlap(here, there), (words_here, other)
    lines = []
    for edge in edges(root):
        xs, ys = zip(*points(edge), strict=True)
        lines.append((min(xs) - 2, min(ys) - 2, max(xs) + 2, max(ys) + 2))
    labels = {id(text) for band in bands(root) for text in band if re.fullmatch(r"[in]\d+", text.text or "")}
    for text in texts:
        if id(text) not in labels:
            assert not any(overlap(box(text), line) for line in lines), text.text
    # A state's own label lies in its shape, which lines only touch from above and below.
    for band in bands(root):
        top = float(states(band)["i0"].get("y", 0))
        bottom = top + float(states(band)["i0"].get("height", 0))
        assert all(y <= top + 0.1 or y >= bottom - 0.1 for edge in edges(band) for _, y in points(edge))


def test_nodes_outside_the_output_are_hollow_and_dead_ones_dashed() -> None:
    shapes = states(bands(document(ODD))[0])
    assert shapes["n0"].get("fill") not in (shapes["n1"].get("fill"), shapes["n2"].get("fill"))
    assert shapes["n1"].get("fill") == shapes["n2"].get("fill")
    assert [name for name, shape in shapes.items() if shape.get("stroke-dasharray")] == ["n1"]
    words = words_of(document(ODD))
    assert "not part of the output" in words and "node without a signal" in words
    assert "not part of the output" not in words_of(document(sample(0)))


def test_kinds_of_operations_differ_without_colour() -> None:
    looks = {}
    for op in PRIMITIVES:
        line = edges(document(Architecture((Cell((((op, 0),),)),), (), "free")))[0].findall(f"{SVG}path")[-1]
        looks[op] = (line.get("stroke-width"), line.get("stroke-dasharray"))
    assert len({looks[op] for op in DARTS.primitives}) == len(DARTS.primitives)
    solid = {op for op, (_, dashes) in looks.items() if dashes is None}
    assert solid == {"skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "conv_7x1_1x7", "noise"}


def test_titles_are_escaped_and_kept_to_what_xml_allows() -> None:
    root = document(sample(0, 5), title='<&> "quoted"\n\x00\x1b next', subtitle="a < b & c")
    assert root.findtext(f"{SVG}title") == '<&> "quoted" next' == root.get("aria-label")
    assert words_of(root)[:2] == ['<&> "quoted" next', "a < b & c"]
    assert root.get("role") == "img"
    assert "5 layers, 5 distinct cells" in (root.findtext(f"{SVG}desc") or "")


def test_an_untitled_picture_has_a_title() -> None:
    assert document(sample(0, 5)).findtext(f"{SVG}title") == "Architecture of 5 layers"


def test_the_picture_is_self_contained_and_the_same_every_time() -> None:
    first = sample(0)
    text = svg(first)
    assert text == svg(Architecture(first.layers, first.reductions, first.space, {"other": "origin"}))
    assert not re.search(r"<script|<style|url\(|href|<image", text)
    background = document(first).find(f"{SVG}rect")
    assert background is not None and background.get("fill") == "#FFFFFF"


@EXAMPLES
def test_equal_genes_and_only_they_share_a_tag(architecture: Architecture) -> None:
    tags = gene_tags(architecture)
    for (a, first), (b, second) in itertools.combinations(zip(tags, architecture.layers, strict=True), 2):
        assert (a == b) == (first == second)
    assert all(tag in words_of(band) for tag, band in zip(tags, bands(document(architecture)), strict=True))


def test_tags_go_on_after_z() -> None:
    tags = gene_tags(sample(2, 60))
    assert tags[:2] == ("A", "B") and tags[25:28] == ("Z", "AA", "AB") and tags[52] == "BA"


def test_the_header_tells_stacked_cells_from_free_layers() -> None:
    assert "8 layers, 2 distinct cells: A×2 B A×2 B A×2" in words_of(document(load_published("DARTS_V2", 8)))
    assert "8 layers, 8 distinct cells: every layer has its own" in words_of(document(sample(0, 8)))
    assert any("outside the search space" in word for word in words_of(document(load_published("NASNet-A", 8))))


# --- terminal ---------------------------------------------------------------------------------------


@EXAMPLES
@pytest.mark.parametrize("width", [100, 60])
def test_terminal_names_every_layer_and_fits(architecture: Architecture, width: int) -> None:
    lines = printed(architecture, width)
    # One node of the odd architecture is as wide as a terminal; rich folds it there.
    assert all(len(line) <= width for line in lines) or architecture is ODD
    heads = [re.match(r" *(\d+) ([NR]) ([A-Z]+) ", line) for line in lines]
    found = [(int(head[1]), head[2] == "R", head[3]) for head in heads if head]
    tags = gene_tags(architecture)
    assert found == [(k, k in architecture.reductions, tags[k]) for k in range(len(architecture))]


@pytest.mark.parametrize("width", [100, 60])
def test_terminal_spells_out_every_gene(width: int) -> None:
    architecture = sample(0)
    text = "\n".join(printed(architecture, width))
    genes = re.split(r"\n *\d+ [NR] [A-Z]+ ", text.split("\nshallow")[0])[1:]
    for gene, cell in zip(genes, architecture.layers, strict=True):
        slots = [
            f"{PRIMITIVES[op].label}←{'i' if source < 2 else 'n'}{source if source < 2 else source - 2}"
            for node in cell.nodes
            for op, source in node
        ]
        assert re.findall(r"(?:skip|\w+ \d×\d)←\w\d", gene) == slots


def test_terminal_counts_operations_by_depth() -> None:
    architecture = stack(sample(0, 3).layers[0], sample(1, 3).layers[0], 6)
    text = " ".join(printed(architecture, 100))
    for op in DARTS.primitives:
        counts = [
            sum(each == op for cell in architecture.layers[t : t + 2] for node in cell.nodes for each, _ in node)
            for t in (0, 2, 4)
        ]
        line = f"{PRIMITIVES[op].label} {'·'.join(map(str, counts))}"
        assert (line in text) == (sum(counts) > 0)


def test_terminal_says_what_is_outside_the_space() -> None:
    text = "\n".join(printed(load_published("NASNet-A", 8), 100))
    assert "outside the search space" in text and "output n2 n3 n4" in text
    assert "no input" in "\n".join(printed(load_published("FairDARTS_a", 8), 100))


def test_terminal_reads_the_same_without_colour() -> None:
    colourless = printed(sample(0), 100, force_terminal=True, no_color=True)
    coloured = printed(sample(0), 100, force_terminal=True)
    plain = printed(sample(0), 100)
    strip = re.compile(r"\x1b\[[\d;]*m")
    assert [strip.sub("", line) for line in coloured] == plain == [strip.sub("", line) for line in colourless]
    assert coloured != plain


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    file = io.StringIO()
    Console(file=file, width=24).print(terminal(ODD, width=24))
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 24 for line in lines)
    assert "".join(" ".join(lines).split()).count("sep7×7←i0") == 1


def test_a_picture_needs_neither_torch_nor_rich() -> None:
    code = (
        "import sys; from dnas.space.published import load_published; from dnas.drawing.svg import svg; "
        "svg(load_published('DARTS_V2')); print({'torch', 'rich', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
