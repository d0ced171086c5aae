"""Gradients and updates of network weights and architecture parameters.

All functions return gradients and update nothing, so that the caller can check them before an optimizer step (`apply`).
A loss is a function without arguments that reads the current parameters and returns a scalar, or yields scalars that
are summed, of which only one has a graph at a time. The losses of other ranks are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from dnas.rng import numpy_stream
from dnas.runtime import distributed

Loss = Callable[[], Tensor | Iterable[Tensor]]
Gradients = tuple[Tensor, tuple[Tensor, ...]]
# Liu et al. 2019, footnote 2: the step of the finite difference is this number over the norm of the direction.
RADIUS = 1e-2


@contextmanager
def frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Exclude parameters from gradients within the block, so that no work is spent on them."""
    wanted = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, want in zip(parameters, wanted, strict=True):
            p.requires_grad_(want)


def gradients(loss: Loss, wanted: Sequence[nn.Parameter]) -> Gradients:
    """Return the loss (detached) and its gradients; zeros for parameters that it does not depend on."""
    value, grads = sparse_gradients(loss, wanted)
    return value, filled(grads, wanted)


def sparse_gradients(loss: Loss, wanted: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the loss (detached) and its gradients; None for parameters that it does not depend on."""
    made = loss()
    sums: Sequence[Tensor | None] = ()
    for term in (made,) if isinstance(made, Tensor) else made:
        found = [term.detach(), *torch.autograd.grad(term, list(wanted), allow_unused=True)]
        sums = added(sums, found) if sums else found
    value, *grads = distributed.total(sums)
    assert value is not None
    return value, tuple(grads)


def gradients_of(
    value: Tensor, wanted: Sequence[Tensor], *, keep: bool = False, differentiable: bool = False
) -> tuple[Tensor, ...]:
    """Return the gradients of a scalar; zeros for parameters that it does not depend on.

    Args:
        keep: Keep the graph of the scalar for further use.
        differentiable: Make the gradients differentiable.
    """
    grads = torch.autograd.grad(
        value, list(wanted), retain_graph=keep or differentiable, create_graph=differentiable, allow_unused=True
    )
    return filled(grads, wanted)


def filled(grads: Sequence[Tensor | None], wanted: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Replace None by zeros."""
    return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(grads, wanted, strict=True))


def added(grads: Sequence[Tensor | None], more: Sequence[Tensor | None] | None) -> tuple[Tensor | None, ...]:
    """Return sums of gradients; None if both are None."""
    if more is None:
        return tuple(grads)
    return tuple(b if a is None else a if b is None else a + b for a, b in zip(grads, more, strict=True))


def first_order(
    validation_loss: Loss, architecture: Sequence[nn.Parameter], weights: Sequence[nn.Parameter]
) -> Gradients:
    """Return ∂/∂α of L_val(w, α) at the current weights (DARTS, eq. 6 with ξ = 0)."""
    with frozen(weights):
        return gradients(validation_loss, architecture)


def unrolled(
    train_loss: Loss,
    validation_loss: Loss,
    architecture: Sequence[nn.Parameter],
    weights: Sequence[nn.Parameter],
    *,
    xi: float,
    momentum: float = 0.0,
    buffers: Sequence[Tensor | None] | None = None,
    weight_decay: float = 0.0,
) -> Gradients:
    """Return ∂/∂α of L_val(w', α) with one virtual weight step, w' = w - ξ (μ m + ∇w L_train + λ w) (DARTS, eqs. 5-8).

    The second-order term is the central difference of ∂/∂α L_train at w ± R v, v = ∇w' L_val(w', α), with
    R = 0.01 / ‖v‖. The weights are saved and restored, not stepped back, so they are unchanged bit for bit.

    Args:
        xi: Size of the virtual step: the current learning rate of the weights.
        momentum, buffers, weight_decay: Those of SGD for the network weights; missing buffers count as zero.
    """
    saved = [w.detach().clone() for w in weights]
    buffers = buffers if buffers is not None else [None] * len(weights)
    try:
        with frozen(architecture):
            _, train_grads = gradients(train_loss, weights)
        with torch.no_grad():
            for w, g, m in zip(weights, train_grads, buffers, strict=True):
                step = g + weight_decay * w
                if m is not None:
                    step = step + momentum * m
                w.sub_(xi * step)
        value, grads = gradients(validation_loss, [*architecture, *weights])
        direct, direction = grads[: len(architecture)], grads[len(architecture) :]
        length = torch.nn.utils.get_total_norm(direction)
        if length == 0:
            return value, direct
        radius = RADIUS / length
        sides = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for w, original, v in zip(weights, saved, direction, strict=True):
                    w.copy_(original + sign * radius * v)
            with frozen(weights):
                sides.append(gradients(train_loss, architecture)[1])
        return value, tuple(
            g - xi * (plus - minus) / (2 * radius) for g, plus, minus in zip(direct, *sides, strict=True)
        )
    finally:
        with torch.no_grad():
            for w, original in zip(weights, saved, strict=True):
                w.copy_(original)


