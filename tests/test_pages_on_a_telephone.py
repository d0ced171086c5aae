"""Reports on a screen of 390 pixels: every chart is seen whole, and no label is cut, however long names are."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

import browser_tools
import pytest
from faults.harness import TINY, invoke, make_images
from study_tools import make_study

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from dnas.pages import charts, figure, report
from dnas.space.published import load_published

PHONE = 390
LONG = ("a species of bird with a long name", "Donaudampfschifffahrtsgesellschaftskapitän", "c")
ROWS = tuple(
    (f"{method} (decoupled){control}", kind, "global", f"{method} (decoupled)" if control else None, error)
    for method, error in (("regularised-evolution", 0.07), ("bayes-nas-with-a-long-name", 0.09))
    for control, kind in (("", "searched"), (", random, same size", "random"), (", layers shuffled", "shuffled"))
)


# --- by the charts' own measures: no browser is needed ------------------------------------------------------------


def texts_outside(svg: str) -> list[str]:
    """Texts of a chart that reach beyond it, in the width of the font that charts measure by."""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    outside = []
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", svg):
        if "rotate(-90" in attributes:
            continue
        at = re.search(r'x="([-\d.]+)"', attributes) or re.search(r"translate\(([-\d.]+)", attributes)
        size = re.search(r"font-size: ([\d.]+)", attributes)
        taken = figure.text_width(text) * (float(size[1]) if size else figure.FONT) / figure.FONT
        share = {"middle": 0.5, "end": 1.0}.get((re.search(r"text-anchor: (\w+)", attributes) or ["", ""])[1], 0.0)
        left = float(at[1]) - share * taken
        if left < -1 or left + taken > width + 1:
            outside.append(text)
    return outside


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["short", *(row[0] for row in ROWS), "W" * 60, "名前 " * 30])
def test_texts_of_charts_lie_within_them(name, narrow):
    rows = [charts.Interval(f"{name} − its random, same size", 0.1, 0.05, 0.2), charts.Interval("b", 0.2)]
    label = "difference in points; left of zero: the first is better"
    layers = [{"skip_connect": 2, "sep_conv_3x3": 6}] * 20
    for svg in (
        charts.intervals("a", "t", rows, label=label, narrow=narrow),
        charts.shares_by_layer("b", "t", layers, reductions=(6, 13), narrow=narrow),
        charts.scatter("c", "t", [charts.Point("12", "random", 3, 0.1)], x_label="x", y_label="y", narrow=narrow),
    ):
        assert texts_outside(svg) == []


@pytest.mark.parametrize("narrow", [False, True])
def test_names_of_rows_are_whole(narrow):
    for name, *_ in ROWS:
        svg = charts.intervals("a", "t", [charts.Interval(f"12 {name}", 0.1)], label="x", narrow=narrow)
        drawn = " ".join(re.findall(r"<text [^>]*>([^<]*)</text>", svg))
        assert f"12 {name}" in drawn and "…" not in svg


@pytest.mark.parametrize("at", [1, 2, 5, 9, 10])
def test_the_mark_of_an_epoch_lies_within_the_chart(at):
    line = charts.Series("validation", list(range(1, 11)), [0.1 * i for i in range(10)])
    assert texts_outside(charts.lines("a", "t", [line], mark=(at, "architecture moves"))) == []


@pytest.mark.parametrize("layers", [3, 8, 14, 20, 40])
@pytest.mark.parametrize("narrow", [False, True])
def test_numbers_of_layers_do_not_touch(layers, narrow):
    reductions = (layers // 3, 2 * layers // 3)
    svg = charts.shares_by_layer("a", "t", [{"none": 1}] * layers, reductions=reductions, narrow=narrow)
    ticks = re.findall(r'<text [^>]*?(?:x="|translate\()([-\d.]+)[^>]*>(\d+(?: ½)?)</text>', svg)
    assert [name for _, name in ticks if "½" in name] == [f"{k} ½" for k in reductions]
    ends = sorted((float(x) - figure.text_width(name) / 2, float(x) + figure.text_width(name) / 2) for x, name in ticks)
    assert all(left > right for (_, right), (left, _) in pairwise(ends))


def test_a_long_name_is_folded_and_only_a_very_long_one_is_cut():
    room = 200
    for text in (*LONG, "word " * 12, "名前" * 10, "x" * 70):
        folded = figure.folded(text, room)
        assert "…" not in folded and "".join(folded.split()) == "".join(text.split())
        assert all(figure.text_width(line) <= room for line in folded.split("\n"))
    cut = figure.folded("many words " * 40, room)
    assert cut.endswith("…") and cut.count("\n") == figure.LINES - 1
    assert all(figure.text_width(line) <= room for line in cut.split("\n"))


# --- in a browser -------------------------------------------------------------------------------------------------

PROGRAM = browser_tools.chromium()
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        PROGRAM is None, reason=f"no Chromium here: none of {', '.join(browser_tools.NAMES)} is on PATH"
    ),
]

# Pictures that are wider than the window, and texts that reach beyond their picture.
CUT = """[...document.querySelectorAll('svg, img')].flatMap(picture => {
  const box = picture.getBoundingClientRect(), room = document.documentElement.clientWidth;
  if (!box.width) return [];
  const texts = [...picture.querySelectorAll('text')].filter(text => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  }).map(text => text.textContent);
  return [...(box.left < -0.5 || box.right > room + 0.5 ? [picture.outerHTML.slice(0, 200)] : []), ...texts];
})"""

# Headings of tables that do not show all that they hold, and captions that leave the window.
LABELS = """[...document.querySelectorAll('th, caption, figcaption, h1, h2, h3, dt, dd, legend')].filter(e => {
  const range = document.createRange();
  range.selectNodeContents(e);
  const own = range.getBoundingClientRect(), box = e.getBoundingClientRect();
  if (!own.width) return false;
  const scrolls = e.tagName === 'TH';
  return own.right > box.right + 1 || own.left < box.left - 1 || own.bottom > box.bottom + 1
    || e.scrollWidth > e.clientWidth + 1 || getComputedStyle(e).textOverflow === 'ellipsis'
    || (!scrolls && own.right > document.documentElement.clientWidth + 1);
}).map(e => e.outerHTML.slice(0, 200))"""

CONTRAST = Path(__file__).with_name("contrast.js").read_text("utf-8")
SHOWN = """[...document.querySelectorAll('svg.chart')].filter(e => e.getBoundingClientRect().width > 0)
  .map(e => e.querySelector('title').textContent)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert PROGRAM is not None
    with browser_tools.Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run over classes with long names, with its curves and the mark of its warm-up; and a study."""
    folder = tmp_path_factory.mktemp("telephone")
    images = make_images(folder / "images", classes=len(LONG))
    for old, new in zip(sorted(images.iterdir()), LONG, strict=True):
        shutil.move(old, images / new)
    longer = ("--search-epochs", 4, "-o", "search.warmup_epochs=1")
    outcome = invoke("run", "--data", images, *TINY, *longer, "--out", folder / "run", "--json")
    assert outcome.code == 0, outcome.err
    published = folder / "published"
    shutil.copytree(folder / "run", published)
    # 20 layers of five kinds of operations, and a node more than usual.
    load_published("NASNet-A", 20).save(published / "architecture.json")
    (folder / "study").mkdir()
    make_study(folder / "study", ROWS, layers=20)
    return {
        "run": report.report(folder / "run"),
        "published": report.report(published),
        "study": report.report(folder / "study"),
    }


@pytest.mark.parametrize("name", ["run", "published", "study"])
class TestOnATelephone:
    pytestmark = in_browser

    def look(self, browser: browser_tools.Browser, page: Path, width: int) -> None:
        browser.look(width)
        browser.open(page)

    @pytest.mark.parametrize("width", [320, 360, PHONE, 640])
    def test_every_picture_is_seen_whole_and_no_label_in_it_is_cut(self, browser, pages, name, width):
        self.look(browser, pages[name], width)
        assert browser.value("document.body.scrollWidth <= document.body.clientWidth")
        assert browser.value(CUT) == []

    def test_no_label_of_the_page_is_cut(self, browser, pages, name):
        self.look(browser, pages[name], PHONE)
        assert browser.value(LABELS) == []

    def test_a_chart_is_there_once_on_every_screen(self, browser, pages, name):
        self.look(browser, pages[name], 1280)
        broad = browser.value(SHOWN)
        self.look(browser, pages[name], PHONE)
        assert browser.value(SHOWN) == broad
        assert len(set(broad)) == len(broad) > 4

    def test_letters_of_charts_can_be_read(self, browser, pages, name):
        self.look(browser, pages[name], PHONE)
        sizes = browser.value("""[...document.querySelectorAll('svg.chart text, #network text')]
          .filter(e => e.getBoundingClientRect().width > 0).map(e => {
            const svg = e.ownerSVGElement;
            return parseFloat(getComputedStyle(e).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
          })""")
        assert min(sizes) > 8

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_contrast(self, browser, pages, name, scheme):
        browser.look(PHONE, scheme)
        browser.open(pages[name])
        assert browser.value(f"({CONTRAST})()")["low"] == []
