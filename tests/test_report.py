"""Pages are read back with the standard library's parser, as a browser would find them."""

import json
import re
from pathlib import Path

import browser_tools
import numpy as np
import pytest
import torch
from faults.harness import TINY, invoke, make_images
from PIL import Image
from report_tools import HOSTILE, assert_whole, cells, images, read, run, whole  # noqa: F401
from study_tools import make_study

from dnas.cli.printing import print_result
from dnas.data.splits import DataInfo, load_test
from dnas.disk import read_json
from dnas.pages import mistakes, report
from dnas.pipeline.model import load_model
from dnas.space.architecture import Architecture
from dnas.space.blocks import BLOCKS
from dnas.space.operations import colour_of
from dnas.space.primitives import PRIMITIVES
from dnas.space.registry import get_space
from dnas.training.accuracy import predict

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def test_the_page_of_a_run_is_whole_and_the_command_says_where_it_lies(run):
    outcome = invoke("report", run)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{run / 'report.html'}\n"
    page = read(run / "report.html")
    assert_whole(page, run)
    for words in (
        "Random baseline",
        "Operations by depth",
        "Learning curves",
        "Operation scores",
        "Errors",
        "Settings",
    ):
        assert words in page.words
    # The same words as in a terminal.
    result = json.loads((run / "result.json").read_text())
    from dnas.study import verdict

    assert verdict.of_run(result) in page.words
    assert f"{round(18 * result['test_accuracy'])} of 18 test images correctly" in page.words
    assert f"{result['params']:,}" in page.words


def test_a_search_that_ended_as_noise_says_so_on_the_page_and_in_the_terminal(run, capsys):
    path = run / "result.json"
    for agreement in (0.034, 0.9):
        result = json.loads(path.read_text())
        result["signal"]["agreement"] = agreement
        path.write_text(json.dumps(result))
        report.report(run)
        print_result(result, False)
        words = read(run / "report.html").words, " ".join(capsys.readouterr().out.split())
        assert ["The search ended as noise" in each for each in words] == [agreement < 0.2] * 2
        assert ["an agreement of 0.03," in each for each in words] == [agreement < 0.2] * 2
    for curve in ("agreement of halves", "margin", "saturation"):
        assert f"Search: {curve}" in words[0]


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
        f"Test image of {info.classes[t]}, predicted {info.classes[p]}"
        for t, p in zip(split.labels, predicted, strict=True)
        if t != p
    }
    assert {picture["alt"] for picture in pictures} <= alts
    sure = [int(n) for n in re.findall(r">(\d+)% confidence<", page.raw)]
    assert len(sure) == len(pictures) and sure == sorted(sure, reverse=True)
    assert "The run recorded" not in page.words


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
    matrix = torch.zeros(200, 200, dtype=torch.int64).fill_diagonal_(40)
    matrix[7, 150], matrix[150, 7], matrix[3, 4] = 9, 10, 9
    pairs = mistakes._confused(matrix.tolist(), classes)
    assert [(p["true"], p["predicted"], p["count"]) for p in pairs] == [
        ("c150", "c7", 10),
        ("c3", "c4", 9),
        ("c7", "c150", 9),
    ]
    assert mistakes._recalls(matrix.tolist(), classes)[0] == {"name": "c150", "right": 40, "of": 50, "named": 49}
    assert len(classes) > mistakes.MATRIX_CLASSES


def test_mistakes_are_shaded_by_their_share_of_the_row():
    rows = mistakes._matrix([[95, 5], [100, 0]], ("a", "b"))
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
    assert "cannot be shown" in page.words and "images" in page.words and not page.all("img")
    head, *rows = cells(page, "Confusion matrix")  # the run's own record
    recorded = read_json(run / "result.json")
    assert head[1:] == [row["class"] for row in recorded["per_class"]]
    assert [[int(n) for n in row[1:]] for row in rows] == recorded["confusion"]
    result = {key: value for key, value in recorded.items() if key != "per_class"}  # as in earlier versions
    assert mistakes._recorded(result, "gone") == {"why": "gone"}
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
    assert "data set 'cifar100' is no longer on this machine" in read(run / "report.html").words


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
        "search": "is from search, epoch 1",
        "train": "is from training, epoch 1",
    }
    assert said[stage] in page.words
    assert ("Learning curves" in page.words) == (stage != "nothing")
    assert ("The network" in page.words) == (stage == "train")
    assert "Random baseline" not in page.words and "Errors" not in page.words


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
    assert "Random baseline" not in page.words
    assert ("accuracy of each candidate" in page.words) == (command == "search")


@pytest.mark.parametrize("space", ["mobile", "resnet", "resnet-d", "shuffle"])
def test_a_search_in_a_space_of_chains_has_a_page(images, tmp_path, space):
    outcome = invoke("search", "--space", space, "--data", images, *TINY, "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    report.report(tmp_path / "run")
    page = read(tmp_path / "run" / "report.html")
    assert_whole(page, tmp_path / "run")
    assert "A layer is one block of convolutions" in page.words and "outputs of the two layers" not in page.words
    architecture = Architecture.load(tmp_path / "run" / "architecture.json")
    _, *rows = cells(page, "Share of the operations in each third of the depth")
    kinds = {layer.kind for layer in architecture.layers} - {"skip_connect"}
    assert {row[0] for row in rows} == {BLOCKS[kind].label for kind in kinds} | {"skips"}
    operations = {BLOCKS[kind].colour for kind in get_space(space).primitives if kind in BLOCKS}
    body = page.raw[page.raw.index("<body>") :]
    assert {c.upper() for c in re.findall(r"#[0-9a-fA-F]{6}\b", body)} <= operations | {colour_of("skip_connect", "")}
    # The drawing of the run folder is the same for every reader: it does not take the colors of a page.
    assert "var(--" not in (tmp_path / "run" / "architecture.svg").read_text("utf-8")


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

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [390, 768, 1440])
    def test_axe_finds_nothing_serious(self, browser, pages, name, width, scheme):
        """The rules of axe-core (Deque) on what screen readers and keyboards meet, and on contrast."""
        axe = Path(pytest.importorskip("axe_core_python").__file__).with_name("axe.min.js")
        browser.look(width, scheme)
        browser.open(pages[name])
        found = browser.value(axe.read_text("utf-8") + "; axe.run(document, { resultTypes: ['violations'] })")
        assert len(found["passes"]) > 20
        assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []

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
