"""ONNX in single precision."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dnas.deploy.protocol import INPUT, OUTPUT, Exported, Format
from dnas.runtime.names import ONNX_METADATA

# The version that torch's exporter writes without conversion; ONNX Runtime has supported it since 1.14.
OPSET = 18
RUNTIME = f'''
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("{{file}}", options, providers=["CPUExecutionProvider"])


def answer(images):
    return session.run(None, {{{{"{INPUT}": images}}}})[0]
'''
USAGE = f'''import onnxruntime
from preprocess import CLASSES, prepare
session = onnxruntime.InferenceSession("{{file}}")
logits = session.run(None, {{{{"{INPUT}": prepare("picture.png")}}}})[0]
print(CLASSES[logits[0].argmax()])
'''


class OnnxFile(Format):
    """Single file for ONNX Runtime and others: normalized images at any batch size → logits."""

    name = "onnx"
    title = f"ONNX, float32, opset {OPSET}"
    files = ("model.onnx",)
    packages = ("onnx", "onnxscript", "onnxruntime")
    without = ("dnas", "torch")
    opening = RUNTIME.format(file=files[0])
    usage = USAGE.format(file=files[0])

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        (folder / self.file).write_bytes(onnx_bytes(exported))
        return {"opset": OPSET, "input": INPUT, "output": OUTPUT}


@lru_cache(maxsize=1)
def onnx_bytes(exported: Exported) -> bytes:
    """Return the network as an ONNX file, with `facts` as JSON in its metadata."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)  # it logs each operator of packages that are not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exported.program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET,
                optimize=True, verbose=False,
            )  # fmt: skip
    finally:
        noisy.setLevel(level)
    assert program is not None
    return with_facts(program.model_proto, exported)


def with_facts(model: Any, exported: Exported) -> bytes:
    """Serialize an ONNX model with `facts` in its metadata and without notes on the origin of its nodes."""
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.value_info[:], model.metadata_props[:]
    model.metadata_props.add(key=ONNX_METADATA, value=json.dumps(exported.facts))
    model.doc_string = exported.title
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
