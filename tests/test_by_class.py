"""Recall, precision and balanced accuracy are scikit-learn's, in result.json, in the terminal and in `dnas evaluate`."""

import json
import warnings

import numpy as np
import pytest
import torch
from faults.harness import TINY, invoke, make_images
from hypothesis import given, settings
from hypothesis import strategies as st
from report_tools import cells, read
from sklearn import metrics

from dnas.data.splits import load_test
from dnas.disk import read_json
from dnas.pipeline.model import load_model
from dnas.runtime.session import Session
from dnas.study import verdict
from dnas.training.accuracy import by_class, confusion_matrix, predict

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(pairs)
@settings(deadline=None)
def test_figures_are_scikit_learns(answers):
    true, named = (torch.tensor(each) for each in zip(*answers, strict=True))
    matrix = confusion_matrix(true, named, 5)
    assert np.array_equal(matrix, metrics.confusion_matrix(true, named, labels=range(5)))
    found = by_class(matrix.tolist(), "abcde")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer that is no class of the images
        balanced = metrics.balanced_accuracy_score(true, named)
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    wanted = metrics.precision_recall_fscore_support(true, named, labels=range(5), zero_division=np.nan)
    for row, precision, recall, _, images in zip(found["per_class"], *wanted, strict=True):
        assert row["images"] == images
        for ours, theirs in ((row["precision"], precision), (row["recall"], recall)):
            assert np.isnan(theirs) if ours is None else ours == pytest.approx(theirs, abs=1e-12)
    assert found["majority_share"] == np.bincount(true).max() / len(true)
    assert found["confusion"] == matrix.tolist()
    json.dumps(found, allow_nan=False)


def test_always_naming_the_largest_class_is_seen_for_what_it_is():
    """The 95 : 5 of the issue: an accuracy of 0.95 that says nothing."""
    result = {"test_accuracy": 0.95, **by_class([[95, 0], [5, 0]], ("a", "b"))}
    assert result["balanced_accuracy"] == 0.5 and result["majority_share"] == 0.95
    assert result["per_class"][1] == {"class": "b", "images": 5, "recall": 0.0, "precision": None}
    text = verdict.of_classes(result)
    assert "95.0% of the test images are 'a'" in text and "0.9500" in text and "0.5000" in text
    assert "0.0000 ('b')" in text


@pytest.mark.parametrize(("images", "told"), [((20, 20), False), ((29, 20), False), ((30, 20), True), ((3, 0), True)])
def test_balanced_classes_are_not_spoken_of(images, told):
    matrix = [[images[0], 0], [0, images[1]]]
    assert (verdict.of_classes(by_class(matrix, ("a", "b"))) is not None) == told
    assert verdict.of_classes({"test_accuracy": 1.0}) is None  # of an earlier version


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory):
    folder = make_images(tmp_path_factory.mktemp("unbalanced") / "images", each=50)
    for path in sorted((folder / "class 1").iterdir())[10:]:
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def run(unbalanced):
    out = unbalanced.with_name("run")
    outcome = invoke("run", "--data", unbalanced, *TINY, "--out", out)
    assert outcome.code == 0, outcome.err
    return out, outcome.out


def test_a_run_writes_them_and_its_table_has_the_balanced_accuracy(run, unbalanced):
    out, printed = run
    result = read_json(out / "result.json")
    network, info = load_model(out)
    split = load_test(str(unbalanced), info)
    predicted = predict(network, split, info)
    wanted = by_class(confusion_matrix(split.labels, predicted, 2).tolist(), info.classes)
    assert {key: result[key] for key in wanted} == wanted
    assert [row["images"] for row in result["per_class"]] == [10, 2] and result["majority_share"] == 10 / 12
    assert set(wanted) <= set(result["baseline"])
    for row in (result, result["baseline"]):
        assert sum(row["confusion"][k][k] for k in range(2)) == round(row["test_accuracy"] * 12)
    words = " ".join(printed.split())
    assert "balanced" in words and "are 'class 0'" in words
    # A row of the matrix is a row of the file.
    assert f"[{', '.join(map(str, result['confusion'][0]))}]" in (out / "result.json").read_text()


def test_the_page_has_them(run):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    out, _ = run
    assert invoke("report", out).code == 0
    page = read(out / "report.html")
    result = read_json(out / "result.json")
    assert (
        verdict.of_classes(result) in page.words
        and "83.3% of the test images belong to the largest class" in page.words
    )
    head, *rows = cells(page, "Both networks")
    place = head.index("balanced accuracy")
    for row, of in zip(rows, (result, result["baseline"]), strict=True):
        assert row[place].replace("&nbsp;", " ") == f"{100 * of['balanced_accuracy']:.1f}%"
    head, *rows = cells(page, "Classes with the lowest recall")
    assert head[-2:] == ["recall", "precision"] and {row[0] for row in rows} == {"class 0", "class 1"}


def test_evaluate_has_them_too(run):
    out, _ = run
    result = read_json(out / "result.json")
    outcome = invoke("evaluate", out, "--json")
    tested = outcome.json
    for key in ("balanced_accuracy", "majority_share", "per_class", "confusion"):
        assert tested[key] == result[key]
    assert "balanced accuracy" in invoke("evaluate", out).out


def test_a_checkpoint_of_an_earlier_version_gives_the_result_that_it_gave(run, tmp_path, unbalanced, monkeypatch):
    """Its stages have no confusion matrix."""
    original = Session.complete

    def older(session, result, *arguments):
        original(session, {key: value for key, value in result.items() if key != "confusion"}, *arguments)

    monkeypatch.setattr(Session, "complete", older)
    outcome = invoke("run", "--data", unbalanced, *TINY, "--out", tmp_path / "run", "--json")
    newer = read_json(run[0] / "result.json")
    assert outcome.json["test_accuracy"] == newer["test_accuracy"] and "per_class" not in outcome.json
    assert "test accuracy" in invoke("resume", tmp_path / "run").out
