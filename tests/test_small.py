"""Residual and depthwise separable networks for small images: published sizes, closed forms, and widths for a size."""

import json
import math
from bisect import bisect_left

import pytest
import torch
from faults.harness import contents, invoke, make_images
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import hooked_macs

import dnas
from dnas.disk import read_toml
from dnas.errors import InputError, SettingError
from dnas.network.handmade import HANDMADE, build_handmade, handmade_of_size, parameters
from dnas.network.network import macs, params
from dnas.pipeline.config import parse, train_settings
from dnas.pipeline.overrides import nested
from dnas.settings import ARCHITECTURE_SETTINGS, WIDEST, WIDTH_SETTINGS
from dnas.study.compare import compare
from dnas.study.design import Network, StudySettings, run_overrides

NAMES = [name for name, network in HANDMADE.items() if network.has_width]


def channels(width, *bases):
    return [max(4, math.floor(width * base + 0.5)) for base in bases]


def convolution(inputs, outputs, kernel=3, bias=False):
    """With the two parameters of a batch norm's channel."""
    return kernel * kernel * inputs * outputs + outputs * (2 + bias)


def resnet8(classes, inputs, width=1.0):
    """MLPerf Tiny's keras_model.py: one block a stage, biases, 1×1 shortcuts without a norm."""
    stages = channels(width, 16, 32, 64)
    count, before = convolution(inputs, stages[0], bias=True), stages[0]
    for stage, after in enumerate(stages):
        count += convolution(before, after, bias=True) + convolution(after, after, bias=True)
        count += (before + 1) * after if stage else 0
        before = after
    return count + (before + 1) * classes


def resnet20(classes, inputs, width=1.0):
    """He et al. 2016, section 4.2 with n = 3: shortcuts without parameters."""
    stages = channels(width, 16, 32, 64)
    count, before = convolution(inputs, stages[0]), stages[0]
    for after in stages:
        count += convolution(before, after) + 5 * convolution(after, after)
        before = after
    return count + (before + 1) * classes


def mobilenet(classes, inputs, width=1.0):
    """Howard et al. 2017, table 1 with α = 0.25, with biases as in MLPerf Tiny."""
    before, *blocks = channels(width, 8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256)
    count = convolution(inputs, before, bias=True)
    for after in blocks:
        count += convolution(1, before, bias=True) + convolution(before, after, 1, bias=True)
        before = after
    return count + (before + 1) * classes


FORMS = {"resnet8": resnet8, "resnet20": resnet20, "mobilenet": mobilenet}


def with_statistics(network):
    """As Keras counts: the means and variances of batch norms, too."""
    return params(network) + sum(buffer.numel() for buffer in network.buffers() if buffer.dim())


def test_every_network_with_a_width_has_a_closed_form():
    assert list(FORMS) == NAMES


def test_sizes_are_those_that_were_published():
    # Keras' summaries of MLPerf Tiny's models for CIFAR-10 and visual wake words.
    assert with_statistics(build_handmade("resnet8", 10, 3, 32, 0)) == 78_666
    assert with_statistics(build_handmade("mobilenet", 2, 3, 96, 0)) == 221_794
    # Option A; a shortcut of 1×1 convolutions with norms, option B, would make it 272,474.
    assert params(build_handmade("resnet20", 10, 3, 32, 0)) == 269_722
    assert 269_722 + convolution(16, 32, 1) + convolution(32, 64, 1) == 272_474


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [0.01, 0.3, 0.5, 1.0, 1.297, 2.0])
def test_parameters_are_those_of_a_closed_form_and_the_same_for_every_size(name, width):
    for classes, inputs, size in ((10, 3, 32), (7, 1, 8), (100, 5, 96)):
        wanted = FORMS[name](classes, inputs, width)
        assert parameters(name, classes, inputs, width) == wanted
        assert params(build_handmade(name, classes, inputs, size, 0, width)) == wanted


