"""A cell of fixed operations as one function on native kernels (`discrete.c`): of the discrete network in training, or
the operations of a layer of a supernet that a sampled path executes.

The modules of its `Program` keep all weights. Batch norms use the statistics of the batch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dnas.kernels import limits, native
from dnas.kernels.discrete_layout import INPUTS, Convolution, Layout, Program, Shape, layout_of
from dnas.kernels.memory import lease
from dnas.kernels.structures import STRUCTURES, DiscreteCell, DiscreteConvolution, DiscretePicture, DiscreteTerm


class _Call:
    """Structures of a cell for one forward pass and its backward pass.

    Without `mixing`, `factors` are those of drop path [edges, B]. With it they are the mixing weights of the edges, and
    the scale 1 and shift 0 of batch norms without parameters: [edges + 2, n], the same for all images and channels.
    """

    def __init__(
        self,
        program: Program,
        layout: Layout,
        batch: int,
        parameters: Sequence[Tensor],
        paths: Tensor | None,
        mixing: Tensor | None,
    ) -> None:
        self.program, self.layout, self.batch, self.factors = program, layout, batch, paths
        self.dtype = parameters[0].dtype
        self.parameters = [(id(p), p.shape) for p in parameters]
        self.norms = torch.empty(layout.norms_size, dtype=torch.float64)
        if mixing is not None:
            rows = torch.cat([mixing, mixing.new_tensor([1, 0])])
            widest = max(batch, *(shape[2] for shape in layout.shapes))
            self.factors = rows[:, None].expand(-1, widest).contiguous()
        counts = (program.pictures, len(program.convolutions), len(program.terms))
        kinds = (DiscretePicture, DiscreteConvolution, DiscreteTerm)
        self.pictures, self.convolutions, self.terms = (
            (kind * count).from_buffer_copy(data)
            for kind, count, data in zip(kinds, counts, layout.structures, strict=True)
        )
        places = (ctypes.addressof(part) for part in (self.pictures, self.convolutions, self.terms))
        self.cell = DiscreteCell(batch, native.threads(batch * layout.kept_size), *counts, *places)
        at = {id(p): p.data_ptr() for p in parameters}
        for made, c, place in zip(self.convolutions, program.convolutions, layout.norms, strict=True):
            made.deep, made.point[0], made.point[1] = self._weights(c, at)
            if c.norm is None:
                made.gamma, made.beta = _row(self.factors, -2 if c.edge is None else c.edge), _row(self.factors, -1)
                made.epsilon = limits.EPSILON
            else:
                made.gamma, made.beta = at[id(c.norm.weight)], at[id(c.norm.bias)]
                made.momentum, made.epsilon, made.factor = c.norm.momentum, c.norm.eps, _row(self.factors, c.edge)
                made.running_mean, made.running_variance, made.batches = (x.data_ptr() for x in c.statistics())
            made.norm = self.norms.data_ptr() + 8 * place
        for term, t in zip(self.terms, program.terms, strict=True):
            term.factor = _row(self.factors, t.edge)

    def _weights(self, c: Convolution, at: Mapping[int, int | None]) -> list[int | None]:
        """Return the addresses of a convolution's share of its weights, or of their gradients: depthwise, two 1×1."""
        share, shares = c.share
        places: list[int | None] = [None] * (c.deep is None)
        for weight in c.weights():
            whole = at[id(weight)]
            places.append(None if whole is None else whole + share * (weight.numel() // shares) * self.dtype.itemsize)
        return places + [None] * (3 - len(places))

    def forward(self, before: Tensor, previous: Tensor, kept: Tensor, out: Tensor) -> None:
        self._place(before, previous, kept, out)
        self._run("cell_forward", before.numel() + previous.numel() + kept.numel() + out.numel())

    def _place(self, before: Tensor, previous: Tensor, kept: Tensor, out: Tensor) -> None:
        size, layout = out.element_size(), self.layout
        for n, picture in enumerate(self.pictures):
            if n < INPUTS:
                picture.data = (before, previous)[n].data_ptr()
            elif n in layout.same:  # a later picture than that one
                picture.data = self.pictures[layout.same[n]].data
            elif n in layout.columns:
                picture.data, picture.pixel = out.data_ptr() + size * layout.columns[n], layout.channels
            else:
                picture.data = kept.data_ptr() + size * self.batch * layout.kept[n]
        for convolution in self.convolutions:
            convolution.z = self.pictures[convolution.output].data

    def backward(
        self,
        saved: Sequence[Tensor],
        grad: Tensor,
        before: Tensor | None,
        previous: Tensor | None,
        mixing: bool,
        wanted: Sequence[bool],
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Fill the gradients of both inputs, and return those of the mixing weights and of parameters, where wanted.

        `saved` is from `forward`.
        """
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
        sizes = [shape.numel() * want for (_, shape), want in zip(self.parameters, wanted, strict=True)]
        parts = torch.split(torch.zeros(sum(sizes), dtype=self.dtype), sizes)
        shaped = zip(parts, self.parameters, wanted, strict=True)
        grads = [part.view(shape) if want else None for part, (_, shape), want in shaped]
        at = {p: None if g is None else g.data_ptr() for (p, _), g in zip(self.parameters, grads, strict=True)}
        slopes = torch.zeros_like(self.factors) if mixing and self.factors is not None else None
        for made, c in zip(self.convolutions, program.convolutions, strict=True):
            made.deep_gradient, made.point_gradient[0], made.point_gradient[1] = self._weights(c, at)
            if c.norm is None:
                made.gamma_gradient = _row(slopes, c.edge)
            else:
                made.gamma_gradient, made.beta_gradient = at[id(c.norm.weight)], at[id(c.norm.bias)]
        for term, t in zip(self.terms, program.terms, strict=True):
            term.factor_gradient = _row(slopes, t.edge)
        filled = [x for x in (before, previous) if x is not None]
        self._run("cell_backward", sum(x.numel() for x in (*saved, grad, back, *filled)))
        return None if slopes is None else slopes[:-2].sum(1), grads

    def _run(self, function: str, numbers: int) -> None:
        """Run a pass; `numbers` are its inputs and outputs."""
        lib = _library(self.dtype)
        assert lib is not None
        native.count(function, numbers * self.dtype.itemsize)
        if getattr(lib, function)(ctypes.byref(self.cell)):
            raise MemoryError("out of memory in a cell")


def _row(factors: Tensor | None, edge: int | None) -> int | None:
    """Return the address of the factors of an edge."""
    return None if factors is None or edge is None else factors[edge].data_ptr()


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
        mixing: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        before = before.contiguous(memory_format=torch.channels_last)
        previous = previous.contiguous(memory_format=torch.channels_last)
        paths = None if paths is None else paths.to(before.dtype).contiguous()
        batch, dtype = len(before), before.dtype
        height, width, _ = layout.shapes[program.concat[0]]
        out = _picture(batch, (height, width, layout.channels), dtype)
        kept = lease((batch * layout.kept_size,), dtype)
        ctx.call = _Call(program, layout, batch, parameters, paths, mixing)
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
        needs_mixing, *needs = ctx.needs_input_grad[5:]
        mixing, grads = call.backward((before, previous, kept, out), grad, *into, needs_mixing, needs)
        return None, None, *into, None, mixing, *grads


def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    if dtype not in native.REALS:
        return None
    return native.library("discrete", *STRUCTURES["discrete"], REAL=native.REALS[dtype])


def available(x: Tensor) -> bool:
    """Return True if a cell with input x and statistics of the batch can use these kernels."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and _library(x.dtype) is not None


def run(
    program: Program, before: Tensor, previous: Tensor, paths: Tensor | None, mixing: Tensor | None = None
) -> Tensor | None:
    """Return the output [B, C, H, W] of a cell with batch statistics, which batch norms track; None if not covered.

    before, previous: inputs of the cell, before their ReLU. paths [edges, B]: factors of drop path.
    mixing [edges]: differentiable factors of all images; then no batch norm has parameters, otherwise all have.
    """
    if before.dim() != 4 or previous.dim() != 4:
        return None
    shapes = _shape(before), _shape(previous)
    if shapes not in program.layouts:
        program.layouts[shapes] = layout_of(program, *shapes)
    layout = program.layouts[shapes]
    parameters = program.parameters()
    if layout is None or not _fit(program, layout, before, previous, paths, mixing, parameters):
        return None
    arguments = (program, layout, before, previous, paths, mixing, *parameters)
    out: Tensor = _Function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def _fit(
    program: Program,
    layout: Layout,
    before: Tensor,
    previous: Tensor,
    paths: Tensor | None,
    mixing: Tensor | None,
    parameters: Mapping[Tensor, tuple[int, ...]],
) -> bool:
    """Return True if all assumptions of the C file hold. Otherwise torch computes the cell, or raises an error."""
    batch, dtype = len(before), before.dtype
    pixels = [batch * height * width for height, width, _ in layout.shapes]
    numbers = [n * shape[2] for n, shape in zip(pixels, layout.shapes, strict=True)]
    if min(pixels) < 2 or max(*numbers, batch * layout.kept_size) > limits.NUMBERS or len(previous) != batch:
        return False
    if program.pictures > limits.PICTURES:
        return False
    scaled = [part.edge for parts in (program.terms, program.convolutions) for part in parts]
    edges = 1 + max((edge for edge in scaled if edge is not None), default=-1)
    if paths is not None and (len(paths) < edges or paths.shape[1:] != (batch,) or paths.device.type != "cpu"):
        return False
    if mixing is not None and (len(mixing) < edges or mixing.dtype != dtype or mixing.device.type != "cpu"):
        return False
    if previous.dtype != dtype or previous.device.type != "cpu":
        return False
    read: list[Tensor] = list(parameters)
    shapes = list(parameters.values())
    for c in program.convolutions:
        if (c.norm is None) == (mixing is None):
            return False
        if c.norm is None:
            continue
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
