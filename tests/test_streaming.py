"""Streamed images are those that would be in memory, to the bit, whatever is decoded when and by whom."""

import json
import os
import pickle
import signal
import tracemalloc
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from faults.harness import STEPS, TINY, contents, invoke, make_images, run_command, send_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

import dnas
from dnas.data.decoders import Decoders
from dnas.data.splits import fingerprint, load_test, load_train
from dnas.data.streaming import AHEAD, HELD
from dnas.errors import InputError, Interrupted, RunError
from dnas.reporter import Silent

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs processes of its own, as POSIX has them")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """160 of scikit-learn's digits as a folder of classes. Not to be changed."""
    root = tmp_path_factory.mktemp("digits")
    loaded = load_digits()
    for k in range(160):
        folder = root / str(loaded.target[k])
        folder.mkdir(exist_ok=True)
        Image.fromarray((loaded.images[k] * 15).astype(np.uint8)).save(folder / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """40 coloured JPEG pictures of several sizes, with test pictures apart. Not to be changed."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for k in range(40):
            folder = root / part / f"class {k % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (20 + k, 50 - k, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k}.jpg")
    return root


def both(source, **options):
    """The training split in memory, and streamed."""
    return [load_train(str(source), memory=memory, **options) for memory in ("whole", "stream")]


# --- batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["digits", "photographs"])
@pytest.mark.parametrize("image_size", [None, 24])
def test_all_that_is_known_of_a_data_set_is_the_same(source, image_size, request):
    folder = str(request.getfixturevalue(source))
    (whole, info), (streamed, known) = both(folder, image_size=image_size)
    assert (whole.memory, streamed.memory) == ("whole", "stream")
    assert known == info  # with means and standard deviations, to the bit
    assert len(streamed) == len(whole) and torch.equal(streamed.labels, whole.labels)
    assert tuple(streamed.images.shape) == tuple(whole.images.shape)
    tests = [load_test(folder, info, memory=memory) for memory in ("whole", "stream")]
    for one, other in ((whole, streamed), tests):
        every = torch.arange(len(one))
        assert torch.equal(one.batch(every), one.images)
        assert torch.equal(other.batch(every), one.images) and torch.equal(other.labels, one.labels)


@pytest.fixture(scope="module")
def pair(photographs):
    (whole, _), (streamed, _) = both(photographs)
    return whole, streamed


indices = st.lists(st.integers(0, 39), min_size=1, max_size=30).map(torch.tensor)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(indices, st.lists(indices, max_size=5)), max_size=8), part=indices)
def test_a_batch_is_that_of_its_indices_whatever_is_said_to_come(pair, asked, part):
    whole, streamed = pair
    for wanted, coming in asked:
        assert torch.equal(streamed.batch(wanted, coming), whole.images[wanted])
    some, few = whole.subset(part), streamed.subset(part)
    assert torch.equal(few.labels, some.labels)
    every = torch.arange(len(part)).flip(0)
    assert torch.equal(few.batch(every), some.batch(every)) and torch.equal(
        some.batch(every), whole.images[part.flip(0)]
    )
    assert torch.equal(few.to("cpu").subset(every[:1]).batch(torch.tensor([0])), some.images[-1:])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_processes_changes_nothing(photographs, pair, workers):
    streamed, _ = load_train(str(photographs), memory="stream", workers=workers)
    assert streamed.images.decoders.count == workers
    assert torch.equal(streamed.batch(torch.arange(40)), pair[0].images)


def test_what_was_said_to_come_is_decoded_when_it_is_asked_for(pair, monkeypatch):
    streamed = pair[1].to("cpu")
    order = torch.arange(40).split(10)
    streamed.batch(order[0], order[1:])
    monkeypatch.setattr(Decoders, "begin", lambda *arguments: pytest.fail("decoded a second time"))
    for wanted in order[1:]:
        assert torch.equal(streamed.batch(wanted), pair[0].images[wanted])


def test_what_is_said_to_come_and_never_asked_for_does_not_pile_up(pair):
    streamed = pair[1].to("cpu")
    for k in range(40):
        streamed.batch(torch.tensor([k]), [torch.tensor([k, j]) for j in range(40)])
        assert len(streamed.images._begun) <= HELD
    streamed = pair[1].to("cpu")
    streamed.batch(torch.tensor([0]), (torch.tensor([k]) for k in range(40)))
    assert len(streamed.images._begun) == AHEAD


def test_it_can_be_sent_to_a_process(pair):
    pair[1].batch(torch.tensor([0]), [torch.tensor([1])])
    sent = pickle.loads(pickle.dumps(pair[1].subset(torch.tensor([5, 3]))))
    assert torch.equal(sent.batch(torch.tensor([1, 0])), pair[0].images[[3, 5]])


def flat_over(folder, size, batch):
    """Asserts that an epoch takes the memory of some batches, however many pictures there are."""
    streamed, _ = load_train(str(folder), image_size=size, memory="stream", workers=1)
    order = torch.randperm(len(streamed)).split(batch)
    tracemalloc.start()
    for k, wanted in enumerate(order):
        streamed.batch(wanted, order[k + 1 : k + 1 + AHEAD])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    channels = streamed.images.shape[1]
    # Each batch that is held arrives as the bytes of a message, too.
    assert peak < 2 * (AHEAD + 3) * batch * channels * size**2 + 2**20
    assert peak < len(streamed) * channels * size**2 / 4


def test_memory_is_that_of_some_batches(tmp_path):
    make_images(tmp_path, classes=2, each=2)
    for folder in tmp_path.iterdir():
        for k in range(1000):
            os.link(folder / f"{k % 2}.png", folder / f"link {k}.png")
    flat_over(tmp_path, size=96, batch=16)


# --- which it is ------------------------------------------------------------------------------------------------


def limited(monkeypatch, total):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total))


def test_what_is_too_large_for_half_the_memory_is_streamed(photographs, monkeypatch):
    need = 40 * 3 * 50 * 50
    monkeypatch.setattr("dnas.data.reading.STREAMED_AT_ONCE", 8)
    for total, memory in ((2 * need, "whole"), (2 * need - 2, "stream"), (need, "stream")):
        limited(monkeypatch, total)
        train, info = load_train(str(photographs), image_size=50)
        assert train.memory == memory == load_test(str(photographs), info).memory
    with pytest.raises(InputError, match="40 images .*above half of the memory of this machine .*--data-memory stream"):
        load_train(str(photographs), image_size=50, memory="whole")
    limited(monkeypatch, 2 * 8 * 3 * 50 * 50 - 2)
    with pytest.raises(InputError, match="^8 images with 3 channels at --image-size 50 .*smaller --image-size"):
        load_train(str(photographs), image_size=50)


def test_a_small_folder_is_held_and_leaves_no_index(photographs, tmp_path):
    assert load_train(str(photographs), data_dir=str(tmp_path))[0].memory == "whole"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_streamed_is_refused(digits):
    with pytest.raises(InputError, match="--data-memory stream only applies to folders of images, not to 'digits'"):
        load_train("digits", memory="stream")
    for source, memory in (("digits", "auto"), (str(digits), "whole"), (str(digits), "auto")):
        with pytest.raises(InputError, match="--data-workers 2 only applies to streamed images"):
            load_train(source, memory=memory, workers=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--data-memory", "disk"), "--data-memory"), (("--data-workers", "-1"), "--data-workers"),
     (("--data", "digits", "--data-memory", "stream"), "only applies to folders of images")],
)  # fmt: skip
def test_wrong_options_are_one_line(digits, tmp_path, options, words):
    data = () if "--data" in options else ("--data", digits)
    outcome = invoke("run", *data, *options, "--out", tmp_path / "run")
    assert outcome.code == 2 and len(outcome.lines) == 1 and words in outcome.err
    assert not (tmp_path / "run").exists()


# --- the fingerprint ----------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_files_and_reads_none(tmp_path, monkeypatch):
    folder = make_images(tmp_path / "images", each=10)

    def found():
        return fingerprint(load_train(str(folder), memory="stream")[0])

    first = found()
    assert found() == first
    folder.rename(tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere"
    assert found() == first
    prints = {first}
    victim = next(name for name, _, _ in load_train(str(folder), memory="stream")[0].images.files.at([3]))
    status = (folder / victim).stat()
    os.utime(folder / victim, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    prints.add(found())
    (folder / victim).rename(folder / "class 1" / "moved.png")
    prints.add(found())
    split = load_train(str(folder), memory="stream")[0]
    prints |= {fingerprint(split.subset(torch.arange(5))), fingerprint(split.subset(torch.tensor([1, 0])))}
    assert len(prints) == 5


def test_a_picture_that_changed_since_is_named(tmp_path):
    folder = make_images(tmp_path / "images", each=10)
    streamed, _ = load_train(str(folder), memory="stream", workers=1)
    ((name, _, _),) = streamed.images.files.at([2])
    Image.new("L", (8, 8), 7).save(folder / name)
    others = torch.tensor([0, 1, 3])
    assert len(streamed.batch(others)) == 3
    for damage in (lambda: None, (folder / name).unlink):
        damage()
        with pytest.raises(RunError) as caught:
            streamed.batch(torch.tensor([0, 2]))
        assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)


# --- whole runs ---------------------------------------------------------------------------------------------------

FEW = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 24, "image_size": 8}


def outcome_of(run):
    result = json.loads((run / "result.json").read_text())
    for key in ("run", "search_seconds", "train_seconds", "peak_memory_bytes"):
        result.pop(key)
    result.get("baseline", {}).pop("seconds", None)
    return contents(run) | {"result": result}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_gives_the_same_bits(digits, tmp_path, workers):
    for memory in ("whole", "stream"):
        options = {"data_workers": workers} if memory == "stream" else {}
        dnas.run(data=digits, out=tmp_path / memory, data_memory=memory, **options, **FEW)
    assert outcome_of(tmp_path / "stream") == outcome_of(tmp_path / "whole")
    assert 'memory = "stream"' in (tmp_path / "stream" / "config.toml").read_text()


@pytest.mark.parametrize("method", ["random", "spos"])
def test_other_kinds_of_search_give_the_same_bits(digits, tmp_path, method):
    """Trials in two processes, each with decoders of its own; and a supernet whose paths are judged at the end."""
    own = {"search.trials": 2, "search.processes": 2} if method == "random" else {"search.watch_images": 64}
    found = {}
    for memory in ("whole", "stream"):
        out = tmp_path / memory
        dnas.search(data=digits, method=method, out=out, data_memory=memory, option=own, **{**FEW, "epochs": 1})
        found[memory] = (out / "architecture.json").read_bytes(), (out / "metrics.jsonl").read_bytes()
    assert found["whole"] == found["stream"]


def test_a_network_is_tested_and_reported_on_streamed_images(digits, tmp_path):
    from dnas.pages.report import report

    network = dnas.load_published("DARTS_V2", 3)
    shape = {key: value for key, value in FEW.items() if key != "layers"}
    result = dnas.train(network, data=digits, out=tmp_path / "run", data_memory="stream", **shape)
    for memory in ("whole", "stream", "auto"):
        tested = invoke("evaluate", tmp_path / "run", "--data-memory", memory, "--json").json
        assert tested["test_accuracy"] == result["test_accuracy"]
    assert invoke("evaluate", tmp_path / "run", "--data-workers", 2).code == 2
    page = report(tmp_path / "run").read_text("utf-8")
    assert "have changed since" not in page and "data:image/png" in page


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    """What a run leaves that held its images in memory."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_command(folder, "run", "--data", images, *TINY, "--out", folder / "run").code == 0
    return contents(folder / "run")


@needs_fork
@pytest.mark.parametrize(("stage", "step"), [("search", 1), ("train", 2), ("baseline", 4)])
def test_a_run_that_was_stopped_within_an_epoch_goes_on_to_the_same_bits(tmp_path, images, undisturbed, stage, step):
    assert step % (STEPS[stage] // 2) != 0
    command = ("run", "--data", images, "--data-memory", "stream", *TINY, "--out", tmp_path / "run")
    assert run_command(tmp_path, *command, fault=send_at(stage, step, signal.SIGTERM)).code == 143
    resumed = invoke("resume", tmp_path / "run")
    assert resumed.code == 0 and f"resuming {stage} at step {step}" in resumed.err
    assert contents(tmp_path / "run") == undisturbed


class Stops(Silent):
    """Ends a run at the first step of its search, as by Ctrl-C."""

    def start(self, title, steps, done):
        self.title = title

    def step(self, step, shown):
        if "search" in self.title:
            signal.raise_signal(signal.SIGINT)


def test_a_resumed_run_does_not_decide_anew(tmp_path, images, monkeypatch):
    """What was streamed for its size is streamed where there is more memory; so its fingerprint is the same kind."""
    options = {**FEW, "data": images, "epochs": 1}
    dnas.search(out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        limited(patch, 2 * 48 * 64 - 2)
        patch.setattr("dnas.data.reading.STREAMED_AT_ONCE", 1)
        with pytest.raises(Interrupted):
            dnas.search(out=tmp_path / "run", reporter=Stops(), **options)
    assert 'memory = "stream"' in (tmp_path / "run" / "config.toml").read_text()
    dnas.resume(tmp_path / "run")
    names = ("architecture.json", "metrics.jsonl")
    assert contents(tmp_path / "run", names) == contents(tmp_path / "whole", names)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_pictures(tmp_path, monkeypatch):
    """The second start opens none of them, and an epoch takes the memory of some batches."""
    from io import BytesIO

    for k in range(10):
        (tmp_path / "images" / str(k)).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(100_000):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file, "png")
        (tmp_path / "images" / str(k % 10) / f"{k}.png").write_bytes(file.getvalue())
    first, info = load_train(str(tmp_path / "images"), image_size=32, memory="stream")
    assert len(first) == 80_000
    first.images.decoders.close()
    with monkeypatch.context() as patch:
        patch.setattr(Decoders, "begin", lambda *arguments: pytest.fail("a picture is looked at again"))
        again, known = load_train(str(tmp_path / "images"), image_size=32, memory="stream")
    assert known == info and fingerprint(again) == fingerprint(first)
    process = psutil.Process()
    resident = []
    order = torch.randperm(len(again)).split(64)
    for k, wanted in enumerate(order):
        again.batch(wanted, order[k + 1 : k + 1 + AHEAD])
        if k in (len(order) // 4, len(order) - 1):
            resident.append(process.memory_info().rss)
    assert resident[1] < 1.02 * resident[0] + 2**20
    flat_over(tmp_path / "images", size=32, batch=64)
