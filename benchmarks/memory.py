"""How well the memory that is counted from a plan is met by ONNX Runtime, and how tight the bound of the file is.

    python benchmarks/memory.py --networks 20 --space darts

Random networks of several depths, widths and stems are exported as by `dnas export --format onnx`. Each file is run in
a process of its own: one thread, batch 1, no arena, steps in the order of the file. Measured is the most resident
memory during an answer beyond that before it. By default ONNX Runtime frees a tensor after its last use; with --reuse
it keeps the memory for a later tensor of the same size, which is its own default. Needs Linux and dnas[export].
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table

from dnas.data.splits import DataInfo
from dnas.deploy.onnx_file import onnx_bytes as written
from dnas.deploy.protocol import Exported
from dnas.network.network import build
from dnas.pipeline.model import Trained
from dnas.space.cost import memory
from dnas.space.file_size import facts_bytes, onnx_bytes
from dnas.space.plan import plan
from dnas.space.registry import get_space
from dnas.space.sampling import sample

# Linux counts resident memory of a thread in steps of up to 64 pages, so tensors have to be large.
SIDE, CLASSES = 256, tuple("0123456789")
SHAPES = [(3, 8, "cifar"), (4, 12, "halving"), (5, 16, "cifar"), (6, 8, "halving")]  # layers, channels, stem
# Freed memory goes back to the system at once, so that resident memory is what is held.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
RUNNER = """
import sys
import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
options.enable_mem_reuse = sys.argv[3] == "True"
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = np.zeros((1, 3, int(sys.argv[2]), int(sys.argv[2])), np.float32)


def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))


for _ in range(2):
    session.run(None, {"images": image})
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
session.run(None, {"images": image})
print(status("VmHWM") - before)
"""

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(networks: int = 20, space: str = "darts", *, reuse: bool = False) -> None:
    table = Table("layers", "channels", "stem", "counted kB", "measured kB", "ratio", "file kB", "bound kB", "ratio")
    ratios = []
    info = DataInfo("x", CLASSES, 3, SIDE, (0.0,) * 3, (1.0,) * 3, flip=False)
    for seed in range(networks):
        layers, channels, stem = SHAPES[seed % len(SHAPES)]
        architecture = sample(get_space(space), np.random.default_rng(seed), layers)
        layout = plan(architecture, channels=channels, classes=len(CLASSES), stem=stem)
        network = build(architecture, channels, len(CLASSES), stem=stem, final_norm=True).eval()
        trained = Trained(network, info, architecture, channels, stem, True)
        file = written(Exported(trained, "network", "network", lambda: iter(())))
        counted = memory(layout, SIDE, 3, True).bytes("float32")
        bound = onnx_bytes(layout, True, facts_bytes(CLASSES))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(file)
            command = [sys.executable, "-c", RUNNER, str(path), str(SIDE), str(reuse)]
            ended = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True)
        measured = int(ended.stdout)
        ratios.append(counted / measured)
        numbers = (counted / 1e3, measured / 1e3, counted / measured, len(file) / 1e3, bound / 1e3, bound / len(file))
        table.add_row(str(layers), str(channels), stem, *(f"{n:.2f}" if n < 10 else f"{n:,.0f}" for n in numbers))
    Console(width=120).print(table)
    within = sum(abs(ratio - 1) <= 0.1 for ratio in ratios)
    print(f"{within} of {len(ratios)} within 10 %, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    app()
