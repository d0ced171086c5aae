"""What `dnas doctor` finds, on machines that are made up."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from faults.harness import invoke

from dnas import doctor
from dnas.doctor import GIB, clock, data_sets, disk, gpu, memory_left, memory_limit, open_files

resource = pytest.importorskip("resource")


def advised(finding):
    assert finding.to_json()["status"] == ("warning" if finding.advice else "ok")
    return finding.advice


def test_all_of_it_is_said_and_warnings_are_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_self_test", lambda: {"passed": True, "accuracy": 1.0, "seconds": 0.0})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    outcome = invoke("doctor", "--out", tmp_path / "runs", "--json")
    assert outcome.code == 0
    findings = {finding["name"]: finding for finding in outcome.json["findings"]}
    assert {"disk", "memory", "files", "gpu", "kernels", "clock", "digits", "cifar10"} <= findings.keys()
    assert findings["disk"]["status"] == "warning" and "--out" in findings["disk"]["advice"]
    assert findings["digits"]["status"] == findings["clock"]["status"] == "ok"
    printed = invoke("doctor", "--out", tmp_path / "runs").out.splitlines()
    assert any(line.startswith("  warning  disk: 1.0 GiB free") and "free space" in line for line in printed)
    assert not (tmp_path / "runs").exists()


def test_disk(tmp_path, monkeypatch):
    runs = tmp_path / "not" / "yet"
    assert not advised(disk(runs)) and str(tmp_path) in disk(runs).finding
    (tmp_path / "file").touch()
    assert "not a folder" in disk(tmp_path / "file" / "runs").finding and advised(disk(tmp_path / "file" / "runs"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert "writable" in advised(disk(runs))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * GIB))
        patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=10**6, f_favail=3))
        assert "only 3 more files" in disk(runs).finding and advised(disk(runs))
        patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=0, f_favail=0))
        assert not advised(disk(runs))


def test_a_containers_memory_is_what_it_may_take():
    assert not advised(memory_left(8 * GIB, None)) and not advised(memory_left(8 * GIB, 4 * GIB))
    assert "close other programs" in advised(memory_left(GIB, 8 * GIB))
    short = memory_left(64 * GIB, GIB)
    assert "1.0 GiB" in short.finding and "limit" in short.finding and "request more" in advised(short)


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")
    return folder


def test_limits_of_control_groups_are_read(tmp_path):
    own, groups = tmp_path / "own", tmp_path / "groups"
    assert memory_limit(groups, own) is None
    own.write_text("0::/job/step\n")
    assert memory_limit(groups, own) is None
    group(groups / "job" / "step", memory_max="max", memory_current=5)
    assert memory_limit(groups, own) is None
    group(groups / "job" / "step", memory_max=100, memory_current=70, memory_stat="anon 3\ninactive_file 20")
    assert memory_limit(groups, own) == 100 - 70 + 20
    # In a container, the group is the root of what it sees.
    own.write_text("0::/../host/path\n")
    group(groups, memory_max=50, memory_current=10)
    assert memory_limit(groups, own) == 40


def test_limits_of_the_older_control_groups_are_read(tmp_path):
    own, groups = tmp_path / "own", tmp_path / "groups"
    own.write_text("5:cpu,cpuacct:/a\n4:memory:/docker/1\n0::/x\n")
    group(groups / "memory" / "docker" / "1", memory_limit_in_bytes=90, memory_usage_in_bytes=40)
    assert memory_limit(groups, own) == 50


@pytest.mark.parametrize(
    ("limit", "most", "says"),
    [(64, 512, "ulimit -n 512"), (64, resource.RLIM_INFINITY, "ulimit -n 1024"), (4096, 4096, "")],
)
def test_open_files(monkeypatch, limit, most, says):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, most))
    assert (says in advised(open_files())) if says else not advised(open_files())


def test_a_gpu_that_cannot_be_used_is_a_warning_and_none_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    if not Path("/dev/nvidia0").exists():
        assert not advised(gpu())
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "install torch with CUDA" in advised(gpu())
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "CUDA_VISIBLE_DEVICES" in advised(gpu())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * GIB, 80 * GIB))
    assert not advised(gpu())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7 * GIB, 80 * GIB))
    assert "another program" in advised(gpu())


@pytest.mark.parametrize(
    ("wall", "monotonic", "now", "says"),
    [
        (3.0, 3.1, 2e9, ""),
        (3603.0, 3.0, 2e9, "was set"),
        (-3597.0, 3.0, 2e9, "was set"),
        (3.0, 3.0, 10.0, "set the clock"),
    ],
)
def test_clock(wall, monotonic, now, says):
    finding = clock(wall, monotonic, now)
    assert (says in advised(finding)) if says else not advised(finding)


def test_a_missing_data_set_is_a_warning_where_nothing_may_be_downloaded(tmp_path, monkeypatch):
    names = {"digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"}
    (tmp_path / "cifar-10-batches-bin").mkdir()
    monkeypatch.setenv("DNAS_OFFLINE", "1")
    found = {finding.name: finding for finding in data_sets(str(tmp_path))}
    assert found.keys() == names
    assert {name for name in names if advised(found[name])} == names - {"digits", "cifar10"}
    monkeypatch.setenv("DNAS_OFFLINE", "0")
    assert not any(advised(finding) for finding in data_sets(str(tmp_path)))
