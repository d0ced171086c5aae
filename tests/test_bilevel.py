"""The updates against closed forms and exact second derivatives (Liu et al. 2019)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dnas.rng import torch_stream
from dnas.training.updates import apply, dominant_eigenvalue, first_order, gradients, sparse_gradients, unrolled


def number(value):
    return nn.Parameter(torch.tensor([value], dtype=torch.float64))


class Toy:
    """Figure 2 of DARTS: L_train = w² - 2αw + α², L_val = αw - 2α + 1, from (α, w) = (2, -2)."""

    def __init__(self, alpha=2.0, w=-2.0):
        self.alpha, self.w = number(alpha), number(w)

    def train(self):
        return (self.w**2 - 2 * self.alpha * self.w + self.alpha**2).sum()

    def validation(self):
        return (self.alpha * self.w - 2 * self.alpha + 1).sum()


@given(
    alpha=st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3),
    w=st.floats(-3, 3),
    xi=st.floats(0, 1),
    momentum=st.floats(0, 0.99),
    buffer=st.none() | st.floats(-2, 2),
    decay=st.floats(0, 0.1),
)
@settings(deadline=None, max_examples=50)
def test_unrolled_gradient_of_the_toy_problem_is_its_closed_form(alpha, w, xi, momentum, buffer, decay):
    """All is linear or quadratic here, so the finite difference is exact: ∂L_val(w', α)/∂α = w' - 2 + 2ξα."""
    toy = Toy(alpha, w)
    value, (grad,) = unrolled(
        toy.train,
        toy.validation,
        [toy.alpha],
        [toy.w],
        xi=xi,
        momentum=momentum,
        buffers=[None if buffer is None else torch.tensor([buffer], dtype=torch.float64)],
        weight_decay=decay,
    )
    moved = w - xi * (2 * w - 2 * alpha + momentum * (buffer or 0.0) + decay * w)
    assert value.item() == pytest.approx(alpha * moved - 2 * alpha + 1, abs=1e-9)
    assert grad.item() == pytest.approx(moved - 2 + 2 * xi * alpha, abs=1e-8)


@pytest.mark.parametrize(("xi", "fixed"), [(0.0, 2.0), (0.1, 2 / 1.2), (0.5, 1.0)])
def test_descent_on_the_toy_problem_ends_at_its_fixed_point(xi, fixed):
    """The paper's figure 2: α = w = 2 / (1 + 2ξ); ξ = 0.5 finds the true optimum (1, 1), the first order (2, 2)."""
    toy = Toy()
    for _ in range(600):
        if xi == 0:
            _, (grad,) = first_order(toy.validation, [toy.alpha], [toy.w])
        else:
            _, (grad,) = unrolled(toy.train, toy.validation, [toy.alpha], [toy.w], xi=xi)
        with torch.no_grad():
            toy.alpha -= 0.1 * grad
        _, (grad,) = gradients(toy.train, [toy.w])
        with torch.no_grad():
            toy.w -= 0.1 * grad
    assert toy.alpha.item() == pytest.approx(fixed, abs=1e-6)
    assert toy.w.item() == pytest.approx(fixed, abs=1e-6)


class TwoLayers:
    """A smooth net whose hidden units the architecture mixes, with two batches."""

    def __init__(self, seed, dtype=torch.float64, act=torch.tanh):
        generator = torch_stream(seed, "test")

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.act = act
        self.architecture = [nn.Parameter(draw(3, 6)), nn.Parameter(draw(4))]
        self.weights = [nn.Parameter(0.5 * draw(6, 5)), nn.Parameter(0.5 * draw(4, 6)), nn.Parameter(draw(4))]
        self.buffers = [draw(*w.shape) for w in self.weights]
        self.train_batch = (draw(16, 5), torch.arange(16) % 4)
        self.validation_batch = (draw(16, 5), (torch.arange(16) + 1) % 4)

    def loss(self, batch, weights=None):
        first, second, bias = self.weights if weights is None else weights
        alpha, tilt = self.architecture
        hidden = self.act(batch[0] @ first.T) * torch.softmax(alpha, 0).square().sum(0)
        logits = (hidden @ second.T + bias) * tilt.sigmoid()
        return nn.functional.cross_entropy(logits, batch[1])

    def train(self):
        return self.loss(self.train_batch)

    def validation(self):
        return self.loss(self.validation_batch)

    def exact(self, xi, momentum, decay):
        """∂/∂α of L_val(w', α) by differentiating through the virtual step."""
        grads = torch.autograd.grad(self.train(), self.weights, create_graph=True)
        moved = [
            w - xi * (momentum * m + g + decay * w) for w, g, m in zip(self.weights, grads, self.buffers, strict=True)
        ]
        return torch.autograd.grad(self.loss(self.validation_batch, moved), self.architecture)


def relative(got, expected):
    got, expected = (torch.cat([t.flatten() for t in ts]) for ts in (got, expected))
    return ((got - expected).norm() / expected.norm()).item()


@given(seed=st.integers(0, 2**31), xi=st.sampled_from([0.025, 0.1, 1.0]))
@settings(deadline=None, max_examples=20)
def test_unrolled_gradient_equals_exact_double_backward(seed, xi):
    """With a smooth net in float64, 600 cases gave at most 1.6e-5."""
    net = TwoLayers(seed)
    momentum, decay = 0.9, 0.01
    _, got = unrolled(
        net.train,
        net.validation,
        net.architecture,
        net.weights,
        xi=xi,
        momentum=momentum,
        buffers=net.buffers,
        weight_decay=decay,
    )
    assert relative(got, net.exact(xi, momentum, decay)) < 1e-4


@pytest.mark.parametrize("missing", ["second-order term", "momentum", "decay"])
def test_the_comparison_with_double_backward_sees_every_term(missing):
    """Each term of the virtual step weighs more than the tolerance above."""
    net = TwoLayers(0)
    full = net.exact(1.0, 0.9, 0.01)
    if missing == "second-order term":
        moved = [
            (w - (0.9 * m + g + 0.01 * w)).detach()
            for w, g, m in zip(net.weights, torch.autograd.grad(net.train(), net.weights), net.buffers, strict=True)
        ]
        partial = torch.autograd.grad(net.loss(net.validation_batch, moved), net.architecture)
    else:
        partial = net.exact(1.0, 0.0 if missing == "momentum" else 0.9, 0.0 if missing == "decay" else 0.01)
    assert relative(partial, full) > 1e-3


def test_unrolled_gradient_in_float32_with_kinks_is_close_enough():
    net = TwoLayers(0, torch.float32, torch.relu)
    _, got = unrolled(net.train, net.validation, net.architecture, net.weights, xi=0.1, weight_decay=3e-4)
    net.buffers = [torch.zeros_like(w) for w in net.weights]
    assert relative(got, net.exact(0.1, 0.9, 3e-4)) < 1e-2


def test_without_a_virtual_step_the_unrolled_gradient_is_the_first_order():
    net = TwoLayers(0)
    value, expected = first_order(net.validation, net.architecture, net.weights)
    unrolled_value, got = unrolled(
        net.train, net.validation, net.architecture, net.weights, xi=0.0, momentum=0.9, buffers=net.buffers
    )
    assert torch.equal(value, unrolled_value)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_first_order_gradient_is_that_of_the_validation_loss():
    net = TwoLayers(0)
    value, got = first_order(net.validation, net.architecture, net.weights)
    assert value.item() == net.validation().item() and not value.requires_grad
    expected = torch.autograd.grad(net.validation(), net.architecture)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_validation_loss_that_ignores_the_weights_has_no_second_order_term():
    net = TwoLayers(0)
    loss = lambda: net.architecture[0].square().sum()
    _, (grad, other) = unrolled(net.train, loss, net.architecture, net.weights, xi=0.1)
    assert torch.equal(grad, 2 * net.architecture[0].detach())
    assert (other == 0).all()


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3, 4])
def test_weights_end_as_they_were_to_the_bit_also_when_a_loss_raises(fails_at):
    """The four losses of the unrolled gradient, in turn; adding and subtracting would leave rounding behind."""
    net = TwoLayers(0, torch.float32)
    before = [w.detach().clone() for w in net.weights]
    architecture = [a.detach().clone() for a in net.architecture]
    calls = []

    def counted(loss):
        def run():
            calls.append(loss)
            if len(calls) == fails_at:
                raise ArithmeticError
            return loss()

        return run

    def call():
        return unrolled(
            counted(net.train),
            counted(net.validation),
            net.architecture,
            net.weights,
            xi=0.1,
            momentum=0.9,
            buffers=net.buffers,
            weight_decay=0.01,
        )

    if fails_at is None:
        call()
        assert len(calls) == 4
    else:
        with pytest.raises(ArithmeticError):
            call()
        assert len(calls) == fails_at
    for p, original in zip([*net.weights, *net.architecture], [*before, *architecture], strict=True):
        assert torch.equal(p, original)
        assert p.requires_grad and p.grad is None


