"""What int8 costs: other calibrations, and a training with fake quantization, on held-out training images.

    python benchmarks/int8.py --data cifar10-jpeg --image-size 16 --seconds 30 --seeds 4 --calibrations

For every seed a network is trained by the quick recipe, and once more with fake quantization in the last tenth of the
steps, for as many steps as take the same processor time of one thread. `dnas export` writes both as int8; ONNX Runtime
also quantizes the plain one by other calibrations. All are judged on training images that were held out; test images
are never read. The table has the paired differences in percentage points, and the time of a step that rounds.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from fake_quantization import SHARE, Int8AwareTraining
from held_out import parts
from rich.console import Console
from rich.table import Table
from torch import nn

from dnas.data.augment import normalise
from dnas.data.splits import DataInfo, Split, load_train
from dnas.deploy.onnx_file import onnx_bytes
from dnas.deploy.onnx_int8 import OnnxInt8
from dnas.deploy.protocol import INPUT, Exported, Floats
from dnas.methods.registry import create
from dnas.network.handmade import HandMade, build_handmade, get_handmade
from dnas.pipeline.budget import planned
from dnas.pipeline.model import Trained
from dnas.pipeline.presets import preset_settings
from dnas.rng import numpy_stream, torch_stream
from dnas.settings import NetworkTrainSettings, TrainSettings, WidthTrainSettings
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.published import load_published, published
from dnas.space.sampling import sample
from dnas.study.statistics import paired
from dnas.training.build import built, to_device
from dnas.training.trainer import Training

FLOAT, INT8 = "float32", "int8"
AWARE, AWARE_INT8 = "rounded, float32", "rounded, int8"  # trained with fake quantization
RANDOM, LAYERS = "random", 6
IMAGES, BATCH = 512, 32  # of the calibration, as in dnas.deploy.export
TIMED = 7  # steps
# By name: the number of images, and arguments of ONNX Runtime's quantize_static that differ from those of dnas.
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "2,048 images": {"images": 2_048},
    "average of ranges": {"extra_options": {"CalibMovingAverage": True}},
    "percentile 99.999": {"calibrate_method": "Percentile", "extra_options": {"CalibPercentile": 99.999}},
    "percentile 99.99": {"calibrate_method": "Percentile", "extra_options": {"CalibPercentile": 99.99}},
    "entropy": {"calibrate_method": "Entropy"},
    "uint8 activations": {"activation_type": "QUInt8"},
    "first and last layer in float32": {"float": ("first", "last")},
    "additions in float32": {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]},
    "16-bit activations": {"activation_type": "QInt16", "extra_options": {"UseQDQContribOps": True}},
}

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Job:
    data: str
    image_size: int | None
    network: str
    seconds: float
    seed: int


@cache
def images(data: str, image_size: int | None) -> tuple[Split, Split, DataInfo]:
    """The images that are trained on, those that judge, and what they are."""
    split, info = load_train(data, image_size=image_size)
    return *parts(split), info


# --- networks and their training ------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A network to be trained, and the settings of the quick preset, of all images and full size."""

    architecture: Architecture | HandMade
    settings: NetworkTrainSettings
    info: DataInfo
    seed: int

    def built(self) -> nn.Module:
        if isinstance(self.settings, TrainSettings) and isinstance(self.architecture, Architecture):
            return built(self.architecture, self.settings, self.info, self.seed)
        info = self.info
        assert isinstance(self.architecture, HandMade)
        return build_handmade(self.architecture.name, len(info.classes), info.channels, info.image_size, self.seed)

    def training(self, train: Split, first: int) -> Int8AwareTraining:
        """A training that rounds from a step on."""
        return Int8AwareTraining(first, self.built(), self.settings, train, self.info, self.seed, "train", "cpu")

    def trained(self, network: nn.Module) -> Trained:
        network = to_device(network, "cpu").eval()
        if not isinstance(self.settings, TrainSettings):
            return Trained(network, self.info, self.architecture)
        shape = self.settings.channels, self.settings.stem, self.settings.final_norm
        return Trained(network, self.info, self.architecture, *shape)


