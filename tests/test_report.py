"""Pages are read back with the standard library's parser, as a browser would find them."""

import builtins
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import browser_tools
import numpy as np
import pytest
from faults.harness import TINY, invoke, make_images
from PIL import Image
from study_tools import ROWS, make_study, write_study

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from dnas.data.splits import DataInfo, load_test
from dnas.errors import InputError
from dnas.pages import mistakes, report
from dnas.pages.template import mean_layer, thirds
from dnas.pipeline.model import load_model
from dnas.space.primitives import PRIMITIVES
from dnas.training.accuracy import predict

VOID = {"meta", "link", "img", "br", "wbr"}
HOSTILE = "<script>alert('1')</script>\"'&<b> 名前 \U0001f600"


class Page(HTMLParser):
    """What a page holds: tags with their attributes, ids, headings, the text outside of styles; checks nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.raw = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def assert_whole(page: Page, folder: Path) -> None:
    """What holds for every page: it stands alone, says what it shows, and leads to files that are there."""
    assert page.raw.startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]
    assert page.all("title")  # the page's first, then those of pictures
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1, landmark
    assert not page.all("script") and not page.all("iframe") and not page.all("object")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "poster", "srcset", "data"):
            address = attributes.get(name)
            if address is None or address.startswith(("#", "data:image/png;base64,")) or address == "data:,":
                continue
            assert tag == "a" and address.startswith("./"), (tag, address)
            assert (folder / unquote(address)).exists(), address
    assert not re.search(r"@import|url\((?!#)", page.raw)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.tags:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
    inside = [a["href"][1:] for a in page.all("a") if a.get("href", "").startswith("#")]
    assert inside[0] == "main" and set(inside) <= set(ids)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(page.headings))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
    assert len(page.raw.encode()) < 3_000_000


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("report") / "images", classes=3)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("report-run") / "run"
    outcome = invoke("run", "--data", images, *TINY, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    return out


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_the_page_of_a_run_is_whole_and_the_command_says_where_it_lies(run):
    outcome = invoke("report", run)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{run / 'report.html'}\n"
    page = read(run / "report.html")
    assert_whole(page, run)
    for words in ("Against chance", "Operations by depth", "How it went", "How it was decided", "Mistakes", "Settings"):
        assert words in page.words
    # The same words as in a terminal.
    result = json.loads((run / "result.json").read_text())
    from dnas.study import verdict

    assert verdict.of_run(result) in page.words
    assert f"{round(18 * result['test_accuracy'])} of them right" in page.words
    assert f"{result['params']:,}" in page.words


def test_out_and_json(run, tmp_path):
    outcome = invoke("report", run, "--out", tmp_path / "page.html", "--json")
    assert outcome.json == {"report": str(tmp_path / "page.html"), "bytes": (tmp_path / "page.html").stat().st_size}
    assert not (run / "report.html").exists()
    assert_whole(read(tmp_path / "page.html"), tmp_path)  # links lead from where the page lies


def test_a_second_page_is_the_same_page(run):
    report.report(run)
    first = (run / "report.html").read_bytes()
    report.report(run)
    assert (run / "report.html").read_bytes() == first


def cells(page: Page, caption: str) -> list[list[str]]:
    """The texts of a table's rows."""
    table = re.search(rf"<caption>{re.escape(caption)}.*?</table>", page.raw, re.S)
    assert table, caption
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr>.*?</tr>", table[0], re.S)
    ]


def test_the_confusion_matrix_and_the_mistakes_are_those_of_the_stored_network(run, images):
    report.report(run)
    page = read(run / "report.html")
    network, info = load_model(run)
    split = load_test(str(images), info)
    predicted = predict(network, split, info)
    head, *rows = cells(page, "Confusion matrix")
    assert head == ["true class", *info.classes] and [row[0] for row in rows] == list(info.classes)
    for i, row in enumerate(rows):
        for j, count in enumerate(row[1:]):
            assert int(count) == int(((split.labels == i) & (predicted == j)).sum())
    wrong = int((predicted != split.labels).sum())
    assert wrong > 0, "two epochs teach this network everything; the test needs mistakes"
    pictures = page.all("img")
    assert len(pictures) == min(wrong, mistakes.WORST)
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    alts = {
        f"Test picture of {info.classes[t]}, taken for {info.classes[p]}"
        for t, p in zip(split.labels, predicted, strict=True)
        if t != p
    }
    assert {picture["alt"] for picture in pictures} <= alts
    sure = [int(n) for n in re.findall(r"(\d+)(?:&nbsp;| )% sure", page.raw)]
    assert len(sure) == len(pictures) and sure == sorted(sure, reverse=True)
    assert "had recorded" not in page.words


