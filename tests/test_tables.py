"""The tables of a study: what is averaged over what, and what is compared with what."""

import csv
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import tomli_w
from scipy import stats

from dnas.space import sampling
from dnas.space.agreement import agreement
from dnas.space.darts import DARTS
from dnas.space.registry import SPACES
from dnas.study.design import StudySettings
from dnas.study.tables import HEADER, cells, difference_cells, keep, render, summarise

SEEDS = 4


def made_up(path, settings, accuracies, **facts):
    """A study whose runs have these test accuracies: name → accuracy."""
    path.mkdir()
    (path / "study.toml").write_text(tomli_w.dumps(settings.model_dump()))
    for name, accuracy in accuracies.items():
        result = {
            "test_accuracy": accuracy, "seed": 0, "params": 1000, "macs": 5000, "search_seconds": 2.0,
            "validation_accuracy": None, "data": "digits", "test_images": 360,
        } | facts.get(name.replace("-", "_"), {})  # fmt: skip
        (path / "runs" / name).mkdir(parents=True)
        (path / "runs" / name / "result.json").write_text(json.dumps(result))
    return path


def settings(**changes):
    return StudySettings(**{"methods": ["dnas"], "mappings": ["decoupled", "shared"], "seeds": SEEDS, **changes})


@pytest.fixture
def study(tmp_path):
    rng = np.random.default_rng(0)
    values = {}
    for seed in range(SEEDS):
        for name in (
            "dnas-decoupled-s{}",
            "dnas-decoupled-s{}-random",
            "dnas-decoupled-s{}-shuffled",
            "dnas-shared-s{}",
        ):
            values[name.format(seed)] = float(rng.uniform(0.5, 0.9))
    return made_up(tmp_path / "study", settings(), values), values


def errors(values, pattern):
    return np.array([1 - values[pattern.format(seed)] for seed in range(SEEDS)])


def test_rows_are_means_over_searches(study):
    path, values = study
    summary = summarise(path)
    assert [row["name"] for row in summary["rows"]] == [
        "dnas (decoupled)",
        "dnas (decoupled), random, same size",
        "dnas (decoupled), layers shuffled",
        "dnas (shared)",
    ]
    ours = errors(values, "dnas-decoupled-s{}")
    row = summary["rows"][0]
    assert row["test_error"]["mean"] == pytest.approx(ours.mean())
    assert row["test_error"]["sd"] == pytest.approx(ours.std(ddof=1))
    half = stats.t.ppf(0.975, SEEDS - 1) * ours.std(ddof=1) / math.sqrt(SEEDS)
    assert row["test_error"]["high"] - row["test_error"]["mean"] == pytest.approx(half)
    assert (row["level"], summary["rows"][3]["level"]) == ("global", "cell")
    assert row["search_seconds"] == 2.0 and row["params"] == 1000
    # The random ones of the shared cell are not there yet.
    assert summary["missing"] == [f"dnas-shared-s{seed}-random" for seed in range(SEEDS)]


def test_differences_are_paired_by_search_seed(study):
    path, values = study
    found = {(d["a"], d["b"]): d for d in summarise(path)["differences"]}
    assert list(found) == [
        ("dnas (decoupled)", "dnas (decoupled), random, same size"),
        ("dnas (decoupled)", "dnas (decoupled), layers shuffled"),
        ("dnas (decoupled)", "dnas (shared)"),
    ]
    for (_, b), pattern in zip(found, ("-decoupled-s{}-random", "-decoupled-s{}-shuffled", "-shared-s{}"), strict=True):
        one, two = errors(values, "dnas-decoupled-s{}"), errors(values, f"dnas{pattern}")
        test = stats.ttest_rel(one, two)
        difference = found["dnas (decoupled)", b]
        assert difference["mean"] == pytest.approx((one - two).mean())
        assert difference["p"] == pytest.approx(test.pvalue)
        assert difference["low"] == pytest.approx(test.confidence_interval().low)
    expected = stats.false_discovery_control([d["p"] for d in found.values()], method="by")
    assert [d["p_adjusted"] for d in found.values()] == pytest.approx(list(expected))


