"""A training that begins with the trained weights of a run: which it takes, what it refuses, and that it resumes to the bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from faults.harness import TINY, invoke, make_images
from run_tools import make_run

import dnas
from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.pipeline.config import resolve
from dnas.pipeline.evaluation import evaluate
from dnas.pipeline.inheritance import inherit
from dnas.pipeline.model import load_model
from dnas.pipeline.origin import read_origin, sentences, take_over
from dnas.pipeline.presets import CONTINUED
from dnas.reporter import Silent

SMALL = {"channels": 4, "epochs": 1, "batch_size": 16, "preset": "quick"}


def arrays(path: Path, classes: int = 3, *, side: int = 8, channels: int = 1, seed: int = 0, more: int = 0) -> Path:
    """Gray or color images of so many classes, as .npz; `more` of the training images are in the test, too."""
    rng = np.random.default_rng(seed)
    shape = (side, side) if channels == 1 else (side, side, channels)

    def some(count):
        labels = np.arange(count) % classes
        noise = rng.integers(0, 120, (count, *shape))
        return (noise + 40 * labels.reshape(-1, *(1 for _ in shape))).astype(np.uint8), labels

    train, test = some(48), some(30)
    images, labels = (np.concatenate([theirs, ours[:more]]) for theirs, ours in zip(test, train, strict=True))
    np.savez(path, train_images=train[0], train_labels=train[1], test_images=images, test_labels=labels)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return arrays(tmp_path_factory.mktemp("data") / "three.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A finished training; not to be changed."""
    out = tmp_path_factory.mktemp("origin") / "run"
    dnas.train(dnas.load_published("DARTS_V2", 3), data=data, out=out, **SMALL)
    return out