def test_the_picture_of_a_mistake_is_the_test_picture():
    import base64
    import io

    for channels in (1, 3):
        image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (channels, 8, 8), np.uint8))
        data = base64.b64decode(mistakes._picture(image).partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(data))).reshape(8, 8, channels).transpose(2, 0, 1)
        assert (pixels == image.numpy()).all()
    large = mistakes._picture(torch.zeros(3, 512, 256, dtype=torch.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(large.partition(",")[2]))).size == (48, 96)


def test_many_classes_give_pairs_and_no_matrix():
    classes = tuple(f"c{i}" for i in range(200))
    info = DataInfo("x", classes, 3, 32, (0.5,) * 3, (0.5,) * 3, True)
    matrix = torch.zeros(200, 200, dtype=torch.int64).fill_diagonal_(40)
    matrix[7, 150], matrix[150, 7], matrix[3, 4] = 9, 10, 9
    pairs = mistakes._confused(matrix, info)
    assert [(p["true"], p["predicted"], p["count"]) for p in pairs] == [
        ("c150", "c7", 10),
        ("c3", "c4", 9),
        ("c7", "c150", 9),
    ]
    assert mistakes._recalls(matrix, info)[0] == {"name": "c150", "right": 40, "of": 50}
    assert len(classes) > mistakes.MATRIX_CLASSES


def test_mistakes_are_shaded_by_their_share_of_the_row():
    info = DataInfo("x", ("a", "b"), 1, 8, (0.5,), (0.5,), True)
    rows = mistakes._matrix(torch.tensor([[95, 5], [100, 0]]), info)
    assert rows[0]["cells"] == [(95, "right"), (5, "tone-1")]
    assert rows[1]["cells"] == [(100, "tone-5"), (0, "right")]


def test_data_that_are_gone_or_changed_are_said_and_left_out(run, images, tmp_path):
    moved = images.with_name("moved")
    images.rename(moved)
    try:
        report.report(run)
    finally:
        moved.rename(images)
    page = read(run / "report.html")
    assert_whole(page, run)
    assert "cannot be shown" in page.words and "images" in page.words and "Confusion matrix" not in page.words
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(re.sub(r'(fingerprint = "\w+-)\w+', r"\g<1>0123", config))
    report.report(run)
    assert "have changed since the run" in read(run / "report.html").words


def test_a_named_set_that_is_not_here_is_not_downloaded(run, monkeypatch):
    from dnas.data.sources import registry as sources
    from dnas.pipeline import model

    def download(*_):
        raise AssertionError("a report downloads nothing")

    network, info = load_model(run)
    monkeypatch.setattr(sources, "_download", download)
    monkeypatch.setattr(model, "load_model", lambda _: (network, DataInfo(**{**vars(info), "source": "cifar100"})))
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(re.sub(r'data_dir = "[^"]*"', f'data_dir = "{run.as_posix()}"', config))
    report.report(run)
    assert "cifar100 is not on this machine" in read(run / "report.html").words


@pytest.mark.parametrize("damage", ["model", "architecture", "result", "metrics"])
def test_a_damaged_file_is_one_line_or_is_left_out(run, damage):
    name = {"model": "model.safetensors", "architecture": "architecture.json", "result": "result.json"}.get(
        damage, "metrics.jsonl"
    )
    data = b"{\n{}\n" if damage == "metrics" else b"{"
    (run / name).write_bytes(data)
    outcome = invoke("report", run)
    if damage == "model":  # the page stands without it
        assert outcome.code == 0 and "cannot be shown" in read(run / "report.html").words
    else:
        assert outcome.code == 2 and len(outcome.lines) == 1 and name in outcome.err
        assert not (run / "report.html").exists()


