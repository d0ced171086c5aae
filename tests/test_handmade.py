"""Networks that people designed. Those that need torchvision are skipped where it is not installed."""

import importlib
import json
import math
import sys

import pytest
import torch
from faults.harness import contents, invoke, make_images, run_command, send_at
from test_plan import hooked_macs

import dnas
from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.network import handmade
from dnas.network.handmade import HANDMADE, build_handmade
from dnas.network.network import macs, params
from dnas.pipeline.config import parse
from dnas.pipeline.overrides import nested
from dnas.rng import torch_stream
from dnas.runtime.session import Session
from dnas.settings import ARCHITECTURE_SETTINGS, NetworkTrainSettings
from dnas.training.accuracy import measure_accuracy
from dnas.training.trainer import train_network

SMALL = "shufflenet-v2"  # of torchvision's, trains fastest
NAMES = [name for name in HANDMADE if name != "densenet-bc-250"]


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))


@pytest.fixture
def installed(name):
    """Skips a network whose package is missing."""
    if HANDMADE[name].package:
        pytest.importorskip(HANDMADE[name].package, exc_type=(ImportError, RuntimeError))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("handmade") / "images", each=20)


# --- without torchvision


def missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def unfitting(name):
    raise RuntimeError("operator torchvision::nms does not exist\nand more")


@pytest.mark.parametrize(
    ("fails", "says"), [(missing, "requires torchvision"), (unfitting, "torchvision::nms does not exist")]
)
@pytest.mark.parametrize("command", [["train", "vgg16-bn"], ["show", "vgg16-bn"]])
def test_without_torchvision_the_extra_is_named_before_anything_is_made(tmp_path, monkeypatch, fails, says, command):
    monkeypatch.setattr(handmade, "import_module", fails)
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*command)
    assert outcome.code == 2 and len(outcome.lines) == 1 and outcome.out == ""
    assert says in outcome.err and "pip install 'dnas[networks]'" in outcome.err
    assert not list(tmp_path.iterdir())


def test_torchvision_is_imported_where_it_is_used_only():
    for module in ("cli", "pipeline.run", "network.handmade"):
        importlib.import_module(f"dnas.{module}")
    assert "torchvision" not in vars(sys.modules["dnas.network.handmade"])


@pytest.fixture
def as_if_installed(monkeypatch, tmp_path):
    """A torchvision that is there and empty, and an empty folder to work in."""
    from dnas.pipeline import machine

    monkeypatch.setattr(handmade, "import_module", lambda name: None)
    monkeypatch.setattr(machine, "version", lambda name: "0")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["train", "net19"], [*HANDMADE, "net19", "DARTS_V2"]),
        (["show", "vgg19"], ["unknown architecture 'vgg19'; did you mean 'vgg16-bn'?"]),
        (["train", "vgg16-bn", "--baseline"], ["--baseline", "vgg16-bn"]),
        (["train", "vgg16-bn", "--option", "train.nonsense=1"], ["train.nonsense"]),
        (["show", "vgg16-bn", "--layers", "20"], ["--layers 20", "vgg16-bn"]),
        (["show", "vgg16-bn", "--channels", "36"], ["--channels 36", "vgg16-bn"]),
        (["show", "vgg16-bn", "--stem", "cifar"], ["--stem cifar", "vgg16-bn"]),
        (["show", "vgg16-bn", "--svg", "a.svg"], ["--svg a.svg", "vgg16-bn"]),
    ],
)
def test_what_has_no_use_is_refused_in_one_line(tmp_path, as_if_installed, arguments, names):
    outcome = invoke(*arguments)
    assert outcome.code == 2 and len(outcome.lines) == 1 and not list(tmp_path.iterdir())
    assert all(name in outcome.err for name in names)


@pytest.mark.parametrize("name", ARCHITECTURE_SETTINGS)
def test_what_only_an_architecture_has_use_for_is_refused(tmp_path, as_if_installed, name):
    outcome = invoke("train", "vgg16-bn", "--option", f"train.{name}=0.0")
    assert outcome.code == 2 and len(outcome.lines) == 1 and not list(tmp_path.iterdir())
    assert f"train.{name} cannot be used with vgg16-bn" in outcome.err