def test_search_seeds_and_training_seeds_are_kept_apart(tmp_path):
    """Two searches with two trainings each are two values, and validation alone chooses the best search."""
    accuracies = {"dnas-shared-s0": 0.5, "dnas-shared-s0-t1": 0.7, "dnas-shared-s1": 0.8, "dnas-shared-s1-t1": 0.9}
    path = made_up(
        tmp_path / "study",
        settings(mappings=["shared"], seeds=2, training_seeds=2),
        accuracies,
        dnas_shared_s0={"validation_accuracy": 0.6},
        dnas_shared_s1={"validation_accuracy": 0.4},
    )
    (row,) = summarise(path)["rows"]
    assert row["test_error"]["count"] == 2
    assert row["test_error"]["mean"] == pytest.approx((0.4 + 0.15) / 2)
    assert row["test_error"]["sd"] == pytest.approx(np.std([0.4, 0.15], ddof=1))
    # The second search is better on test images, which must not matter.
    assert row["best"]["seed"] == 0 and row["best"]["count"] == 2 and row["best"]["mean"] == pytest.approx(0.4)
    assert row["best"]["sd"] == pytest.approx(np.std([0.5, 0.3], ddof=1))


def test_agreement_is_that_of_the_networks_which_searches_found(tmp_path):
    """Seeds 0, 1 and 2; seed 3 has lost its file, and of seed 4 the finals trained another network."""
    names = [f"dnas-shared-s{seed}" for seed in range(5)]
    path = made_up(
        tmp_path / "study",
        settings(mappings=["shared"], seeds=5, run={"space": "s2"}),
        dict.fromkeys([*names, *(f"{name}-random" for name in names)], 0.9),
        dnas_shared_s4={"finals": [{"origin": "found"}, {"origin": "random", "winner": True}]},
        dnas_shared_s2={"finals": [{"origin": "found", "winner": True}], "signal": {"agreement": 0.25}},
    )
    space = SPACES["s2"]
    made = [sampling.sample(space, np.random.default_rng(seed), 6) for seed in range(5)]
    for seed in (0, 1, 2, 4):
        for name in (names[seed], f"{names[seed]}-random"):
            made[seed].save(path / "runs" / name / "architecture.json")
    row, control = (summary := keep(path))["rows"]
    expected = agreement(made[:3], space)
    assert row["agreement"] == {"networks": 3, **json.loads(json.dumps(asdict(expected)))}
    assert [search["signal"] for search in row["searches"]] == [None, None, {"agreement": 0.25}, None, None]
    assert cells(summary)[0][HEADER.index("agreement")] == f"{expected.operations:.2f}"
    assert control["agreement"] is None and cells(summary)[1][HEADER.index("agreement")] == ""


def test_one_seed_has_no_agreement(tmp_path):
    path = made_up(tmp_path / "study", settings(mappings=["shared"], seeds=1), {"dnas-shared-s0": 0.9})
    sampling.sample(DARTS, np.random.default_rng(0), 6).save(path / "runs/dnas-shared-s0/architecture.json")
    (row,) = summarise(path)["rows"]
    assert row["agreement"] is None


def test_every_form_has_every_row(study):
    path, _ = study
    summary = keep(path)
    assert json.loads((path / "study.json").read_text()) == summary
    rows = list(csv.reader((path / "table.csv").read_text().splitlines()))
    assert tuple(rows[0]) == HEADER and [tuple(row) for row in rows[1:]] == cells(summary)
    for form in ("markdown", "latex"):
        text = render(summary, form)
        for row in cells(summary) + difference_cells(summary):
            assert all(cell.split(" ")[0] in text for cell in row)
    assert r"\toprule" in (path / "table.tex").read_text() and (path / "table.md").read_text().startswith("|")


def test_figures_keep_their_digits(tmp_path):
    path = made_up(
        tmp_path / "study", settings(mappings=["shared"], seeds=2), {"dnas-shared-s0": 0.9, "dnas-shared-s1": 0.9}
    )
    (row,) = cells(summarise(path))
    assert row == ("dnas (shared)", "cell", "2", "10.00 ± 0.00", "", "", "0.001", "0.0", "2")
    assert "10.00 ± 0.00" in render(summarise(path), "markdown")


def test_practices_follow_from_what_was_done(tmp_path):
    def met(**changes):
        path = made_up(tmp_path / str(len(list(tmp_path.iterdir()))), settings(**changes), {"dnas-shared-s0": 0.9})
        return {practice["key"]: practice["met"] for practice in summarise(path)["practices"]}

    assert met(methods=["dnas"])["random-search"] is False
    assert met(methods=["dnas", "random"])["random-search"] is True
    assert met(methods=["dnas"], mappings=["shared"])["ablation"] is False
    assert met(methods=["dnas"])["ablation"] is True


def test_a_study_without_results_has_no_rows(tmp_path):
    summary = summarise(made_up(tmp_path / "study", settings(), {}))
    assert summary["rows"] == summary["differences"] == [] and len(summary["missing"]) == 5 * SEEDS