@pytest.mark.parametrize("stage", ["nothing", "search", "train"])
def test_an_interrupted_run_gives_a_page_of_what_is_there(run, stage):
    (run / "result.json").unlink()
    (run / "model.safetensors").unlink()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    if stage == "nothing":
        (run / "metrics.jsonl").unlink()
    elif stage == "search":
        (run / "metrics.jsonl").write_bytes(lines[0] + lines[1][:20])  # a torn line, as a run writes on
    else:
        (run / "metrics.jsonl").write_bytes(b"".join(lines[:3]))
    if stage != "train":
        (run / "architecture.json").unlink()
    outcome = invoke("report", run)
    assert outcome.code == 0, outcome.err
    page = read(run / "report.html")
    assert_whole(page, run)
    said = {
        "nothing": "has not finished an epoch",
        "search": "is of search, epoch 1",
        "train": "is of training, epoch 1",
    }
    assert said[stage] in page.words
    assert ("How it went" in page.words) == (stage != "nothing")
    assert ("The network" in page.words) == (stage == "train")
    assert "Against chance" not in page.words and "Mistakes" not in page.words


@pytest.mark.parametrize("command", ["search", "train"])
def test_searches_by_trials_and_trainings_have_a_page(images, tmp_path, command, whole):
    arguments = {
        "search": ("search", "--method", "random", "-o", "search.trials=2", *TINY),
        "train": ("train", whole, "--epochs", 1, "--channels", 8),
    }[command]
    outcome = invoke(*arguments, "--data", images, "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    report.report(tmp_path / "run")
    page = read(tmp_path / "run" / "report.html")
    assert_whole(page, tmp_path / "run")
    assert "Against chance" not in page.words
    assert ("every candidate" in page.words) == (command == "search")


def test_the_network_of_a_page_takes_the_pages_colours(run):
    report.report(run)
    text = (run / "report.html").read_text("utf-8")
    body = text[text.index("<body>") :]
    operations = {p.colour for p in PRIMITIVES.values()}
    assert {c.upper() for c in re.findall(r"#[0-9a-fA-F]{6}\b", body)} <= operations


def test_hostile_names_are_text(tmp_path):
    """Names of classes and of folders are shown and are no markup."""
    hostile = HOSTILE.replace("/", "")
    source = make_images(tmp_path / f"data {hostile}", classes=2)
    for i, folder in enumerate(sorted(source.iterdir())):
        folder.rename(source / f"{i} {hostile}")
    run = tmp_path / f"run {hostile}"
    outcome = invoke("run", "--data", source, *TINY, "--no-baseline", "--out", run, "--json")
    assert outcome.code == 0, outcome.err
    report.report(run)
    page = read(run / "report.html")
    assert_whole(page, run)
    assert not page.all("b") and f"0 {hostile}" in page.words and f"data {hostile}" in page.words


# --- studies ----------------------------------------------------------------------------------------------------


def test_the_page_of_a_study_is_whole(tmp_path):
    study = make_study(tmp_path, missing=("dnas seed 9",))
    (tmp_path / "runs/row0-s0/report.html").write_text("a page")
    outcome = invoke("report", tmp_path)
    assert outcome.code == 0, outcome.err
    page = read(tmp_path / "report.html")
    assert_whole(page, tmp_path)
    thumbnails = [a for a in page.all("svg") if a.get("class") == "thumbnail"]
    assert len(thumbnails) == 4 * len(ROWS)
    links = [a["href"] for a in page.all("a") if a["href"].startswith("./")]
    assert "./runs/row0-s0/report.html" in links and "./runs/row1-s3/" in links
    rows = cells(page, "Test error, size and cost")
    for row, entry in zip(rows[1:], study["rows"], strict=True):
        assert row[1] == entry["name"]
        error = entry["test_error"]
        assert row[3].replace("&nbsp;", " ") == f"{100 * error['mean']:.2f} ± {100 * error['sd']:.2f} %"
    for practice in study["practices"]:
        assert practice["practice"] in page.words and practice["why"] in page.words
    assert [w in page.words for w in ("✓ met", "✗ not met", "? not known")] == [True] * 3
    assert "dnas seed 9" in page.words and "1 run of this study is not done yet" in page.words.lower()


def test_depth_profiles_are_means_over_a_rows_searches(tmp_path):
    layers = [[{"skip_connect": 8}, {"skip_connect": 2, "none": 2}], [{"none": 1}, {"none": 4}]]
    assert mean_layer([layers[0][0], layers[1][0]]) == {"skip_connect": 0.5, "none": 0.5}
    assert mean_layer([layers[0][1], layers[1][1]]) == {"skip_connect": 0.25, "none": 0.75}
    shares = thirds(
        [[{"sep_conv_3x3": 6, "skip_connect": 2}, {"max_pool_3x3": 1}, {"skip_connect": 3, "dil_conv_3x3": 1}]]
    )
    assert shares == [
        ("convolutions", ["75 %", "0 %", "25 %"]),
        ("pools", ["0 %", "100 %", "0 %"]),
        ("skips", ["25 %", "0 %", "75 %"]),
    ]


def test_hostile_names_in_a_study_are_text(tmp_path):
    rows = [(f"{HOSTILE} {i}", HOSTILE, HOSTILE, None if i == 0 else f"{HOSTILE} 0", 0.1) for i in range(2)]
    study = make_study(tmp_path, rows, layers=3, searches=2, missing=(HOSTILE,))
    study |= dict.fromkeys(("data", "preset", "command"), HOSTILE)
    for row in study["rows"]:
        row |= {"method": HOSTILE, "mapping": HOSTILE}
    for practice in study["practices"]:
        practice |= {"practice": HOSTILE, "why": HOSTILE}
    study["rows"][0]["searches"][0]["run"] = "javascript:alert(1)"
    study["rows"][0]["searches"][1]["run"] = "../../../etc"
    (tmp_path / "javascript:alert(1)").mkdir()
    shutil.copy(tmp_path / "runs/row1-s0/architecture.json", tmp_path / "javascript:alert(1)")
    write_study(tmp_path, study)
    report.report(tmp_path)
    page = read(tmp_path / "report.html")
    assert_whole(page, tmp_path)
    assert not page.all("b") and page.words.count("<script>") > 10
    links = [a["href"] for a in page.all("a")]
    assert "./javascript%3Aalert%281%29/" in links and not [link for link in links if "etc" in link]


def test_what_is_not_known_yet_leaves_the_page_whole(tmp_path):
    study = make_study(tmp_path, ROWS[:3], layers=3, searches=1)
    for row in study["rows"]:
        row |= {"params": None, "macs": None, "search_seconds": None, "best": None}
        row["test_error"] = dict.fromkeys(("mean", "sd", "low", "high")) | {"count": 0}
        for search in row["searches"]:
            search |= {"validation_accuracy": None, "params": None, "macs": None, "run": "runs/none", "trainings": []}
    study["rows"][1]["searches"] = []
    study["differences"] = [dict.fromkeys(study["differences"][0]) | {"a": "x", "b": "y"}]
    for key in ("test_images", "preset", "command", "practices", "missing"):
        del study[key]
    write_study(tmp_path, study)
    report.report(tmp_path)
    page = read(tmp_path / "report.html")
    assert_whole(page, tmp_path)
    assert "There are no test results yet" in page.words and "None" not in page.words


def test_a_large_study_stays_small(tmp_path):
    rows = [(f"method {i}", "searched", "global", None, 0.07 + 0.001 * i) for i in range(20)]
    make_study(tmp_path, rows, layers=20, searches=6)
    assert report.report(tmp_path).stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
        ('{"format": "dnas-study/9"}', "dnas-study/9"),
        ('{"format": "dnas-study/1"}', "rows"),
        ('{"format": "dnas-study/1", "rows": [1], "differences": []}', "damaged"),
    ],
)
def test_a_damaged_study_is_one_line(tmp_path, content, says):
    (tmp_path / "study.json").write_text(content)
    outcome = invoke("report", tmp_path)
    assert outcome.code == 2 and len(outcome.lines) == 1 and says in outcome.err and "study.json" in outcome.err


