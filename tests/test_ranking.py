"""The ranking study: every measure judges the same architectures, and τ is scipy's."""

import json

import pytest
from scipy.stats import kendalltau
from test_study import RUN, Count

from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.space.architecture import Architecture, at_depth, cell_pair
from dnas.study.ranking import RankingSettings, architectures, rank, ranked

NAMES = ("full", "layers-3", "epochs-2", "supernet of spos", "parameters")


def ranking(**changes):
    run = {**RUN, "options": {}}
    return RankingSettings(**{"count": 4, "methods": ["spos"], "layers": [3], "epochs": [2], "run": run, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranking") / "ranking"
    return path, rank(path, ranking(), processes=1)


def test_every_measure_judges_the_same_architectures(whole):
    path, summary = whole
    assert [row["measure"] for row in summary["rows"]] == list(NAMES) == list(summary["values"])
    assert all(len(values) == 4 and None not in values for values in summary["values"].values())
    for i, architecture in enumerate(architectures(ranking())):
        found = {
            name: Architecture.load(path / "runs" / f"{name}-{i:03d}" / "architecture.json")
            for name in ("full", "layers-3", "epochs-2")
        }
        assert found["full"].layers == architecture.layers == found["epochs-2"].layers and len(architecture) == 6
        assert found["layers-3"].layers == at_depth(architecture, 3).layers
        configs = {name: read_toml(path / "runs" / f"{name}-{i:03d}" / "config.toml")["train"] for name in found}
        assert [configs[name]["epochs"] for name in ("full", "layers-3", "epochs-2")] == [1, 1, 2]
    assert len({cell_pair(architecture) for architecture in architectures(ranking())}) == 4


def test_tau_is_that_of_scipy(whole):
    _, summary = whole
    truth = summary["values"]["full"]
    for row in summary["rows"][1:]:
        expected = kendalltau(truth, summary["values"][row["measure"]])
        if row["tau"] is not None:
            assert row["tau"] == pytest.approx(expected.statistic) and row["count"] == 4


def test_a_supernet_judges_what_is_given_and_nothing_else(whole):
    path, summary = whole
    lines = [json.loads(line) for line in (path / "supernets" / "spos" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"search"}
    result = json.loads((path / "supernets" / "spos" / "result.json").read_text())
    assert result["architectures_evaluated"] == 4 and result["scores"] == summary["values"]["supernet of spos"]
    # A pass of training forward and backward, and one forward over the validation half for each.
    assert result["step_equivalents"] == pytest.approx((32 + 4 * 32 / 3) / 32)


def test_it_is_resumed_and_gives_the_same(whole, tmp_path):
    path = tmp_path / "ranking"
    with pytest.raises(Interrupted):
        rank(path, ranking(), processes=1, reporter=Count(stop=3))
    again = rank(path, ranking(), processes=1)
    assert again["values"] == whole[1]["values"]
    assert ranked(path, ranking())["values"] == again["values"]


def test_what_cannot_be_ranked_is_refused(whole, tmp_path):
    with pytest.raises(InputError, match="--methods random cannot be used with `dnas rank`: it has no supernet"):
        rank(tmp_path / "new", ranking(methods=["random"]))
    with pytest.raises(InputError, match="unknown --option hidden of method spos"):
        rank(tmp_path / "new", ranking(run={**ranking().run, "options": {"hidden": 8}}))
    with pytest.raises(ValueError, match="greater than or equal to 3"):
        ranking(layers=[2])
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="is a ranking with other settings"):
        rank(whole[0], ranking(count=5))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="exists and is no ranking"):
        rank(tmp_path, ranking())


def test_a_gradient_method_has_a_supernet_too(tmp_path):
    run = ranking().run
    run = {**run, "search": {**run["search"], "channels": 8, "epochs": 2, "warmup_epochs": 1}}
    summary = rank(tmp_path / "ranking", ranking(methods=["dnas"], layers=[], epochs=[], run=run), processes=1)
    assert [row["measure"] for row in summary["rows"]] == ["full", "supernet of dnas", "parameters"]
    assert all(value is not None for value in summary["values"]["supernet of dnas"])