def test_a_file_of_an_architectures_training_serves_a_hand_made_network(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('command = "run"\n[train]\nepochs = 7\nchannels = 12\ndrop_path = 0.3\n')
    given = nested("train", {"config": str(file), "handmade": "vgg16-bn", "baseline": False})
    assert given["train"] == {"epochs": 7}
    file.write_text('command = "train"\nhandmade = "vgg16-bn"\n[train]\nepochs = 7\nchannels = 12\n')
    with pytest.raises(InputError, match="--channels cannot be used with vgg16-bn"):
        parse(nested("train", {"config": str(file), "handmade": "vgg16-bn", "baseline": False}))
    assert "handmade" not in nested("run", {"config": str(file)})


def test_names_and_commands_of_a_configuration_are_checked():
    with pytest.raises(InputError, match=r"unknown reference network 'nope'; choose from .*vgg16-bn"):
        parse({"command": "train", "handmade": "nope"})
    with pytest.raises(InputError, match="dnas train vgg16-bn"):
        parse({"command": "run", "handmade": "vgg16-bn"})
    with pytest.raises(InputError, match="vgg16-bn"):
        dnas.train("nope")


@pytest.mark.parametrize("name", HANDMADE)
@pytest.mark.parametrize(("size", "more"), [(8, -2), (16, -1), (28, 0), (32, 0), (64, 1), (128, 2)])
def test_one_halving_more_or_fewer_for_each_factor_of_two(name, size, more):
    entry = HANDMADE[name]
    assert entry.acting(size) == min(max(entry.at_32 + more, 0), len(entry.halvings))


def test_any_network_trains_by_the_same_loop():
    """A plain linear classifier: nothing in the loop knows architectures."""
    labels = torch.arange(64) % 2
    noise = torch.randint(0, 60, (64, 1, 8, 8), generator=torch_stream(0, "test"))
    split = Split((noise + 120 * labels[:, None, None, None]).to(torch.uint8), labels)
    info = DataInfo("toy", ("dark", "bright"), 1, 8, (0.5,), (0.25,), False)
    settings = NetworkTrainSettings(epochs=3, batch_size=16, cutout=0).resolved(64, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    trained = train_network(network, settings, split, info, seed=0, session=Session(None, {}))
    assert trained is network and measure_accuracy(network, split, info).value == 1.0


# --- sizes, by closed forms of the papers' tables


def norm(channels):
    return 2 * channels


def densenet(depth, growth, classes, inputs):
    """Huang et al. 2017, §3: bottlenecks of 4k, compression 0.5, 2k channels before the first block."""
    width = 2 * growth
    count = 9 * inputs * width
    for block in range(3):
        for _ in range((depth - 4) // 6):
            count += norm(width) + width * 4 * growth + norm(4 * growth) + 9 * 4 * growth * growth
            width += growth
        if block < 2:
            count += norm(width) + width * (width // 2)
            width //= 2
    return count + norm(width) + (width + 1) * classes


def vgg(classes, inputs):
    """Simonyan & Zisserman 2015, table 1, D: biases, and a batch norm after each convolution."""
    count, width = 0, inputs
    for channels in (64, 64, 128, 128, 256, 256, 256, *[512] * 6):
        count += (9 * width + 1) * channels + norm(channels)
        width = channels
    return count + 513 * classes


def mobilenet(classes, inputs):
    """Sandler et al. 2018, table 2."""
    count, width = 9 * inputs * 32 + norm(32), 32
    for t, channels, repeats in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(repeats):
            hidden = t * width
            count += (width * hidden + norm(hidden)) * (t > 1)
            count += 9 * hidden + norm(hidden) + hidden * channels + norm(channels)
            width = channels
    return count + width * 1280 + norm(1280) + 1281 * classes


def shufflenet(classes, inputs):
    """Ma et al. 2018, table 5 at 1×, and figure 3 (c, d)."""
    count, width = 9 * inputs * 24 + norm(24), 24
    for channels, repeats in ((116, 4), (232, 8), (464, 4)):
        half = channels // 2
        tail = norm(half) + 9 * half + norm(half) + half * half + norm(half)
        count += 9 * width + norm(width) + width * half + norm(half) + width * half + tail
        count += (repeats - 1) * (half * half + tail)
        width = channels
    return count + width * 1024 + norm(1024) + 1025 * classes


FORMS = {
    "densenet-bc": lambda *shape: densenet(100, 12, *shape),
    "densenet-bc-250": lambda *shape: densenet(250, 24, *shape),
    "vgg16-bn": vgg,
    "mobilenet-v2": mobilenet,
    "shufflenet-v2": shufflenet,
}


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("densenet-bc", 0.8),
        ("densenet-bc-250", 15.3),
        ("vgg16-bn", 14.7),
        ("mobilenet-v2", 2.2),
        ("shufflenet-v2", 1.3),
    ],
)
def test_parameters_are_those_of_the_papers(torchvision, name, millions):
    assert round(FORMS[name](10, 3) / 1e6, 1) == millions
    for classes, inputs, size in ((10, 3, 32), (7, 1, 8), (100, 5, 64)):
        assert params(build_handmade(name, classes, inputs, size, 0)) == FORMS[name](classes, inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 5, 8, 28, 32, 48])
def test_any_size_and_number_of_channels_is_halved_as_often_as_it_says(installed, name, size):
    network = build_handmade(name, 7, 2, size, 0)
    last = {"shufflenet-v2": "stage4", "mobilenet": "blocks", "resnet8": "stages", "resnet20": "stages"}
    seen = []
    network.get_submodule(last.get(name, "features")).register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape)
    )
    logits = network.eval()(torch.zeros(2, 2, size, size))
    assert logits.shape == (2, 7) and torch.isfinite(logits).all()
    side = size / 2 ** HANDMADE[name].acting(size)
    assert seen[0][2] == seen[0][3] and math.floor(side) <= seen[0][2] <= math.ceil(side) and seen[0][2] >= 1
    assert macs(network, (2, size, size)) == hooked_macs(network, (2, size, size))


