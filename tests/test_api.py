import subprocess
import sys
import types

import pytest
import torch
from faults.harness import make_images

import dnas
from dnas.space.architecture import Architecture

TINY = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 16}
FUNCTIONS = (
    "build", "compare", "export", "get_method", "inspect_data", "list_methods", "load", "load_published", "macs", "params",
    "parse_genotype", "rank", "register", "resume", "run", "search", "stack", "train",
)  # fmt: skip
CLASSES = (
    "Architecture", "Baseline", "Cell", "DNASClassifier", "FrontResult", "InputError", "Interrupted", "RunError", "RunResult", "SearchResult",
    "RankingResult", "StudyResult", "TrainResult",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("api") / "images")


@pytest.fixture(scope="module")
def found(images, tmp_path_factory):
    return dnas.search(data=images, out=tmp_path_factory.mktemp("api") / "search", **TINY)


def test_every_public_name_is_there():
    assert {*FUNCTIONS, *CLASSES} == set(dnas.__all__)
    for name in dnas.__all__:
        assert getattr(dnas, name) is not None
    assert set(dnas.__all__) <= set(dir(dnas))
    assert dnas.__version__.count(".") >= 2
    with pytest.raises(AttributeError, match="nonsense"):
        _ = dnas.nonsense


def test_importing_everything_hides_no_function():
    """A submodule of the same name would take the place of a function once somebody imports it."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(dnas.__path__)}
    assert not modules & set(dnas.__all__)
    code = (
        "import importlib, pkgutil, types, dnas\n"
        "for m in pkgutil.walk_packages(dnas.__path__, 'dnas.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        f"assert all(isinstance(getattr(dnas, n), types.FunctionType) for n in {FUNCTIONS!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert all(isinstance(getattr(dnas, name), types.FunctionType) for name in FUNCTIONS)


def test_importing_dnas_is_cheap():
    code = "import sys, dnas; dnas.Architecture; dnas.load_published; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_lines_of_the_contract():
    arch = dnas.load_published("DARTS_V2", layers=20)
    assert isinstance(arch, dnas.Architecture) and len(arch) == 20
    net = dnas.build(arch, channels=36, num_classes=10)
    assert dnas.params(net) == 3_349_342
    small = dnas.build(dnas.load_published("DARTS_V2", layers=3), channels=4, num_classes=7, auxiliary=True)
    images = torch.zeros(2, 3, 32, 32)
    logits, auxiliary = small.train()(images)
    assert logits.shape == auxiliary.shape == (2, 7)
    assert small.eval()(images).shape == (2, 7)
    assert dnas.macs(small, (3, 32, 32)) > 0
    named = dnas.build("DARTS_V2", channels=4, num_classes=7, layers=3)
    assert dnas.params(named) == dnas.params(small)
    with pytest.raises(dnas.InputError, match="resnet8 is a reference network"):
        dnas.build("resnet8")
    assert {"dnas", "pc-darts"} <= set(dnas.list_methods())
    assert dnas.get_method("dnas").name == "dnas"


def test_search_gives_an_architecture(found):
    assert isinstance(found.architecture, Architecture) and found.architecture.in_space
    assert (found.method, found.mapping) == ("dnas", "decoupled") and "test_accuracy" not in found.to_dict()


def test_train_load_and_resume(found, images, tmp_path):
    options = {"channels": 6, "epochs": 1, "batch_size": 24, "option": {"train.cutout": 2, "train.drop_path": 0.0}}
    result = dnas.train(found.architecture, data=str(images), out=tmp_path / "train", **options)
    assert result["channels"] == 6 and result.baseline is None
    network = dnas.load(tmp_path / "train")
    assert not network.training and dnas.params(network) == result.params
    assert dnas.resume(tmp_path / "train") == result
    assert "cutout = 2\n" in (tmp_path / "train" / "config.toml").read_text()


def test_run_takes_the_options_of_the_command_line_and_shows_nothing(images, tmp_path, capsys):
    options = {**TINY, "train_epochs": 1, "method": "pc-darts", "mapping": "shared", "option": ["with_none=false"]}
    result = dnas.run(baseline=False, data=images, out=tmp_path / "run", seed=3, **options)
    assert (result.seed, result.method, result.mapping) == (3, "pc-darts", "shared")
    assert result.baseline is None and 0 <= result.test_accuracy <= 1
    assert capsys.readouterr() == ("", "")
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "with_none = false" in text and "baseline = false" in text


def test_errors_are_of_the_kinds_that_python_has():
    assert issubclass(dnas.InputError, ValueError) and issubclass(dnas.RunError, RuntimeError)
    for call in (
        lambda: dnas.get_method("nonsense"),
        lambda: dnas.load_published("nonsense"),
        lambda: dnas.load("nowhere"),
        lambda: dnas.resume("nowhere"),
        lambda: dnas.search(data="nowhere"),
        lambda: dnas.parse_genotype("__import__('os')"),
    ):
        with pytest.raises(dnas.InputError):
            call()