# --- what is refused ----------------------------------------------------------------------------------------------


def test_other_folders_are_refused_in_one_line(tmp_path, run):
    for path in (tmp_path, tmp_path / "nope", run / "result.json"):
        outcome = invoke("report", path)
        assert outcome.code == 2 and outcome.out == "" and len(outcome.lines) == 1 and str(path) in outcome.err
    outcome = invoke("report", run, "--out", tmp_path / "nowhere" / "page.html")
    assert outcome.code == 2 and "--out" in outcome.err and "nowhere" in outcome.err
    outcome = invoke("report", run, "--out", tmp_path)
    assert outcome.code == 2 and "--out" in outcome.err and len(outcome.lines) == 1


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_the_remedy(run, monkeypatch, package):
    original = builtins.__import__

    def refuse(name, *rest):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=re.escape("pip install 'dnas[report]'")) as caught:
        report.report(run)
    assert package in str(caught.value) and "\n" not in str(caught.value)


# --- in a browser -------------------------------------------------------------------------------------------------

PROGRAM = browser_tools.chromium()
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        PROGRAM is None, reason=f"no Chromium here: none of {', '.join(browser_tools.NAMES)} is on PATH"
    ),
]
CONTRAST = Path(__file__).with_name("contrast.js").read_text("utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert PROGRAM is not None
    with browser_tools.Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "study").mkdir()
    make_study(folder / "study", layers=20)
    return {
        "run": report.report(whole, folder / "run.html"),
        "study": report.report(folder / "study"),
    }