def test_first_order_spends_nothing_on_weights_and_leaves_their_flags():
    """A weight that was frozen before stays frozen; the others get no gradient and can have one again."""
    net = TwoLayers(0)
    net.weights[1].requires_grad_(False)
    seen = []

    def loss():
        seen.append([w.requires_grad for w in net.weights])
        return net.validation()

    first_order(loss, net.architecture, net.weights)
    assert seen == [[False, False, False]]
    assert [w.requires_grad for w in net.weights] == [True, False, True]
    assert all(p.grad is None for p in [*net.weights, *net.architecture])


def test_first_order_leaves_flags_when_the_loss_raises():
    net = TwoLayers(0)

    def loss():
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        first_order(loss, net.architecture, net.weights)
    assert all(w.requires_grad for w in net.weights)


def test_gradients_of_parameters_that_a_loss_does_not_reach_are_zeros():
    net = TwoLayers(0)
    stranger = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    value, grads = gradients(net.train, [*net.weights, stranger])
    assert torch.equal(grads[-1], torch.zeros(2, 3, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(grads, torch.autograd.grad(net.train(), net.weights), strict=False))
    assert not value.requires_grad
    assert all(p.grad is None for p in [*net.weights, stranger])


def test_apply_moves_the_given_parameters_along_the_given_gradients_only():
    net = TwoLayers(0)
    optimizer = torch.optim.SGD(net.weights, 0.5)
    before = [w.detach().clone() for w in net.weights]
    grads = [torch.full_like(w, 2.0) for w in net.weights]
    apply(optimizer, net.weights, grads)
    for w, original in zip(net.weights, before, strict=True):
        torch.testing.assert_close(w.detach(), original - 1.0)
        assert w.grad is None
    assert all((g == 2).all() for g in grads)


# --- the dominant eigenvalue ------------------------------------------------------------------------------------


def quadratic(eigenvalues, seed=0):
    """½ xᵀHx + bᵀx of two tables x, with these eigenvalues of H."""
    generator = torch_stream(seed, "test")
    n = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    hessian = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    tables = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in ((2, 3), (n - 6,))]

    def loss():
        x = torch.cat([table.flatten() for table in tables])
        return x @ hessian @ x / 2 + x.sum()

    return loss, tables


