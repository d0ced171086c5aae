"""What `dnas.load` gives: a network that knows its classes and prepares pictures as its run did."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.harness import make_images
from PIL import Image
from run_tools import make_run
from torch import nn

import dnas
from dnas.data.splits import DataInfo, load_test, load_train
from dnas.pipeline.classifier import Classifier, Prediction
from dnas.pipeline.model import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, on 12×12 color pictures in two classes."""
    folder = tmp_path_factory.mktemp("classifier")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / "images" / name / f"{k}.png")
    return make_run(folder / "run", folder / "images")


@pytest.fixture(scope="module")
def net(run: Path) -> Classifier:
    return dnas.load(run)


def test_it_knows_what_the_run_knew(net: Classifier, run: Path) -> None:
    _, info = load_train(str(run.with_name("images")))
    assert (net.classes, net.image_size, net.channels) == (("cat", "dog"), 12, 3)
    assert (net.mean, net.std) == (info.mean, info.std)
    assert isinstance(net, nn.Module) and not net.training and not net.network.training


def test_predictions_on_raw_digits_have_the_accuracy_of_the_run(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    shape = {"layers": 3, "channels": 8, "epochs": 5}
    result = dnas.train(dnas.load_published("DARTS_V2", 3), data="digits", out=tmp_path / "run", **shape)
    net = dnas.load(tmp_path / "run")
    _, info = load_train("digits")
    test = load_test("digits", info)
    assert result["test_accuracy"] > 0.5
    # As arrays [B, H, W, C], as a tensor, and as pictures of any shape around them.
    pixels = test.images.movedim(1, -1).numpy()
    for pictures in (pixels, test.images, [Image.fromarray(image[..., 0]) for image in pixels]):
        answers = net.predict(pictures)
        right = sum(answer.label == net.classes[label] for answer, label in zip(answers, test.labels, strict=True))
        assert right / len(test) == result["test_accuracy"]
    # scikit-learn's own values of 0 to 16, one array [8, 8] after the other.
    raw = list(np.rint(load_digits().images * (255 / 16)).astype(np.uint8))
    assert torch.equal(net.preprocess(raw[:3]), net.preprocess(np.stack(raw[:3])[..., None]))


def test_preprocessing_is_that_of_the_data(net: Classifier, tmp_path: Path) -> None:
    """Odd pictures, by every way in: the same pixels as when a folder of them is read, normalized in closed form."""
    rng = np.random.default_rng(1)
    (tmp_path / "cat").mkdir()
    color = rng.integers(0, 256, (20, 31, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    transparent = rng.integers(0, 256, (12, 15, 4), np.uint8)
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.png": (Image.fromarray(color), {}),
        "b.jpg": (Image.fromarray(color[:12, :12]), {"exif": turned}),
        "c.png": (Image.fromarray(transparent), {}),
        "d.png": (Image.fromarray(color[..., 0]), {}),
        "e.png": (Image.fromarray(transparent[..., 2:]), {}),
        "f.gif": (Image.fromarray(color).quantize(7), {}),
    }
    for name, (image, options) in pictures.items():
        image.save(tmp_path / "cat" / name, **options)
    info = DataInfo("", net.classes, 3, 12, net.mean, net.std, flip=False)
    raw = load_test(str(tmp_path), info, every=True).images.double() / 255
    wanted = (raw - torch.tensor(net.mean)[:, None, None]) / torch.tensor(net.std)[:, None, None]
    paths = sorted((tmp_path / "cat").iterdir())
    for ways in (paths, [str(path) for path in paths], [Image.open(path) for path in paths], tuple(paths)):
        images = net.preprocess(ways)
        assert images.shape == (6, 3, 12, 12) and images.dtype == torch.float32
        assert torch.allclose(images.double(), wanted, atol=1e-5)
    lossless = {0: color, 2: transparent, 3: color[..., 0], 4: transparent[..., 2:]}
    for k, array in lossless.items():
        assert torch.allclose(net.preprocess(array).double(), wanted[k : k + 1], atol=1e-5)
        if array.ndim == 3:
            tensor = torch.from_numpy(array).movedim(-1, 0)
            assert torch.equal(net.preprocess(tensor), net.preprocess(array))
            assert torch.equal(net.preprocess(tensor[None]), net.preprocess(array[None]))
    assert torch.equal(net.preprocess([color, paths[2]]), net.preprocess([paths[0], transparent]))
    assert net.preprocess([]).shape == (0, 3, 12, 12)


def test_a_prediction_is_the_softmax_of_the_logits(net: Classifier) -> None:
    pictures = np.random.default_rng(2).integers(0, 256, (300, 12, 12, 3), np.uint8)
    with torch.no_grad():
        logits = net(net.preprocess(pictures)).double()
    wanted = logits.exp() / logits.exp().sum(1, keepdim=True)
    answers = net.predict(pictures)
    assert len(answers) == 300 and all(isinstance(answer, Prediction) for answer in answers)
    assert np.allclose([answer.probabilities for answer in answers], wanted, atol=1e-5)
    for answer, row in zip(answers, wanted, strict=True):
        assert answer.label == net.classes[int(row.argmax())] and answer.probability == max(answer.probabilities)
    assert [a.label for a in net.predict(pictures[0])] == [answers[0].label]
    assert net.predict([]) == []


def test_predicting_is_in_evaluation_mode_and_leaves_the_mode(run: Path) -> None:
    net = dnas.load(run)
    picture = np.zeros((12, 12, 3), np.uint8)
    before, first = copy.deepcopy(net.state_dict()), net.predict(picture)
    net.train()
    assert net.predict(picture) == first and net.training and net.network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_plain_network_and_its_names_are_as_ever(net: Classifier, run: Path) -> None:
    plain, _ = load_model(run)
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(net(x), plain(x)) and torch.equal(net.network(x), plain(x))
    assert dnas.params(net) == dnas.params(plain) and dnas.macs(net, (3, 12, 12)) == dnas.macs(plain, (3, 12, 12))
    assert list(net.state_dict()) == list(plain.state_dict())
    # Into a plain network, out of one, within a larger module, and through a file.
    other = copy.deepcopy(net)
    for tensor in other.parameters():
        nn.init.zeros_(tensor)
    other.load_state_dict(plain.state_dict())
    plain.load_state_dict(other.state_dict())
    holder, again = nn.ModuleDict({"a": other, "b": nn.Linear(2, 2)}), nn.ModuleDict({"a": copy.deepcopy(net)})
    again["b"] = nn.Linear(2, 2)
    assert not any("network." in name for name in holder.state_dict())
    again.load_state_dict(holder.state_dict())
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (np.zeros((12, 12)), "uint8 .* got array of float64"),
        (torch.zeros(3, 12, 12), "uint8 .* got tensor of float32"),
        (np.zeros(12, np.uint8), r"\[H, W\], .* got \[12\]"),
        (np.zeros((5, 12, 12), np.uint8), r"1 to 4 channels, got \[5, 12, 12\]"),
        (torch.zeros(12, 12, dtype=torch.uint8), r"\[C, H, W\] .* got \[12, 12\]"),
        (np.zeros((0, 12), np.uint8), r"got \[0, 12\]"),
        (7, "got int"),
        ([None], "got NoneType"),
        ("nowhere.png", r"'nowhere.png' \(No such file or directory\)"),
        (__file__, "cannot read the image"),
        (Image.new("F", (12, 12)), "floating-point"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(net: Classifier, pictures: Any, words: str) -> None:
    with pytest.raises(dnas.InputError, match=words) as caught:
        net.predict(pictures)
    assert "\n" not in str(caught.value)


def test_a_run_on_gray_pictures_takes_color(tmp_path: Path) -> None:
    net = dnas.load(make_run(tmp_path / "run", make_images(tmp_path / "images", each=4)))
    color = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    gray = np.asarray(Image.fromarray(color).convert("L"))
    assert torch.equal(net.preprocess(color), net.preprocess(gray)) and net.preprocess(color).shape == (1, 1, 8, 8)
