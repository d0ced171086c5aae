"""What a study says of its runs' machines, versions, images and trainings is read from them, and told."""

import json

import pytest
import tomli_w
from faults.harness import TINY, invoke, make_images

from dnas.disk import read_toml
from dnas.pipeline.machine import environment
from dnas.study.design import StudySettings
from dnas.study.surroundings import MACHINE, NEEDED, VERSIONS, compared
from dnas.study.tables import summarise

HERE = {
    "dnas": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "platform": "Linux-6", "processor": "AMD EPYC",
    "processors": 2, "threads": 2, "kernels": "native",
}  # fmt: skip
TRAIN = {"epochs": 25, "layers": 0, "channels": 16}
SEARCHED = {"command": "run", "data": {"fingerprint": "abc"}, "search": {"layers": 6}, "train": TRAIN}
NAMES = ("dnas-shared-s0", "dnas-shared-s0-random", "darts-shared-s0", "darts-shared-s0-random")


def study(path, *configs):
    """A study of two methods and their random networks, whose runs have these config.toml; None: none."""
    path.mkdir()
    settings = StudySettings(methods=["dnas", "darts"], mappings=["shared"], seeds=1, run={"search": {"seconds": 9.0}})
    (path / "study.toml").write_text(tomli_w.dumps(settings.model_dump()))
    for name, config in zip(NAMES, configs, strict=True):
        folder = path / "runs" / name
        folder.mkdir(parents=True)
        if config is not None:
            (folder / "config.toml").write_text(tomli_w.dumps(config))
        result = {
            "test_accuracy": 0.9, "seed": 0, "params": 1000, "macs": 5000, "search_seconds": 2.0,
            "validation_accuracy": None, "data": "digits", "test_images": 360,
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    return path


def run(command="run", environment=None, **changes):
    config = {**SEARCHED, "command": command, "environment": {**HERE, **(environment or {})}, **changes}
    config["environment"] = {key: value for key, value in config["environment"].items() if value is not None}
    return config


def verdicts(path):
    return {each["key"]: (each["met"], each["why"]) for each in summarise(path)["practices"]}


def test_runs_of_one_machine_and_one_version_are_said_to_be_so(tmp_path):
    found = verdicts(study(tmp_path / "study", run(), run("train"), run(), run("train")))
    met, why = found["confounders"]
    assert met is True and "AMD EPYC" in why and "threads 2" in why
    assert found["same-benchmark"][0] is True and found["details"][0] is True and found["same-protocol"][0] is True


@pytest.mark.parametrize(
    ("changes", "part", "told"),
    [
        ({"processor": "Intel Xeon"}, "the machine", "processor AMD EPYC in 3 runs, Intel Xeon in 1 run"),
        ({"platform": "Linux-5"}, "the machine", "platform Linux-6 in 3 runs, Linux-5 in 1 run"),
        ({"processors": 8, "threads": 4}, "the machine", "processors 2 in 3 runs, 8 in 1 run; threads 2 in 3 runs"),
        ({"gpu": "H200"}, "the machine", "gpu H200 in 1 run, none in 3 runs"),
        ({"ranks": 2}, "the machine", "ranks 2 in 1 run, none in 3 runs"),
        ({"torch": "2.10.0"}, "versions", "torch 2.13.0 in 3 runs, 2.10.0 in 1 run"),
        ({"dnas": "0.2.0", "kernels": "torch"}, "versions", "dnas 0.1.0 in 3 runs, 0.2.0 in 1 run; kernels native"),
        ({"python": "3.12.1"}, "versions", "python 3.11.7 in 3 runs, 3.12.1 in 1 run"),
    ],
)
def test_a_run_that_was_made_elsewhere_is_found_and_told(tmp_path, changes, part, told):
    """The report of a study whose runs differ printed these practices as met."""
    met, why = verdicts(study(tmp_path / "study", run(), run("train"), run(environment=changes), run("train")))[
        "confounders"
    ]
    assert met is False and f"{part} (" in why and told in why


@pytest.mark.parametrize("lacking", [*sorted(NEEDED & set(MACHINE)), *sorted(NEEDED & set(VERSIONS))])
def test_what_a_run_did_not_record_is_not_known(tmp_path, lacking):
    """As the runs of a dnas that had no such entry yet."""
    found = verdicts(study(tmp_path / "study", run(), run("train"), run(environment={lacking: None}), run("train")))
    met, why = found["confounders"]
    assert met is None and f"1 of 4 runs does not record {lacking}" in why
    assert found["details"][0] is False


def test_a_run_without_a_configuration_is_not_known(tmp_path):
    found = verdicts(study(tmp_path / "study", run(), run("train"), None, None))
    assert found["confounders"][0] is None and "2 of 4 runs do not record it" in found["confounders"][1]
    assert found["same-benchmark"][0] is None and found["same-protocol"][0] is None


def test_a_difference_is_told_also_where_other_runs_recorded_nothing():
    found = compared([{"environment": {**HERE, "torch": value}} if value else {"environment": {"dnas": "1"}}
                      for value in ("2.10", "2.11", "")])  # fmt: skip
    assert found.versions.same is False and "torch 2.10 in 1 run, 2.11 in 1 run" in found.versions.found


def test_only_runs_that_use_a_package_record_it():
    assert compared([run(), run(environment={"torchvision": "0.28"})]).versions.same is True
    two = [run(environment={"torchvision": version}) for version in ("0.27", "0.28")]
    assert compared([run(), *two]).versions.same is False


def test_images_that_changed_between_runs_are_found(tmp_path):
    met, why = verdicts(
        study(tmp_path / "study", run(), run("train"), run(data={"fingerprint": "other"}), run("train"))
    )["same-benchmark"]
    assert met is False and "data and split (fingerprint abc in 3 runs, other in 1 run)" in why


def test_trainings_are_compared_and_not_guessed_from_the_preset(tmp_path):
    found = verdicts(study(tmp_path / "study", run(), run("train"), run(train={**TRAIN, "epochs": 30}), run("train")))
    assert found["same-benchmark"][0] is False and "epochs 30 in 1 run, 25 in 1 run" in found["same-benchmark"][1]
    assert found["same-protocol"][0] is False
    # The same depth by another number: 0 is the searched one.
    assert compared([run(), run(train={**TRAIN, "layers": 6})]).trainer.same is True
    assert compared([run(), run(train={**TRAIN, "layers": 8})]).trainer.same is False


def test_no_results_are_no_verdict():
    found = compared([])
    assert {found.machine.same, found.versions.same, found.data.same, found.trainer.same} == {None}


def test_a_run_records_what_is_compared(tmp_path):
    here = environment()
    assert set(here) >= NEEDED and here["processor"] and here["processors"] >= 1
    images = make_images(tmp_path / "images")
    out = tmp_path / "study"
    outcome = invoke("compare", "--methods", "random", "--seeds", 1, "-o", "search.trials=1", "--data", images, *TINY,
                     "--out", out, "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    environments = [read_toml(file)["environment"] for file in sorted(out.glob("runs/*/config.toml"))]
    assert len(environments) == 2 and all(set(each) >= NEEDED for each in environments)
    (why,) = [each["why"] for each in outcome.json["practices"] if each["key"] == "confounders"]
    # Only the time of the search, which was not limited.
    assert why == "not the same for all methods: the time of a search"
