"""A cell of the discrete network in training, as one function on native kernels (`discrete.c`).

A `Program` lists the parts of a cell for the kernels: *pictures* (feature maps: 0 and 1 are the inputs of the cell, 2
and 3 its states 0 and 1, then the outputs of convolutions, and nodes), *convolutions* [ReLU, depthwise, 1×1, batch
norm], and the *terms* that a node adds up. It is built once per cell from its modules, which keep all weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dnas.kernels import limits, native
from dnas.kernels.limits import Kind
from dnas.kernels.memory import lease

INPUTS = 2
Shape = tuple[int, int, int]  # height, width, channels

# --- parts of a cell ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Convolution:
    """[ReLU, depthwise, 1×1, batch norm], optionally without the depthwise part, or with two 1×1 parts on two grids.

    `target` is the picture with the gradient of the output, and `edge` the edge whose drop path scales it.
    """

    input: int
    output: int
    target: int
    deep: nn.Conv2d | None
    points: tuple[nn.Conv2d, ...]
    norm: nn.BatchNorm2d
    edge: int | None = None

    @property
    def stride(self) -> int:
        return len(self.points) if self.deep is None else int(self.deep.stride[0])

    def parameters(self) -> list[Tensor]:
        deep = [] if self.deep is None else [self.deep.weight]
        return [*deep, *(point.weight for point in self.points), self.norm.weight, self.norm.bias]

    def shapes(self) -> list[tuple[int, ...]]:
        """Required shapes of the parameters."""
        deep = [] if self.deep is None else [(self.deep.in_channels, 1, *self.deep.kernel_size)]
        points = [(point.out_channels, point.in_channels, 1, 1) for point in self.points]
        return [*deep, *points, (self.norm.num_features,), (self.norm.num_features,)]

    def statistics(self) -> list[Tensor]:
        """Statistics that the batch norm tracks: mean, variance, and number of batches."""
        tracked = (self.norm.running_mean, self.norm.running_var, self.norm.num_batches_tracked)
        return [x for x in tracked if x is not None]


@dataclass(eq=False)
class Term:
    """One operation on an edge of a fixed architecture, with the node that adds it."""

    kind: Kind
    node: int
    source: int
    stride: int
    edge: int | None


@dataclass(eq=False)
class Program:
    """Parts of a cell (see the module). `nodes` are pictures; `concat` are the nodes in the output, in order."""

    convolutions: list[Convolution] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    concat: list[int] = field(default_factory=list)
    pictures: int = INPUTS
    layouts: dict[tuple[Shape, Shape], Layout | None] = field(default_factory=dict)

    def picture(self) -> int:
        self.pictures += 1
        return self.pictures - 1


# --- sizes ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Layout:
    """Sizes and offsets for inputs of one shape, without the batch.

    Attributes:
        shapes: Shape of each picture.
        kept: Offset of each stored picture in the kept numbers of an image, and their count.
        back: The same for gradients in the backward pass.
        reached: Pictures with a gradient.
        columns: Offset of each concatenated picture in the channels of the output, and their count.
        norms: Offset of the coefficients of each convolution, and their count.
        structures: Structures of pictures, convolutions and terms for `discrete.c`, without addresses.
    """

    shapes: list[Shape]
    kept: dict[int, int]
    kept_size: int
    back: dict[int, int]
    back_size: int
    reached: set[int]
    columns: dict[int, int]
    channels: int
    norms: list[int]
    norms_size: int
    structures: tuple[bytes, bytes, bytes]


def _layout(program: Program, before: Shape, previous: Shape) -> Layout | None:
    """Return the layout; None if sizes do not match."""
    shapes: dict[int, Shape] = {0: before, 1: previous}
    produced = {c.output: c for c in program.convolutions}
    for n in range(INPUTS, program.pictures):
        if n in produced:
            c = produced[n]
            height, width, channels = shapes[c.input]
            if any(part.in_channels != channels for part in (*c.points, *([] if c.deep is None else [c.deep]))):
                return None
            outputs = sum(point.out_channels for point in c.points)
            shapes[n] = (-(-height // c.stride), -(-width // c.stride), outputs)
            continue
        sizes = set()
        for t in program.terms:
            if t.node == n:
                height, width, channels = shapes[t.source]
                sizes.add((-(-height // t.stride), -(-width // t.stride), channels))
        if len(sizes) != 1:
            return None
        shapes[n] = sizes.pop()
    if len({shapes[n][:2] for n in program.concat}) != 1:
        return None
    read = {t.source for t in program.terms if t.kind in (Kind.IDENTITY, Kind.MAXIMUM, Kind.AVERAGE)}
    read |= {c.input for c in program.convolutions}
    reached = set(program.concat)
    for n in reversed(range(program.pictures)):
        if any(c.input == n and c.target in reached for c in program.convolutions):
            reached.add(n)
        if any(t.source == n and t.node in reached and t.kind != Kind.NOTHING for t in program.terms):
            reached.add(n)
    inner = {c.output for c in program.convolutions if c.target == c.output}
    kept = [n for n in range(INPUTS, program.pictures) if n not in program.concat]
    summed = {n for n in read if n not in produced and n >= INPUTS}  # nodes that others read
    back = sorted(reached & (inner | summed))

    def places(pictures: Sequence[int]) -> tuple[dict[int, int], int]:
        at, size = {}, 0
        for n in pictures:
            at[n] = size
            size += shapes[n][0] * shapes[n][1] * shapes[n][2]
        return at, size

    norms, total = [], 0
    for c in program.convolutions:
        norms.append(total)
        total += 4 * shapes[c.output][2]
    columns, channels = {}, 0
    for n in program.concat:
        columns[n] = channels
        channels += shapes[n][2]
    ordered = [shapes[n] for n in range(program.pictures)]
    made = _structures(program, ordered)
    return Layout(ordered, *places(kept), *places(back), reached, columns, channels, norms, total, made)


# --- calls ----------------------------------------------------------------------------------------------------

_int, _long, _pointer, _double = ctypes.c_int, ctypes.c_long, ctypes.c_void_p, ctypes.c_double


class _Picture(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("height", "width", "channels", "norm")),
        *(("data", _pointer), ("pixel", _long), ("gradient", _pointer), ("gradient_pixel", _long)),
        *(("start", _pointer), ("start_pixel", _long)),
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("input", "output", "target", "kernel", "dilation", "stride", "parts")),
        ("outputs", _int * 2),
        *(("deep", _pointer), ("point", _pointer * 2), ("gamma", _pointer), ("beta", _pointer)),
        *((name, _pointer) for name in ("running_mean", "running_variance", "batches")),
        *(("momentum", _double), ("epsilon", _double)),
        *((name, _pointer) for name in ("factor", "z", "norm", "deep_gradient")),
        *(("point_gradient", _pointer * 2), ("gamma_gradient", _pointer), ("beta_gradient", _pointer)),
    ]


class _Term(ctypes.Structure):
    _fields_ = [*((name, _int) for name in ("kind", "node", "source", "stride")), ("factor", _pointer)]


class _Cell(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("batch", "threads", "pictures", "convolutions", "terms")),
        *((name, _pointer) for name in ("picture", "convolution", "term")),
    ]


def _structures(program: Program, shapes: Sequence[Shape]) -> tuple[bytes, bytes, bytes]:
    normed = {c.output: i for i, c in enumerate(program.convolutions)}
    pictures = [_Picture(*shape, normed.get(n, -1), None, shape[2]) for n, shape in enumerate(shapes)]
    convolutions = [
        _Convolution(
            c.input,
            c.output,
            c.target,
            0 if c.deep is None else int(c.deep.kernel_size[0]),
            1 if c.deep is None else int(c.deep.dilation[0]),
            c.stride,
            len(c.points),
            tuple(point.out_channels for point in c.points),
        )
        for c in program.convolutions
    ]
    terms = [_Term(t.kind, t.node, t.source, t.stride) for t in program.terms]
    return b"".join(map(bytes, pictures)), b"".join(map(bytes, convolutions)), b"".join(map(bytes, terms))


class _Call:
    """Structures of a cell for one forward pass and its backward pass."""

    def __init__(
        self,
        program: Program,
        layout: Layout,
        batch: int,
        parameters: Sequence[Tensor],
        paths: Tensor | None,
    ) -> None:
        self.program, self.layout, self.batch, self.paths = program, layout, batch, paths
        self.dtype = parameters[0].dtype
        self.shapes = [p.shape for p in parameters]
        self.norms = torch.empty(layout.norms_size, dtype=torch.float64)
        counts = (program.pictures, len(program.convolutions), len(program.terms))
        self.pictures, self.convolutions, self.terms = (
            (kind * count).from_buffer_copy(data)
            for kind, count, data in zip((_Picture, _Convolution, _Term), counts, layout.structures, strict=True)
        )
        places = (ctypes.addressof(part) for part in (self.pictures, self.convolutions, self.terms))
        self.cell = _Cell(batch, native.threads(batch * layout.kept_size), *counts, *places)
        at = iter([p.data_ptr() for p in parameters])
        for made, c, place in zip(self.convolutions, program.convolutions, layout.norms, strict=True):
            norm = c.norm
            if c.deep is not None:
                made.deep = next(at)
            for part in range(len(c.points)):
                made.point[part] = next(at)
            made.gamma, made.beta = next(at), next(at)
            made.momentum, made.epsilon = norm.momentum, norm.eps
            made.running_mean, made.running_variance = _data(norm.running_mean), _data(norm.running_var)
            made.batches, made.factor = _data(norm.num_batches_tracked), self._factor(c.edge)
            made.norm = self.norms.data_ptr() + 8 * place
        for term, t in zip(self.terms, program.terms, strict=True):
            term.factor = self._factor(t.edge)

    def _factor(self, edge: int | None) -> int | None:
        if self.paths is None or edge is None:
            return None
        return self.paths.data_ptr() + self.paths.element_size() * edge * self.batch

    def forward(self, before: Tensor, previous: Tensor, kept: Tensor, out: Tensor) -> None:
        self._place(before, previous, kept, out)
        self._run("cell_forward", before.numel() + previous.numel() + kept.numel() + out.numel())

    def _place(self, before: Tensor, previous: Tensor, kept: Tensor, out: Tensor) -> None:
        size, layout = out.element_size(), self.layout
        for n, picture in enumerate(self.pictures):
            if n < INPUTS:
                picture.data = (before, previous)[n].data_ptr()
            elif n in layout.columns:
                picture.data, picture.pixel = out.data_ptr() + size * layout.columns[n], layout.channels
            else:
                picture.data = kept.data_ptr() + size * self.batch * layout.kept[n]
        for convolution in self.convolutions:
            convolution.z = self.pictures[convolution.output].data

    def backward(
        self, saved: Sequence[Tensor], grad: Tensor, before: Tensor | None, previous: Tensor | None
    ) -> list[Tensor]:
        """Fill the gradients of both inputs, and return those of all parameters; `saved` is from `forward`."""
        program, layout = self.program, self.layout
        self._place(*saved)
        back = lease((self.batch * layout.back_size,), self.dtype)
        size = back.element_size()
        for n, picture in enumerate(self.pictures):
            if n < INPUTS:
                into = (before, previous)[n]
                if into is not None:
                    picture.gradient, picture.gradient_pixel = into.data_ptr(), picture.channels
                continue
            place = grad.data_ptr() + size * layout.columns[n] if n in layout.columns else None
            if n in layout.back:
                picture.gradient = back.data_ptr() + size * self.batch * layout.back[n]
                picture.gradient_pixel = picture.channels
                picture.start, picture.start_pixel = place, layout.channels
            elif place is not None:
                picture.gradient, picture.gradient_pixel = place, layout.channels
        sizes = [shape.numel() for shape in self.shapes]
        parts = torch.split(torch.zeros(sum(sizes), dtype=self.dtype), sizes)
        grads = [part.view(shape) if len(shape) > 1 else part for part, shape in zip(parts, self.shapes, strict=True)]
        at = iter([g.data_ptr() for g in grads])
        for made, c in zip(self.convolutions, program.convolutions, strict=True):
            if c.deep is not None:
                made.deep_gradient = next(at)
            for part in range(len(c.points)):
                made.point_gradient[part] = next(at)
            made.gamma_gradient, made.beta_gradient = next(at), next(at)
        filled = [x for x in (before, previous) if x is not None]
        self._run("cell_backward", sum(x.numel() for x in (*saved, grad, back, *filled)))
        return grads

    def _run(self, function: str, numbers: int) -> None:
        """Run a pass; `numbers` are its inputs and outputs."""
        lib = _library(self.dtype)
        assert lib is not None
        native.count(function, numbers * self.dtype.itemsize)
        if getattr(lib, function)(ctypes.byref(self.cell)):
            raise MemoryError("out of memory in a cell")


def _data(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _picture(batch: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Allocate a picture [B, C, H, W], channels last."""
    return lease((batch, *shape), dtype).permute(0, 3, 1, 2)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        layout: Layout,
        before: Tensor,
        previous: Tensor,
        paths: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        before = before.contiguous(memory_format=torch.channels_last)
        previous = previous.contiguous(memory_format=torch.channels_last)
        paths = None if paths is None else paths.to(before.dtype).contiguous()
        batch, dtype = len(before), before.dtype
        height, width, _ = layout.shapes[program.concat[0]]
        out = _picture(batch, (height, width, layout.channels), dtype)
        kept = lease((batch * layout.kept_size,), dtype)
        ctx.call = _Call(program, layout, batch, parameters, paths)
        ctx.call.forward(before, previous, kept, out)
        ctx.save_for_backward(before, previous, kept, out, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        before, previous, kept, out, *_ = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        call = ctx.call
        wanted = [ctx.needs_input_grad[2 + n] and n in call.layout.reached for n in range(INPUTS)]
        inputs = zip(call.layout.shapes[:INPUTS], wanted, strict=True)
        into = [_picture(call.batch, shape, call.dtype) if want else None for shape, want in inputs]
        grads = call.backward((before, previous, kept, out), grad, *into)
        return None, None, *into, None, *grads


def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    if dtype not in native.REALS:
        return None
    return native.library("discrete", _Picture, _Convolution, _Term, _Cell, REAL=native.REALS[dtype])


def available(x: Tensor) -> bool:
    """Return True if a training cell with input x can use these kernels, which are only for passes with gradients."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _library(x.dtype) is not None
    )


def run(program: Program, before: Tensor, previous: Tensor, paths: Tensor | None) -> Tensor | None:
    """Return the output [B, C, H, W] of a cell with batch statistics, which batch norms track; None if not covered.

    before, previous: inputs of the cell, before their ReLU. paths [edges, B]: factors of drop path.
    """
    if before.dim() != 4 or previous.dim() != 4:
        return None
    shapes = _shape(before), _shape(previous)
    if shapes not in program.layouts:
        program.layouts[shapes] = _layout(program, *shapes)
    layout = program.layouts[shapes]
    parameters = [p for c in program.convolutions for p in c.parameters()]
    if layout is None or not _fit(program, layout, before, previous, paths, parameters):
        return None
    out: Tensor = _Function.apply(program, layout, before, previous, paths, *parameters)  # type: ignore[no-untyped-call]
    return out


def _fit(
    program: Program,
    layout: Layout,
    before: Tensor,
    previous: Tensor,
    paths: Tensor | None,
    parameters: Sequence[Tensor],
) -> bool:
    """Return True if all assumptions of the C file hold. Otherwise torch computes the cell, or raises an error."""
    batch, dtype = len(before), before.dtype
    pixels = [batch * height * width for height, width, _ in layout.shapes]
    numbers = [n * shape[2] for n, shape in zip(pixels, layout.shapes, strict=True)]
    if min(pixels) < 2 or max(*numbers, batch * layout.kept_size) > limits.NUMBERS or len(previous) != batch:
        return False
    if program.pictures > limits.PICTURES:
        return False
    edges = 1 + max((term.edge for term in program.terms if term.edge is not None), default=-1)
    if paths is not None and (len(paths) < edges or paths.shape[1:] != (batch,) or paths.device.type != "cpu"):
        return False
    if previous.dtype != dtype or previous.device.type != "cpu":
        return False
    read: list[Tensor] = list(parameters)
    shapes: list[tuple[int, ...]] = [shape for c in program.convolutions for shape in c.shapes()]
    for c in program.convolutions:
        statistics, shape = c.statistics(), (c.norm.num_features,)
        if not c.norm.training or len(statistics) < 3 or statistics[2].dtype != torch.int64:
            return False
        read += statistics[:2]
        shapes += [shape, shape]
    return all(
        x.shape == shape and x.dtype == dtype and x.device.type == "cpu" and x.is_contiguous()
        for x, shape in zip(read, shapes, strict=True)
    )


def _shape(x: Tensor) -> Shape:
    return x.shape[2], x.shape[3], x.shape[1]
