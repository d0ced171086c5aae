"""The command line's contract: exit codes, one-line errors, one JSON value, what stays unimported."""

import copy
import json
import subprocess
import sys

import pytest
from cli_tools import images, refused, run  # noqa: F401
from faults.harness import TINY, invoke, make_images

from dnas.space.published import load_published


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["run", "--data", "nope"], ["--data", "nope", "digits"]),
        (["run", "--method", "nope"], ["--method", "nope", "`dnas methods`"]),
        (["run", "--mapping", "nope"], ["--mapping", "nope", "decoupled"]),
        (["run", "--nonsense", "1"], ["--nonsense"]),
        (["run", "--option", "nonsense=1"], ["unknown --option nonsense of method dnas", "`dnas methods dnas`"]),
        (["run", "--option", "search.nonsense=1"], ["nonsense"]),
        (["run", "--option", "nonsense"], ["NAME=VALUE"]),
        (["search", "--option", "train.epochs=1"], ["train.epochs"]),
        (["train", "DARTS_V2", "--option", "zero_one_weight=1"], ["zero_one_weight", "train.NAME"]),
        (["run", "--option", "zero_one_weight=-1"], ["zero_one_weight"]),
        (["run", "-o", "train.decay=0.9"], ["train.decay=0.9", "exponential"]),
        (["run", "-o", "train.schedule=exponential", "-o", "train.learning_rate_min=0.1"], ["learning_rate_min=0.1"]),
        (["run", "-o", "zero_one_weight=0", "-o", "zero_one_on=psi"], ["zero_one_on=psi", "zero_one_weight=0"]),
        (["run", "-o", "skip_dropout=0", "-o", "skip_dropout_schedule=pdarts"], ["skip_dropout_schedule"]),
        (["run", "-o", "partial_channels=1", "-o", "bypass=one"], ["bypass=one", "partial_channels=1"]),
        (["run", "--preset", "fast"], ["--preset", "fast", "quick"]),
        (["run", "--device", "tpu"], ["--device", "tpu", "cuda"]),
        (["run", "--channels", "6"], ["--channels 6", "partial_channels=4", "8"]),
        (["run", "--train-channels", "7"], ["--train-channels must be even", "7"]),
        (["run", "--layers", "1"], ["--layers", "1", "3"]),
        (["run", "--train-layers", "9"], ["--train-layers 9", "--mapping shared"]),
        (["run", "--epochs", "0"], ["--epochs", "0"]),
        (["run", "--epochs", "many"], ["--epochs", "many"]),
        (["run", "--batch-size", "1"], ["--batch-size", "1"]),
        (["run", "--seed", "-1"], ["--seed", "-1"]),
        (["run", "--option", "search.warmup_epochs=99"], ["warmup_epochs", "99"]),
        (["train", "nope"], ["nope", "DARTS_V2"]),
        (["show", "nope"], ["nope", "DARTS_V2"]),
        (["show", "DARTS_V2", "--layers", "2"], ["2", "3"]),
        (["show", "DARTS_V2", "--channels", "3"], ["3"]),
        (["resume", "nope"], ["nope"]),
        (["evaluate", "nope"], ["nope"]),
        (["derive", "nope"], ["nope"]),
        (["methods", "nope"], ["nope", "`dnas methods`"]),
        (["nope"], ["nope"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0][0] not in "-0123456789" else "",
)
def test_wrong_input_is_refused_in_one_line(tmp_path, arguments, names):
    refused(tmp_path, *arguments, names=names)


