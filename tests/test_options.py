from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.errors import InputError
from dnas.options import BothOptions, DataOptions, ExecutionOptions, RunOptions, SearchOptions, WidthOptions, names
from dnas.pipeline.config import Config, parse
from dnas.pipeline.overrides import add_options, nested
from dnas.settings import GradientSettings, TrainSettings

FLAGS = ("layers", "channels", "epochs", "batch_size")


def test_nothing_given_is_nothing_set():
    for command in ("run", "search", "train"):
        assert nested(command, {}) == {"command": command, "device": "cpu"}
        assert nested(command, {"layers": None, "data": None, "option": None}) == {"command": command, "device": "cpu"}


def test_every_shared_option_has_a_place_or_a_part(tmp_path):
    """No option of the command line is stored and then read by nobody."""
    given = {
        "data": "cifar10", "data_dir": "d", "image_column": "i", "label_column": "l", "root": "r", "image_size": 16, "seed": 3, "preset": "paper", "device": "cpu",
        "deterministic": True, "backend": "torch", "layers": 5, "channels": 12, "epochs": 4, "batch_size": 6, "method": "pc-darts",
        "mapping": "full", "option": ["partial_channels=2", "search.pad=1", "train.pad=2"], "search_channels": 16,
        "search_epochs": 7, "train_channels": 20, "train_epochs": 9, "train_layers": 8,
        "space": "s2", "search_seconds": 90.5, "search_steps": 400, "data_memory": "stream", "data_workers": 3,
        "flip": "off", "budget": 600.0, "finals": 4, "prior": "none", "with_parts": "beta-decay, other",
        "class_weights": "balanced", "resize": "pad", "skip_broken": True, "max_params": 9_000_000, "max_macs": 8,
        "max_ram": 7, "max_size": 6, "max_latency": "5ms", "ram_precision": "float32",
    }  # fmt: skip
    known = names(DataOptions, RunOptions, SearchOptions, BothOptions)
    assert known == given.keys() | {"config", "out"}
    config = parse(nested("run", given))
    assert config.data.model_dump(exclude={"train_images", "fingerprint"}) == {
        "source": "cifar10", "data_dir": "d", "image_column": "i", "label_column": "l", "root": "r", "image_size": 16,
        "resize": "pad", "memory": "stream", "workers": 3, "skip_broken": True,
    }  # fmt: skip
    assert config.limits.given == {"params": 9_000_000, "macs": 8, "ram": 7, "size": 6, "latency": 5_000_000}
    assert config.limits.precision == "float32"
    assert (config.seed, config.preset, config.deterministic, config.device) == (3, "paper", True, "cpu")
    assert (config.backend, config.budget, config.finals, config.prior) == ("torch", 600.0, 4, "none")
    assert (config.method, config.mapping, config.options) == ("pc-darts", "full", {"partial_channels": 2})
    assert config.with_parts == ["beta-decay", "other"]
    search, train = config.search, config.train
    assert (config.space, search.seconds, search.steps) == ("s2", 90.5, 400)
    assert (search.layers, search.channels, search.epochs, search.batch_size, search.pad) == (5, 16, 7, 6, 1)
    assert (search.flip, train.flip, train.class_weights) == ("off", "off", "balanced")
    assert (train.layers, train.channels, train.epochs, train.batch_size, train.pad) == (8, 20, 9, 6, 2)


@pytest.mark.parametrize(("command", "section"), [("search", "search"), ("train", "train")])
def test_one_stage_takes_the_plain_options(command, section):
    values = dict(zip(FLAGS, (5, 12, 4, 6), strict=True))
    assert nested(command, values) == {"command": command, "device": "cpu", section: values}


@pytest.mark.parametrize("section", ["search", "train"])
def test_every_setting_is_within_reach_of_option(section):
    model = {"search": GradientSettings, "train": TrainSettings}[section]
    for name, field in model.model_fields.items():
        found = nested("run", {"option": [f"{section}.{name}={field.default}"]})
        config = parse({**found, "options": {}})
        assert getattr(getattr(config, section), name) == field.default


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-1", -1), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False), ("node", "node"),
        ("", ""), ("a=b", "a=b"), ("1.0", 1.0),
    ],
)  # fmt: skip
def test_values_are_read_as_toml_would(text, value):
    found: dict = {}
    add_options(found, [f"x={text}"], ["options"])
    assert found == {"options": {"x": value}} and type(found["options"]["x"]) is type(value)


def test_the_last_of_two_options_holds_and_the_given_settings_are_not_changed():
    given = {"options": {"x": 1, "y": 2}}
    inner = given["options"]
    add_options(given, ["x=3", "x=4"], ["options"])
    assert given == {"options": {"x": 4, "y": 2}} and inner == {"x": 1, "y": 2}