@pytest.mark.parametrize("largest", [5.0, -5.0])
def test_dominant_eigenvalue_of_a_quadratic_is_that_of_largest_magnitude_with_its_sign(largest):
    others = np.linspace(-3, 4, 29).tolist()
    loss, tables = quadratic([*others, largest])
    assert dominant_eigenvalue(loss, tables, []) == pytest.approx(largest, rel=1e-3)


def test_dominant_eigenvalue_of_a_smooth_net_is_that_of_its_hessian_by_double_backward():
    """In float32, too; and with the weights' part of the Hessian, which is larger, left out."""
    net = TwoLayers(0)
    sizes = [a.numel() for a in net.architecture]

    def of_vector(x):
        parts = [part.view(a.shape) for part, a in zip(x.split(sizes), net.architecture, strict=True)]
        return TwoLayers.loss(Other(net, parts), net.validation_batch)

    x = torch.cat([a.detach().flatten() for a in net.architecture])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of_vector, x))
    expected = eigenvalues[eigenvalues.abs().argmax()].item()
    got = dominant_eigenvalue(net.validation, net.architecture, net.weights)
    assert got == pytest.approx(expected, rel=1e-3)
    single = TwoLayers(0, torch.float32)
    assert dominant_eigenvalue(single.validation, single.architecture, single.weights) == pytest.approx(got, rel=1e-3)


class Other:
    """A net with another architecture."""

    def __init__(self, net, architecture):
        self.act, self.weights, self.architecture = net.act, net.weights, architecture


def test_dominant_eigenvalue_does_not_miss_what_is_orthogonal_to_a_constant_vector():
    """The constant vector is a null vector of this Hessian, as of that of any function of a softmax."""
    logits = nn.Parameter(torch.randn(30, generator=torch_stream(0, "test"), dtype=torch.float64))
    function = lambda x: (torch.arange(29) * x.diff() ** 2).sum()
    expected = torch.linalg.eigvalsh(torch.autograd.functional.hessian(function, logits.detach()))[-1].item()
    assert expected > 100
    assert dominant_eigenvalue(lambda: function(logits), [logits], []) == pytest.approx(expected, rel=1e-3)


def test_dominant_eigenvalue_of_a_linear_loss_is_zero_and_of_a_broken_one_not_a_number():
    x, y = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    assert dominant_eigenvalue(lambda: x.sum(), [x, y], []) == 0.0
    assert dominant_eigenvalue(lambda: (x.relu() * 2).sum(), [x, y], []) == 0.0
    assert np.isnan(dominant_eigenvalue(lambda: (x - 1).sqrt().sum(), [x, y], []))


