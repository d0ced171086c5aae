"""How the benchmarks measure: time side by side, memory in fresh processes, operations and bytes by counting.

- `interleaved`: the variants take turns in one process, so whatever else the machine does meets all of them.
- `peak_memory`: a fresh Python process imports torch, notes its resident memory, then builds one variant and runs
  it; the figure is the largest resident memory from there on minus the noted one. So it holds weights, optimisers,
  activations, what the allocator keeps, and a few MiB of imports, but not torch. On Linux the peak is the kernel's
  own high-water mark (VmHWM), set back at the start; elsewhere the process's ru_maxrss. Nothing is sampled.
- `count`: a dispatch mode sees every operation of torch, in the forward and the backward pass. An operation that
  only views its input (a reshape, a slice) is no launch and moves nothing. All others move their tensor inputs,
  their new outputs, and once more what they overwrite. A convolution is one operation, whatever it does inside.
  Kernels that are called past torch are taken from `dnas.kernels.native.calls`, {name: [count, bytes]}; they, too,
  count as one operation with its inputs and outputs, and are large when their calls of one name are on average.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGE = 1_000_000  # bytes in and out, above which an operation counts as large
GIB = 2**30

Step = Callable[[], object]


# --- time -----------------------------------------------------------------------------------------------


def interleaved(variants: Mapping[str, Step], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, by variant. Every round runs all variants once, every other round in reverse order."""
    for step in variants.values():
        for _ in range(warmup):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds):
        for name in list(variants)[:: -1 if i % 2 else 1]:
            began = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(samples: Sequence[float]) -> dict[str, float]:
    """The least, the middle and the largest."""
    return {"min": min(samples), "median": median(samples), "max": max(samples)}


def paired_ratio(engine: Sequence[float], plain: Sequence[float]) -> float:
    """The median of the ratios of the rounds: a machine that is busy for a while disturbs it least."""
    return median(a / b for a, b in zip(engine, plain, strict=True))


# --- memory ---------------------------------------------------------------------------------------------


def peak_memory(build: Callable[..., Step], steps: int = 3, **arguments: Any) -> int:
    """Bytes of peak memory of a process that calls `build(**arguments)()` `steps` times, torch itself left out.

    `build` is a function at the top of a file (it is imported anew there); `arguments` are JSON values.
    """
    assert steps > 0
    file = str(Path(inspect.getfile(build)).resolve())
    command = [sys.executable, __file__, file, build.__name__, json.dumps(arguments), str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.splitlines()[-1])


def _peak_of_this_process(file: str, function: str, arguments: str, steps: str) -> int:
    before = psutil.Process().memory_info().rss
    _forget_high_water()
    sys.path.insert(0, str(Path(file).parent))
    step = getattr(__import__(Path(file).stem), function)(**json.loads(arguments))
    for _ in range(int(steps)):
        step()
    return _high_water() - before


def _forget_high_water() -> None:
    """From here on; where the kernel refuses, the imports' own peak stays in, which is below any network's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _high_water() -> int:
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


# --- operations and bytes -------------------------------------------------------------------------------


@dataclass
class Counts:
    """What one step launches and moves. `views` are torch's calls that move nothing and are no launches."""

    launches: int = 0
    large: int = 0
    bytes: int = 0
    views: int = 0
    native: dict[str, tuple[int, int]] = field(default_factory=dict)
    native_counted: bool = False

    def add(self, calls: int, moved: int) -> None:
        """`calls` of one kind, which moved so many bytes together."""
        self.launches += calls
        self.bytes += moved
        self.large += calls if calls and moved / calls > LARGE else 0