def test_multiplications_of_images_that_the_papers_had():
    """By hand, from the tables: pixels × weights of each layer, and the classifier."""
    stages = [16 * 9 * 3 + 2 * 9 * 16 * 16, 9 * 16 * 32 + 9 * 32 * 32 + 16 * 32, 9 * 32 * 64 + 9 * 64 * 64 + 32 * 64]
    wanted = sum(weights * side * side for weights, side in zip(stages, (32, 16, 8), strict=True)) + 640
    assert macs(build_handmade("resnet8", 10, 3, 32, 0), (3, 32, 32)) == wanted == 12_501_632
    wanted, before, side = 9 * 3 * 8 * 48 * 48, 8, 48
    for after, stride in zip(
        (16, 32, 32, 64, 64, *[128] * 6, 256, 256), (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1), strict=True
    ):
        side //= stride
        wanted += (9 * before + before * after) * side * side
        before = after
    network = build_handmade("mobilenet", 2, 3, 96, 0)
    assert macs(network, (3, 96, 96)) == hooked_macs(network, (3, 96, 96)) == wanted + 512


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("resnet8", {8: 8, 16: 8, 32: 8, 96: 24}),
        ("resnet20", {8: 8, 16: 8, 32: 8, 96: 24}),
        ("mobilenet", {8: 4, 9: 5, 16: 4, 28: 4, 32: 4, 64: 4, 96: 3, 224: 7}),
    ],
)
def test_the_pixels_that_are_left_before_the_classifier(name, sides):
    for size, side in sides.items():
        features = build_handmade(name, 10, 1, size, 0)[:-3].eval()
        assert features(torch.zeros(1, 1, size, size)).shape[2:] == (side, side)


