"""A study: every run once, whatever interrupts it, with the controls of every search."""

import json
import signal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.reporter import Silent
from dnas.rng import numpy_stream
from dnas.runtime.runfolder import RunFolder
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.controls import shuffled
from dnas.space.darts import DARTS
from dnas.space.published import load_published
from dnas.study.compare import compare
from dnas.study.design import Network, StudySettings, depth_of, networks, read_study, results

RUN = {
    "data": {"source": "digits"},
    "preset": "quick",
    "search": {"layers": 6, "channels": 4, "epochs": 1, "images": 64, "batch_size": 32, "watch_images": 16},
    "options": {"partial_channels": 1},
    "train": {"channels": 4, "epochs": 1, "images": 64, "batch_size": 32},
}


def study(**changes):
    run = {**RUN, "search": {**RUN["search"], "warmup_epochs": 0}}
    return StudySettings(**{"methods": ["darts"], "mappings": ["full"], "seeds": 2, "run": run, **changes})


NAMES = {f"darts-full-s{seed}{control}" for seed in (0, 1) for control in ("", "-random", "-shuffled")}


class Count(Silent):
    """Counts what is begun; asks to stop at a step."""

    def __init__(self, stop=0):
        self.titles, self.left = [], stop

    def start(self, title, steps, done):
        self.titles.append(title)

    def step(self, step, shown):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study"
    assert compare(path, study(), processes=1) == []
    return path


def outcomes(path):
    """What the runs of a study found, without times."""
    times = ("run", "search_seconds", "train_seconds", "peak_memory_bytes")
    return {name: {k: v for k, v in result.items() if k not in times} for name, result in results(path).items()}


def test_every_search_has_its_controls(whole):
    found = results(whole)
    assert set(found) == NAMES
    for seed in (0, 1):
        searched, random, mixed = (found[f"darts-full-s{seed}{control}"] for control in ("", "-random", "-shuffled"))
        assert abs(random["params"] - searched["params"]) <= 0.05 * searched["params"]
        assert {searched["seed"], random["seed"], mixed["seed"]} == {seed}
        ours, other = (
            Architecture.load(whole / "runs" / f"darts-full-s{seed}{control}" / "architecture.json")
            for control in ("", "-shuffled")
        )
        assert sorted(map(str, ours.layers)) == sorted(map(str, other.layers))
        configs = [read_toml(whole / "runs" / f"darts-full-s{seed}{c}" / "config.toml") for c in ("", "-random")]
        assert configs[0]["train"] == configs[1]["train"]  # one trainer


def test_nothing_is_run_twice_and_seeds_are_added(whole, tmp_path):
    before = {name: (whole / "runs" / name / "result.json").stat().st_mtime_ns for name in NAMES}
    steps = Count()
    compare(whole, study(seeds=1, training_seeds=2), processes=1, reporter=steps)
    after = results(whole)
    # What was there stays, with the seeds that were asked for before.
    assert all((whole / "runs" / name / "result.json").stat().st_mtime_ns == time for name, time in before.items())
    assert set(after) == NAMES | {f"{name}-t1" for name in NAMES}
    assert after["darts-full-s1-t1"]["seed"] == 1_000_001
    assert after["darts-full-s1-t1"]["params"] == after["darts-full-s1"]["params"]
    assert read_study(whole).seeds == 2


def test_interrupted_and_resumed_it_finds_the_same(whole, tmp_path):
    path = tmp_path / "study"
    with pytest.raises(Interrupted, match=f"dnas resume {path}$"):
        compare(path, study(), processes=1, reporter=Count(stop=1))
    assert len(results(path)) == 1
    compare(path, study(), processes=1)
    assert outcomes(path) == {name: result for name, result in outcomes(whole).items() if name in NAMES}


def test_in_two_processes_it_finds_the_same(whole, tmp_path):
    import torch

    torch.set_num_threads(2)
    try:
        compare(tmp_path / "study", study(), processes=2)
    finally:
        torch.set_num_threads(1)
    assert outcomes(tmp_path / "study") == {n: result for n, result in outcomes(whole).items() if n in NAMES}


def test_what_another_process_makes_is_left_to_it(tmp_path):
    path = tmp_path / "study"
    (path / "runs" / "darts-full-s0").mkdir(parents=True)
    (path / "study.toml").write_text("")
    (path / "study.toml").unlink()
    settings = study(seeds=1)
    folder = RunFolder(path / "runs" / "darts-full-s0")
    try:
        with pytest.raises(InputError, match="exists and is not a study"):
            compare(path, settings, processes=1)
        import tomli_w

        (path / "study.toml").write_text(tomli_w.dumps(settings.model_dump()))
        compare(path, settings, processes=1)
        assert not results(path)
    finally:
        folder.close()
    compare(path, settings, processes=1)
    assert set(results(path)) == {name for name in NAMES if "-s0" in name}