class _Counter(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        known = {_storage(t) for t in inputs}
        fresh = [t for t in _tensors(out) if _storage(t) not in known]
        schema = func._schema
        if not schema.is_mutable and inputs and not fresh and _tensors(out):
            self.counts.views += 1  # e.g. view, detach, _unsafe_view
        elif "empty" not in schema.name:  # memory that nobody has written yet
            named = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
            writes = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
            overwritten = _tensors([named.get(name) for name in writes])
            self.counts.add(1, sum(map(_bytes, (*inputs, *fresh, *overwritten))))
        return out


def count(step: Step) -> Counts:
    """The operations of one call of `step`."""
    counts = Counts()
    before = _native_calls()
    with _Counter(counts):
        step()
    after = _native_calls()
    counts.native_counted = after is not None
    for name, (calls, moved) in (after or {}).items():
        calls_before, moved_before = (before or {}).get(name, (0, 0))
        if calls > calls_before:
            counts.native[name] = (calls - calls_before, moved - moved_before)
            counts.add(*counts.native[name])
    return counts


def _native_calls() -> dict[str, tuple[int, int]] | None:
    """A copy of the native kernels' own counter; None where they have none."""
    from dnas.kernels import native

    calls = getattr(native, "calls", None)
    return None if calls is None else {name: (int(c[0]), int(c[1])) for name, c in dict(calls).items()}


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: torch.Tensor) -> int:
    """An expanded tensor is no larger than what lies behind it."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


# --- reports --------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    from dnas.pipeline.machine import environment

    return environment()


def figures(seconds: Sequence[float], memory: int | None, counts: Counts | None) -> dict[str, Any]:
    """The raw figures of one variant, as JSON."""
    out: dict[str, Any] = {"seconds": spread(seconds), "samples": list(seconds)}
    if memory is not None:
        out["memory_bytes"] = memory
    if counts is not None:
        out |= {"launches": counts.launches, "large_launches": counts.large, "bytes": counts.bytes}
        out |= {"views": counts.views, "native": counts.native, "native_counted": counts.native_counted}
    return out


def ratios(engine: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, float]:
    """Engine divided by plain, for what both `figures` have; below 1 is better. The time is `paired_ratio`.

    What the plain variant has none of, as large operations at a tiny shape, has no ratio.
    """
    out = {"time_ratio": paired_ratio(engine["samples"], plain["samples"])}
    return out | {name: engine[key] / plain[key] for name, key in _RATIOS.items() if key in engine and plain.get(key)}


_RATIOS = {
    "memory_ratio": "memory_bytes",
    "launch_ratio": "launches",
    "large_launch_ratio": "large_launches",
    "bytes_ratio": "bytes",
}


def show(title: str, variants: Mapping[str, Mapping[str, Any]]) -> None:
    """A table of the variants' `figures`, one a row."""
    rows = []
    for name, row in variants.items():
        cells = {"": name} | {f"s {key}": f"{row['seconds'][key]:.3f}" for key in ("min", "median", "max")}
        if "memory_bytes" in row:
            cells["peak GiB"] = f"{row['memory_bytes'] / GIB:.2f}"
        if "launches" in row:
            cells |= {"operations": f"{row['launches']:,}", "> 1 MB": f"{row['large_launches']:,}"}
            cells["GB moved"] = f"{row['bytes'] / 1e9:.2f}"
        rows.append(cells)
    table = Table(title=title, title_justify="left")
    for head in rows[0]:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*cells.values())
    Console(width=100).print(table)
    if any(row["seconds"]["max"] > 1.5 * row["seconds"]["median"] for row in variants.values()):
        print("Something else kept this machine busy: compare the least times, or measure again.")
    if any(row.get("native_counted") is False for row in variants.values()):
        print("Native kernels have no counter: their calls are not among the operations.")


def show_facts(facts: Mapping[str, Any]) -> None:
    """One line: what `machine` found."""
    print(", ".join(f"{name} {value}" for name, value in facts.items()))


def finish(result: Mapping[str, Any], as_json: bool, what: str = "engine / plain") -> None:
    """The ratios, which are of `what`, in words; with `as_json` one last line that is the result as a JSON object."""
    shown = {key: value for key, value in result.items() if key.endswith("_ratio")}
    if shown:
        print(f"{what}: " + ", ".join(f"{key[:-6].replace('_', ' ')} {v:.3f}" for key, v in shown.items()))
    if "equal" in result:
        print(f"equal: {'yes' if result['equal'] else 'NO'}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    print(_peak_of_this_process(*sys.argv[1:]))
