"""Pictures that are no squares: three ways to make them such, which one is chosen, and that all follow it."""

import numpy as np
import pytest
import torch
from cli_tools import refused as command_refused
from data_tools import no_network, picture, random_bytes, refused, two_classes  # noqa: F401
from faults.harness import TINY, invoke
from PIL import Image

import dnas
from dnas.data.headers import Headers, Rule
from dnas.data.overview import overview
from dnas.data.pictures import square_picture
from dnas.data.splits import DataInfo, fingerprint, load_splits, load_test, load_train
from dnas.disk import read_toml
from dnas.pipeline.config import parse
from dnas.pipeline.inheritance import inherit
from dnas.pipeline.model import load_model
from dnas.pipeline.overrides import read_settings

WAYS = ("crop", "pad", "squeeze")


def squared(values, size, resize, channels=3):
    return square_picture(Image.fromarray(values), channels, size, Rule(resize)).transpose(1, 2, 0)


@pytest.mark.parametrize(("height", "width"), [(8, 20), (20, 8), (7, 20)])
def test_pad_keeps_all_of_a_picture_in_the_middle_of_its_mean_color(height, width):
    values = random_bytes(height, width, 3)
    pixels = squared(values, 20, "pad")  # the longer side fits already
    top, left = (20 - height) // 2, (20 - width) // 2
    assert np.array_equal(pixels[top : top + height, left : left + width], values)
    outside = np.ones((20, 20), bool)
    outside[top : top + height, left : left + width] = False
    assert (pixels[outside] == np.floor(values.reshape(-1, 3).mean(0) + 0.5).astype(np.uint8)).all()


def test_pad_scales_the_longer_side():
    values = random_bytes(16, 64, 3)
    expected = np.asarray(Image.fromarray(values).resize((32, 8), Image.Resampling.BILINEAR))
    pixels = squared(values, 32, "pad")
    assert np.array_equal(pixels[12:20], expected)
    assert len(np.unique(pixels[:12].reshape(-1, 3), axis=0)) == 1
    assert squared(np.zeros((1, 60_000, 3), np.uint8), 64, "pad").shape == (64, 64, 3)  # not a picture of 0 pixels
    assert squared(values[..., 0], 32, "pad", channels=1).shape == (32, 32, 1)


