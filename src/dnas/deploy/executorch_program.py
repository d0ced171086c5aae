"""ExecuTorch, for phones and small devices."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dnas.deploy.protocol import Exported, Format


class ExecuTorchProgram(Format):
    """Program lowered to XNNPACK, for one image per call, since memory is planned ahead for a fixed batch size."""

    name = "executorch"
    title = "ExecuTorch program, float32 by XNNPACK, one image per call"
    files = ("model.pte",)
    packages = ("executorch.exir", "executorch.runtime")
    install = "pip install executorch"
    opening = f"""
import torch
from executorch.runtime import Runtime

torch.set_num_threads(1)
program = Runtime.get().load_program("{files[0]}")
network = program.load_method("forward")


def answer(images):
    return torch.cat([network.execute([image[None]])[0].clone() for image in torch.from_numpy(images)]).numpy()
"""
    usage = f"""import torch
from executorch.runtime import Runtime
from preprocess import CLASSES, prepare
program = Runtime.get().load_program("{files[0]}")
print(CLASSES[program.load_method("forward").execute([torch.from_numpy(prepare("picture.png"))])[0].argmax()])
"""

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        from executorch.backends.xnnpack.partition import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            xnnpack_partitioner,
        )
        from executorch.exir import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            to_edge_transform_and_lower,
        )

        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            partitioners = [xnnpack_partitioner.XnnpackPartitioner()]
            lowered = to_edge_transform_and_lower(exported.traced(1), partitioner=partitioners).to_executorch()
        (folder / self.files[0]).write_bytes(lowered.buffer)
        return {"executorch": version("executorch"), "backend": "XNNPACK", "batch": 1}
