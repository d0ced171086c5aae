"""The GPU's benchmark in its reduced form on the CPU."""

import json
import time

import gpu
import gpu_check
import gpu_setting
import gpu_steps
import pytest
import torch
from rich.console import Console


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What a run gives, and what it wrote."""
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    return gpu.measure_all(gpu_setting.CPU, minutes=5, file=file), json.loads(file.read_text("utf-8"))


def of(report, name):
    return next(part for part in report.parts if part["name"] == name)


def test_every_part_runs_and_is_written(reports):
    report, written = reports
    assert written["parts"] == report.parts
    assert [part["name"] for part in report.parts] == [part.name for part in gpu.parts_of(gpu_setting.CPU)]
    assert all(part["state"] == "done" for part in report.parts), written
    assert "error" not in gpu.variants_of(of(report, "training step, bfloat16")["result"])["eager"]


def test_the_supernets_are_found_equal(reports):
    for name in ("check supernets", "check networks"):
        assert of(reports[0], name)["result"]["equal"], reports[0]


def test_both_supernets_have_times_and_launches(reports):
    for part in ("search step, 8 layers, float32", "launches of a search step, 8 layers"):
        rows = gpu.variants_of(of(reports[0], part)["result"])
        assert set(rows) == {gpu_setting.BATCHED, gpu_setting.PLAIN}
        assert all(row.keys() & {"samples", "operations"} for row in rows.values())


def test_everything_is_shown(reports):
    console = Console(width=200, record=True, quiet=True)
    for table in gpu.tables(reports[0]):
        console.print(table)
    assert any("time" in remark for remark in gpu.remarks(reports[0]))


def test_a_part_that_fails_says_why_and_the_rest_goes_on():
    def fail():
        raise RuntimeError("no such thing")

    row = gpu.carry_out(gpu.Part("bad", fail), time.monotonic() + 60)
    assert (row["state"], row["error"]) == ("failed", "RuntimeError: no such thing")
    rows = gpu_steps.timed({"plain": fail, "batched": lambda: lambda: None}, gpu_setting.CPU, images=1)
    assert rows["plain"] == {"error": "RuntimeError: no such thing"} and rows["batched"]["samples"]


def test_after_the_deadline_parts_are_skipped():
    report = gpu.measure_all(gpu_setting.CPU, minutes=0, file=None)
    assert {part["state"] for part in report.parts} == {"skipped"}


def test_the_check_sees_a_difference(monkeypatch):
    case = gpu_check.CASES[0]
    monkeypatch.setattr(gpu_check.supernet, "copy_weights", lambda engine, plain: None)
    result = gpu_check.check({case.name: lambda: gpu_check.supernet_difference(case, gpu_setting.TINY, "cpu")})
    assert not result["equal"]
    assert not gpu_check.check({"none": lambda: {"output": float("nan")}})["equal"]


def test_a_wrong_result_is_an_error(monkeypatch):
    for equal in (True, False):
        part = {"name": "check", "state": "done", "seconds": 0.0, "result": {"equal": equal, "largest": 0.0}}
        monkeypatch.setattr(gpu, "measure_all", lambda *_, part=part: gpu.Report({}, [part]))
        if equal:
            gpu.main(device="cpu")
        else:
            with pytest.raises(SystemExit, match="1"):
                gpu.main(device="cpu")


def test_the_precision_is_put_back():
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    with gpu_setting.precision_of(gpu_setting.TF32):
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    with gpu_setting.precision_of(gpu_setting.FLOAT32):
        assert not (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