@pytest.mark.parametrize("name", ["run", "study"])
class TestInABrowser:
    pytestmark = in_browser

    def test_nothing_complains_and_nothing_is_fetched(self, browser, pages, name):
        browser.look(1280)
        browser.open(pages[name])
        assert browser.complaints() == []

    @pytest.mark.parametrize("width", [320, 360, 768, 1280])
    def test_no_page_is_wider_than_its_window(self, browser, pages, name, width):
        browser.look(width)
        browser.open(pages[name])
        assert browser.value("document.documentElement.scrollWidth") <= width
        # And what is wider than its own container scrolls there, by keyboard too.
        loose = """[...document.querySelectorAll('table, svg')].filter(e => {
          const room = e.parentElement.getBoundingClientRect(), own = e.getBoundingClientRect();
          const box = e.closest('[tabindex="0"]');
          return own.right > room.right + 1 && !(box && getComputedStyle(box).overflowX === 'auto');
        }).map(e => e.outerHTML.slice(0, 200))"""
        assert browser.value(loose) == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_contrast(self, browser, pages, name, scheme):
        browser.look(1280, scheme)
        browser.open(pages[name])
        found = browser.value(f"({CONTRAST})()")
        assert found["checked"] > 200
        assert found["low"] == []

    def test_the_schemes_differ_also_within_charts(self, browser, pages, name):
        colours = []
        for scheme in ("light", "dark"):
            browser.look(1280, scheme)
            browser.open(pages[name])
            colours.append(browser.value(
                "[getComputedStyle(document.body).backgroundColor, "
                "...[...document.querySelectorAll('svg.chart text')].map(e => getComputedStyle(e).fill)]"
            ))  # fmt: skip
        assert len(colours[0]) > 10 and all(a != b for a, b in zip(*colours, strict=True))

    def test_it_opens_within_a_second(self, browser, pages, name):
        """The best of three, by the browser's own clock: other work on the machine is not the page's."""
        browser.look(1280)
        spent = []
        for _ in range(3):
            browser.open(pages[name])
            spent.append(browser.value("performance.getEntriesByType('navigation')[0].loadEventStart"))
        assert 0 < min(spent) < 1_000

    def test_the_first_tab_leads_to_the_content(self, browser, pages, name):
        browser.look(1280)
        browser.open(pages[name])
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert browser.value("document.activeElement.getAttribute('href')") == "#main"
        assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0
        assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