def test_wrong_folders_are_refused(tmp_path, images):
    empty, one = tmp_path / "empty", make_images(tmp_path / "one", classes=1, each=4)
    empty.mkdir()
    refused(tmp_path, "run", "--data", empty, names=["empty"])
    refused(tmp_path, "run", "--data", one, names=["one class"])
    corrupt = make_images(tmp_path / "corrupt", each=6)
    (corrupt / "class 1" / "3.png").write_bytes(b"no picture")
    refused(tmp_path, "run", "--data", corrupt, names=["class 1/3.png"])
    refused(tmp_path, "run", "--data", images, "--out", images, names=["--out", "exists"])
    assert sorted(p.name for p in images.iterdir()) == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("place", "slot", "says"),
    [
        ((1, 2, 0), ["conv_9x9", 0], ["layer 1", "node 2", "slot 0", "conv_9x9"]),
        ((0, 1, 1), ["skip_connect", 3], ["layer 0", "node 1", "slot 1", "input 3"]),
        ((2, 0, 1), ["skip_connect", 0], ["layer 2", "node 0", "input 0", "twice"]),
    ],
    ids=["operation", "forward edge", "duplicate input"],
)
def test_wrong_architecture_files_are_refused(tmp_path, place, slot, says):
    value = copy.deepcopy(load_published("DARTS_V2", 3).to_json())
    layer, node, index = place
    value["layers"][layer]["nodes"][node][index] = slot
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(value))
    for command in ("train", "show"):
        refused(tmp_path, command, path, names=["wrong.json", *says])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("seed = = 1", ["config.toml"]),
        ("sead = 1", ["sead"]),
        ("seed = 'one'", ["seed in ", "config.toml", "one"]),
        ("[search]\nlayers = 'deep'", ["search.layers in ", "config.toml", "deep"]),
        ("[options]\nnope = 1", ["nope"]),
        ("search = 3", ["search"]),
    ],
)
def test_wrong_configuration_files_are_refused(tmp_path, text, names):
    path = tmp_path / "config.toml"
    path.write_text(text)
    refused(tmp_path, "run", "--config", path, names=names)


def test_show_gives_the_published_counts():
    outcome = invoke("show", "DARTS_V2", "--layers", 20, "--channels", 36, "--classes", 10, "--json")
    assert outcome.json["params"] == 3_349_342
    assert outcome.json["params_with_auxiliary"] == 3_825_768
    assert outcome.json["macs"] > 5e8
    assert outcome.json["layers"] == 20
    assert outcome.err == ""


def test_a_run_reports_what_the_contract_names(run):
    out, result = run
    expected = {
        "run", "test_accuracy", "params", "macs", "search_seconds", "train_seconds", "peak_memory_bytes", "seed",
        "method", "mapping", "layers", "channels",
    }  # fmt: skip
    assert expected <= set(result)
    assert 0 <= result["test_accuracy"] <= 1 and result["layers"] == 3 and result["channels"] == 8
    assert abs(result["baseline"]["params"] / result["params"] - 1) <= 0.05
    assert json.loads((out / "result.json").read_text()) == result
    for name in (
        "config.toml",
        "metrics.jsonl",
        "architecture.json",
        "architecture.svg",
        "model.safetensors",
        "log.txt",
    ):
        assert (out / name).stat().st_size > 0


def test_its_files_serve_the_other_commands(run, tmp_path, images):
    out, result = run
    shown = invoke("show", out, "--channels", 8, "--classes", 2, "--image-channels", 1, "--image-size", 8, "--json")
    assert shown.json["params"] == result["params"] and shown.json["macs"] == result["macs"]
    tested = invoke("evaluate", out, "--json")
    assert tested.json["test_accuracy"] == result["test_accuracy"]
    derived = invoke("derive", out, "--json")
    assert derived.json["layers"] == json.loads((out / "architecture.json").read_text())["layers"]
    other = invoke("derive", out, "-o", "derivation=threshold", "-o", "threshold=0.9", "--json")
    assert other.json["layers"] != derived.json["layers"]
    trained = invoke("train", out, "--data", images, "--channels", 4, "--epochs", 1, "--out", tmp_path / "t", "--json")
    assert trained.json["channels"] == 4 and trained.json["layers"] == 3 and "baseline" not in trained.json
    again = invoke("resume", out, "--json")
    assert again.json == result


