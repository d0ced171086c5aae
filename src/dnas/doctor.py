"""Report on this machine, and whether dnas works on it: for bug reports and first runs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from dnas.data.sources.registry import found, offline
from dnas.data.splits import load_test, load_train
from dnas.kernels import native
from dnas.methods.registry import create
from dnas.pipeline.latency import measured
from dnas.pipeline.machine import environment
from dnas.runtime.session import Session
from dnas.searching.loop import search_architecture
from dnas.settings import GradientSettings, TrainSettings
from dnas.space.darts import DARTS
from dnas.space.latency import FIXED
from dnas.space.limits import Delivered
from dnas.space.network_plan import Shape
from dnas.training.accuracy import measure_accuracy
from dnas.training.build import built
from dnas.training.trainer import train_network

GIB = 2**30
# A run of the paper's size keeps two checkpoints of about 100 MB and its images; a study has many runs.
ENOUGH_DISK = 2 * GIB
ENOUGH_INODES = 10_000
# torch takes about 0.5 GiB, and CIFAR-10 as a tensor 0.15 GiB.
ENOUGH_MEMORY = 2 * GIB
# A process opens a few dozen files, and the main process some for each worker.
ENOUGH_FILES = 256
# Tolerated difference of the two clocks over the self-test, in seconds.
SAME_TIME = 0.5
# 2025-01-01: earlier than any version of dnas.
EARLIEST = 1_735_689_600


# The networks whose operations are shown: those of the quick preset, on images as CIFAR's.
TIMED = Delivered(DARTS, 6, False, Shape(channels=16, image_size=32, final_norm=True), (), "int8")


@dataclass(frozen=True)
class Finding:
    """Result of a check: its name, the finding, and advice if it is a warning."""

    name: str
    finding: str
    advice: str = ""

    @property
    def warning(self) -> bool:
        return bool(self.advice)

    def to_json(self) -> dict[str, str]:
        return {
            "name": self.name,
            "status": "warning" if self.warning else "ok",
            "finding": self.finding,
            "advice": self.advice,
        }


def examine(data_dir: str | None = None, runs: str | Path = "runs", latency: bool = False) -> dict[str, Any]:
    """Return a report for JSON: versions, devices, memory, data sets on disk, findings, and a short self-test.

    Args:
        runs: Folder for runs, which need not exist yet.
        latency: Also measure operations, see `latencies`.
    """
    operations = {"latency": latencies()} if latency else {}  # first, since a package may be missing
    devices = {"cpu": f"{torch.get_num_threads()} threads of {psutil.cpu_count()} processors"}
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / GIB:.1f} GiB"
    memory = psutil.virtual_memory()
    clocks = time.time(), time.monotonic()
    self_test = _self_test()
    passed = time.time() - clocks[0], time.monotonic() - clocks[1]
    findings = [
        disk(Path(runs)),
        memory_left(memory.available, memory_limit()),
        open_files(),
        gpu(),
        compiler(),
        clock(*passed, time.time()),
        *data_sets(data_dir),
    ]
    return {
        **environment(),
        "devices": devices,
        "memory": f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free",
        "data": {"digits": "included in scikit-learn", **dict(found(data_dir))},
        "findings": [finding.to_json() for finding in findings],
        **operations,
        "self_test": self_test,
    }


def latencies() -> dict[str, Any]:
    """What `--max-latency` counts, in networks of the shape `TIMED`.

    Raises:
        InputError: A package is missing.
    """
    table = measured(TIMED)
    shape = TIMED.shape
    return {
        "shape": f"{TIMED.layers} layers, {shape.channels} channels, {shape.image_size}×{shape.image_size} images",
        "operations": [
            {"operation": operation, "nanoseconds": round(time), "spread": round(spread, 3)}
            for operation, (time, spread) in table.alone.items()
        ],
        "constant_nanoseconds": table.times[FIXED],
        "factor": round(table.factor, 3),
        "errors": [round(error, 3) for error in table.errors],
    }


def disk(runs: Path) -> Finding:
    """Check the file system for runs."""
    folder = runs.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return Finding("disk", f"{folder} is not a folder", "choose another --out")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("disk", f"{folder} is not writable", "make it writable or choose another --out")
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free for runs in {folder}"
    if free < ENOUGH_DISK:
        return Finding("disk", text, f"a run may need {ENOUGH_DISK / GIB:.0f} GiB: free space, or choose another --out")
    if hasattr(os, "statvfs"):
        facts = os.statvfs(folder)
        # Some file systems, such as btrfs, do not count files.
        if facts.f_files and facts.f_favail < ENOUGH_INODES:
            return Finding("disk", f"{text}, but only {facts.f_favail} more files", "delete unneeded files")
    return Finding("disk", text)


def memory_limit(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the memory that the container or batch job of this process may still use, in bytes; None without a limit.

    Args:
        groups: Mount point of the control groups (version 1 or 2).
        own: File that lists the groups of this process.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:  # not Linux
        return None
    left = None
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers not in ("", "memory"):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        base = groups / controllers
        # In a container the path may be that of the host, which is not visible there; its own group is then the root.
        for folder in (base / path.lstrip("/"), base):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
            except (OSError, ValueError):  # missing, or "max"
                continue
            # The page cache is released before the limit is reached.
            left = limit - used + _cached(folder)
            break
    return left


def _cached(folder: Path) -> int:
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def memory_left(available: int, limit: int | None) -> Finding:
    """Check the memory available to a run: free memory, or what the container may still use."""
    container = limit is not None and limit < available
    left = limit if container and limit is not None else available
    text = f"{left / GIB:.1f} GiB of memory free" + (" within the limit of this container or job" if container else "")
    if left < ENOUGH_MEMORY:
        cure = "request more" if container else "close other programs"
        return Finding("memory", text, f"{cure}, or use a smaller --batch-size, --channels or --layers")
    return Finding("memory", text)


def open_files() -> Finding:
    """Check the limit of open files."""
    if sys.platform == "win32":
        return Finding("files", "no limit on open files")
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return Finding("files", "no limit on open files")
    text = f"at most {limit} open files"
    if limit < ENOUGH_FILES:
        higher = ENOUGH_FILES * 4 if most == resource.RLIM_INFINITY else min(ENOUGH_FILES * 4, most)
        return Finding(
            "files", text, f"raise the limit with `ulimit -n {higher}` for studies and trials in several processes"
        )
    return Finding("files", text)


def gpu() -> Finding:
    """Check for a GPU that torch can use."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        text = f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        if free < total / 2:
            return Finding(
                "gpu", text, "another program uses most of it: close it, or choose a GPU with CUDA_VISIBLE_DEVICES"
            )
        return Finding("gpu", text)
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        if torch.version.cuda is None:
            return Finding("gpu", "present, but this build of torch is for the CPU only", "install torch with CUDA")
        return Finding(
            "gpu",
            f"torch is built for CUDA {torch.version.cuda} and sees no device",
            "check nvidia-smi, the driver version and CUDA_VISIBLE_DEVICES",
        )
    return Finding("gpu", "none; everything runs on the CPU")


