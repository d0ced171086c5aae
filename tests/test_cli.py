"""The command line's contract: exit codes, one-line errors, one JSON value, what stays unimported."""

import copy
import json
import shlex
import subprocess
import sys

import pytest
from faults.harness import TINY, invoke, make_images

from dnas.space.published import load_published


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("cli") / "images")


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("cli-run") / "run"
    outcome = invoke("run", "--data", images, *TINY, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    return out, outcome.json


def refused(tmp_path, *arguments, names):
    """One line, exit 2, nothing on stdout, and no run folder."""
    out = tmp_path / "never"
    more = ("--out", out) if arguments[0] in ("run", "search", "train") and "--out" not in arguments else ()
    outcome = invoke(*arguments, *more)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.lines) == 1 and outcome.err.startswith("error: ")
    assert not out.exists()
    for name in names:
        assert name in outcome.err


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


def test_cuda_where_there_is_none_is_refused(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (["run"], ["search"], ["train", "DARTS_V2"]):
        refused(tmp_path, *command, "--device", "cuda", names=["--device cuda", "cpu"])


def test_cuda_where_there_is_none_is_refused_by_evaluate(run, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(tmp_path, "evaluate", run[0], "--device", "cuda", names=["--device cuda"])
    refused(tmp_path, "evaluate", run[0], "--device", "tpu", names=["--device", "tpu"])


def test_a_run_that_is_no_search_cannot_be_derived_from_nor_an_untrained_one_tested(tmp_path, images):
    assert invoke("train", "DARTS_V2", *TINY, "--data", images, "--out", tmp_path / "t", "--quiet").code == 0
    refused(tmp_path, "derive", tmp_path / "t", names=["searches nothing"])
    assert invoke("search", *TINY, "--data", images, "--out", tmp_path / "s", "--quiet").code == 0
    refused(tmp_path, "evaluate", tmp_path / "s", names=["model.safetensors", "dnas train"])
    for name in ("resume", "derive", "evaluate"):
        refused(tmp_path, name, images, names=["images"])


def test_what_exists_is_not_written_over(run, tmp_path, images):
    for command in (["run"], ["search"], ["train", "DARTS_V2"]):
        outcome = invoke(*command, "--data", images, "--out", run[0])
        assert outcome.code == 2 and len(outcome.lines) == 1 and "--out" in outcome.err and "resume" in outcome.err
    (tmp_path / "file").write_text("mine")
    refused(tmp_path, "derive", run[0], "--out", tmp_path / "file", names=["file", "exists"])
    outcome = invoke("run", "--data", images, "--out", tmp_path / "file" / "run")
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", "7", '{"format": "dnas-architecture/9"}', "[" * 100_000, "\x00\xff"]
)
def test_files_that_are_no_architecture_are_refused(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_bytes(text.encode("latin-1"))
    for command in ("train", "show"):
        refused(tmp_path, command, path, names=["wrong.json"])


def test_svg_that_cannot_be_written_is_one_line(tmp_path):
    outcome = invoke("show", "DARTS_V2", "--svg", tmp_path / "nowhere" / "a.svg")
    assert outcome.code in (1, 2) and len(outcome.lines) == 1 and "a.svg" in outcome.err
    assert "checkpoint" not in outcome.err  # there is none


@pytest.mark.parametrize("option", ["train.images=1", "train.images=3"])
def test_too_few_images_are_refused_or_work_but_end_in_no_traceback(tmp_path, images, option):
    arguments = [
        "--layers",
        3,
        "--channels",
        8,
        "--epochs",
        1,
        "--batch-size",
        2,
        "-o",
        option,
        "-o",
        "search.images=4",
    ]
    outcome = invoke("run", "--data", images, *arguments, "--quiet", "--no-baseline", "--out", tmp_path / "r")
    assert outcome.code in (0, 2), outcome.err


def test_colour_only_where_it_is_wanted():
    """In a pseudo-terminal: colours, but none under NO_COLOR. In a pipe there never are any."""
    pty = pytest.importorskip("pty")
    import os

    def shown(**environment):
        main, other = pty.openpty()
        env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", **environment}
        command = [sys.executable, "-m", "dnas", "show", "DARTS_V2", "--layers", "3"]
        with subprocess.Popen(command, stdout=other, stderr=other, env=env) as process:
            os.close(other)
            text = b""
            while True:
                try:
                    chunk = os.read(main, 65536)
                except OSError:  # Linux says so when the other end is closed
                    break
                if not chunk:
                    break
                text += chunk
        os.close(main)
        assert process.returncode == 0, text
        return text

    assert b"\x1b[3" in shown() or b"\x1b[9" in shown()
    plain = shown(NO_COLOR="1")
    assert not any(code in plain for code in (b"\x1b[3", b"\x1b[9", b"\x1b[4"))


def test_a_folder_whose_name_is_not_utf8_works_or_is_refused(tmp_path, images):
    """config.toml is UTF-8, a name on Linux need not be."""
    import os

    strange = os.path.join(os.fsencode(tmp_path), b"caf\xe9")  # noqa: PTH118
    try:
        os.symlink(os.fsencode(images), strange)  # noqa: PTH211
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    outcome = invoke("search", "--data", os.fsdecode(strange), *TINY, "--quiet", "--out", tmp_path / "r")
    assert outcome.code in (0, 2) and "Traceback" not in outcome.err
    assert outcome.code == 0 or (len(outcome.lines) == 1 and not (tmp_path / "r").exists())


def test_a_defect_of_ours_is_one_line_too(monkeypatch):
    from dnas.space import plan

    def broken(*arguments, **options):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(plan, "size", broken)
    outcome = invoke("show", "DARTS_V1")
    assert outcome.code == 1 and outcome.lines == [
        "error: internal error, ZeroDivisionError: of ours; please report it with --debug"
    ]
    assert "Traceback" in invoke("show", "DARTS_V1", "--debug").err


def test_a_backend_that_is_not_known_or_not_to_be_had_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("DNAS_BACKEND", "fast")
    refused(tmp_path, "run", names=["DNAS_BACKEND=fast", "torch"])
    monkeypatch.delenv("DNAS_BACKEND")
    refused(tmp_path, "run", "--backend", "fast", names=["backend", "fast", "native"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    refused(tmp_path, "run", "--backend", "native", "--device", "cuda", names=["--backend native", "--device cuda"])
    monkeypatch.setattr("dnas.kernels.native.library", lambda *source, **defines: None)
    refused(tmp_path, "run", "--backend", "native", "--device", "cpu", names=["--backend native", "compiler"])


def test_a_searchs_configuration_serves_a_run_with_its_baseline(tmp_path, images):
    searched = invoke("search", "--data", images, *TINY, "--out", tmp_path / "s", "--json")
    assert searched.code == 0 and "baseline = false" in (tmp_path / "s" / "config.toml").read_text()
    outcome = invoke(
        "run",
        "--config",
        tmp_path / "s" / "config.toml",
        "-o",
        "train.epochs=1",
        "-o",
        "train.batch_size=16",
        "--out",
        tmp_path / "r",
        "--json",
    )
    assert outcome.code == 0 and "baseline" in outcome.json


def test_a_run_without_a_control_of_its_size_says_so_and_ends_well(tmp_path, images, monkeypatch):
    from dnas.errors import InputError
    from dnas.pipeline import run as pipeline

    def none_found(*arguments):
        raise InputError("no random architecture of that size")

    monkeypatch.setattr(pipeline, "random_of_size", none_found)
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "r", "--json")
    assert outcome.code == 0 and "baseline" not in outcome.json
    assert "no comparison: no random architecture of that size" in outcome.err


def test_a_thresholded_architecture_is_trained(tmp_path, images):
    arguments = ("run", "--data", images, *TINY, "-o", "derivation=threshold", "-o", "threshold=0.9", "--no-baseline")
    outcome = invoke(*arguments, "--out", tmp_path / "r", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "r" / "architecture.json").read_text())["space"] == "free"


# --- studies -----------------------------------------------------------------------------------------------

FEW_IMAGES = ("--layers", 3, "--channels", 4, "--epochs", 1, "-o", "search.images=64", "-o", "train.images=64")


def test_compare_makes_a_study_that_resume_goes_on_with(tmp_path):
    study = tmp_path / "study"
    options = ("--deterministic", "--data", "digits", "--preset", "quick", "-o", "search.trials=1")
    arguments = ("--methods", "random", "--mappings", "full", "--seeds", 2, "--threads", 1, *FEW_IMAGES, *options)
    outcome = invoke("compare", *arguments, "--out", study, "--processes", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert [row["name"] for row in outcome.json["rows"]] == [
        "random (full)", "random (full), random, same size", "random (full), layers shuffled",
    ]  # fmt: skip
    assert all(len(row["searches"]) == 2 for row in outcome.json["rows"]) and not outcome.json["missing"]
    (study / "runs" / "random-full-s1" / "result.json").unlink()
    again = invoke("resume", study, "--json")
    assert again.code == 0, again.err
    assert [row["test_error"] for row in again.json["rows"]] == [row["test_error"] for row in outcome.json["rows"]]
    text = invoke("compare", *arguments, "--out", study, "--processes", 1)
    assert text.code == 0 and "layers shuffled" in text.out and "study" in text.out
    # The command that study.json and the page tell is of this study: it goes on with it, and finds all done.
    dnas, *told = shlex.split(outcome.json["command"])
    results = {file: file.stat().st_mtime_ns for file in study.glob("runs/*/result.json")}
    assert dnas == "dnas" and invoke(*told, "--out", study).code == 0
    assert {file: file.stat().st_mtime_ns for file in study.glob("runs/*/result.json")} == results
    assert invoke("report", study).code == 0 and (study / "report.html").exists()


def test_rank_says_how_measures_rank(tmp_path):
    arguments = ("--architectures", 4, "--methods", "spos", "--proxy-epochs", "2", *FEW_IMAGES, "--processes", 1)
    outcome = invoke("rank", *arguments, "--out", tmp_path / "ranking", "--json")
    assert outcome.code == 0, outcome.err
    assert [row["measure"] for row in outcome.json["rows"]] == ["full", "epochs-2", "supernet of spos", "parameters"]
    text = invoke("rank", *arguments, "--out", tmp_path / "ranking")
    assert text.code == 0 and "supernet of spos" in text.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--out", "study"), "--methods names nothing to compare"),
        (
            ("compare", "--methods", "dnas", "--method", "darts"),
            "--method cannot be used with `dnas compare`; use --methods",
        ),
        (("compare", "--methods", "dnas", "--seed", "3"), "--seed cannot be used with `dnas compare`; use --seeds"),
        (("compare", "--methods", "dnas", "--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("rank", "--mapping", "full"), "--mapping cannot be used with `dnas rank`; use --methods"),
        (
            ("rank", "--proxy-layers", "three"),
            "--proxy-layers must be whole numbers with commas between them, got 'three'",
        ),
        (("rank", "--architectures", "3"), "--architectures must be at least 4, got 3"),
    ],
)
def test_what_is_no_study_is_said_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*arguments)
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1
