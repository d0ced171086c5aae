"""F16. Any type or range for any setting, unknown keys and broken TOML end with 2 and one line; what is accepted is in force, to the
letter. Never a traceback, never silently accepted."""

import math

import pytest
import tomli_w
from faults.harness import in_depth, invoke
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dnas.errors import RunError
from dnas.methods.registry import METHODS, get_method
from dnas.options import BothOptions, DataOptions, ExecutionOptions, RunOptions, SearchOptions, names
from dnas.pipeline import inputs
from dnas.pipeline import run as pipeline
from dnas.pipeline.config import parse
from dnas.pipeline.inputs import load_data
from dnas.runtime.runfolder import RunFolder
from dnas.settings import TrainSettings

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def begun(images, monkeypatch):
    """`dnas run` up to where it would make its folder; gives the settings that were in force there, if it came so far."""
    loaded = load_data(parse({"data": {"source": str(images)}}))
    monkeypatch.setattr(pipeline, "load_data", lambda *asked: loaded)
    # What a machine has is no matter of settings.
    monkeypatch.setattr(inputs, "check_machine", lambda *asked: None)
    original = pipeline.resolve
    found = []

    def resolve(*arguments):
        config, method = original(*arguments)
        found.append(config)
        return config, method

    def create(path):
        raise RunError("accepted")

    monkeypatch.setattr(pipeline, "resolve", resolve)
    monkeypatch.setattr(RunFolder, "create", create)

    def run(*arguments):
        found.clear()
        outcome = invoke(*arguments)
        assert outcome.out == "" and len(outcome.lines) == 1, outcome
        if outcome.lines == ["error: accepted"]:
            return found[0]
        assert outcome.code == 2 and outcome.lines[0].startswith("error: ") and len(outcome.err) < 2000, outcome
        return None

    return run


scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-2, 40)
    | st.floats()
    | st.sampled_from([0.0, 0.5, 1.0, 5e-324, 1e308])
    | st.text(max_size=6)
    | st.sampled_from(["", "auto", "first-order", "single-level", "cosine", "exponential", "linear", "nan", "1e999"])
)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)


@st.composite
def files(draw):
    """A configuration file with some settings of a method, known and unknown, of any type and range."""
    method = draw(st.sampled_from(sorted(METHODS)))
    cls = get_method(method)
    tables = {
        "search": sorted(cls.Settings.model_fields),
        "train": sorted(TrainSettings.model_fields),
        "options": sorted(cls.Options.model_fields),
        "data": ["image_size", "source", "data_dir", "train_images", "fingerprint"],
    }
    file = {"method": method}
    for table, known in tables.items():
        keys = st.sampled_from([*known, "nope", "Layers", ""])
        if chosen := draw(st.dictionaries(keys, values, max_size=2)):
            file[table] = chosen
    top = [
        "seed",
        "preset",
        "mapping",
        "space",
        "device",
        "deterministic",
        "backend",
        "baseline",
        "format",
        "nope",
        "search",
    ]
    return file | draw(st.dictionaries(st.sampled_from(top), values, max_size=1))


@many
@given(file=files())
def test_a_file_of_anything_is_refused_or_in_force(begun, tmp_path, file):
    path = tmp_path / "config.toml"
    path.write_bytes(tomli_w.dumps(file).encode(errors="surrogatepass"))
    config = begun("run", "--config", path, "--out", tmp_path / "run")
    if config is None:
        return
    dumped = config.to_toml()
    for key, value in file.items():
        if not isinstance(value, dict):
            assert same(dumped[key], value) or (key, value) == ("mapping", ""), key
            continue
        for name, inner in value.items():
            if key == "data":  # what is found there
                continue
            automatic = AUTOMATIC.get(name, ())
            assert same(dumped[key][name], inner) or inner in automatic, (key, name, inner, dumped[key])


# Settings that stand for a number that depends on others.
AUTOMATIC = {
    "images": (0,), "warmup_epochs": (-1,), "pad": (-1,), "cutout": (-1,), "processes": (0,), "layers": (0,),
    "architecture_learning_rate": (0,),
}  # fmt: skip


def same(one, other):
    return (type(one) is type(other) and one == other) or (type(one) is float and type(other) is int and one == other)


FLAGS = sorted(names(DataOptions, RunOptions, SearchOptions, BothOptions, ExecutionOptions) - {"data", "out", "config"})
words = (
    st.integers(-(10**20), 10**20).map(str)
    | st.integers(-1, 30).map(str)
    | st.floats().map(str)
    | st.sampled_from(["0.5", "3.0", "1e3", "0x10", "1_0"])
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(
        ["auto", "cpu", "shared", "full", "quick", "paper", "s1", "search.pad=1", "train.pad=x", "a=b", "=", "--"]
    )
)


flags = st.lists(st.tuples(st.sampled_from([*FLAGS, "nope"]), words), max_size=3)


@many
@example(given_flags=[("seed", "0.5")])  # was rounded to 0 without a word
@given(given_flags=flags)
def test_options_of_anything_are_refused_or_in_force(begun, tmp_path, given_flags):
    arguments = [f"--{name.replace('_', '-')}={word}" for name, word in given_flags]
    config = begun("run", *arguments, "--out", tmp_path / "run")
    if config is not None:
        assert math.isfinite(config.search.learning_rate) and config.search.epochs >= 1 and config.train.epochs >= 1
        last = dict(given_flags)
        assert "nope" not in last
        for name in ("preset", "space", "backend"):
            assert last.get(name, getattr(config, name)) == getattr(config, name)
        for name, found in (("seed", config.seed), ("search_epochs", config.search.epochs)):
            assert name not in last or float(last[name]) == found


test_files_of_anything_in_depth = in_depth(test_a_file_of_anything_is_refused_or_in_force, 6_000, file=files())
test_options_of_anything_in_depth = in_depth(test_options_of_anything_are_refused_or_in_force, 6_000, given_flags=flags)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"seed", b"seed =", b"[search", b"[search]\n[search]", b"a.b = 1\na = 2", b"seed = 01",
        b"seed = 1\nseed = 2", b"x = " + b"[" * 10_000, b"seed = " + b"9" * 10_000, b"\x00", b"seed = 1979-05-27",
        b"seed = nan", b"seed = inf", b'preset = """', b"search = []", b"[[search]]", b"[search]\nlayers = {}",
    ],
    ids=range(19),
)  # fmt: skip
def test_broken_files(begun, tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    assert (begun("run", "--config", path, "--out", tmp_path / "run") is not None) == (content == b"")


def test_a_file_that_is_none(begun, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.toml"):
        assert begun("run", "--config", path, "--out", tmp_path / "run") is None