@pytest.mark.parametrize("text", ["", "=", "=1", "name", "train", "train.epochs", "other.x=1", ".x=1"])
def test_malformed_options_are_refused(text):
    with pytest.raises(InputError) as caught:
        nested("run", {"option": [text]})
    assert "--option" in str(caught.value) or f"unknown setting {text.partition('=')[0]}" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "text"), [("search", "train.epochs=1"), ("train", "search.epochs=1"), ("train", "zero_one_weight=1")]
)
def test_an_option_without_a_use_is_refused(command, text):
    with pytest.raises(InputError, match=text.partition("=")[0]):
        nested(command, {"option": [text]})


def test_the_file_of_another_command_still_says_how(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(
        'command = "run"\nmethod = "pc-darts"\nmapping = "full"\n[options]\npartial_channels = 2\n'
        "[search]\nepochs = 3\n[train]\nepochs = 4\n[environment]\nthreads = 7\n"
        '[data]\nsource = "cifar10"\nfingerprint = "old"\ntrain_images = 5\n'
    )
    found = nested("search", {"config": str(path)})
    assert found["command"] == "search" and found["search"] == {"epochs": 3} and "train" not in found
    assert found["method"] == "pc-darts" and found["options"] == {"partial_channels": 2}
    found = nested("train", {"config": str(path), "epochs": 9})
    assert found["train"] == {"epochs": 9} and "search" not in found
    assert not {"method", "mapping", "options"} & found.keys()
    # What the other run found is not what this one will find.
    assert found["data"] == {"source": "cifar10"} and "environment" not in found


def test_a_planned_length_in_a_file_gives_way_to_epochs_and_to_steps(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("baseline_steps = 60\nfinals = 2\nfinals_steps = [50, 70]\n[train]\nepochs = 4\nsteps = 50\n")
    kept = nested("run", {"config": str(path), "option": ["train.pad=1"]})
    assert (kept["baseline_steps"], kept["finals_steps"]) == (60, [50, 70])
    assert kept["train"] == {"epochs": 4, "steps": 50, "pad": 1}
    for over, train in (
        ({"epochs": 9}, {"epochs": 9}),
        ({"train_epochs": 9}, {"epochs": 9}),
        ({"option": ["train.steps=30"]}, {"epochs": 4, "steps": 30}),
    ):
        found = nested("run", {"config": str(path), **over})
        assert found["train"] == train and found["finals"] == 2
        assert not {"baseline_steps", "finals_steps"} & found.keys()


@pytest.mark.parametrize(
    "text",
    ["search = 3", "data = 'x'", "options = [1]", "train = true", "[[search]]\nepochs = 1", "data.source = 3",
     "device = ['cpu']", "device = 3", "command = 3", "method = []", "mapping = {}", "options.partial_channels = []",
     "architecture = 7", "preset = {}", "baseline = 'maybe'", "format = 1"],
)  # fmt: skip
@pytest.mark.parametrize("flags", [{}, {"epochs": 3, "data": "digits", "option": ["search.pad=1", "with_none=true"]}])
def test_a_wrong_type_in_a_file_is_a_sentence(tmp_path, text, flags):
    """With and without flags over it, which must not trip over what the file put there."""
    from dnas.data.splits import DataInfo
    from dnas.pipeline.config import resolve

    path = tmp_path / "config.toml"
    path.write_text(text)
    info = DataInfo("digits", ("0", "1"), 1, 8, (0.5,), (0.2,), False)
    try:
        resolve(nested("run", {"config": str(path), **flags}), info, 100, "")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        # `command` is the command's own, a flag takes the place of data.source.
        assert text.startswith("command") or (flags and text.startswith("data.source"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", True), ("seed", "3"), ("deterministic", "yes"), ("baseline", 1), ("search", {"epochs": True}),
     ("search", {"epochs": "3"}), ("train", {"learning_rate": "0.1"}), ("search", {"epochs": 3.0})],
)  # fmt: skip
def test_a_value_of_another_type_is_not_silently_converted(key, value):
    name = next(iter(value)) if isinstance(value, dict) else key
    named = {"learning_rate": "train.learning_rate must be a number, got '0.1'"}.get(name, f"--{name}")
    with pytest.raises(InputError, match=named):
        parse({key: value})


def test_whole_numbers_do_for_real_ones():
    assert parse({"train": {"learning_rate": 1, "cutout": 3}}).train.learning_rate == 1.0


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
)
NAMES = sorted(names(DataOptions, RunOptions, SearchOptions, BothOptions) - {"out", "config", "option"})
SETTINGS = [f"{s}.{n}" for s, m in (("search", GradientSettings), ("train", TrainSettings)) for n in m.model_fields]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
    st.lists(
        st.tuples(st.sampled_from([*SETTINGS, "x", "search.x"]), st.text(max_size=6) | st.floats().map(str)), max_size=3
    ),
)
def test_any_options_are_a_configuration_or_a_sentence(flat, options):
    texts = [f"{name}={value}" for name, value in options]
    try:
        config = parse(nested("run", {**flat, "option": texts}))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(config, Config)


def test_the_options_of_python_and_of_the_command_line_are_one_list():
    for group in (DataOptions, RunOptions, SearchOptions, BothOptions, WidthOptions, ExecutionOptions):
        for field in fields(group):
            assert field.default is None, "an option that is not given must be told from one that is"
