import json
import subprocess
import sys

import pytest
from cli_tools import images, refused, run  # noqa: F401
from faults.harness import TINY, invoke

# --- what is refused ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("given", "named"), [(("show", "DARTS_V2", "SNAS_mild"), "SNAS_mild"), (("run", "a", "b"), "a b")]
)
def test_an_argument_too_many_is_named(given, named):
    outcome = invoke(*given)
    assert outcome.code == 2
    assert outcome.err == f"error: unexpected argument {named!r}; remove it, or see dnas {given[0]} --help\n"


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
    from dnas.space import network_plan

    def broken(*arguments, **options):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(network_plan, "size", broken)
    outcome = invoke("show", "DARTS_V1")
    assert outcome.code == 1 and outcome.lines == [
        "error: internal error, ZeroDivisionError: of ours; repeat the command with --debug and report the traceback"
    ]
    assert "Traceback" in invoke("show", "DARTS_V1", "--debug").err


def test_a_backend_that_is_not_known_or_not_to_be_had_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("DNAS_BACKEND", "fast")
    refused(tmp_path, "run", names=["DNAS_BACKEND", "torch, got 'fast'"])
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
    from dnas.pipeline import carry_out

    def none_found(*arguments):
        raise InputError("no random architecture of that size")

    monkeypatch.setattr(carry_out, "random_of_size", none_found)
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "r", "--json")
    assert outcome.code == 0 and "baseline" not in outcome.json
    assert "baseline skipped: no random architecture of that size" in outcome.err


def test_a_thresholded_architecture_is_trained(tmp_path, images):
    arguments = ("run", "--data", images, *TINY, "-o", "derivation=threshold", "-o", "threshold=0.9", "--no-baseline")
    outcome = invoke(*arguments, "--out", tmp_path / "r", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "r" / "architecture.json").read_text())["space"] == "free"
