"""A cell of the discrete network for native kernels: its parts, and their sizes for inputs of one shape.

A `Program` lists the parts of a cell for `discrete.c`: *pictures* (feature maps: 0 and 1 are the inputs of the cell, 2
and 3 its states 0 and 1, then the outputs of convolutions, and nodes), *convolutions* [ReLU, depthwise, 1×1, batch
norm], and the *terms* that a node adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from dnas.kernels.limits import Kind
from dnas.kernels.structures import DiscreteConvolution, DiscretePicture, DiscreteTerm

INPUTS = 2
Shape = tuple[int, int, int]  # height, width, channels

# --- parts of a cell ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Convolution:
    """[ReLU, depthwise, 1×1, batch norm], optionally without the depthwise part, or with two 1×1 parts on two grids.

    Attributes:
        input, output, target: Pictures; `target` has the gradient of the output.
        deep, points: Their modules. Without both, it is a batch norm of its input, without ReLU.
        norm: Batch norm with learned scale and shift and running statistics. None: without both (the supernet).
        edge: The edge whose factor scales the output.
        share: (n, m): the modules compute m such convolutions side by side, and this is number n of them. Their
            weights consist of m equal parts along the first dimension.
    """

    input: int
    output: int
    target: int
    deep: nn.Conv2d | None
    points: tuple[nn.Conv2d, ...]
    norm: nn.BatchNorm2d | None
    edge: int | None = None
    share: tuple[int, int] = (0, 1)

    @property
    def stride(self) -> int:
        return max(1, len(self.points)) if self.deep is None else int(self.deep.stride[0])

    @property
    def inputs(self) -> set[int]:
        """Numbers of channels that its modules read; only one if they match."""
        modules = (*self.points, *([] if self.deep is None else [self.deep]))
        return {module.in_channels // self.share[1] for module in modules}

    @property
    def outputs(self) -> tuple[int, ...]:
        """Number of output channels of each 1×1 part."""
        return tuple(point.out_channels // self.share[1] for point in self.points)

    def weights(self) -> list[Tensor]:
        """Return the weights of the depthwise and of the 1×1 parts, for all shares."""
        return [module.weight for module in (*([] if self.deep is None else [self.deep]), *self.points)]

    def parameters(self) -> list[Tensor]:
        return self.weights() + ([] if self.norm is None else [self.norm.weight, self.norm.bias])

    def shapes(self) -> list[tuple[int, ...]]:
        """Required shapes of the parameters."""
        deep = [] if self.deep is None else [(self.deep.in_channels, 1, *self.deep.kernel_size)]
        points = [(point.out_channels, point.in_channels // self.share[1], 1, 1) for point in self.points]
        norm = [] if self.norm is None else [(self.norm.num_features,)] * 2
        return [*deep, *points, *norm]

    def statistics(self) -> list[Tensor]:
        """Statistics that the batch norm tracks: mean, variance, and number of batches."""
        if self.norm is None:
            return []
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

    def parameters(self) -> dict[Tensor, tuple[int, ...]]:
        """Return each parameter with its required shape; convolutions can share one."""
        return {p: shape for c in self.convolutions for p, shape in zip(c.parameters(), c.shapes(), strict=True)}

    def convolution_of(self, picture: int) -> Convolution:
        """Return the convolution with this output."""
        return next(c for c in self.convolutions if c.output == picture)

    def picture(self) -> int:
        """Add a picture, and return its number."""
        self.pictures += 1
        return self.pictures - 1


# --- sizes ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Layout:
    """Sizes and offsets for inputs of one shape, without the batch.

    Attributes:
        shapes: Shape of each picture.
        same: For each picture that is only a batch norm of another one, that one, whose data it reads.
        kept: Offset of each stored picture in the kept numbers of an image, and their count.
        back: The same for gradients in the backward pass.
        reached: Pictures with a gradient.
        columns: Offset of each concatenated picture in the channels of the output, and their count.
        norms: Offset of the coefficients of each convolution, and their count.
        structures: Structures of pictures, convolutions and terms for `discrete.c`, without addresses.
    """

    shapes: list[Shape]
    same: dict[int, int]
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


def layout_of(program: Program, before: Shape, previous: Shape) -> Layout | None:
    """Return the layout; None if sizes do not match."""
    shapes: dict[int, Shape] = {0: before, 1: previous}
    produced = {c.output: c for c in program.convolutions}
    for n in range(INPUTS, program.pictures):
        if n in produced:
            c = produced[n]
            height, width, channels = shapes[c.input]
            if not c.inputs <= {channels}:
                return None
            shapes[n] = (-(-height // c.stride), -(-width // c.stride), sum(c.outputs) or channels)
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
    same = {c.output: c.input for c in program.convolutions if not c.points}
    kept = [n for n in range(INPUTS, program.pictures) if n not in program.concat and n not in same]
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
    return Layout(ordered, same, *places(kept), *places(back), reached, columns, channels, norms, total, made)


def _structures(program: Program, shapes: Sequence[Shape]) -> tuple[bytes, bytes, bytes]:
    normed = {c.output: i for i, c in enumerate(program.convolutions)}
    pictures = [DiscretePicture(*shape, normed.get(n, -1), None, shape[2]) for n, shape in enumerate(shapes)]
    convolutions = [
        DiscreteConvolution(
            c.input,
            c.output,
            c.target,
            0 if c.deep is None else int(c.deep.kernel_size[0]),
            1 if c.deep is None else int(c.deep.dilation[0]),
            c.stride,
            len(c.points),
            c.outputs or (shapes[c.output][2],),
        )
        for c in program.convolutions
    ]
    terms = [DiscreteTerm(t.kind, t.node, t.source, t.stride) for t in program.terms]
    return b"".join(map(bytes, pictures)), b"".join(map(bytes, convolutions)), b"".join(map(bytes, terms))