def dominant_eigenvalue(
    loss: Callable[[], Tensor], architecture: Sequence[nn.Parameter], weights: Sequence[nn.Parameter]
) -> float:
    """Return the eigenvalue of largest magnitude of the Hessian ∂²/∂α² of a loss, with its sign (Zela et al. 2020, §4).

    Uses the Lanczos method, in which the product of the Hessian and v is the gradient of ⟨∂L/∂α, v⟩. Differences of
    first gradients are not usable: the gradient jumps wherever a ReLU or a maximum changes sides, and a network has so
    many of them that the quotient grows like 1/√step. The second derivative is the one between the jumps, as in the
    paper.

    The loss must be twice differentiable, which native kernels are not, and must have at least two parameters. Updates
    nothing. NaN if the Hessian is not finite.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    sizes = [p.numel() for p in architecture]
    with frozen(weights):
        slopes = gradients_of(loss(), architecture, differentiable=True)
    if not any(slope.requires_grad for slope in slopes):
        return 0.0

    def product(vector: np.ndarray) -> np.ndarray:
        parts = torch.split(torch.from_numpy(vector.reshape(-1)), sizes)
        along = sum((s * v.view(s.shape).to(s)).sum() for s, v in zip(slopes, parts, strict=True))
        assert isinstance(along, Tensor)
        second = gradients_of(along, architecture, keep=True)
        return torch.cat([part.flatten().to("cpu", torch.float64) for part in second]).numpy()

    # Not a vector of ones: a softmax is invariant to it, so it is in the null space of the Hessian.
    start = numpy_stream(0, "eigenvector").standard_normal(sum(sizes))
    first = product(start)
    if not np.isfinite(first).all():
        return math.nan
    if not first.any():
        return 0.0  # the Lanczos method cannot start from it
    hessian = LinearOperator((len(start), len(start)), matvec=product, dtype=np.float64)
    return float(eigsh(hessian, 1, which="LM", v0=start, tol=1e-3, return_eigenvectors=False)[0])


def apply(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    grads: Sequence[Tensor | None],
    parts: Mapping[nn.Parameter, Sequence[bool]] | None = None,
) -> None:
    """Update the parameters with their optimizer and the given gradients; those without a gradient are not updated.

    Args:
        parts: For parameters that are only updated in part: which of their equal parts along the first dimension are.

    Everything else stays bit-for-bit identical, including the optimizer state: neither momentum nor weight decay is
    applied. This holds for elementwise optimizers such as SGD and Adam.
    """
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    partial = {p: moving for p, moving in (parts or {}).items() if p.grad is not None}
    resting = [view for p in partial for view in _resting((p.detach(), *_memory(optimizer, p)), partial[p])]
    values = torch._foreach_mul(resting, 1.0) if resting else ()  # copies in one call
    new = [p for p in partial if p not in optimizer.state]
    optimizer.step()
    if resting:
        torch._foreach_copy_(resting, values)
    for p in new:  # the step has created state for them
        for view in _resting(_memory(optimizer, p), partial[p]):
            view.zero_()
    for p in parameters:
        p.grad = None


def _memory(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> list[Tensor]:
    """Return the elementwise optimizer state of a parameter."""
    kept = optimizer.state.get(p, {}).values()
    return [tensor for tensor in kept if isinstance(tensor, Tensor) and tensor.shape == p.shape]


def _resting(tensors: Iterable[Tensor], moving: Sequence[bool]) -> list[Tensor]:
    """Return views of the parts that are not updated."""
    return [
        view for tensor in tensors for view, moves in zip(tensor.chunk(len(moving)), moving, strict=True) if not moves
    ]
