import json
import math
import shutil
import statistics
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.numpy
import torch
from faults.harness import SAME, STEPS, TINY, contents, invoke, make_images

import dnas
from dnas.data import splits as data
from dnas.pipeline import carry_out, config, model
from dnas.searching import loop
from dnas.space.architecture import Architecture
from dnas.space.published import load_published
from dnas.training import accuracy

KEYS = {
    "run", "test_accuracy", "params", "macs", "search_seconds", "train_seconds", "peak_memory_bytes", "seed", "method",
    "mapping", "layers", "channels",
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("pipeline") / "images", classes=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(images, folder):
    """A run, and what it printed."""
    outcome = invoke("run", "--data", images, *TINY, "--out", folder / "whole", "--json")
    assert outcome.code == 0, outcome.err
    return folder / "whole", outcome


@pytest.fixture(scope="module")
def architecture(whole):
    return Architecture.load(whole[0] / "architecture.json")


def wilson(correct, images):
    """Wilson's interval in closed form; the quantile from the standard library."""
    z, p = statistics.NormalDist().inv_cdf(0.975), correct / images
    middle, half = p + z * z / (2 * images), z * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    return [(middle - half) / (1 + z * z / images), (middle + half) / (1 + z * z / images)]


# --- what a run leaves


def test_a_run_folder_has_the_files_of_the_contract(whole):
    run, _ = whole
    names = {path.name for path in run.iterdir()}
    assert {"config.toml", "result.json", "checkpoints", "log.txt", *SAME} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert all((run / name).stat().st_size for name in ("config.toml", "result.json", "log.txt", *SAME))
    assert (run / "architecture.svg").read_text().startswith("<svg")


def test_json_is_the_content_of_result_json(whole):
    run, outcome = whole
    assert outcome.json == json.loads((run / "result.json").read_text())


def test_result_has_the_keys_of_the_contract_and_they_are_true(whole, images):
    run, outcome = whole
    result = outcome.json
    assert result.keys() >= KEYS
    assert result["run"] == str(run)
    assert (result["seed"], result["method"], result["mapping"]) == (0, "dnas", "decoupled")
    assert (result["layers"], result["channels"], result["classes"]) == (3, 8, 3)
    assert result["search_seconds"] > 0 and result["train_seconds"] > 0 and result["baseline"]["seconds"] > 0
    assert result["peak_memory_bytes"] > 2**20
    # Counted from the file: everything but the running statistics of the batch norms.
    weights = safetensors.numpy.load_file(run / "model.safetensors")
    running = ("running_mean", "running_var", "num_batches_tracked")
    assert result["params"] == sum(w.size for name, w in weights.items() if not name.endswith(running))
    assert result["params"] == dnas.params(dnas.load(run))


def test_baseline_is_of_the_same_size_and_another_architecture(whole, architecture):
    result = whole[1].json
    other = Architecture.from_json(result["baseline"]["architecture"])
    assert other != architecture and other.in_space and len(other) == 3
    assert abs(result["baseline"]["params"] / result["params"] - 1) <= 0.05
    network = dnas.build(other, 8, 3, inputs=1)
    assert dnas.params(network) == result["baseline"]["params"]
    assert dnas.macs(network, (1, 8, 8)) == result["baseline"]["macs"]


def test_intervals_are_wilsons(whole):
    result = whole[1].json
    assert result["test_images"] == 18
    for row in (result, result["baseline"]):
        correct = round(row["test_accuracy"] * 18)
        assert row["test_accuracy"] == correct / 18
        assert row["test_interval"] == pytest.approx(wilson(correct, 18), abs=1e-12)


def test_metrics_have_every_epoch_of_every_stage_once(whole):
    lines = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [(s, e) for s in STEPS for e in (1, 2)]
    # A line from 0.1 after a fifth of the 10 steps to 0 at their end; here at the middle of the fifth and the tenth.
    falling = [0.1 * (1 - share / 10) / (1 - 0.2) for share in (4.5, 9.5)]
    assert [line["learning_rate"] for line in lines[2:]] == pytest.approx(falling * 2)
    for line in lines:
        assert math.isfinite(line["loss"])
        count = 36 if line["stage"] == "search" else 72
        assert line["accuracy"] * count == pytest.approx(round(line["accuracy"] * count), abs=1e-9)


def test_the_architecture_is_the_one_of_the_network(whole, architecture):
    header = (whole[0] / "model.safetensors").read_bytes()
    header = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    facts = json.loads(header["dnas"])
    assert facts["format"] == model.MODEL_FORMAT
    assert Architecture.from_json(facts["architecture"]) == architecture
    network, info = model.load_model(whole[0])
    assert dnas.macs(network, (1, 8, 8)) == whole[1].json["macs"]
    assert len(network.cells) == len(architecture)
    assert info.classes == ("class 0", "class 1", "class 2")


def test_the_same_command_gives_the_same_bytes_and_another_seed_does_not(whole, images, folder):
    # Often enough that an order that is drawn at random, say of a header's four keys, would show.
    expected = contents(whole[0])
    for k in range(2):
        assert invoke("run", "--data", images, *TINY, "--no-baseline", "--out", folder / f"again {k}").code == 0
        again = contents(folder / f"again {k}")
        lines = expected["metrics.jsonl"].splitlines(keepends=True)
        assert again == expected | {"metrics.jsonl": b"".join(lines[:4])}
    assert invoke("run", "--data", images, *TINY, "--no-baseline", "--seed", 1, "--out", folder / "seed 1").code == 0
    other = contents(folder / "seed 1")
    assert all(other[name] != expected[name] for name in SAME)


def test_a_finished_run_is_not_run_again(whole):
    before = contents(whole[0], (*SAME, "result.json", "config.toml"))
    outcome = invoke("resume", whole[0], "--json")
    assert outcome.code == 0 and outcome.json == whole[1].json
    assert contents(whole[0], tuple(before)) == before


# --- loading and testing


def test_loaded_network_has_the_accuracy_of_the_result(whole, images):
    network = dnas.load(whole[0])
    assert not network.training
    train, info = data.load_train(str(images))
    test = data.load_test(str(images), info)
    # Normalised here by hand: mean and standard deviation of the training pixels on the scale 0..1.
    pixels = train.images.double() / 255
    x = (test.images.double() / 255 - pixels.mean()) / pixels.std()
    with torch.no_grad():
        right = int((network(x.float()).argmax(1) == test.labels).sum())
    assert right / len(test) == whole[1].json["test_accuracy"]


def test_evaluate_gives_the_same_accuracy(whole):
    outcome = invoke("evaluate", whole[0], "--json")
    assert outcome.code == 0, outcome.err
    for key in ("test_accuracy", "test_images", "test_interval"):
        assert outcome.json[key] == whole[1].json[key]


def test_evaluate_on_other_data(whole, tmp_path):
    other = make_images(tmp_path / "other", classes=3, each=10, seed=5)
    outcome = invoke("evaluate", whole[0], "--data", other, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["data"] == str(other) and outcome.json["test_images"] == 30
    four = make_images(tmp_path / "four", classes=4, each=10)
    outcome = invoke("evaluate", whole[0], "--data", four)
    assert outcome.code == 2 and len(outcome.lines) == 1


# --- derive


def test_derive_again_gives_the_same_architecture(whole, architecture, tmp_path):
    outcome = invoke("derive", whole[0], "--json", "--out", tmp_path / "a.json")
    assert outcome.code == 0, outcome.err
    assert Architecture.from_json(outcome.json) == architecture == Architecture.load(tmp_path / "a.json")


def test_derive_with_other_options(whole, architecture):
    options = ("-o", "derivation=threshold", "-o", "threshold=0.2")
    outcome = invoke("derive", whole[0], *options, "--json")
    assert outcome.code == 0, outcome.err
    loose = Architecture.from_json(outcome.json)
    for mine, theirs in zip(loose.layers, architecture.layers, strict=True):
        for node, kept in zip(mine.nodes, theirs.nodes, strict=True):
            assert set(node) <= set(kept)
    outcome = invoke("derive", whole[0], "-o", "with_none=true")
    assert outcome.code == 2 and len(outcome.lines) == 1 and str(whole[0]) in outcome.err
    outcome = invoke("derive", whole[0], "-o", "nonsense=1")
    assert outcome.code == 2 and "nonsense" in outcome.err


# --- training what was searched, or published


def test_transfer_to_another_width(whole, architecture, images, folder):
    outcome = invoke(
        "train", whole[0], "--data", images, "--channels", 16, "--epochs", 1, "--out", folder / "wide", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert Architecture.load(folder / "wide" / "architecture.json") == architecture
    assert outcome.json["channels"] == 16 and outcome.json["params"] > 2 * whole[1].json["params"]
    assert outcome.json["search_seconds"] == 0 and "baseline" not in outcome.json
    assert outcome.json.keys() >= KEYS
    assert dnas.params(dnas.load(folder / "wide")) == outcome.json["params"]


def test_a_run_and_the_training_of_its_architecture_give_the_same_network(whole, images, folder):
    arguments = ("--data", images, "--channels", 8, "--epochs", 2, "--batch-size", 16, "--out", folder / "alone")
    assert invoke("train", whole[0] / "architecture.json", *arguments).code == 0
    ours, theirs = (safetensors.numpy.load_file(run / "model.safetensors") for run in (whole[0], folder / "alone"))
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_a_published_architecture(images, folder):
    arguments = ("--data", images, "--channels", 8, "--epochs", 1, "--batch-size", 24)
    outcome = invoke("train", "DARTS_V2", *arguments, "--layers", 3, "--baseline", "--out", folder / "darts", "--json")
    assert outcome.code == 0, outcome.err
    assert Architecture.load(folder / "darts" / "architecture.json") == load_published("DARTS_V2", 3)
    assert outcome.json["layers"] == 3
    assert abs(outcome.json["baseline"]["params"] / outcome.json["params"] - 1) <= 0.05


def test_pc_darts_shares_a_cell_pair_and_stacks_it_anew(images, folder):
    arguments = ("--method", "pc-darts", "--layers", 5, "--train-layers", 8, "--channels", 8, "--epochs", 2)
    outcome = invoke(
        "run", "--data", images, *arguments, "--batch-size", 18, "--no-baseline", "--out", folder / "pc", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["mapping"] == "shared" and outcome.json["layers"] == 8
    found = Architecture.load(folder / "pc" / "architecture.json")
    assert found.reductions == (2, 5) and found.in_space
    assert len({found.layers[k] for k in found.reductions}) == 1
    assert len({cell for k, cell in enumerate(found.layers) if k not in found.reductions}) == 1
    assert "none" not in found.dumps()
    assert dnas.params(dnas.load(folder / "pc")) == outcome.json["params"]


def test_pc_darts_over_the_whole_network(images, folder):
    arguments = ("--method", "pc-darts", "--mapping", "full", "--layers", 5, "--channels", 8, "--epochs", 2)
    outcome = invoke("search", "--data", images, *arguments, "--batch-size", 18, "--out", folder / "full", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["mapping"] == "full" and "test_accuracy" not in outcome.json
    assert len(set(Architecture.load(folder / "full" / "architecture.json").layers)) > 2
    assert not (folder / "full" / "model.safetensors").exists()


def test_search_alone_finds_what_a_run_finds(whole, images, folder):
    outcome = invoke("search", "--data", images, *TINY, "--out", folder / "search", "--json")
    assert outcome.code == 0, outcome.err
    assert contents(folder / "search", ("architecture.json",)) == contents(whole[0], ("architecture.json",))
    assert (
        whole[0].joinpath("metrics.jsonl").read_bytes().startswith((folder / "search" / "metrics.jsonl").read_bytes())
    )


# --- test images


def test_the_searcher_is_handed_the_training_split_alone(images, tmp_path, monkeypatch):
    seen = []

    class Watched(loop.Search):
        def __init__(self, method, settings, split, info, *rest):
            seen.append((split, info))
            super().__init__(method, settings, split, info, *rest)

    monkeypatch.setattr(loop, "Search", Watched)
    assert invoke("run", "--data", images, *TINY, "--no-baseline", "--out", tmp_path / "run").code == 0
    train, info = data.load_train(str(images))
    test = data.load_test(str(images), info)
    [(split, given)] = seen
    assert data.fingerprint(split) == data.fingerprint(train) and asdict(given) == asdict(info)
    rows = {row.numpy().tobytes() for row in split.images}
    assert not any(image.numpy().tobytes() in rows for image in test.images)


def test_other_test_images_change_nothing_but_the_accuracy(tmp_path):
    """Two data sets with the same training images: everything but the test accuracy is equal, to the bit."""
    first, second = tmp_path / "first", tmp_path / "second"
    make_images(first / "train", each=12)
    make_images(first / "test", each=5, seed=1)
    shutil.copytree(first / "train", second / "train")
    make_images(second / "test", each=9, seed=2)
    results = []
    for source in (first, second):
        outcome = invoke("run", "--data", source, *TINY, "--out", source / "run", "--json")
        assert outcome.code == 0, outcome.err
        results.append(outcome.json)
    assert [result["test_images"] for result in results] == [10, 18]
    one, two = contents(first / "run"), contents(second / "run")
    assert one["metrics.jsonl"] == two["metrics.jsonl"] and one["architecture.json"] == two["architecture.json"]
    weights = [safetensors.numpy.load_file(source / "run" / "model.safetensors") for source in (first, second)]
    assert all(np.array_equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_what_is_reported_is_the_last_epochs_accuracy(images, tmp_path, monkeypatch):
    """The test split is looked at once, when the training is over, and not once an epoch."""
    calls = []
    original = accuracy.measure_accuracy

    def counted(network, *arguments):
        calls.append({k: v.clone() for k, v in network.state_dict().items()})
        return original(network, *arguments)

    monkeypatch.setattr(carry_out, "measure_accuracy", counted)
    assert invoke("run", "--data", images, *TINY, "--no-baseline", "--out", tmp_path / "run").code == 0
    [tested] = calls
    written = safetensors.numpy.load_file(tmp_path / "run" / "model.safetensors")
    assert all(np.array_equal(tested[name].numpy(), written[name]) for name in written)


# --- where it runs


def test_a_relative_path_is_found_again_from_another_folder(tmp_path, monkeypatch):
    make_images(tmp_path / "images", each=10)
    monkeypatch.chdir(tmp_path)
    assert invoke("run", "--data", "images", *TINY, "--no-baseline", "--out", "run").code == 0
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = invoke("resume", tmp_path / "run")
    assert outcome.code == 0, outcome.err


def test_a_run_of_a_version_with_fewer_settings_is_resumed(whole, images, tmp_path, monkeypatch):
    """What config.toml does not say has its default, and is no change."""
    to_toml = config.Config.to_toml
    monkeypatch.setattr(config.Config, "to_toml", lambda self: {k: v for k, v in to_toml(self).items() if k != "space"})

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(carry_out, "train_network", stop)
        assert invoke("run", "--data", images, *TINY, "--out", tmp_path / "old").code == 130
    monkeypatch.setattr(config.Config, "to_toml", to_toml)
    assert "space" not in (tmp_path / "old" / "config.toml").read_text()
    assert invoke("resume", tmp_path / "old").code == 0
    before, after = contents(whole[0]), contents(tmp_path / "old")
    assert [name for name in before if before[name] != after[name]] == []
