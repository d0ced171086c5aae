"""At the end of a training a network may have the mean of its last weights, and batch norms that fit it."""

import copy
import signal

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError, Interrupted
from dnas.pipeline.config import parse
from dnas.pipeline.stages import train_work
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import Session
from dnas.settings import NetworkTrainSettings, TrainSettings
from dnas.space.published import load_published
from dnas.training import average, trainer
from dnas.training.build import built

INFO = DataInfo("toy", ("a", "b"), 1, 8, (0.5,), (0.25,), False)


def pictures(count):
    """Those of a class lie together."""
    drawn = torch.randint(0, 200, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(count) >= count // 2).long()
    return Split((drawn + 50 * labels[:, None, None, None]).to(torch.uint8), labels)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


class Watching(Session):
    """Keeps the weights after each step, and stops after one of them."""

    def __init__(self, folder=None, network=None, stop=None):
        super().__init__(folder, {})
        self.network, self.stop, self.seen = network, stop, []

    def step_done(self, step, *rest):
        if self.network is not None:
            self.seen.append([p.detach().clone() for p in self.network.parameters()])
        self.signum = signal.SIGTERM if step == self.stop else None
        super().step_done(step, *rest)


def train(network, split, session, **changed):
    given = {"epochs": 3, "batch_size": 10, "cutout": 0, "learning_rate": 0.1, **changed}
    kind = NetworkTrainSettings if isinstance(network, nn.Sequential) else TrainSettings
    settings = kind(**given).resolved(len(split), 8)
    return trainer.train_network(network, settings, split, INFO, seed=3, session=session)


@pytest.mark.parametrize(("share", "steps"), [(0.2, 2), (0.5, 6), (1.0, 12), (0.01, 2)])
def test_the_weights_are_the_mean_of_those_after_each_of_the_last_steps(share, steps):
    network, split = plain(), pictures(40)
    session = Watching(network=network)
    train(network, split, session, average=share)
    assert len(session.seen) == 12
    last = session.seen[-steps:]
    for k, found in enumerate(network.parameters()):
        wanted = torch.stack([weights[k].double() for weights in last]).mean(0)
        assert torch.allclose(found.double(), wanted, atol=1e-6)
        assert not torch.allclose(found, last[-1][k], atol=1e-6)


def test_no_step_differs_and_nothing_is_averaged_by_default():
    split = pictures(40)
    sessions = []
    for share in (0.0, 0.5):
        network = plain()
        sessions.append(Watching(network=network))
        train(network, split, sessions[-1], average=share)
        if share == 0:
            assert all(torch.equal(a, b) for a, b in zip(network.parameters(), sessions[0].seen[-1], strict=True))
    for one, other in zip(sessions[0].seen, sessions[1].seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_statistics_are_those_of_plain_images_with_the_averaged_weights():
    """All of 40 images are one batch, so the statistics are known in closed form."""
    network, split = plain(), pictures(40)
    train(network, split, Session(None, {}), average=0.5)
    images = (split.images.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        before = network[0](images).transpose(0, 1).flatten(1).double()
    assert torch.allclose(network[1].running_mean.double(), before.mean(1), atol=1e-5)
    assert torch.allclose(network[1].running_var.double(), before.var(1), rtol=1e-4)


def test_no_more_images_are_looked_at_than_said_and_each_once(monkeypatch):
    monkeypatch.setattr("dnas.settings.trainings.STATISTICS_IMAGES", 300)
    looked = []
    monkeypatch.setattr(trainer, "renew_statistics", lambda network, batches, device: looked.extend(batches))
    split = pictures(400)
    train(plain(), split, Session(None, {}), average=0.1, epochs=1)
    assert [len(batch) for batch in looked] == [150, 150]
    known = {image.numpy().tobytes() for image in (split.images.float() / 255 - 0.5) / 0.25}
    seen = {image.contiguous().numpy().tobytes() for batch in looked for image in batch}
    assert len(seen) == 300 and seen <= known
    # Both classes are in each batch.
    bright = [(batch.mean((1, 2, 3)) > looked[0].mean()).double().mean() for batch in looked]
    assert all(0.3 < share < 0.7 for share in bright)


@pytest.mark.parametrize("published", ["DARTS_V2", "PC_DARTS_cifar"])
def test_statistics_of_several_batches_are_those_that_torch_makes(published):
    """With the native kernels, where there are some, and the auxiliary head."""
    settings = TrainSettings(channels=4, images=100, final_norm=True)
    network = built(load_published(published, 3), settings, INFO, 0)
    other = copy.deepcopy(network)
    batches = [torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (33, 33, 34)]
    average.renew_statistics(network, batches, "cpu")
    update_bn(batches, other)
    found, wanted = network.state_dict(), other.state_dict()
    names = [name for name in found if "running" in name]
    assert len(names) > 20
    for name in names:
        assert torch.allclose(found[name], wanted[name], rtol=1e-3, atol=1e-5), name
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("step", [3, 7, 11, 12])
def test_a_training_goes_on_to_the_same_bits(tmp_path, step):
    """Stopped before the first of the steps that count, within them, and after the last of all."""
    split, changed = pictures(40), {"average": 0.5, "channels": 4, "drop_path": 0.0}

    def network():
        return built(load_published("DARTS_V1", 3), TrainSettings(channels=4), INFO, 0)

    whole = train(network(), split, Session(None, {}), **changed).state_dict()
    with RunFolder.create(tmp_path / "run") as folder:
        with pytest.raises(Interrupted):
            train(network(), split, Watching(folder, stop=step), **changed)
        held = folder.load_checkpoint()[0].part("average")
        assert bool(held) == (step > 6)
        second = Session(folder, {})
        second.resume()
        resumed = train(network(), split, second, **changed).state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_network_without_batch_norms_is_averaged_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    session = Watching(network=network)
    train(network, pictures(40), session, average=1.0)
    wanted = torch.stack([weights[0] for weights in session.seen]).mean(0)
    assert torch.allclose(network[1].weight, wanted, atol=1e-6)


def test_how_many_steps_and_images_follow_from_the_plan():
    settings = NetworkTrainSettings(average=0.2, images=1000, batch_size=100, epochs=5)
    assert (settings.average_steps, settings.statistics_images) == (10, 1000)
    assert settings.model_copy(update={"steps": 35}).average_steps == 7
    assert settings.model_copy(update={"steps": 1}).average_steps == 1
    many = settings.model_copy(update={"images": 50_000})
    assert many.statistics_images == 2_048
    off = settings.model_copy(update={"average": 0.0})
    assert (off.average_steps, off.statistics_images) == (0, 0)
    assert train_work(settings, 200).total - train_work(off, 200).total == pytest.approx(10 / 3)


@pytest.mark.parametrize("share", [-0.1, 1.5, "half"])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match=r"train\.average"):
        parse({"train": {"average": share}})
