"""The ranking study: every measure judges the same architectures, and τ is scipy's."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from cli_tools import invoke
from scipy.stats import kendalltau
from test_study import RUN, Count

import dnas
from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.space.architecture import Architecture, at_depth, layer_pair
from dnas.study.ranking import architectures, rank, ranked
from dnas.study.ranking_design import RankingSettings, read_ranking

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
    assert len({layer_pair(architecture) for architecture in architectures(ranking())}) == 4


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
    with pytest.raises(InputError, match=r"--seed is 0 in .* and 1 here: leave it out or use another --out"):
        rank(whole[0], ranking(seed=1))
    other = {**ranking().run, "train": {**ranking().run["train"], "channels": 6}}
    with pytest.raises(InputError, match=r"train.channels is 4 in .* and 6 here: "):
        rank(whole[0], ranking(run=other))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="exists and is not a ranking"):
        rank(tmp_path, ranking())


def test_a_gradient_method_has_a_supernet_too(tmp_path):
    run = ranking().run
    run = {**run, "search": {**run["search"], "channels": 8, "epochs": 2, "warmup_epochs": 1}}
    summary = rank(tmp_path / "ranking", ranking(methods=["dnas"], layers=[], epochs=[], run=run), processes=1)
    assert [row["measure"] for row in summary["rows"]] == ["full", "supernet of dnas", "parameters"]
    assert all(value is not None for value in summary["values"]["supernet of dnas"])


def test_a_ranking_grows_by_architectures_methods_and_measures(whole, tmp_path):
    """What it had stays, to the bit; a supernet that judges more is searched again, and says the same of the first."""
    path = tmp_path / "ranking"
    shutil.copytree(whole[0], path)
    before = whole[1]["values"]
    kept = (path / "runs" / "full-000" / "result.json").stat().st_mtime_ns
    small = ("--json", "--quiet")
    outcome = invoke("rank", "--resume", path, "--architectures", 5, "--methods", "+rsws", "--proxy-epochs", 3, *small)
    assert outcome.code == 0, outcome.err
    after = outcome.json["values"]
    assert [row["measure"] for row in outcome.json["rows"]] == [
        "full", "layers-3", "epochs-2", "epochs-3", "supernet of spos", "supernet of rsws", "parameters",
    ]  # fmt: skip
    for name, values in before.items():
        assert after[name][:4] == values and len(after[name]) == 5 and None not in after[name], name
    assert (path / "runs" / "full-000" / "result.json").stat().st_mtime_ns == kept
    assert outcome.json["missing"] == [] and read_ranking(path).methods == ["spos", "rsws"]
    refused = invoke("rank", "--resume", path, "--architectures", 4)
    assert refused.code == 2 and "--architectures is 5 in" in refused.err and "a ranking can only grow" in refused.err
    refused = invoke("rank", "--resume", path, "--train-channels", 6, "--epochs", 1, "--seed", 3)
    assert refused.code == 2 and "--seed is 0 in" in refused.err
    refused = invoke("rank", "--resume", path, "--train-channels", 6)
    assert refused.code == 2 and f"train.channels is 4 in {path} and 6 here: leave it out" in refused.err
    refused = invoke("rank", "--resume", path, "--out", path)
    assert refused.code == 2 and "which names the folder of the ranking" in refused.err
    refused = invoke("rank", "--methods", "+spos", "--out", tmp_path / "new")
    assert refused.code == 2 and "--methods +spos adds to a ranking and" in refused.err
    refused = invoke("resume", path, "--methods", "+gdas")
    assert refused.code == 2 and f"dnas rank --resume {path} --methods +gdas" in refused.err


def test_what_is_not_there_yet_is_told(whole, tmp_path):
    """A ranking that grew and was not carried out has gaps, and names them."""
    path = tmp_path / "ranking"
    shutil.copytree(whole[0], path)
    larger = ranking(count=5)
    gaps = ranked(path, larger)["values"]
    assert all(values[4] is None and None not in values[:4] for values in gaps.values())


def test_python_ranks_as_the_command_does(whole, tmp_path):
    path = tmp_path / "ranking"
    shutil.copytree(whole[0], path)
    found = dnas.rank(resume=path)
    assert isinstance(found, dnas.RankingResult) and found.to_dict()["values"] == whole[1]["values"]
    assert (found.architectures, found.failed, found.missing) == (4, (), ())
    assert [row["measure"] for row in found.rows] == list(NAMES) and found.values["full"] == whole[1]["values"]["full"]
    lines = repr(found).splitlines()
    assert lines[0] == f"RankingResult: {path}"
    assert lines[1] == "  4 random architectures: rank correlation with full training"
    table = ElementTree.fromstring(found._repr_html_())
    assert [cell.text for cell in table.iter("td")][:: len(list(table.iter("th")))] == list(NAMES)
    assert dnas.resume(path).to_dict() == found.to_dict()
    with pytest.raises(dnas.InputError, match=r"data and on_epoch do not apply to .*, which is a ranking"):
        dnas.resume(path, on_epoch=lambda metrics: True)
    with pytest.raises(dnas.InputError, match=r"out=.* cannot be used with resume=.*, which is the ranking's folder"):
        dnas.rank(resume=path, out=path)
    with pytest.raises(dnas.InputError, match="unknown --methods 'spoz'"):
        dnas.rank("spoz", out=tmp_path / "new")
    with pytest.raises(dnas.InputError, match="data of rank must be a name or a path"):
        dnas.rank(data=(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]), out=tmp_path / "new")  # type: ignore[arg-type]