class Stop(Silent):
    """Asks to stop at a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, shown):
        import signal

        if step == self.at:
            signal.raise_signal(signal.SIGTERM)


def weights(path):
    return safetensors.torch.load_file(path / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_weights_are_the_run_s_and_the_rates_lower(run, tmp_path, monkeypatch):
    """With rates of nothing, what comes out is what went in, but for the statistics of batch norms."""
    result = dnas.train(
        from_run=run, out=tmp_path / "more", option=["train.learning_rate=1e-30", "train.muon_learning_rate=1e-30"]
    )
    before, after = weights(run), weights(tmp_path / "more")
    assert all(torch.equal(before[name], after[name]) for name in before if "running" not in name and "num" not in name)
    network, _ = load_model(run)
    count = dnas.params(network)
    theirs = json.loads((run / "result.json").read_text())
    assert result["origin"] == {
        "run": str(run), "data": theirs["data"], "test_accuracy": theirs["test_accuracy"], "image_size": 8, "channels": 1,
        "weights": count, "of": count, "new_head": False, "left_out": 0,
    }  # fmt: skip
    config = read_toml(tmp_path / "more" / "config.toml")
    assert config["from_run"] == str(run) and config["origin"] == result["origin"]


def test_all_but_the_rates_is_the_run_s_training(run, tmp_path):
    shape = read_origin(run).shape
    assert shape == {"channels": 4, "stem": "cifar", "final_norm": True}
    before = read_toml(run / "config.toml")
    settings = inherit({"command": "train", "from_run": str(run)}, run, before, shape)
    from dnas.data.splits import load_train

    split, info = load_train(before["data"]["source"])
    config, _ = resolve({**settings, "baseline": False}, info, len(split), "print")
    ours, theirs = config.train.model_dump(), before["train"]
    changed = {name for name in theirs if theirs[name] != ours[name]}
    assert changed == {"learning_rate", "muon_learning_rate"}
    assert all(ours[name] == pytest.approx(CONTINUED * theirs[name]) for name in changed)
    # Going on once more does not lower them again, and given ones stay.
    again = inherit({"command": "train", "from_run": "x"}, run, config.to_toml(), shape)
    once_more, _ = resolve({**again, "baseline": False}, info, len(split), "print")
    assert once_more.train == config.train
    given = inherit({"command": "train", "from_run": "x", "train": {"learning_rate": 0.3}}, run, before, shape)
    assert given["train"]["learning_rate"] == 0.3


def test_interrupted_and_resumed_it_is_the_same_to_the_bit(run, tmp_path):
    """Without the run that it began with."""
    gone = shutil.copytree(run, tmp_path / "gone")
    kwargs = {"from_run": gone, "epochs": 2, "checkpoint_every": 0}
    whole = dnas.train(out=tmp_path / "whole", **kwargs)
    for at in (1, 4):
        out = tmp_path / f"stopped-{at}"
        gone = gone if gone.exists() else shutil.copytree(run, gone)
        with pytest.raises(Interrupted):
            dnas.train(out=out, reporter=Stop(at), **kwargs)
        shutil.rmtree(gone)
        if at == 1:
            shutil.rmtree(out / "checkpoints")  # killed before the first
            (out / "training_images.safetensors").unlink()
        result = dnas.resume(out)
        assert same(weights(out), weights(tmp_path / "whole"))
        names = ("metrics.jsonl", "config.toml", "training_images.safetensors", "origin.safetensors")
        assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
        assert result["confusion"] == whole["confusion"] and result["origin"] == whole["origin"]


def test_other_classes_get_a_new_head_and_all_else_is_kept(run, tmp_path):
    other = arrays(tmp_path / "five.npz", 5, seed=1)
    outcome = invoke("train", "--from", run, "--data", other, "--epochs", 1, "--out", tmp_path / "five", "--json")
    assert outcome.code == 0, outcome.err
    rates = [read_toml(folder / "config.toml")["train"]["learning_rate"] for folder in (run, tmp_path / "five")]
    assert rates[1] == rates[0]
    origin = outcome.json["origin"]
    network, info = load_model(tmp_path / "five")
    head = sum(p.numel() for name, p in network.named_parameters() if "classifier" in name)
    assert (len(info.classes), origin["new_head"]) == (5, True)
    assert origin["of"] - origin["weights"] == head == 5 * network.classifier.in_features + 5
    (line,) = [line for line in outcome.lines if "begins with" in line]
    assert line.endswith("; a new head for 5 other classes") and f"{origin['weights']:,} of {origin['of']:,}" in line


def test_a_new_head_is_drawn_by_the_seed_and_the_rest_taken(run, tmp_path):
    from dnas.data.splits import load_train
    from dnas.pipeline.config import resolve
    from dnas.pipeline.model import fresh

    split, info = load_train(str(arrays(tmp_path / "five.npz", 5)))
    config, _ = resolve({"command": "train", "baseline": False, "train": {"channels": 4}}, info, len(split), "print")
    subject = read_origin(run).subject
    network, drawn = fresh(subject, config, info), fresh(subject, config, info).state_dict()
    take_over(network, run / "model.safetensors", config, subject, info)
    theirs = weights(run)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, drawn[name] if name.startswith("classifier.") else theirs[name]), name


@pytest.mark.parametrize("name", ["resnet8", "mobilenet"])
def test_a_hand_made_network_goes_on_and_gets_another_head(name, data, tmp_path):
    dnas.train(name, data=data, out=tmp_path / "run", width=0.5, epochs=1, batch_size=16)
    same_classes = dnas.train(name, from_run=tmp_path / "run", out=tmp_path / "more")
    assert same_classes["origin"]["weights"] == same_classes["origin"]["of"] and same_classes["width"] == 0.5
    other = dnas.train(from_run=tmp_path / "run", data=arrays(tmp_path / "two.npz", 2), out=tmp_path / "two")
    assert 0 < other["origin"]["of"] - other["origin"]["weights"] < 300 and other["origin"]["new_head"]


def test_images_of_another_size_and_a_run_without_a_record_are_said(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "training_images.safetensors").unlink()
    for more in (("--from", run, "--image-size", 12), ("--from", tmp_path / "old")):
        outcome = invoke("train", *more, "--out", tmp_path / f"out{len(more)}", "--json")
        assert outcome.code == 0, outcome.err
        assert "cannot be recognized" in outcome.err and "left_out" not in outcome.json["origin"]
        assert ("saw images of 8×8, and these are 12×12" in outcome.err) == (len(more) == 4)


def test_test_images_that_the_weights_were_trained_on_are_left_out(run, tmp_path):
    grown = arrays(tmp_path / "grown.npz", more=7)
    result = dnas.train(from_run=run, data=grown, out=tmp_path / "grown")
    assert (result["test_images"], result["origin"]["left_out"]) == (30, 7)
    # What the run had been trained on is in the new record, so a later test leaves it out, too.
    other = np.load(grown)
    np.savez(
        tmp_path / "later.npz",
        **{**other, "train_images": other["test_images"][:24], "train_labels": other["test_labels"][:24]},
    )
    again = dnas.train(from_run=tmp_path / "grown", data=tmp_path / "later.npz", out=tmp_path / "later")
    assert again["test_images"] == 30
    assert evaluate(tmp_path / "later", source=str(grown))["left_out"] >= 7
    seen = dict(other) | {"test_images": other["train_images"], "test_labels": other["train_labels"]}
    np.savez(tmp_path / "seen.npz", **seen)
    with pytest.raises(InputError, match="trained on all its 48 test images"):
        dnas.train(from_run=run, data=tmp_path / "seen.npz", out=tmp_path / "seen")
    assert not (tmp_path / "seen").exists()


def test_what_does_not_fit_is_one_line_before_anything_is_written(run, data, tmp_path):
    search = tmp_path / "search"
    assert invoke("search", "--data", make_images(tmp_path / "images"), *TINY, "--out", search).code == 0
    color = make_run(tmp_path / "color", arrays(tmp_path / "color.npz", channels=3))
    for arguments, message in (
        (("--from", run, "--channels", 8), f"--channels is 4 in the weights of {run}, not 8; leave it out"),
        (("--from", run, "--layers", 4), f"is 3 in the weights of {run}, not 4; leave it out"),
        (("--from", run, "-o", "train.stem=halving"), "train.stem is cifar in the weights of"),
        (("DARTS_V2", "--from", run), "its weights are not of the network of DARTS_V2"),
        (("resnet8", "--from", run), "its weights are not of the network of resnet8"),
        (("--from", run, "--baseline"), "--baseline cannot be used with --from"),
        (("--from", color, "--data", "digits"), "--data digits: its images are gray, and"),
        (("--from", search), "has no trained weights"),
        (("--from", tmp_path / "nope"), "is not a run folder"),
        ((), "name what to train"),
    ):
        outcome = invoke("train", *arguments, "--out", tmp_path / "never")
        assert outcome.code == 2 and len(outcome.lines) == 1 and message in outcome.err, (arguments, outcome.err)
        assert not (tmp_path / "never").exists()


def test_the_network_may_be_named_beside_the_run(run, tmp_path):
    result = dnas.train(run / "architecture.json", from_run=run, out=tmp_path / "named")
    assert result["origin"]["weights"] == result["origin"]["of"]


def test_a_budget_plans_how_long_it_goes_on(run, tmp_path):
    outcome = invoke("train", "--from", run, "--budget", "1s", "--out", tmp_path / "more", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["plan"]["steps"] > 0 and outcome.json["origin"]["run"] == str(run)


def test_a_page_says_where_the_weights_come_from(run, tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    dnas.train(from_run=run, out=tmp_path / "more")
    assert invoke("report", tmp_path / "more").code == 0
    page = (tmp_path / "more" / "report.html").read_text()
    assert "Training started from all " in page and str(run) in page


def test_a_config_repeats_it(run, tmp_path):
    first = dnas.train(from_run=run, epochs=1, out=tmp_path / "first")
    again = dnas.train(run, config=str(tmp_path / "first" / "config.toml"), out=tmp_path / "again")
    assert same(weights(tmp_path / "first"), weights(tmp_path / "again")) and again["origin"] == first["origin"]


def test_sentences_say_what_was_found():
    facts = {
        "run": "r",
        "data": "d",
        "image_size": 8,
        "channels": 1,
        "weights": 10,
        "of": 10,
        "new_head": False,
        "left_out": 1,
    }
    info = read_info_of(8)
    assert sentences(facts, info) == [
        "begins with all 10 weights of r",
        "1 test image is left out, since that run was trained on it",
    ]


def read_info_of(size):
    from dnas.data.splits import DataInfo

    return DataInfo("d", ("a", "b"), 1, size, (0.5,), (0.5,), flip=False)