def subject_of(job: Job, train: Split, info: DataInfo) -> Subject:
    """`job.network` is "random", the name of a published architecture, or of a reference network with a width."""
    cells = job.network == RANDOM or job.network in published()
    preset = preset_settings("quick", create("dnas", None, {}, DARTS), info, len(train), handmade=not cells)["train"]
    kind = TrainSettings if cells else WidthTrainSettings
    given = {name: value for name, value in preset.items() if name in kind.model_fields}
    given |= {"epochs": 1, "images": 0, "half_size": 0.0, "flip": "auto" if info.flip else "off"}
    settings = kind(**given).resolved(len(train), info.image_size)
    if not cells:
        return Subject(get_handmade(job.network), settings, info, job.seed)
    drawn = sample(DARTS, numpy_stream(job.seed, "int8"), LAYERS) if job.network == RANDOM else None
    return Subject(drawn or load_published(job.network, LAYERS), settings, info, job.seed)


def step_seconds(training: Training) -> float:
    """Processor time of a step, the median of some; the first does additional work and is not counted."""
    seconds = []
    for step in range(TIMED + 1):
        began = time.thread_time()
        training.step(step)
        seconds.append(time.thread_time() - began)
    return statistics.median(seconds[1:])


def run(subject: Subject, train: Split, steps: int, rounded: int) -> tuple[Trained, float]:
    """A training of so many steps, the last of which round; and its processor time."""
    settings = planned(subject.settings, steps)
    subject = Subject(subject.architecture, settings, subject.info, subject.seed)
    training = subject.training(train, steps - rounded)
    began = time.thread_time()
    for step in range(steps):
        training.step(step)
    training.finish()
    return subject.trained(training.network), time.thread_time() - began


# --- files and their accuracy ---------------------------------------------------------------------------


def calibration(train: Split, info: DataInfo, count: int = IMAGES) -> Iterator[Floats]:
    """As in dnas.deploy.export."""
    order = torch.randperm(len(train), generator=torch_stream(0, "calibration"))[:count]
    for indices in order.split(BATCH):
        yield normalise(train.batch(indices), info).numpy()


def quantized(fused: Path, batches: Iterator[Floats], **how: Any) -> bytes:
    """An int8 file by ONNX Runtime, as `OnnxInt8` writes it but for what is given."""
    import onnx
    from onnxruntime import quantization as ort

    class Reader:
        def get_next(self) -> dict[str, Floats] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    nodes = onnx.load(fused).graph.node
    ends = {
        "first": [node.name for node in nodes if node.op_type == "Conv"][:1],
        "last": [node.name for node in nodes if node.op_type in ("Gemm", "MatMul")],
    }
    excluded = [name for end in how.pop("float", ()) for name in ends[end]]
    activations = getattr(ort.QuantType, how.pop("activation_type", "QInt8"))
    method = getattr(ort.CalibrationMethod, how.pop("calibrate_method", "MinMax"))
    out = fused.with_name("quantized.onnx")
    with contextlib.redirect_stdout(io.StringIO()):  # some calibrations print
        ort.quantize_static(
            fused, out, Reader(), per_channel=True, quant_format=ort.QuantFormat.QDQ, weight_type=ort.QuantType.QInt8,
            activation_type=activations, calibrate_method=method, nodes_to_exclude=excluded, **how,
        )  # fmt: skip
    return out.read_bytes()


def correct(model: bytes, judges: Split, info: DataInfo) -> float:
    """Accuracy of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    right = 0
    for indices in torch.arange(len(judges)).split(256):
        logits = session.run(None, {INPUT: normalise(judges.batch(indices), info).numpy()})[0]
        right += int((logits.argmax(1) == judges.labels[indices].numpy()).sum())
    return right / len(judges)


def accuracies(trained: Trained, train: Split, judges: Split, calibrations: Mapping[str, Any]) -> dict[str, float]:
    """Of the files of a network: float32, int8 as dnas exports it, and by other calibrations."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    info = trained.info
    exported = Exported(trained, "network", "network", lambda: calibration(train, info))
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        OnnxInt8().write(exported, place)
        found = {FLOAT: correct(onnx_bytes(exported), judges, info)}
        found[INT8] = correct((place / OnnxInt8.files[0]).read_bytes(), judges, info)
        plain, fused = place / "plain.onnx", place / "fused.onnx"
        plain.write_bytes(onnx_bytes(exported))
        quant_pre_process(plain, fused, skip_symbolic_shape=True)
        for name, how in calibrations.items():
            given = dict(how)
            batches = calibration(train, info, given.pop("images", IMAGES))
            found[name] = correct(quantized(fused, batches, **given), judges, info)
    return found