def compiler() -> Finding:
    """Check whether the compiled kernels can run."""
    advice = native.advice()
    if advice:
        return Finding("kernels", "not compiled", advice)
    if not native.available():
        return Finding("kernels", "none for this processor; kernels of torch are used")
    if native.cache_folder() is None:
        return Finding(
            "kernels",
            "compiled again by every process, because other users could write to their folder",
            "make dnas/kernels in $XDG_CACHE_HOME or ~/.cache, and its parent folders, writable only by you",
        )
    return Finding("kernels", "compiled")


def clock(wall: float, monotonic: float, now: float) -> Finding:
    """Compare the wall clock with the monotonic clock, by which dnas measures all times and limits.

    Args:
        wall, monotonic: Elapsed seconds by each clock.
        now: Time of the wall clock.
    """
    if now < EARLIEST:
        text = f"date is {time.strftime('%Y-%m-%d', time.gmtime(now))}"
        return Finding(
            "clock", text, "set the clock: times in log.txt are wrong, and downloads may fail; results are not affected"
        )
    if abs(wall - monotonic) > SAME_TIME:
        text = f"advanced by {wall:.1f} s in {monotonic:.1f} s"
        return Finding(
            "clock", text, "the clock was set: times in log.txt jump; results, budgets and limits are not affected"
        )
    return Finding("clock", "steady")


def data_sets(data_dir: str | None) -> list[Finding]:
    """Check which named data sets are on disk. A missing one is a warning only if downloads are not allowed."""
    findings = []
    for name, place in found(data_dir):
        if place.startswith("not in ") and offline():
            advice = "it cannot be downloaded because DNAS_OFFLINE is set: copy it there, or set --data-dir"
            findings.append(Finding(name, place, advice))
        elif place.startswith("not in "):
            findings.append(Finding(name, f"{place}; downloaded on first use"))
        else:
            findings.append(Finding(name, place))
    return findings


def _self_test() -> dict[str, Any]:
    """Run a tiny search and training on digits; the trained network must be far better than guessing."""
    began = time.monotonic()
    train, info = load_train("digits")
    session = Session(None, {})
    method = create("dnas", None, {}, DARTS)
    search = GradientSettings(layers=3, channels=8, epochs=2, warmup_epochs=1, images=128)
    found = search_architecture(
        method, search.resolved(len(train), 1.0, info.image_size), train, info, seed=0, session=session
    )
    settings = TrainSettings(channels=8, epochs=3, learning_rate=0.1, drop_path=0.0, cutout=0)
    settings = settings.resolved(len(train), info.image_size)
    network = train_network(
        built(found.architecture, settings, info, 0), settings, train, info, seed=0, session=session
    )
    accuracy = measure_accuracy(network, load_test("digits", info), info).value
    return {
        "passed": accuracy > 0.5,
        "accuracy": round(accuracy, 4),
        "seconds": round(time.monotonic() - began, 1),
    }
