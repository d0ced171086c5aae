"""`dnas export`: what is written runs without dnas, has torch's answers, and says what it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults.harness import invoke, make_images
from run_tools import make_run

import dnas
from dnas import deploy
from dnas.deploy import protocol, registry
from dnas.errors import InputError, RunError
from dnas.pipeline.model import load_trained
from dnas.space.architecture import Architecture
from dnas.space.darts_cell import Cell
from dnas.space.file_size import facts_bytes, onnx_bytes
from dnas.space.plan import plan
from dnas.space.published import load_published

pytest.importorskip("onnx", reason="needs the extra dnas[export]")
pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
FORMATS = "onnx,onnx-int8,torch,python,darts"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("export") / "images", classes=3, each=12)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A run on digits that was exported in every format that needs no further package, and what was printed."""
    run = tmp_path_factory.mktemp("digits") / "run"
    result = dnas.train(load_published("DARTS_V2", 3), data="digits", channels=8, epochs=2, out=run)
    outcome = invoke("export", run, "--format", FORMATS)
    assert outcome.code == 0, outcome.err
    return run, result, outcome.out


def without(packages: tuple[str, ...], code: str, folder: Path) -> str:
    """What Python code prints in a folder where these packages cannot be imported."""
    blocked = f"import sys\nfor name in {packages!r}:\n    sys.modules[name] = None\n"
    ended = subprocess.run([sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    return ended.stdout


def test_what_is_written_has_the_answers_of_torch(digits: tuple[Path, dict[str, Any], str]) -> None:
    run, result, _ = digits
    record = json.loads((run / "export" / "export.json").read_text())
    assert record["test_accuracy"] == result["test_accuracy"] and record["test_images"] == result["test_images"] == 360
    assert (record["params"], record["macs"]) == (result["params"], result["macs"])
    rows = {row["format"]: row for row in record["exports"]}
    assert list(rows) == FORMATS.split(",")
    for name in ("onnx", "torch", "python"):
        row = rows[name]
        assert row["agreement"] == 1 and row["largest_difference"] < 1e-4, row
        assert row["test_accuracy"] == result["test_accuracy"] and row["accuracy_lost"] == 0
    int8 = rows["onnx-int8"]
    assert int8["largest_difference"] > 0 and int8["agreement"] > 0.9
    assert int8["accuracy_lost"] == record["test_accuracy"] - int8["test_accuracy"]
    assert int8["calibration_images"] == 512
    for row in rows.values():
        sizes = [(run / "export" / name).stat().st_size for name in row["files"]]
        assert row["bytes"] == sum(sizes) and row["files"][0] == row["file"]
        if row["format"] != "darts":
            low, high = row["latency_quartiles"]
            assert 0 < low <= row["latency_seconds"] <= high
            assert 0 < row["network_memory_bytes"] < row["peak_memory_bytes"]
    assert rows["onnx"]["peak_memory_bytes"] < rows["torch"]["peak_memory_bytes"]  # which is mostly torch
    # The run has the same figures, for its page.
    assert (run / "export.json").read_bytes() == (run / "export" / "export.json").read_bytes()


def test_the_loss_of_int8_is_stated(digits: tuple[Path, dict[str, Any], str]) -> None:
    run, _, printed = digits
    (row,) = [r for r in json.loads((run / "export.json").read_text())["exports"] if not r["exact"]]
    images = round(abs(row["accuracy_lost"]) * 360)
    words = f"{100 * abs(row['accuracy_lost']):.2f} percentage points"
    assert re.search(rf"onnx-int8 (loses|gains) {re.escape(words)} \({images} of the test images\)", printed)
    assert re.search(r"`model.int8.onnx` (loses|gains) " + re.escape(words), (run / "export" / "README.md").read_text())


def test_the_page_of_the_run_has_the_figures(digits: tuple[Path, dict[str, Any], str]) -> None:
    run, _, _ = digits
    assert invoke("report", run).code == 0
    page = (run / "report.html").read_text("utf-8")
    section = page[page.index('<section id="exports"') : page.index('<section id="cost"')]
    assert all(f'<th scope="row">{name}</th>' in section for name in FORMATS.split(","))
    assert "model.int8.onnx" in section and "points)" in section


def test_the_lines_of_the_card_run_where_there_is_no_dnas(digits: tuple[Path, dict[str, Any], str]) -> None:
    """And name the class that the run's own network does. ONNX needs no torch either."""
    from sklearn.datasets import load_digits

    run, _, _ = digits
    net, folder = dnas.load(run), run / "export"
    from PIL import Image

    picture = Image.fromarray((load_digits().images[7] * 15).astype("uint8")).resize((40, 30)).convert("RGB")
    picture.save(folder / "picture.png")
    (expected,) = net.predict(folder / "picture.png")
    card = (folder / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 4 and all(len(block.splitlines()) <= 5 for block in blocks)
    assert "10 classes: 0, 1, 2" in card and "360 images that were not used for training" in card
    for block in blocks:
        packages = ("dnas", "torch") if "onnxruntime" in block else ("dnas",)
        assert without(packages, block, folder) == f"{expected.label}\n", block


def test_the_onnx_file_tells_what_it_expects(digits: tuple[Path, dict[str, Any], str]) -> None:
    import onnx

    run, _, _ = digits
    net = dnas.load(run)
    for name in ("model.onnx", "model.int8.onnx"):
        model = onnx.load(run / "export" / name)
        onnx.checker.check_model(model, full_check=True)
        assert [(each.domain, each.version) for each in model.opset_import if not each.domain] == [("", 18)]
        (held,) = [json.loads(each.value) for each in model.metadata_props if each.key == "dnas"]
        assert held == json.loads((run / "export" / "preprocess.json").read_text())
        assert (held["classes"], held["image_size"], held["channels"]) == (list(net.classes), 8, 1)
        assert (held["mean"], held["std"], held["resize"]) == (list(net.mean), list(net.std), "crop")
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param and not batch.dim_value


def test_the_onnx_file_is_no_larger_than_its_bound(digits: tuple[Path, dict[str, Any], str]) -> None:
    run = digits[0]
    trained, written = load_trained(run), (run / "export" / "model.onnx").stat().st_size
    assert isinstance(trained.subject, Architecture)
    info = trained.info
    shape = {"classes": len(info.classes), "inputs": info.channels, "stem": trained.stem}
    layout = plan(trained.subject, channels=trained.channels, **shape)
    bound = onnx_bytes(layout, trained.final_norm, facts_bytes(info.classes))
    assert written <= bound <= 1.25 * written


def test_the_genotype_reads_back(digits: tuple[Path, dict[str, Any], str]) -> None:
    run, _, _ = digits
    text = (run / "export" / "genotype.txt").read_text()
    assert dnas.parse_genotype(text, 3) == load_published("DARTS_V2", 3)


# With the stems and the norm that a network of this project can have.
GENOTYPES = (("PC_DARTS_cifar", "halving", False, 9), ("NASNet-A", "imagenet", True, 32))


@pytest.mark.parametrize(("genotype", "stem", "norm", "size"), GENOTYPES)
def test_published_genotypes(genotype: str, stem: str, norm: bool, size: int, images: Path, tmp_path: Path) -> None:
    settings = {"channels": 4, "epochs": 1, "stem": stem, "final_norm": norm}
    given = {"architecture": load_published(genotype, 3), "image_size": size, "train": settings}
    run = make_run(tmp_path / "run", images, **given)
    record = dnas.export(run, "onnx", out=tmp_path / "out")
    assert record["folder"] == str(tmp_path / "out") and record["test_images"] == 8
    assert [row["agreement"] for row in record["exports"]] == [1]


def test_a_hand_made_network(images: Path, tmp_path: Path) -> None:
    result = dnas.train("resnet8", data=str(images), epochs=1, out=tmp_path / "run")
    record = dnas.export(result["run"], ["onnx", "python"])
    assert [row["test_accuracy"] for row in record["exports"]] == [result["test_accuracy"]] * 2
    outcome = invoke("export", result["run"], "--format", "darts")
    assert outcome.code == 2 and "resnet8 is a reference network and has no cells" in outcome.err
    # Another format joins those that are there; another network does not.
    dnas.export(result["run"], "onnx-int8")
    held = json.loads((tmp_path / "run" / "export" / "export.json").read_text())
    assert [row["format"] for row in held["exports"]] == ["onnx", "python", "onnx-int8"]
    assert "model.int8.onnx" in (tmp_path / "run" / "export" / "README.md").read_text()
    other = make_run(tmp_path / "other", images)
    outcome = invoke("export", other, "--out", tmp_path / "run" / "export")
    assert outcome.code == 2 and "contains exports of another network" in outcome.err


# --- refusals and failures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("refusals") / "run", images)


def test_what_cannot_be_exported_is_refused(run: Path, images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pair = load_published("DARTS_V2", 3)
    differing = Architecture((*pair.layers[:2], load_published("DARTS_V1", 3).layers[2]), pair.reductions, "free")
    noisy = Architecture((Cell(((("noise", 0), ("skip_connect", 1)),)),) * 3, (1,), "free")
    mixed = make_run(tmp_path / "mixed", images, architecture=differing)
    noise = make_run(tmp_path / "noise", images, architecture=noisy)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, words in (
        ((mixed, "--format", "darts"), "the layers differ"),
        ((noise, "--format", "python"), "noise"),
        ((run, "--format", "tflite"), "unknown --format 'tflite'; choose from darts, executorch, onnx, "),
        ((run, "--format", "onnx,onnx"), "contains 'onnx' twice"),
        ((run, "--format", ","), "--format is empty"),
        ((run, "--out", tmp_path / "full"), "contains other files"),
        ((run, "--out", tmp_path / "nowhere" / "x"), "does not exist; create it first"),
        ((empty,), "train first"),
    ):
        outcome = invoke("export", *arguments)
        assert outcome.code == 2 and words in outcome.err, (arguments, outcome.err)
        assert len(outcome.lines) == 1
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    outcome = invoke("export", run)
    assert "--format onnx requires onnxscript" in outcome.err and "pip install 'dnas[export]'" in outcome.err
    assert not (run / "export").exists()


PLUGIN = '''
import torch
from dnas.deploy.protocol import Format


class Ours(Format):
    name = "ours"
    title = "a format of one file"
    files = ("weights.pt",)
    opening = """
import torch

weight = torch.load("weights.pt")


def answer(images):
    return images.reshape(len(images), -1)[:, :3] * 0 + weight.numpy()
"""

    def write(self, exported, folder):
        torch.save(torch.arange(3.0), folder / "weights.pt")
        return {}
'''


def test_a_format_is_one_file_and_one_that_disagrees_is_not_delivered(
    run: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "ours.py").write_text(PLUGIN, "utf-8")
    monkeypatch.setattr(deploy, "__path__", [*deploy.__path__, str(tmp_path)])
    registry.FORMATS.forget()
    try:
        with pytest.raises(RunError, match=r"ours: weights\.pt was discarded: it agrees with torch on "):
            dnas.export(run, "ours", out=tmp_path / "out")
        assert not (tmp_path / "out").exists() and not (run / "export.json").exists()
        monkeypatch.setattr(registry.FORMATS["ours"], "exact", False)
        assert dnas.export(run, "ours", out=tmp_path / "out")["exports"][0]["agreement"] < 1
        monkeypatch.setattr(registry.FORMATS["ours"], "opening", "import dnas")
        with pytest.raises(RunError, match=r"does not run and was discarded: .*No module named|import of dnas"):
            dnas.export(run, "ours", out=tmp_path / "again")
    finally:
        registry.FORMATS.forget()
        for name in [name for name in sys.modules if name.startswith("dnas.deploy.ours")]:
            del sys.modules[name]
        (run / "export.json").unlink(missing_ok=True)


def test_facts_of_a_broken_package_are_told(run: Path, monkeypatch: Any) -> None:
    def broken(name: str) -> None:
        raise OSError("libfoo.so is missing")

    monkeypatch.setattr(protocol, "import_module", broken)
    with pytest.raises(InputError, match=r"requires onnx, which cannot be imported \(libfoo.so is missing\)"):
        dnas.export(run)


def test_timm_loads_its_folder(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm", exc_type=ImportError, reason="needs timm")
    run = make_run(tmp_path / "run", images)
    record = dnas.export(run, "timm")
    assert record["exports"][0]["agreement"] == 1
    code = """
import timm, timm_model, torch
net = timm.create_model("local-dir:.", pretrained=True)
assert net.get_classifier().out_features == 3
assert timm.data.resolve_model_data_config(net)["input_size"] == [1, 8, 8]
mine = timm.create_model("local-dir:.", pretrained=True, num_classes=7)
images = torch.rand(2, 1, 8, 8)
assert mine(images).shape == (2, 7)
assert torch.equal(net.forward_features(images), mine.forward_features(images))
print("passed")
"""
    assert without(("dnas",), code, run / "export").endswith("passed\n")


def test_executorch_runs_its_program(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime", exc_type=ImportError, reason="needs executorch")
    run = make_run(tmp_path / "run", images)
    assert dnas.export(run, "executorch")["exports"][0]["agreement"] == 1