def test_on_images_of_imagenet_the_shapes_are_torchvisions(torchvision):
    models = importlib.import_module("torchvision.models")
    for name, theirs in (("mobilenet-v2", models.mobilenet_v2), ("shufflenet-v2", models.shufflenet_v2_x1_0)):
        ours = build_handmade(name, 1000, 3, 224, 0)
        assert macs(ours, (3, 224, 224)) == macs(theirs(weights=None), (3, 224, 224))


@pytest.mark.parametrize("name", NAMES)
def test_every_one_takes_digits_and_the_images_of_visual_wake_words(installed, name):
    for inputs, size in ((1, 8), (3, 96)):
        network = build_handmade(name, 2, inputs, size, 0).eval()
        assert network(torch.zeros(1, inputs, size, size)).shape == (1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_a_function_of_the_seed_and_nothing_else_is_drawn(installed, name):
    state = torch.random.get_rng_state()
    one = build_handmade(name, 4, 1, 8, 3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    same, other = (build_handmade(name, 4, 1, 8, seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    matrices = [key for key in one if one[key].dim() > 1]
    assert matrices and not any(torch.equal(one[key], other[key]) for key in matrices)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_draws_nothing_from_the_global_random_state(installed, name):
    network = build_handmade(name, 4, 1, 8, 0).train()
    state = torch.random.get_rng_state()
    network(torch.ones(2, 1, 8, 8)).sum().backward()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is not None for p in network.parameters())


# --- the command line


def arguments(images):
    return ("--data", images, "--epochs", 2, "--batch-size", 16)


KEPT = ("model.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    run = tmp_path_factory.mktemp("handmade-run") / "run"
    outcome = invoke("train", SMALL, *arguments(images), "--out", run, "--json")
    assert outcome.code == 0, outcome.err
    return run, outcome.json


def test_what_a_training_leaves(whole):
    run, result = whole
    assert result == json.loads((run / "result.json").read_text())
    assert result["architecture"] == SMALL and result["params"] == shufflenet(2, 1)
    assert "layers" not in result and "channels" not in result and "baseline" not in result
    assert not (run / "architecture.json").exists() and not (run / "architecture.svg").exists()
    config = (run / "config.toml").read_text()
    assert f'handmade = "{SMALL}"' in config and "torchvision = " in config
    assert not any(f"\n{name} = " in config for name in ARCHITECTURE_SETTINGS)


def test_a_trained_one_is_loaded_tested_and_shown(whole):
    run, result = whole
    network = dnas.load(run)
    assert not network.training and params(network) == result["params"]
    assert macs(network, (1, 8, 8)) == result["macs"]
    assert invoke("evaluate", run, "--json").json["test_accuracy"] == result["test_accuracy"]
    shown = invoke("show", SMALL, "--classes", 2, "--image-size", 8, "--image-channels", 1)
    assert (
        len(shown.out.splitlines()) == 1 and f"{result['params']:,}" in shown.out and f"{result['macs']:,}" in shown.out
    )
    by_run = invoke("show", run, "--classes", 2, "--image-size", 8, "--image-channels", 1, "--json").json
    assert (by_run["name"], by_run["params"], by_run["macs"]) == (SMALL, result["params"], result["macs"])


def test_its_configuration_its_folder_and_the_function_repeat_it_to_the_bit(whole, images, tmp_path):
    run, _ = whole
    assert invoke("train", SMALL, "--config", run / "config.toml", "--out", tmp_path / "config").code == 0
    assert invoke("train", run, *arguments(images), "--out", tmp_path / "folder").code == 0
    dnas.train(SMALL, data=str(images), epochs=2, batch_size=16, out=tmp_path / "function")
    for name in ("config", "folder", "function"):
        assert contents(tmp_path / name, KEPT) == contents(run, KEPT)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupted_training_is_resumed_to_the_same_bits(whole, images, tmp_path, step):
    import signal

    stop = send_at("train", step, signal.SIGTERM)
    stopped = run_command(tmp_path, "train", SMALL, *arguments(images), "--out", tmp_path / "run", fault=stop)
    assert stopped.code == 143, stopped.err
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = invoke("resume", tmp_path / "run", "--json")
    assert resumed.code == 0, resumed.err
    assert contents(tmp_path / "run", KEPT) == contents(whole[0], KEPT)
    assert resumed.json["test_accuracy"] == whole[1]["test_accuracy"]
