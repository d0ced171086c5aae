"""A Python file that only requires torch, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dnas.deploy.protocol import Exported, Format
from dnas.deploy.source_code import network_code
from dnas.runtime.names import MODEL_FILE

CODE_FILE = "model.py"


class PythonCode(Format):
    """Source code of the network, for reading and for further training."""

    name = "python"
    title = "Python source code for torch, and weights"
    files = (CODE_FILE, MODEL_FILE)
    opening = """
import torch
from model import load

torch.set_num_threads(1)
network = load()


def answer(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
"""
    usage = """import torch
from model import load
from preprocess import CLASSES, prepare
logits = load()(torch.from_numpy(prepare("picture.png")))
print(CLASSES[logits[0].argmax()])
"""

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        write_code(exported, folder)
        return {"torch": torch.__version__}


def write_code(exported: Exported, folder: Path) -> None:
    """Write model.py and the weights that it loads."""
    code, weights = network_code(exported.trained)
    info = exported.trained.info
    text = f'''"""{exported.title[0].upper()}{exported.title[1:]}, written by dnas {version("dnas")}.

Requires torch, and safetensors to load the weights.

`load()` returns the trained network in evaluation mode; `Network()` is randomly initialized. Train it like any module:
call `.train()`, and feed normalized images, float32 [B, {info.channels}, {info.image_size}, {info.image_size}].
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
{code}

def load(weights=Path(__file__).with_name("{MODEL_FILE}")):
    """Return the network with its trained weights."""
    from safetensors.torch import load_file

    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()
'''
    (folder / CODE_FILE).write_text(text, "utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (folder / MODEL_FILE).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
