"""What moves the weights of a training: closed forms of Muon's step, who moves what, and the rates of each step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dnas.errors import InputError
from dnas.settings import NetworkTrainSettings, TrainSettings
from dnas.training.muon import Muon, orthogonalised
from dnas.training.optimizers import optimizers, rates


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_all_singular_values_become_about_one(count, rows, columns, seed):
    matrices = torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    # What the iteration does to a singular value depends on that value and the norm alone.
    x = s / s.norm(dim=1, keepdim=True)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    expected = u @ torch.diag_embed(x) @ v
    assert torch.allclose(orthogonalised(matrices).double(), expected, atol=2e-3)
    clear = s > 0.05 * s.norm(dim=1, keepdim=True)
    assert ((x[clear] > 0.6) & (x[clear] < 1.3)).all()


def test_a_step_is_that_of_torch_for_each_matrix():
    shapes = [(4, 4), (4, 4), (8, 3), (3, 8), (8, 3), (4, 18)]
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k, shape in enumerate(shapes)]
    ours = [nn.Parameter(matrix.clone()[:, :, None, None]) for matrix in drawn[:-1]]
    ours.append(nn.Parameter(drawn[-1].clone().reshape(4, 2, 3, 3)))
    theirs = [nn.Parameter(matrix.clone()) for matrix in drawn]
    mine = Muon(ours, lr=0.1, momentum=0.8, weight_decay=0.5)
    other = torch.optim.Muon(theirs, lr=0.1, momentum=0.8, weight_decay=0.5)
    for step in range(3):
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            b.grad = torch.randn(b.shape, generator=torch.Generator().manual_seed(10 * step + k))
            a.grad = b.grad.clone().reshape(a.shape)
        mine.step()
        other.step()
    for a, b, start in zip(ours, theirs, drawn, strict=True):
        # torch iterates in bfloat16, and averages the gradients where this adds them, which the iteration does not see.
        assert (a.flatten(1) - b).norm() < 0.05 * (b - start).norm()


def test_a_checkpoint_of_an_earlier_version_has_no_decay():
    weight = nn.Parameter(torch.eye(3)[:, :, None, None])
    state = Muon([weight], lr=0.1, weight_decay=0.5).state_dict()
    del state["param_groups"][0]["weight_decay"]
    found = Muon([weight], lr=0.1)
    found.load_state_dict(state)
    weight.grad = torch.zeros_like(weight)
    found.step()
    assert torch.equal(weight[:, :, 0, 0], torch.eye(3))


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1, groups=16),
        nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def test_each_weight_has_one_optimizer_and_norms_and_biases_may_rest_from_decay():
    built = network()
    names = {p: name for name, p in built.named_parameters()}
    found = optimizers(built, NetworkTrainSettings(optimizer="muon", muon_weight_decay=0.2, norm_decay=False))
    by = {
        (name, group["weight_decay"]): {names[p] for p in group["params"]}
        for name, optimizer in found.items()
        for group in optimizer.param_groups
    }
    assert by == {
        ("muon", 0.2): {"0.weight", "3.weight"},
        ("optimizer", 3e-4): {"2.weight", "4.weight", "6.weight"},
        ("optimizer", 0.0): {"0.bias", "1.weight", "1.bias", "2.bias", "3.bias", "4.bias", "6.bias"},
    }
    (plain,) = optimizers(built, NetworkTrainSettings()).values()
    assert [names[p] for p in plain.param_groups[0]["params"]] == list(names.values())


def test_the_linear_schedule_goes_up_and_down_by_steps():
    settings = TrainSettings(
        epochs=2, images=10, batch_size=2, schedule="linear", warmup=0.2, learning_rate=0.5, optimizer="muon",
        muon_learning_rate=0.1,
    )  # fmt: skip
    found = [settings.rate(step) for step in range(10)]
    # At the middles of ten steps: up to 1 at 0.2, down to 0 at 1.
    assert found == pytest.approx([0.125, 0.375, *(0.5 * (1 - (k + 0.5) / 10) / 0.8 for k in range(2, 10))])
    assert rates(settings, ("optimizer", "muon"), 1) == {
        "optimizer": pytest.approx(0.375),
        "muon": pytest.approx(0.075),
    }
    assert rates(TrainSettings(images=96), ("optimizer",), 0) == {"optimizer": 0.025}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"warmup": 0.1}, "train.warmup=0.1 only applies to train.schedule=linear, not cosine"),
        ({"muon_weight_decay": 0.1}, "train.muon_weight_decay=0.1 only applies to train.optimizer=muon, not sgd"),
        ({"muon_learning_rate": 0.1}, "train.muon_learning_rate=0.1 only applies to train.optimizer=muon, not sgd"),
        (
            {"decay": 0.5, "schedule": "linear"},
            "train.decay=0.5 only applies to train.schedule=exponential, not linear",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(given, named):
    with pytest.raises(InputError, match=named):
        TrainSettings(**given).check()