def measured(job: Job, calibrations: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a job, by name: accuracies, and seconds."""
    torch.set_num_threads(1)
    train, judges, info = images(job.data, job.image_size)
    subject = subject_of(job, train, info)
    step, rounding = step_seconds(subject.training(train, TIMED + 1)), step_seconds(subject.training(train, 0))
    plain, seconds = run(subject, train, max(1, int(job.seconds / step)), 0)
    steps = max(2, int(job.seconds / ((1 - SHARE) * step + SHARE * rounding)))
    aware, aware_seconds = run(subject, train, steps, max(1, round(SHARE * steps)))
    other = accuracies(aware, train, judges, {})
    return {
        **accuracies(plain, train, judges, calibrations),
        AWARE: other[FLOAT],
        AWARE_INT8: other[INT8],
        "seconds": seconds,
        "seconds of the other": aware_seconds,
        "time of a step that rounds": rounding / step,
    }


# --- the command ----------------------------------------------------------------------------------------


@app.default
def main(
    *,
    data: str = "digits",
    image_size: int | None = None,
    network: str = RANDOM,
    seconds: float = 20.0,
    seeds: int = 4,
    calibrations: bool = False,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure what int8 loses, and what other calibrations and rounding in training change.

    Parameters
    ----------
    data: A name or a folder.
    image_size: In pixels.
    network: random (6 layers, another one for each seed), the name of a published architecture, or resnet8.
    seconds: Of processor time, for every training.
    seeds: How many seeds.
    calibrations: Also measure other calibrations.
    out: A file that keeps what is known, so that an interrupted benchmark goes on.
    """
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime recommends steps that are already done
    known: dict[str, dict[str, float]] = json.loads(out.read_text("utf-8")) if out is not None and out.exists() else {}
    others = CALIBRATIONS if calibrations else {}
    by: dict[int, dict[str, float]] = {}
    for seed in range(seeds):
        key = json.dumps(asdict(Job(data, image_size, network, seconds, seed)))
        if not {INT8, *others} <= known.get(key, {}).keys():
            known[key] = measured(Job(data, image_size, network, seconds, seed), others)
            if out is not None:
                out.write_text(json.dumps(known, indent=1), "utf-8")
        by[seed] = known[key]
    if as_json:
        print(json.dumps(by, indent=1))
        return
    accuracy = f"accuracy of float32 {_mean(by, FLOAT):.4f}"
    title = f"{Path(data).name}, {network}, {seconds:g} s, {seeds} seeds: {accuracy}"
    Console(width=100).print(table(by, title))
    print(f"a step that rounds takes {_mean(by, 'time of a step that rounds'):.1f} times as long")


def _mean(by: Mapping[int, Mapping[str, float]], name: str) -> float:
    return float(np.mean([figures[name] for figures in by.values()]))


def table(by: Mapping[int, Mapping[str, float]], title: str) -> Table:
    """Differences of accuracies: int8 from float32, and the others from int8; in percentage points, with intervals."""
    out = Table(title=title, title_justify="left")
    for name in ("file", "compared with", "difference, points", "p"):
        out.add_column(name, justify="left" if name in ("file", "compared with") else "right")

    def figures(name: str) -> dict[int, float]:
        return {seed: 100 * row[name] for seed, row in by.items()}

    rows = [(INT8, FLOAT), (AWARE_INT8, AWARE), (AWARE_INT8, INT8)]
    rows += [(name, INT8) for name in CALIBRATIONS if all(name in row for row in by.values())]
    for name, other in rows:
        found = paired(figures(name), figures(other))
        shown = f"{found.mean:+.2f}"
        if found.low is not None and found.high is not None:
            shown += f" ({found.low:+.2f} to {found.high:+.2f})"
        out.add_row(name, other, shown, "" if found.p is None else f"{found.p:.2g}")
    return out


if __name__ == "__main__":
    app()
