"""The first steps of a training may see images of half the size."""

import pytest
import torch
from torch import nn

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.runtime.session import Session
from dnas.settings import NetworkTrainSettings
from dnas.training import trainer

SIDE, COUNT = 16, 40


class Watched(nn.Module):
    """Keeps the images that it is given."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 2)
        self.seen = []

    def forward(self, images):
        if self.training:
            self.seen.append(images.detach().clone())
        return self.classifier(images.mean((2, 3)))


def seen_by_a_training(half_size):
    images = torch.randint(
        0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    info = DataInfo("test", ("a", "b"), 3, SIDE, (0.5,) * 3, (0.25,) * 3, flip=True)
    settings = NetworkTrainSettings(epochs=3, batch_size=10, half_size=half_size, cutout=0).resolved(COUNT, SIDE)
    network = Watched()
    split = Split(images, torch.arange(COUNT) % 2)
    trainer.train_network(network, settings, split, info, seed=0, session=Session(None, {}))
    return network.seen


def test_the_first_steps_see_the_mean_of_each_four_pixels():
    whole, half = seen_by_a_training(0.0), seen_by_a_training(0.5)
    assert [images.shape[-1] for images in whole] == [SIDE] * 12
    assert [images.shape[-1] for images in half] == [SIDE // 2] * 6 + [SIDE] * 6
    for large, small in zip(whole[:6], half[:6], strict=True):
        assert torch.allclose(large.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5)), small, atol=1e-5)
    for one, other in zip(whole[6:], half[6:], strict=True):
        assert torch.equal(one, other)


def test_images_that_cannot_be_halved_are_refused_in_one_line():
    with pytest.raises(InputError, match="train.half_size=0.5 cannot be used with images of 12 pixels"):
        NetworkTrainSettings(half_size=0.5).resolved(100, 12)
