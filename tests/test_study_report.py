import builtins
import re
import shutil

import pytest
from faults.harness import invoke
from report_tools import (
    HOSTILE,
    assert_whole,
    cells,
    images,  # noqa: F401
    read,
    run,  # noqa: F401
    whole,  # noqa: F401
)
from study_tools import ROWS, make_study, write_study

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from dnas.errors import InputError
from dnas.pages import report
from dnas.pages.template import mean_layer, thirds
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.chain import MOBILE

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
        assert row[3].replace("&nbsp;", " ") == f"{100 * error['mean']:.2f} ± {100 * error['sd']:.2f}%"
    for practice in study["practices"]:
        assert practice["practice"] in page.words and practice["why"] in page.words
    assert [w in page.words for w in ("✓ met", "✗ not met", "? unknown")] == [True] * 3
    assert "dnas seed 9" in page.words and "1 run of this study is not done yet" in page.words.lower()


def test_the_page_of_a_study_says_how_much_its_seeds_agree(tmp_path):
    study = make_study(tmp_path, ROWS[:2], layers=3)
    study["rows"][0]["agreement"] = {"networks": 4, "operations": -0.021, "edges": 0.5}
    write_study(tmp_path, study)
    report.report(tmp_path)
    page = read(tmp_path / "report.html")
    header, *rows = cells(page, "Test error, size and cost")
    assert [row[header.index("agreement")] for row in rows] == ["-0.02", "–"]
    assert "0: no more than by chance" in page.words


def test_depth_profiles_are_means_over_a_rows_searches(tmp_path):
    layers = [[{"skip_connect": 8}, {"skip_connect": 2, "none": 2}], [{"none": 1}, {"none": 4}]]
    assert mean_layer([layers[0][0], layers[1][0]]) == {"skip_connect": 0.5, "none": 0.5}
    assert mean_layer([layers[0][1], layers[1][1]]) == {"skip_connect": 0.25, "none": 0.75}
    profiles = [[{"sep_conv_3x3": 6, "skip_connect": 2}, {"max_pool_3x3": 1}, {"skip_connect": 3, "dil_conv_3x3": 1}]]
    shares = thirds(profiles, ("convolutions", "pools", "skips"))
    assert shares == [
        ("convolutions", ["75%", "0%", "25%"]),
        ("pools", ["0%", "100%", "0%"]),
        ("skips", ["25%", "0%", "75%"]),
    ]


def test_rows_of_chains_and_of_cells_have_the_same_columns(tmp_path):
    make_study(tmp_path, layers=6, searches=1)
    for number in (0, 2):
        architecture = sampling.sample(MOBILE, numpy_stream(number, "test"), 6)
        architecture.save(tmp_path / f"runs/row{number}-s0" / "architecture.json")
    report.report(tmp_path)
    page = read(tmp_path / "report.html")
    assert_whole(page, tmp_path)
    header, *rows = cells(page, "Share of each kind of operation in the shallow, middle and deep third of the layers")
    assert header[1:3] == ["convolutions", "pools"] and header[-1] == "skips"
    assert {"mb ×1", "mb ×3", "mb ×6"} >= set(header[3:-1]) != set()
    for number, row in enumerate(rows):
        assert len(row) == len(header)
        assert (row[1:3] == ["0% · 0% · 0%"] * 2) == (number in (0, 2))
    assert len(page.all("svg")) > 2 * len(rows)


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