def test_settings_of_runs_cannot_change(whole):
    with pytest.raises(InputError, match="--preset is quick in .* and paper here"):
        compare(whole, study(run={**RUN, "preset": "paper"}), processes=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "--methods is empty"),
        ({"methods": ["random"], "mappings": ["decoupled"]}, "--mappings decoupled: random supports none of them"),
        ({"methods": ["lucky"]}, "unknown --method 'lucky'"),
        (
            {"architectures": ["DARTS_V9"]},
            "--architectures 'DARTS_V9' is neither published nor a reference network; did you mean 'DARTS_V",
        ),
        (
            {"methods": ["darts", "enas"], "run": {**RUN, "options": {"hidden": 8}}},
            "unknown --option hidden of method darts",
        ),
        ({"run": {**RUN, "train": {**RUN["train"], "layers": 8}}}, "--train-layers 8 does not match"),
        ({"run": {**RUN, "data": {"source": "nowhere"}}}, "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        compare(tmp_path / "study", study(**changes), processes=1)
    assert not (tmp_path / "study").exists()


def test_what_cannot_be_added_leaves_a_study_as_it_was(whole):
    before = (whole / "study.toml").read_bytes()
    with pytest.raises(InputError, match="unknown --option partial_channels of method random"):
        compare(whole, study(methods=["random"]), processes=1)
    assert (whole / "study.toml").read_bytes() == before


def test_methods_run_under_the_mappings_that_they_know():
    both = study(methods=["dnas", "random"], mappings=["shared", "decoupled"])
    assert list(both.searches()) == [("dnas", "shared"), ("dnas", "decoupled"), ("random", "shared")]
    assert list(study(methods=["dnas", "pc-darts"], mappings=[]).searches()) == [
        ("dnas", "decoupled"), ("pc-darts", "shared"),
    ]  # fmt: skip


def test_a_shared_cell_has_no_order_to_shuffle_and_a_published_one_no_search():
    found = networks(study(methods=["pc-darts"], mappings=["shared"], seeds=1, architectures=["DARTS_V2", "vgg16-bn"]))
    assert found == [
        Network("searched", "pc-darts", "shared", 0),
        Network("random", "pc-darts", "shared", 0),
        Network("published", "DARTS_V2", "", 0),
        Network("handmade", "vgg16-bn", "", 0),
    ]
    assert [network.run() for network in found] == [
        "pc-darts-shared-s0",
        "pc-darts-shared-s0-random",
        "DARTS_V2-s0",
        "vgg16-bn-s0",
    ]
    assert found[0].run(2) == "pc-darts-shared-s0-t2"


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 20), st.integers(0, 2**31))
def test_shuffled_layers_keep_their_stage(layers, seed):
    architecture = sampling.sample(DARTS, numpy_stream(seed, "sample"), layers)
    other = shuffled(architecture, seed)
    assert other.reductions == architecture.reductions and other.in_space
    borders = [-1, *architecture.reductions, layers]
    for before, after in pairwise(borders):
        ours, theirs = (sorted(map(str, a.layers[before + 1 : after])) for a in (architecture, other))
        assert ours == theirs
    for k in architecture.reductions:
        assert other.layers[k] == architecture.layers[k]
    if layers >= 6:  # so a stage has two layers, which a random architecture has differ
        assert other.layers != architecture.layers
    assert shuffled(architecture, seed) == other


def test_where_all_layers_are_equal_shuffling_changes_nothing():
    architecture = load_published("DARTS_V2", 20)
    assert shuffled(architecture, 3).layers == architecture.layers


def test_references_are_as_deep_as_the_networks_of_the_study():
    assert depth_of(study().run) == 6 and depth_of({}) == 6 and depth_of({"preset": "paper"}) == 20
    assert depth_of({"train": {"layers": 8}, "search": {"layers": 5}}) == 8


@pytest.mark.parametrize(("name", "extra"), [("DARTS_V2", None), ("vgg16-bn", "torchvision")])
def test_references_are_trained_by_the_same_trainer(name, extra, tmp_path):
    if extra:
        pytest.importorskip(extra)
    path = tmp_path / "study"
    compare(path, study(methods=[], seeds=1, architectures=[name]), processes=1)
    assert set(results(path)) == {f"{name}-s0"}
    config = read_toml(path / "runs" / f"{name}-s0" / "config.toml")
    assert (config["train"]["epochs"], config["train"]["images"], config["train"]["batch_size"]) == (1, 64, 32)
    if extra is None:
        assert len(Architecture.load(path / "runs" / f"{name}-s0" / "architecture.json")) == 6


def test_study_toml_is_what_was_compared(whole):
    assert json.loads(read_study(whole).model_dump_json())["methods"] == ["darts"]
