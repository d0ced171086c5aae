"""ONNX with 8-bit weights and activations."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dnas.deploy.onnx_file import OPSET, RUNTIME, USAGE, onnx_bytes, with_facts
from dnas.deploy.protocol import INPUT, OUTPUT, Exported, Floats, Format


class OnnxInt8(Format):
    """Network quantized per channel, with activation ranges from training images (static, by ONNX Runtime)."""

    name = "onnx-int8"
    title = f"ONNX, int8 per channel, calibrated on training images, opset {OPSET}"
    files = ("model.int8.onnx",)
    packages = ("onnx", "onnxscript", "onnxruntime")
    exact = False
    without = ("dnas", "torch")
    opening = RUNTIME.format(file=files[0])
    usage = USAGE.format(file=files[0])

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        import onnx
        from onnxruntime import quantization as ort  # type: ignore[import-untyped,unused-ignore]

        images = 0

        class Reader:
            """Calibration images in the interface of ONNX Runtime."""

            def __init__(self, batches: Iterator[Floats]) -> None:
                self.batches = batches

            def get_next(self) -> dict[str, Floats] | None:
                nonlocal images
                batch = next(self.batches, None)
                images += 0 if batch is None else len(batch)
                return None if batch is None else {INPUT: batch}

        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it recommends steps that are already done
        try:
            with tempfile.TemporaryDirectory() as place:
                plain, fused, quantized = (Path(place) / f"{name}.onnx" for name in ("plain", "fused", "quantized"))
                plain.write_bytes(onnx_bytes(exported))
                ort.shape_inference.quant_pre_process(plain, fused, skip_symbolic_shape=True)
                int8 = {"activation_type": ort.QuantType.QInt8, "weight_type": ort.QuantType.QInt8}
                how = {"quant_format": ort.QuantFormat.QDQ, "calibrate_method": ort.CalibrationMethod.MinMax}
                ort.quantize_static(fused, quantized, Reader(exported.calibration()), per_channel=True, **int8, **how)
                model = onnx.load(quantized)
        finally:
            root.setLevel(level)
        (folder / self.file).write_bytes(with_facts(model, exported))
        return {"opset": OPSET, "input": INPUT, "output": OUTPUT, "calibration_images": images}
