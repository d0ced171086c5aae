"""What `benchmarks/gpu.py` measures on a GPU and, in a reduced form, on the CPU; devices and precisions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import supernet
import torch
import train
from torch import Tensor

from dnas.space.darts import DARTS

BATCHED, PLAIN = "batched", "plain"
VARIANTS = {BATCHED: supernet.ENGINE, PLAIN: supernet.PLAIN}
FLOAT32, TF32, BFLOAT16 = "float32", "tf32", "bfloat16"
FLOAT64_LIMIT = 1e-9  # largest relative difference that counts as equal
WARMUP_STEPS = 2
CAPTURE_WARMUP = 3  # steps on a side stream before a capture, as torch's manual wants it
LEAST_ROUNDS = 3
STAGE = "benchmark"

Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What is measured on a device.

    Attributes:
        checked: Shape of the supernets that are compared in float64; K and depth vary by case.
        checked_networks: How many random architectures are compared, and their shape.
        searches: Shapes of the search steps, the most important first.
        training: Shape of the training step.
        rounds: Steps of each variant that are timed.
        seconds: After so many no further round begins, once there are a few.
    """

    device: str
    checked: supernet.Shape
    checked_networks: int
    checked_network: train.Shape
    searches: dict[str, supernet.Shape]
    training: train.Shape
    rounds: int
    seconds: float


DARTS_LIKE, DNAS_LIKE = "8 layers", "20 layers"
TINY = supernet.Shape(layers=3, channels=8, batch=4, size=8, nodes=2)
GPU = Setting(
    device="cuda",
    checked=supernet.Shape(layers=4, channels=16, batch=8, size=16),
    checked_networks=4,
    checked_network=train.Shape(layers=8, channels=8, batch=8, size=32),
    searches={DARTS_LIKE: supernet.Shape(), DNAS_LIKE: supernet.Shape(layers=20, channels=16, batch=96)},
    training=train.Shape(layers=20, channels=36, batch=96, size=32),
    rounds=10,
    seconds=5.0,
)
CPU = Setting(
    device="cpu",
    checked=replace(TINY, nodes=DARTS.nodes),
    checked_networks=1,
    checked_network=train.Shape(layers=3, channels=4, batch=4, size=8),
    searches={DARTS_LIKE: TINY, DNAS_LIKE: replace(TINY, channels=4, partial=2)},
    training=train.Shape(layers=3, channels=4, batch=4, size=8),
    rounds=1,
    seconds=0.0,
)


# --- the device -----------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """Names and versions that the figures depend on."""
    facts: dict[str, Any] = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "card": properties.name,
            "card_memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return facts


def synchronise(device: str) -> None:
    """Wait until the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def precision_of(precision: str) -> Iterator[None]:
    """Products and convolutions of float32 as TF32 or not; what it was is put back."""
    matrices, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == TF32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matrices, convolutions


def autocast(precision: str, device: str, cache: bool = True) -> torch.autocast:
    """For the forward pass; a captured graph cannot use the cache of weights."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == BFLOAT16, cache_enabled=cache)


def relative(a: Tensor, b: Tensor) -> float:
    """The norm of the difference over the norm of b."""
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]