def test_a_written_configuration_repeats_the_run_to_the_bit(run, tmp_path):
    out, _ = run
    outcome = invoke("run", "--config", out / "config.toml", "--out", tmp_path / "again", "--quiet")
    assert outcome.code == 0 and outcome.err == ""
    for name in ("architecture.json", "model.safetensors", "metrics.jsonl", "config.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_search_never_opens_the_test_split(tmp_path, images, monkeypatch):
    from dnas.data import splits as data

    def forbidden(*arguments, **options):
        raise AssertionError("test images were read")

    monkeypatch.setattr(data, "load_test", forbidden)
    outcome = invoke("search", "--data", images, *TINY, "--out", tmp_path / "s", "--json")
    assert outcome.code == 0, outcome.err
    assert "test_accuracy" not in outcome.json


@pytest.mark.parametrize("mapping", ["shared", "full", "decoupled"])
def test_pc_darts_runs_under_every_mapping(tmp_path, images, mapping):
    arguments = ("search", "--method", "pc-darts", "--mapping", mapping, "--data", images, *TINY)
    outcome = invoke(*arguments, "--out", tmp_path / "s", "--json")
    assert outcome.code == 0, outcome.err
    layers = json.loads((tmp_path / "s" / "architecture.json").read_text())["layers"]
    assert len(layers) == 3
    if mapping == "shared":  # the two reductions of three layers share a gene
        assert layers[1] == layers[2]


def test_a_shared_cell_is_stacked_deeper_for_training(tmp_path, images):
    arguments = ("run", "--mapping", "shared", "--data", images, *TINY, "--train-layers", 5, "--no-baseline")
    outcome = invoke(*arguments, "--out", tmp_path / "r", "--json")
    assert outcome.json["layers"] == 5


def test_methods_are_described():
    listed = {method["name"]: method for method in invoke("methods", "--json").json}
    assert {"dnas", "pc-darts"} <= set(listed)
    for method in listed.values():
        assert (
            method["kind"] in ("gradient", "sampling", "trials") and method["paper"] and "shared" in method["mappings"]
        )
        assert all(option["description"] for option in method["options"])


def test_output_without_a_terminal_is_plain(tmp_path, images):
    outcome = invoke("search", "--data", images, *TINY, "--out", tmp_path / "s")
    assert outcome.code == 0
    assert "\x1b" not in outcome.err + outcome.out and "\r" not in outcome.err
    assert any("epoch 2" in line for line in outcome.lines)


def test_debug_shows_where_an_error_came_from():
    outcome = invoke("show", "nope", "--debug")
    assert outcome.code == 2 and "Traceback" in outcome.err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["show", "DARTS_V1"], ["show", "DARTS_V1", "--json"]])
def test_what_needs_no_torch_does_not_import_it(arguments):
    code = f"import sys; from dnas.cli import entry; entry._call({arguments!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m dnas show DARTS_V2 --layers 900 | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0


@pytest.mark.parametrize(
    "command", ["run", "search", "derive", "train", "evaluate", "resume", "show", "methods", "doctor"]
)
def test_every_command_explains_itself(command):
    outcome = invoke(command, "--help")
    assert outcome.code == 0 and f"dnas {command}" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["methods"], ["methods", "dnas"], ["show", "DARTS_V2", "--layers", "3"]],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_json_is_one_value_and_all_of_stdout(arguments):
    outcome = invoke(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json and outcome.out.count("\n") == 1
    plain = invoke(*arguments)
    assert plain.code == 0 and plain.out and not plain.out.lstrip().startswith("{")


@pytest.mark.parametrize("arguments", [["run"], ["search"], ["train", "DARTS_V2"]])
def test_json_leaves_progress_to_stderr_and_quiet_leaves_none(tmp_path, images, arguments):
    more = [*TINY, "--data", images, "--json"]
    loud = invoke(*arguments, *more, "--out", tmp_path / "loud")
    assert loud.code == 0 and loud.json["run"] == str(tmp_path / "loud") and "epoch 2" in loud.err
    quiet = invoke(*arguments, *more, "--quiet", "--out", tmp_path / "quiet")
    assert quiet.code == 0 and quiet.err == ""
    drop = {"run", "search_seconds", "train_seconds", "peak_memory_bytes", "baseline"}
    assert {k: v for k, v in quiet.json.items() if k not in drop} == {
        k: v for k, v in loud.json.items() if k not in drop
    }


def test_version_is_the_packages():
    from importlib.metadata import version

    outcome = invoke("--version")
    assert outcome.code == 0 and outcome.out.strip() == version("dnas")
