"""`train.flip = "alternate"`: each image is mirrored in every other epoch, by the seed, the image and the epoch alone."""

import json

import pytest
import torch
from faults.harness import contents, invoke, make_images
from hypothesis import given
from hypothesis import strategies as st

from dnas.data.augment import Augmentation, augment
from dnas.data.splits import DataInfo, Split
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.pipeline.config import parse
from dnas.rng import torch_stream
from dnas.runtime import distributed
from dnas.runtime.session import Session
from dnas.settings import NetworkTrainSettings
from dnas.training.batches import Batches
from dnas.training.trainer import Training

COUNT = 60
INFO = DataInfo("x", ("a", "b"), 1, 8, (0.0,), (1 / 255,), True)


def pictures():
    """An image's first pixel says which it is, on its left unless it is mirrored."""
    images = torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(COUNT) + 1
    return Split(images, torch.arange(COUNT) % 2)


def batches(seed=0, size=20, parts=1, steps=None, alternate=True, cutout=0):
    return Batches(
        pictures(),
        torch.arange(COUNT),
        INFO,
        Augmentation(0, True, cutout),
        steps=steps or -(-COUNT // size),
        size=size,
        parts=parts,
        seed=seed,
        order="order-train",
        generator=lambda step: torch_stream(seed, "augment-train", step),
        alternate=alternate,
    )


def mirrored(loop, epoch):
    """Image → whether it is mirrored, of an epoch."""
    found = {}
    for step in range(epoch * loop.steps, (epoch + 1) * loop.steps):
        for part in loop.parts(step):
            for image in part.images[:, 0, 0]:
                left, right = round(float(image[0])), round(float(image[-1]))
                assert (left == 0) != (right == 0) and max(left, right) not in found
                found[max(left, right)] = left == 0
    return found


@pytest.mark.parametrize("seed", range(3))
def test_each_image_is_mirrored_in_every_other_epoch(seed):
    epochs = [mirrored(batches(seed), epoch) for epoch in range(5)]
    first = epochs[0]
    assert sorted(first) == list(range(1, COUNT + 1))
    for epoch, found in enumerate(epochs):
        assert found == {image: flip ^ (epoch % 2 == 1) for image, flip in first.items()}
    # About half begin with the mirror image: 4 standard deviations.
    assert abs(sum(first.values()) - COUNT / 2) < 4 * COUNT**0.5 / 2


def test_without_it_an_epoch_does_not_decide_the_next():
    first, second = (mirrored(batches(alternate=False), epoch) for epoch in range(2))
    assert 0.2 < sum(first[image] == second[image] for image in first) / COUNT < 0.8


@given(st.integers(0, 3), st.integers(0, 4), st.sampled_from([10, 15, 20, 60]), st.sampled_from([1, 2, 4]))
def test_it_depends_on_seed_image_and_epoch_alone(seed, epoch, size, parts):
    assert mirrored(batches(seed, size, parts), epoch) == mirrored(batches(seed), epoch)
    assert mirrored(batches(seed), epoch) != mirrored(batches(seed + 1), epoch)


def test_two_ranks_see_what_one_process_sees(monkeypatch):
    whole = mirrored(batches(parts=4), 1)
    together = {}
    monkeypatch.setattr(distributed, "count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine = mirrored(batches(parts=4), 1)
        assert len(mine) == COUNT // 2 and not mine.keys() & together.keys()
        together |= mine
    assert together == whole


def test_all_other_draws_stay():
    images, chosen = pictures().images, torch.arange(COUNT) % 3 == 0
    wide = images.expand(-1, 1, -1, -1).clone().random_(generator=torch.Generator().manual_seed(0))
    recipe = Augmentation(2, True, 3)
    drawn = torch.rand(6, COUNT, generator=torch_stream(0, "x"))[2] >= 0.5
    plain = augment(wide, recipe, INFO, torch_stream(0, "x"))
    assert torch.equal(augment(wide, recipe, INFO, torch_stream(0, "x"), None, drawn), plain)
    other = augment(wide, recipe, INFO, torch_stream(0, "x"), None, chosen)
    same = chosen == drawn
    assert torch.equal(other[same], plain[same])
    assert all(not torch.equal(a, b) for a, b in zip(other[~same], plain[~same], strict=True))


def test_a_training_has_it_by_its_setting():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    for flip in ("alternate", "on", "off"):
        settings = NetworkTrainSettings(epochs=2, batch_size=20, flip=flip, pad=0, cutout=0).resolved(COUNT, 8)
        loop = Training(network, settings, pictures(), INFO, 5, "train", "cpu").batches
        first, second = (mirrored(loop, epoch) for epoch in range(2))
        opposite = sum(first[image] != second[image] for image in first)
        assert {"alternate": opposite == COUNT, "on": 0 < opposite < COUNT, "off": opposite == 0}[flip]


def test_a_search_refuses_it():
    assert parse({"train": {"flip": "alternate"}}).train.flip == "alternate"
    with pytest.raises(InputError, match="unknown --flip 'alternate'; choose from auto, on, off"):
        parse({"search": {"flip": "alternate"}})


def test_a_run_with_it_is_resumed_to_the_bits(tmp_path, monkeypatch):
    data = make_images(tmp_path / "data")
    options = (
        "train", "DARTS_V1", "--data", data, "--layers", 3, "--channels", 4, "--batch-size", 16, "--epochs", 3,
        "--flip", "alternate", "-o", "train.average=0.5", "-o", "train.auxiliary_weight=0",
    )  # fmt: skip
    assert invoke(*options, "--out", tmp_path / "whole").code == 0
    assert read_toml(tmp_path / "whole" / "config.toml")["train"]["flip"] == "alternate"
    done = Session.step_done

    def stopping(self, step, *rest):
        self.signum = 15 if step == 5 and not stopped else None
        stopped.extend([step] if self.signum else [])
        done(self, step, *rest)

    stopped = []
    monkeypatch.setattr(Session, "step_done", stopping)
    assert invoke(*options, "--out", tmp_path / "stopped").code != 0 and stopped == [5]
    assert invoke("resume", tmp_path / "stopped").code == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert json.loads((tmp_path / "stopped" / "result.json").read_text())["test_accuracy"] >= 0