@pytest.mark.parametrize("size", [8, 32])
def test_a_shortcut_of_option_a_takes_every_second_pixel_and_adds_zeros(size):
    block = build_handmade("resnet20", 10, 3, size, 0).get_submodule("stages.1.0")
    images = torch.rand(2, 16, size, size)
    stride = 2 if size == 32 else 1  # at 8 pixels nothing is halved
    wanted = torch.zeros(2, 32, size // stride, size // stride)
    wanted[:, :16] = images[:, :, ::stride, ::stride]
    assert torch.equal(block.shortcut(images), wanted)
    assert torch.equal(block.eval()(images), torch.relu(block.branch(images) + wanted))


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_drawn_by_hes_law(name):
    network = build_handmade(name, 200, 3, 32, 0, 4.0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            expected = math.sqrt(2 / layer.weight[0].numel())
            drawn = layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(drawn))
            assert layer.bias is None or not layer.bias.any()


# --- the width for a size


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(width=st.floats(0.001, 8), more=st.floats(-0.02, 0.02), classes=st.integers(2, 300), inputs=st.integers(1, 5))
def test_no_width_comes_closer(counted, name, width, more, classes, inputs):
    """Against all widths in steps of half a channel of the widest layer, which are all networks that there are."""
    form = FORMS[name]
    wanted = max(form(classes, inputs, 0.001), round(form(classes, inputs, width) * (1 + more)))
    found = handmade_of_size(name, wanted, classes, inputs)
    steps = [form(classes, inputs, step / 512) for step in range(1, 9 * 512)]
    assert abs(form(classes, inputs, found) - wanted) == min(abs(size - wanted) for size in steps)


@pytest.fixture(scope="module")
def counted():
    """Counts by closed forms, as the networks have them (see above), since so many are not built in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "dnas.network.handmade.parameters",
            lambda name, classes, inputs, width=1.0: FORMS[name](classes, inputs, width),
        )
        yield


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_a_width_gives_that_width_or_its_network(name):
    for width in (0.5, 1.0, 2.0, 3.0):
        size = FORMS[name](10, 3, width)
        found = handmade_of_size(name, size, 10, 3)
        assert found == width
    sizes = [FORMS[name](10, 3, step / 512) for step in range(1, 512)]
    assert sizes == sorted(sizes)
    # Of two neighbours the closer one, and in the middle the smaller.
    place = bisect_left(sizes, sizes[300] + 1)
    small, large = sizes[place - 1], sizes[place]
    for wanted, nearest in ((small, small), ((small + large) // 2, small), ((small + large) // 2 + 1, large)):
        assert FORMS[name](10, 3, handmade_of_size(name, wanted, 10, 3)) == nearest


def test_a_size_that_no_width_has_is_refused():
    smallest, largest = resnet8(10, 3, 0.001), resnet8(10, 3, WIDEST)
    for wanted in (smallest - 1, largest + 1):
        with pytest.raises(
            SettingError, match=f"--params must be {smallest} to {largest} for resnet8 .*, got {wanted}"
        ):
            handmade_of_size("resnet8", wanted, 10, 3)
    assert parameters("resnet8", 10, 3, handmade_of_size("resnet8", smallest, 10, 3)) == smallest


def test_a_width_is_refused_where_there_is_none():
    with pytest.raises(SettingError, match="--params 5 only applies to .*resnet8.*, not to vgg16-bn"):
        handmade_of_size("vgg16-bn", 5, 10, 3)
    with pytest.raises(SettingError, match=r"--width 2\.0 only applies to .*resnet8.*, not to vgg16-bn"):
        build_handmade("vgg16-bn", 10, 3, 32, 0, width=2.0)
    for name in WIDTH_SETTINGS:
        with pytest.raises(SettingError, match=f"--{name} 2 .*not to an architecture"):
            parse({"command": "run", "train": {name: 2}})
        with pytest.raises(SettingError, match=f"--{name} 2 .*not to vgg16-bn"):
            parse({"command": "train", "handmade": "vgg16-bn", "train": {name: 2}})


# --- settings


@pytest.mark.parametrize(("beneath", "above"), [({"width": 2.0}, "params=9k"), ({"params": 9000}, "width=0.5")])
def test_a_width_or_a_size_goes_before_either_of_a_file(tmp_path, beneath, above):
    file = tmp_path / "config.toml"
    ((name, value),) = beneath.items()
    file.write_text(f'command = "train"\nhandmade = "resnet8"\n[train]\nepochs = 7\n{name} = {value}\n')
    options = {"config": str(file), "handmade": "resnet8"}
    assert nested("train", options)["train"] == {"epochs": 7, **beneath}
    chosen = nested("train", {**options, "option": [f"train.{above}"]})["train"]
    assert set(chosen) == {"epochs", above.partition("=")[0]}


def test_a_file_of_another_kind_of_network_sets_the_same_training_otherwise(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('command = "train"\nhandmade = "resnet8"\n[train]\nepochs = 7\nwidth = 2.0\n')
    for name in ("", "vgg16-bn"):
        assert nested("train", {"config": str(file), "handmade": name})["train"] == {"epochs": 7}
    assert nested("run", {"config": str(file)})["train"] == {"epochs": 7}
    assert nested("train", {"config": str(file), "handmade": "resnet20"})["train"] == {"epochs": 7, "width": 2.0}
    # Of no network's, a file's width is somebody's choice.
    file.write_text("[train]\nwidth = 2.0\nchannels = 12\n")
    assert nested("train", {"config": str(file), "handmade": "resnet8"})["train"] == {"width": 2.0}
    with pytest.raises(SettingError, match="not to an architecture"):
        parse(nested("train", {"config": str(file), "handmade": ""}))


def test_the_kinds_of_settings_differ_by_what_only_one_has():
    everything = {name: set(train_settings(name).model_fields) for name in ("", "vgg16-bn", "resnet8", "nope")}
    assert everything[""] == everything["nope"] == everything["vgg16-bn"] | set(ARCHITECTURE_SETTINGS)
    assert everything["resnet8"] == everything["vgg16-bn"] | set(WIDTH_SETTINGS)


def test_in_a_study_a_size_is_that_of_networks_with_a_width(tmp_path):
    given = {"train": {"params": "20k", "epochs": 1, "channels": 8}}
    study = StudySettings(methods=["dnas"], architectures=["resnet8"], run=given)
    assert run_overrides(study, Network("handmade", "resnet8", "", 0), 0)["train"] == {"params": "20k", "epochs": 1}
    for kind in ("searched", "random", "published"):
        wanted = {"epochs": 1, "channels": 8}
        assert run_overrides(study, Network(kind, "dnas", "shared", 0), 0)["train"] == wanted
    with pytest.raises(InputError, match="--params 20k .*not to any network of this study"):
        compare(tmp_path / "study", StudySettings(methods=["dnas"], architectures=["DARTS_V2"], run=given))
    assert not (tmp_path / "study").exists()


# --- the command line

KEPT = ("model.safetensors", "metrics.jsonl")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "vgg16-bn", "--params", "130k"], "--params 130000 only applies to"),
        (["train", "DARTS_V2", "--params", "130k"], "not to an architecture"),
        (["train", "DARTS_V2", "-o", "train.width=2"], "train.width 2 only applies to"),
        (["train", "resnet8", "--params", "130x"], "'130x'"),
        (["train", "resnet8", "--width", "0"], "--width must be above 0"),
        (["train", "resnet8", "--params", "12"], "for resnet8 with 10 classes and 1 image channels, got 12"),
        (["train", "resnet8", "--width", "1", "--params", "130k"], "train.width=1.0 cannot be used with"),
        (["train", "resnet8", "--channels", "8"], "--channels cannot be used with resnet8"),
        (["show", "vgg16-bn", "--width", "2"], "not to vgg16-bn"),
        (["show", "DARTS_V2", "--params", "9k"], "not to an architecture"),
        (["show", "resnet8", "--width", "2", "--params", "9k"], "cannot be used with"),
        (["show", "resnet8", "--classes", "1"], "classes must be at least 2, got 1"),
        (["show", "resnet8", "--params", "12"], "for resnet8 with 10 classes and 3 image channels, got 12"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*arguments)
    assert outcome.code == 2 and len(outcome.lines) == 1 and says in outcome.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_shown_at_any_width(name):
    for chosen, width in (([], 1.0), (["--width", 0.5], 0.5), (["--params", "60k"], None)):
        shown = invoke("show", name, *chosen, "--json").json
        assert width in (None, shown["width"]) and shown["params"] == FORMS[name](10, 3, shown["width"])
    assert shown["params"] == pytest.approx(60_000, rel=0.03)
    assert f"at width {shown['width']:g}, 10 classes" in invoke("show", name, *chosen).out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    images = make_images(tmp_path_factory.mktemp("small") / "images", each=20)
    arguments = ("--data", images, "--epochs", 1, "--batch-size", 16)
    run = tmp_path_factory.mktemp("small-run") / "run"
    outcome = invoke("train", "resnet20", "--params", "20k", *arguments, "--out", run, "--json")
    assert outcome.code == 0, outcome.err
    return run, outcome.json, arguments


def test_a_size_is_written_as_the_width_that_has_it(whole):
    run, result, _ = whole
    config = read_toml(run / "config.toml")
    width = handmade_of_size("resnet20", 20_000, 2, 1)
    assert (config["train"]["width"], config["train"]["params"], result["width"]) == (width, 0, width)
    assert result["params"] == resnet20(2, 1, width) and "torchvision" not in config["environment"]
    assert f"resnet20 at width {width:g}: {result['params']:,} parameters" in (run / "log.txt").read_text("utf-8")


def test_the_trained_network_is_loaded_tested_and_shown(whole):
    run, result, _ = whole
    network = dnas.load(run)
    assert params(network) == result["params"] and macs(network, (1, 8, 8)) == result["macs"]
    assert invoke("evaluate", run, "--json").json["test_accuracy"] == result["test_accuracy"]
    shown = invoke("show", run, "--json").json
    assert [shown[key] for key in ("name", "width", "params", "macs")] == [
        "resnet20", result["width"], result["params"], result["macs"],
    ]  # fmt: skip


def test_its_width_its_configuration_its_folder_and_the_function_repeat_it_to_the_bit(whole, tmp_path):
    run, result, arguments = whole
    for name, chosen in {
        "width": ["resnet20", "--width", result["width"]],
        "config": ["resnet20", "--config", run / "config.toml"],
        "folder": [run],
    }.items():
        outcome = invoke("train", *chosen, *arguments, "--out", tmp_path / name)
        assert outcome.code == 0, outcome.err
    dnas.train("resnet20", params="20k", data=str(arguments[1]), epochs=1, batch_size=16, out=tmp_path / "function")
    for name in ("width", "config", "folder", "function"):
        assert contents(tmp_path / name, KEPT) == contents(run, KEPT)
    other = invoke("train", run, *arguments, "--params", "9k", "--out", tmp_path / "other", "--json").json
    assert other["params"] == resnet20(2, 1, handmade_of_size("resnet20", 9_000, 2, 1))


def test_a_forged_width_takes_no_memory(whole, tmp_path):
    import safetensors.torch

    from dnas.pipeline.model import load_model, read_tensors

    with safetensors.safe_open(whole[0] / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["dnas"])
    forged = tmp_path / "model.safetensors"
    weights = read_tensors(whole[0] / "model.safetensors")
    safetensors.torch.save_file(weights, forged, {"dnas": json.dumps({**facts, "width": 50.0})})
    with pytest.raises(InputError, match="its network has [0-9]+ parameters, but it contains"):
        load_model(forged)


@pytest.mark.parametrize("name", NAMES)
def test_digits_are_learned_from_for_a_moment(name, tmp_path):
    arguments = ("--epochs", 1, "--option", "train.images=96", "--batch-size", 32, "--out", tmp_path / "run", "--json")
    outcome = invoke("train", name, "--width", 0.5, *arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.json["params"] == FORMS[name](10, 1, 0.5) and 0 <= outcome.json["test_accuracy"] <= 1
