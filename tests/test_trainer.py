import math

import pytest
import torch

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.network.network import build
from dnas.rng import numpy_stream, torch_stream
from dnas.runtime.session import Session
from dnas.settings import TrainSettings
from dnas.space import sampling
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.controls import random_of_size
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.space.protocol import reduction_layers
from dnas.space.published import load_published
from dnas.training.accuracy import Accuracy, measure_accuracy, predict
from dnas.training.build import built, parameters_of
from dnas.training.trainer import train_network

INFO = DataInfo("toy", ("dark", "bright"), 1, 8, (0.5,), (0.25,), False)


def toy(count=64):
    """Dark pictures and bright ones, with noise."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 1, 8, 8), generator=torch_stream(0, "test"))
    return Split((noise + 120 * labels[:, None, None, None]).to(torch.uint8), labels)


def settings(**changes):
    values = {"channels": 4, "epochs": 3, "batch_size": 16, "learning_rate": 0.1, "drop_path": 0.1, "cutout": 0}
    return TrainSettings(**{**values, **changes}).resolved(64, 8)


def trained(architecture, chosen, seed=0, session=None):
    """The network of an architecture after its training on toy images."""
    network = built(architecture, chosen, INFO, seed)
    return train_network(network, chosen, toy(), INFO, seed=seed, session=session or Session(None, {}))


def parameters(architecture):
    return size(plan(architecture, channels=4, classes=2, inputs=1), 8).params


def test_a_network_learns_what_can_be_learnt():
    network = trained(load_published("DARTS_V2", 3), settings())
    accuracy = measure_accuracy(network, toy(), INFO)
    assert accuracy.value == 1.0 and accuracy.images == 64


def test_a_network_with_an_input_that_no_edge_reads_trains():
    """As derivation=threshold can leave it: the first preprocessing has no gradient."""
    cell = Cell(((("skip_connect", 1),), (), (), ()))
    architecture = Architecture((cell,) * 3, reduction_layers(3), "free")
    network = trained(architecture, settings())
    assert measure_accuracy(network, toy(), INFO).value > 0.5


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    def weights(seed):
        return trained(load_published("DARTS_V1", 3), settings(epochs=1), seed).state_dict()

    one, same, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_predictions_are_those_of_the_network_one_image_at_a_time():
    network = build(load_published("DARTS_V1", 3), 4, 2, inputs=1)
    split = toy(6)
    alone = [network.eval()((image[None].float() / 255 - 0.5) / 0.25).argmax(1).item() for image in split.images]
    assert predict(network, split, INFO).tolist() == alone


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (356, 360), (50, 100)])
def test_the_interval_is_wilsons(right, images):
    z, p = 1.959963984540054, right / images
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z * math.sqrt(p * (1 - p) / images + z * z / (4 * images**2)) / (1 + z * z / images)
    low, high = Accuracy(right, images).interval
    assert low == pytest.approx(max(0, middle - half), abs=1e-12)
    assert high == pytest.approx(min(1, middle + half), abs=1e-12)


def test_learning_rates_are_those_of_darts():
    """Search, epoch 49 of 50: 1.023679e-3, as in a user's log (quark0/darts, issue 7)."""
    from dnas.settings import GradientSettings

    search = GradientSettings()
    assert search.rate(0) == 0.025
    assert f"{search.rate(49):.6e}" == "1.023679e-03"
    exponential = TrainSettings(schedule="exponential", learning_rate=0.1, images=192)
    assert exponential.rate(2 * 2) == exponential.rate(2 * 2 + 1) == pytest.approx(0.1 * 0.97**2)
    assert TrainSettings(images=96).rate(300) == pytest.approx(0.0125)


def uniform(op):
    nodes = tuple(((op, 0), (op, 1)) for _ in range(4))
    return Architecture((Cell(nodes),) * 4, reduction_layers(4))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("like", ["sampled", "sep_conv_5x5", "sep_conv_3x3"])
def test_the_control_has_the_same_size_and_is_another(like, seed):
    wanted = sampling.sample(DARTS, numpy_stream(7, "sample"), 4) if like == "sampled" else uniform(like)
    found = random_of_size(wanted, parameters_of(settings(), INFO), seed)
    assert abs(parameters(found) / parameters(wanted) - 1) <= 0.05
    assert found != wanted and found.in_space and len(found) == 4
    assert random_of_size(wanted, parameters_of(settings(), INFO), seed) == found
    # A searched cell is compared with a random cell.
    assert (layer_pair(found) is not None) == (like != "sampled")


def test_a_size_that_no_architecture_has_is_refused():
    huge = Architecture(
        (Cell(tuple((("sep_conv_7x7", 0), ("conv_7x1_1x7", 1)) for _ in range(4))),) * 4, reduction_layers(4), "free"
    )
    with pytest.raises(InputError, match="--no-baseline"):
        random_of_size(huge, parameters_of(settings(channels=16), INFO), 0)


# --- what changes from epoch to epoch


def watched(monkeypatch, **changes):
    """Train, and give (epoch, drop-path rate or None, learning rate) of every step."""
    from dnas.training import descent, trainer

    seen, original_apply, original_paths = [], descent.apply, trainer.drop_path
    rates = []

    def drop_path(network, batch, rate, generator):
        rates.append(rate)
        return original_paths(network, batch, rate, generator)

    def apply(optimizer, *rest):
        [group] = optimizer.param_groups
        seen.append((rates.pop() if rates else None, group["lr"]))
        original_apply(optimizer, *rest)

    monkeypatch.setattr(descent, "apply", apply)
    monkeypatch.setattr(trainer, "drop_path", drop_path)
    chosen = settings(**changes)
    trained(load_published("DARTS_V1", 3), chosen)
    assert len(seen) == chosen.epochs * chosen.steps_per_epoch
    return [(i // chosen.steps_per_epoch, *pair) for i, pair in enumerate(seen)]


def test_drop_path_ramps_up_from_nothing_and_the_learning_rate_down_a_cosine(monkeypatch):
    for epoch, path, rate in watched(monkeypatch, epochs=4, batch_size=32, drop_path=0.4):
        assert path == (None if epoch == 0 else pytest.approx(0.4 * epoch / 4))
        assert rate == pytest.approx(0.05 * (1 + math.cos(math.pi * epoch / 4)))


def test_without_drop_path_none_is_drawn_and_exponential_decay_is_by_epoch(monkeypatch):
    for epoch, path, rate in watched(
        monkeypatch, epochs=3, batch_size=32, drop_path=0.0, schedule="exponential", decay=0.5
    ):
        assert path is None and rate == pytest.approx(0.1 * 0.5**epoch)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_training_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path, step):
    """Stopped within an epoch, at its end, and one step after."""
    import signal

    from dnas.errors import Interrupted
    from dnas.runtime.runfolder import RunFolder

    class Stops(Session):
        def step_done(self, done, *rest):
            self.signum = signal.SIGTERM if done == step else None
            super().step_done(done, *rest)

    def train(session):
        return trained(load_published("DARTS_V2", 3), settings(), 3, session)

    whole = train(Session(None, {})).state_dict()
    with RunFolder.create(tmp_path / "run") as folder:
        with pytest.raises(Interrupted):
            train(Stops(folder, {}))
        second = Session(folder, {})
        second.resume()
        resumed = train(second).state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
