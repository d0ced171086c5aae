"""Layer alignment: the ascent in closed form, and the difference against exact second derivatives."""

import pytest
import torch
from parts_tools import search_with, taken

from dnas.methods.protocol import Progress
from dnas.parts.layer_alignment import alignment, ascent
from dnas.rng import torch_stream

KIND = torch.tensor([0, 0, 1, 0, 1])
SHAPE = (len(KIND), 3, 2)

ACTS = {"weight": ({}, 1.0)}


def drawn(seed=0):
    return torch.randn(SHAPE, generator=torch_stream(seed, "test"), dtype=torch.float64)


def test_the_ascent_is_what_each_layer_lacks_of_the_others_directions():
    """∂cos(g, h)/∂g = (h/|h| - cos(g, h) g/|g|) / |g|; four pairs of layers are of one kind."""
    slopes = drawn()
    flat = slopes.flatten(1)
    expected, cosines = torch.zeros_like(flat), []
    for k in range(5):
        for m in range(5):
            if k != m and KIND[k] == KIND[m]:
                g, h = flat[k], flat[m]
                cosine = g @ h / (g.norm() * h.norm())
                expected[k] += (h / h.norm() - cosine * g / g.norm()) / g.norm() / 4
                cosines += [cosine] if k < m else []
    assert torch.allclose(ascent(slopes, KIND).flatten(1), expected)
    assert alignment(slopes, KIND).item() == pytest.approx(sum(cosines).item() / 4)


def test_layers_without_gradient_or_company_count_nothing():
    slopes = drawn()
    assert not ascent(slopes, torch.arange(5)).any() and alignment(slopes, torch.arange(5)) == 0
    slopes[1] = 0
    found = ascent(slopes, KIND)
    assert found.isfinite().all() and not found[1].any() and found[0].any()
    assert not ascent(torch.zeros(SHAPE), KIND).any()


class Smooth:
    """A search in its last epoch, whose training loss is Σ tanh of bilinear forms of weights and mixing weights."""

    def __init__(self):
        self.weights = [torch.nn.Parameter(drawn(1)), torch.nn.Parameter(drawn(2)[0])]
        self.mixed = drawn(3)
        self.mapping = type("Mapping", (), {"kind": KIND})()

    def progress(self, step):
        return Progress(epoch=2, epochs=3)

    def loss(self, mixed):
        own, common = self.weights
        return ((own * mixed).sum((1, 2)).tanh() + (common * mixed**2).sum((1, 2)).sin()).sum()

    def slopes(self):
        mixed = self.mixed.clone().requires_grad_()
        return torch.autograd.grad(self.loss(mixed), mixed, create_graph=True)[0]

    def training_gradients(self, step, bump):
        return [*torch.autograd.grad(self.loss(self.mixed + bump), self.weights), None]


def test_the_difference_is_the_gradient_of_the_alignment_in_the_weights():
    (part,) = taken("layer-alignment", layer_alignment={"weight": 0.5})
    search = Smooth()
    exact = torch.autograd.grad(alignment(search.slopes(), KIND), search.weights)
    *found, none = part.weight_gradients(search, 0, search.slopes().detach())
    assert none is None
    for got, wanted in zip(found, exact, strict=True):
        assert torch.allclose(got, -0.5 * wanted, rtol=1e-4, atol=1e-7) and got.abs().max() > 1e-3


def test_down_what_it_adds_layers_come_to_agree():
    (part,) = taken("layer-alignment", layer_alignment={"weight": 1.0})
    search = Smooth()
    before = alignment(search.slopes(), KIND).item()
    for step in range(20):
        found = part.weight_gradients(search, step, search.slopes().detach())
        with torch.no_grad():
            for w, g in zip(search.weights, found, strict=False):
                w.sub_(0.1 * g)
    assert alignment(search.slopes(), KIND).item() > before + 0.1


def test_its_passes_are_counted_and_only_where_it_has_weight():
    plain, aligned = (search_with(parts, epochs=3) for parts in ((), taken("layer-alignment")))
    for search, costs in ((plain, [2, 4]), (aligned, [2, 6])):
        for step, cost in enumerate(costs):  # one step an epoch; in the first one λ is 0
            search.step(step)
            assert search.cost["step_equivalents"] == cost
    assert 0 <= aligned.sums["correct"] <= 2 * 8  # of the images that the weights see, each once a step
