"""Program of torch.export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dnas.deploy.protocol import Exported, Format
from dnas.runtime.names import PREPROCESS_FILE


class TorchProgram(Format):
    """Graph and weights without Python code of dnas, for torch.export.load and for compilers for other devices."""

    name = "torch"
    title = "torch.export program, float32"
    files = ("model.pt2",)
    opening = f'''
import torch

torch.set_num_threads(1)
network = torch.export.load("{files[0]}").module()


def answer(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
'''
    usage = f'''import torch
from preprocess import CLASSES, prepare
network = torch.export.load("{files[0]}").module()
logits = network(torch.from_numpy(prepare("picture.png")))
print(CLASSES[logits[0].argmax()])
'''

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        extra = {PREPROCESS_FILE: json.dumps(exported.facts)}
        torch.export.save(exported.program, folder / self.file, extra_files=extra)
        return {"torch": torch.__version__}
