"""Perturbation: the law of what is added, that it is taken back to the bit, and that curvature falls."""

import pytest
import torch
import torch.nn.functional as F
from parts_tools import search_with, taken
from torch import nn

from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.searching.search import Search
from dnas.searching.watch import eigenvalue
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.testing import CLASSES, pictures

LAST = Progress(epoch=1, epochs=2)

ACTS = {
    "law": ({}, "adversarial"),
    "epsilon": ({}, 1.0),
    "epsilon_start": ({}, 0.2),
}


class AtTheEnd:
    """What the part sees of a search in its last epoch."""

    seed = 3

    def __init__(self, slopes=()):
        self.architecture = [nn.Parameter(torch.zeros(200, 50)), nn.Parameter(torch.zeros(4))]
        self.slopes = slopes

    def progress(self, step):
        return LAST

    def training_slopes(self, step):
        return self.slopes


def test_what_is_drawn_is_uniform_within_epsilon_and_a_function_of_seed_and_step():
    (part,) = taken("perturbation", perturbation={"epsilon": 0.6})
    search = AtTheEnd()
    one, again, other = (part.offsets(search, step)[0] for step in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.abs().max() <= 0.6 and one.abs().max() > 0.59
    # ε² / 3, ± 4 standard errors of 10,000 draws.
    assert one.square().mean().item() == pytest.approx(0.12, abs=0.005)
    assert abs(one.mean().item()) < 0.015
    search.seed = 4
    assert not torch.equal(part.offsets(search, 5)[0], one)


def test_the_worst_to_first_order_is_epsilon_along_the_signs():
    (part,) = taken("perturbation", perturbation={"law": "adversarial", "epsilon": 0.6})
    found = part.offsets(AtTheEnd([torch.tensor([2.0, -1e-9, 0.0])]), 0)
    assert torch.equal(found[0], torch.tensor([0.6, -0.6, 0.0]))


def test_epsilon_grows_linearly_between_its_ends():
    (part,) = taken("perturbation", perturbation={"law": "adversarial", "epsilon": 0.5, "epsilon_start": 0.1})
    search = AtTheEnd([torch.ones(1)])
    found = []
    for epoch in range(4):
        search.progress = lambda step: Progress(epoch, epochs=4, warmup_epochs=1)
        found.append(part.offsets(search, 0)[0].item())
    assert found == pytest.approx([0.1, 0.1, 0.3, 0.5])


@pytest.mark.parametrize("law", ["random", "adversarial"])
def test_the_weight_step_leaves_the_architecture_to_the_bit_and_the_other_step_does_not_see_it(law):
    plain, perturbed = (search_with(parts) for parts in ((), taken("perturbation", perturbation={"law": law})))
    before = [p.detach().clone() for p in perturbed.architecture]
    for search in (plain, perturbed):
        search.architecture_step(0)
    moved = [p.detach().clone() for p in perturbed.architecture]
    assert all(torch.equal(a, b) for a, b in zip(moved, plain.architecture, strict=True))
    assert not torch.equal(before[0], moved[0])
    for search in (plain, perturbed):
        search.weight_step(0)
    assert all(torch.equal(a, b) for a, b in zip(moved, perturbed.architecture, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(plain.weights, perturbed.weights, strict=True))


def test_the_slopes_are_those_of_the_training_batch():
    search = search_with(taken("perturbation"))
    batch = search.batch(0, 0)
    loss = F.cross_entropy(search.logits(batch, 0, relaxed=True), batch.labels)
    expected = torch.autograd.grad(loss, search.architecture)
    for a, b in zip(search.training_slopes(0), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-7) and a.any()


class Valley(nn.Module):
    """The right logit is flat + sharp · (1 - 8 d²), d the distance of the mixing weights from equal ones: at equal ones
    both weights are worth the same, and the curvature of the loss is in proportion to `sharp`."""

    def __init__(self):
        super().__init__()
        self.flat, self.sharp = (nn.Parameter(torch.tensor(0.5)) for _ in range(2))

    def forward(self, images, mixing, draws=None):
        away = mixing.operations - 1 / mixing.operations.shape[-1]
        height = self.flat + self.sharp * (1 - 8 * away.square().sum(-1).mean())
        label = (images[:, 0, 0, 0] * (CLASSES - 1)).round().long()
        return height * F.one_hot(label, CLASSES)


@pytest.mark.parametrize("law", ["random", "adversarial"])
def test_curvature_falls(law):
    split, info = pictures(32)
    method = create("darts", "full", {}, DARTS)
    values = {"layers": 3, "channels": 8, "epochs": 4, "warmup_epochs": 0, "batch_size": 8, "pad": 0}
    settings = GradientSettings(**values, architecture_learning_rate=1e-9, learning_rate=0.3).resolved(32, 1.0, 8)
    found = []
    for parts in ((), taken("perturbation", perturbation={"law": law, "epsilon": 2.0, "epsilon_start": 2.0})):
        search = Search(method, settings, split, info, 0, "cpu", Valley(), parts)
        for step in range(8):
            search.step(step)
        found.append((eigenvalue(search, 7), search.supernet.sharp.item()))
    (plain, plain_sharp), (perturbed, sharp) = found
    assert 0 < perturbed < 0.9 * plain and sharp < plain_sharp