def test_squeeze_scales_both_sides():
    values = random_bytes(16, 64, 3)
    expected = np.asarray(Image.fromarray(values).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(squared(values, 32, "squeeze"), expected)


@pytest.mark.parametrize("size", [12, 20, 31])
def test_a_square_is_the_same_by_all_ways(size):
    values = random_bytes(20, 20, 3)
    assert all(np.array_equal(squared(values, size, way), squared(values, size, "crop")) for way in WAYS)


def test_an_object_at_the_edge_is_lost_by_crop_alone():
    values = np.zeros((10, 30, 3), np.uint8)
    values[:, :5] = 255
    assert [squared(values, 10, way).max() > 200 for way in WAYS] == [False, True, True]


def folder(root, shapes, part="train"):
    """Pictures of these heights and widths, the same in both classes."""
    for name in "ab":
        for k, (height, width) in enumerate(shapes):
            picture(root / part / name / f"{k}.png", random_bytes(height, width, 3, seed=k))
    return root


@pytest.mark.parametrize(
    ("shapes", "chosen", "size"),
    [
        ([(8, 8), (9, 9)], "crop", 9),
        ([(10, 16), (16, 10)], "crop", 10),  # 1.6 : 1
        ([(333, 500)] * 3, "crop", 64),  # 3 : 2, as rounding leaves it
        ([(10, 17), (12, 12)], "crop", 12),  # not most
        ([(10, 17), (12, 12), (10, 30)], "pad", 30),
        ([(90, 160)] * 2, "pad", 64),
        ([(10, 30), (10, 30), (10, 40)], "pad", 30),
    ],
)
def test_the_data_choose(tmp_path, shapes, chosen, size):
    root = folder(folder(tmp_path, shapes), [(8, 8)], "test")
    train, info = load_train(str(root), resize="auto")
    assert (info.resize, info.image_size) == (chosen, size)
    assert fingerprint(load_train(str(root), resize=chosen)[0]) == fingerprint(train)
    assert fingerprint(load_train(str(root))[0]) == fingerprint(load_train(str(root), resize="crop")[0])


@pytest.mark.parametrize("way", ["pad", "squeeze"])
def test_streamed_pictures_are_the_same_bits_and_an_index_keeps_ways_apart(tmp_path, way):
    root = folder(folder(tmp_path / "images", [(10, 30), (12, 40)]), [(10, 30)], "test")
    cache = str(tmp_path / "cache")
    for resize in ("crop", way):
        held, info, test = load_splits(str(root), image_size=16, resize=resize)
        train, same, tested = load_splits(
            str(root), image_size=16, resize=resize, memory="stream", workers=1, data_dir=cache
        )
        assert info == same and info.resize == resize
        for streamed, whole in ((train, held), (tested, test)):
            assert torch.equal(streamed.batch(torch.arange(len(streamed))), whole.images)
            assert np.array_equal(streamed.digests(), whole.digests())
            assert torch.equal(streamed.subset(torch.tensor([1])).batch(torch.tensor([0])), whole.images[1:2])
        train.close()
        tested.close()


def test_it_is_said_where_pictures_are_no_squares(tmp_path):
    root = folder(folder(tmp_path / "long", [(10, 30), (8, 8), (9, 40)]), [(8, 8)], "test")
    for resize, words in (
        ("auto", "resize pad: 4 of 6 training images"),
        ("crop", "--resize pad keeps the whole image"),
    ):
        train, info, test = load_splits(str(root), resize=resize)
        assert words in overview(info, train, test)[1]
    train, info, test = load_splits(str(two_classes(tmp_path / "square")), resize="auto")
    assert len(overview(info, train, test)) == 1 and Headers({3: 1}, {3: 1}).square


def test_data_that_are_square_already_refuse_it():
    assert load_train("digits", resize="auto")[1].resize == "crop"
    with refused("--resize pad", "'digits'", "whose images are square"):
        load_train("digits", resize="pad")


def test_a_file_of_an_earlier_version_means_crop(tmp_path):
    assert parse({"data": {"source": "x"}}).data.resize == "crop"  # as a resumed run reads it
    (tmp_path / "run.toml").write_text(
        'format = "dnas-run/1"\n[data]\nsource = "x"\n[train]\nepochs = 2\n[environment]\nthreads = 1\n'
    )
    assert read_settings(tmp_path / "run.toml")["data"]["resize"] == "crop"
    (tmp_path / "own.toml").write_text('[data]\nsource = "x"\n')
    assert "resize" not in read_settings(tmp_path / "own.toml")["data"]
    info = DataInfo("x", ("a", "b"), 1, 8, (0.5,), (0.25,), flip=False)
    assert info.rule == Rule("crop")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on pictures of 3 : 1, and its folder of images."""
    root = tmp_path_factory.mktemp("long") / "images"
    for part, count in (("train", 8), ("test", 2)):
        for c, name in enumerate("ab"):
            for k in range(count):
                values = random_bytes(8, 24, seed=100 * c + k + 50 * (part == "test"))
                picture(root / part / name / f"{k}.png", values)
    out = root.with_name("run")
    outcome = invoke("train", "DARTS_V2", "--data", root, *TINY, "--out", out)
    assert outcome.code == 0, outcome.err
    return out, root, outcome


def test_a_run_writes_down_what_was_chosen_and_all_that_follows_does_the_same(run, tmp_path):
    out, root, outcome = run
    assert "resize pad: 16 of 16 training images are longer than 1.6 times their shorter side" in outcome.err
    values = read_toml(out / "config.toml")
    assert (values["data"]["resize"], values["data"]["image_size"]) == ("pad", 24)
    info = load_model(out)[1]
    assert info.resize == "pad"
    network = dnas.load(out)
    test = load_test(str(root), info)
    paths = sorted((root / "test").rglob("*.png"))
    wanted = network.preprocess([np.asarray(image) for image in test.images.permute(0, 2, 3, 1).numpy()])
    assert torch.equal(network.preprocess(paths), wanted)
    assert torch.equal(network.preprocess([Image.open(path) for path in paths]), wanted)
    result = invoke("evaluate", out, "--data", root, "--json").json
    assert (result["test_images"], result["left_out"]) == (4, 0)
    # Training images are recognised, whatever folder they are given in.
    assert "all 16 images" in invoke("evaluate", out, "--data", root / "train").err
    command_refused(tmp_path, "evaluate", out, "--resize", "crop", names=["--resize crop", "as in training"])


def test_what_names_a_run_takes_its_way_and_other_data_their_own(run):
    out, _, _ = run
    values = read_toml(out / "config.toml")
    assert inherit({}, out, values)["data"]["resize"] == "pad"
    assert inherit({"data": {"resize": "squeeze"}}, out, values)["data"]["resize"] == "squeeze"
    assert "resize" not in inherit({"data": {"source": "digits"}}, out, values)["data"]
    assert read_settings(out / "config.toml")["data"]["resize"] == "pad"