def test_dominant_eigenvalue_moves_nothing_and_is_the_same_again():
    net = TwoLayers(0, torch.float32)
    net.weights[1].requires_grad_(False)
    before = [p.detach().clone() for p in [*net.weights, *net.architecture]]
    seen = []

    def loss():
        seen.append([w.requires_grad for w in net.weights])
        return net.validation()

    once, again = (dominant_eigenvalue(loss, net.architecture, net.weights) for _ in range(2))
    assert once == again and seen == [[False] * 3] * 2
    for p, original in zip([*net.weights, *net.architecture], before, strict=True):
        assert torch.equal(p, original) and p.grad is None
    assert [w.requires_grad for w in net.weights] == [True, False, True]


def test_sparse_gradients_are_none_where_the_loss_does_not_reach():
    net = TwoLayers(0)
    stranger = nn.Parameter(torch.ones(2))
    value, grads = sparse_gradients(net.train, [net.weights[0], stranger, net.weights[1]])
    expected = torch.autograd.grad(net.train(), net.weights[:2])
    assert grads[1] is None and not value.requires_grad
    assert torch.equal(grads[0], expected[0]) and torch.equal(grads[2], expected[1])


OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1),
    "momentum": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "nesterov": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_parts_move_as_parameters_of_their_own_of_which_some_have_no_gradient(name, seed, steps):
    """A weight of 4 parts, one of 3 and one that is whole, against 8 parameters that torch's optimiser moves one by
    one: equal to the bit, and what rests is where it was."""
    generator = torch_stream(seed, "test")
    sizes, counts = [(8, 3), (6, 2, 2), (5,)], [4, 3, 1]
    weights = [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]
    apart = [[nn.Parameter(part.clone()) for part in w.detach().chunk(n)] for w, n in zip(weights, counts, strict=True)]
    optimizer, other = OPTIMIZERS[name](weights), OPTIMIZERS[name]([p for group in apart for p in group])
    for _ in range(steps):
        moving = [(torch.rand(n, generator=generator) < 0.5).tolist() for n in counts]
        grads = [torch.randn(size, generator=generator) for size in sizes]
        before = [w.detach().clone() for w in weights]
        for group, gs, moves in zip(apart, grads, moving, strict=True):
            for p, g, move in zip(group, gs.chunk(len(group)), moves, strict=True):
                p.grad = g.clone() if move else None
        other.step()
        given_grads = [g if any(moves) else None for g, moves in zip(grads, moving, strict=True)]
        apply(optimizer, weights, given_grads, dict(zip(weights, moving, strict=True)))
        for w, group, moves, was in zip(weights, apart, moving, before, strict=True):
            assert w.grad is None
            parts = zip(w.detach().chunk(len(group)), group, moves, was.chunk(len(group)), strict=True)
            for part, own, move, part_before in parts:
                assert torch.equal(part, own)
                assert move or torch.equal(part, part_before)
    for w, group in zip(weights, apart, strict=True):
        memory = optimizer.state.get(w, {}).get("momentum_buffer")
        for i, p in enumerate(group):
            own = other.state.get(p, {}).get("momentum_buffer")
            if own is not None:
                assert torch.equal(memory.chunk(len(group))[i], own)


def test_resting_parts_keep_both_of_adams_memories():
    p = nn.Parameter(torch.arange(6.0).view(6, 1))
    optimizer = torch.optim.Adam([p], 0.1, weight_decay=0.1)
    apply(optimizer, [p], [torch.ones(6, 1)], {p: [True, False]})
    assert not optimizer.state[p]["exp_avg"][3:].any() and not optimizer.state[p]["exp_avg_sq"][3:].any()
    apply(optimizer, [p], [torch.ones(6, 1)])
    kept = {k: v.clone() for k, v in optimizer.state[p].items()} | {"": p.detach().clone()}
    apply(optimizer, [p], [torch.ones(6, 1)], {p: [False, True]})
    for name, before in kept.items():
        if before.shape == p.shape:
            now = p.detach() if name == "" else optimizer.state[p][name]
            assert torch.equal(now[:3], before[:3]) and not torch.equal(now[3:], before[3:])


def test_parameters_without_gradient_rest_in_spite_of_momentum_and_decay():
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([one, two], 0.1, momentum=0.9, weight_decay=0.1)
    apply(optimizer, [one, two], [torch.ones(2), torch.ones(2)])
    before, memory = two.detach().clone(), optimizer.state[two]["momentum_buffer"].clone()
    apply(optimizer, [one, two], [torch.ones(2), None])
    assert torch.equal(two, before) and torch.equal(optimizer.state[two]["momentum_buffer"], memory)
    apply(optimizer, [one, two], [torch.ones(2), torch.zeros(2)])
    assert not torch.equal(two, before)  # a gradient of zero is another thing
