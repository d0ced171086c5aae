"""The benchmarks compare what they say they compare. No timing."""

import os
import sys

import busy
import measure
import pytest
import sampled
import search_end_to_end
import streaming
import supernet
import torch
import train
from mutations import MUTATIONS, ROOT

from dnas.data.splits import load_train
from dnas.runtime import waiting
from dnas.space.darts import DARTS


@pytest.mark.parametrize(("partial", "nodes"), [(1, 4), (2, 3), (4, 5)])
def test_the_supernets_check_finds_them_equal(partial, nodes):
    result = supernet.check(supernet.Shape(layers=3, channels=8, batch=4, size=8, partial=partial, nodes=nodes))
    assert result["equal"], result


def test_the_check_sees_a_weight_that_differs(monkeypatch):
    copy = supernet.copy_weights

    def almost(engine, plain):
        copy(engine, plain)
        with torch.no_grad():
            plain.cells[0].edges[0].operations[plain.names.index("sep_conv_3x3")][1].weight[0, 0, 0, 0] += 1e-3

    monkeypatch.setattr(supernet, "copy_weights", almost)
    assert not supernet.check(supernet.Shape(layers=3, channels=8, batch=4, size=8))["equal"]


def test_both_variants_take_the_same_search_step():
    """Architecture parameters and weights move alike, so what is timed is the same work."""
    shape = supernet.Shape(layers=3, channels=8, batch=4, size=8)
    networks = {name: network.double() for name, network in supernet.both(shape).items()}
    for network in networks.values():
        step = supernet.search_step(network, shape)
        step()
        step()
    for fast, where, slow in supernet.weight_pairs(*networks.values()):
        torch.testing.assert_close(fast[where], slow, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("partial", [1, 2])
def test_the_sampled_steps_check_finds_a_path_equal_to_the_dense_supernet_with_its_zeros(partial):
    assert sampled.check(sampled.Shape(layers=3, channels=8, batch=4, size=8, partial=partial))["equal"]


def test_the_sampled_steps_check_sees_another_path(monkeypatch):
    drawn = sampled.path_of
    monkeypatch.setattr(
        sampled, "path_of", lambda *which: sampled.replace(drawn(*which), active=drawn(which[0], 7).active)
    )
    assert not sampled.check(sampled.Shape(layers=3, channels=8, batch=4, size=8))["equal"]


def test_a_sampled_step_moves_what_it_executes_and_a_dense_one_everything():
    shape = sampled.Shape(layers=3, channels=8, batch=4, size=8)
    for variant in (sampled.SAMPLED, sampled.DENSE):
        network = sampled.network_of(shape)
        before = [p.detach().clone() for p in network.parameters()]
        sampled.weight_step(variant, network, shape)()
        moved = sum(not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))
        assert (moved == len(before)) == (variant == sampled.DENSE)
        assert moved > 0


def test_a_whole_search_with_either_supernet_has_the_same_first_losses():
    setting = search_end_to_end.Setting(layers=3, channels=8, batch=8, images=32, epochs=2)
    engine, plain = (search_end_to_end.new_search(variant, setting) for variant in ("engine", "plain"))
    assert isinstance(plain.supernet, search_end_to_end.PlainSupernet)
    assert plain.weight_optimizer.defaults == engine.weight_optimizer.defaults
    for step in range(2):
        assert engine.step(step) == pytest.approx(plain.step(step), rel=1e-4)


def test_noise_moves_images_by_a_rounding_error():
    setting = search_end_to_end.Setting(layers=3, channels=8, batch=8, images=32, epochs=2)
    clean, noisy = (search_end_to_end.new_search("plain", setting, draw=draw) for draw in (0, 1))
    a, b = clean.batch(0, 0).images, noisy.batch(0, 0).images
    assert 0 < (a - b).abs().max() < 1e-5
    assert torch.equal(b, noisy.batch(0, 0).images)


def test_counting():
    x, y = torch.ones(500_000), torch.ones(500_000)  # 2 MB each

    def step():
        z = x.view(1000, 500).t()[:10] + 1  # two views, a slice; 40 kB in, 40 kB out
        z.mul_(2)  # reads and writes z
        x + y  # 6 MB
        torch.empty(10**6)  # written by nobody

    counts = measure.count(step)
    assert (counts.launches, counts.large, counts.views) == (3, 1, 3)
    assert counts.bytes == 4 * 40_000 + 6_000_000


def test_counting_of_native_calls(monkeypatch):
    from dnas.kernels import native

    monkeypatch.setattr(native, "calls", {"old": [3, 30]}, raising=False)

    def step():
        native.calls["new"] = [2, 5_000_000]

    counts = measure.count(step)
    assert counts.native == {"new": (2, 5_000_000)}
    assert (counts.launches, counts.large, counts.bytes) == (2, 2, 5_000_000)


def test_ratios_are_engine_over_plain():
    engine = measure.figures([1.0, 2.0], 100, None)
    plain = measure.figures([2.0, 8.0], 400, None)
    assert measure.ratios(engine, plain) == {"time_ratio": 0.375, "memory_ratio": 0.25}


def test_the_plain_supernet_has_all_candidates():
    names = ("none", *DARTS.primitives)
    plain = supernet.supernet("plain", supernet.Shape(layers=3, channels=8), names)
    assert {len(edge.operations) for cell in plain.cells for edge in cell.edges} == {8}


TINY_TRAINING = train.Shape(layers=3, channels=4, batch=4, size=8)


@pytest.mark.parametrize("name", train.ARCHITECTURES)
def test_the_trainings_check_finds_them_equal(name):
    assert train.check(name, TINY_TRAINING)


def test_the_trainings_check_sees_a_path_that_is_not_dropped(monkeypatch):
    monkeypatch.setattr(train, "plain_drop_path", lambda x, factor: x)
    assert not train.check("DARTS_V2", TINY_TRAINING)


def test_both_variants_take_the_same_training_step(monkeypatch):
    monkeypatch.setattr(train, "DROP_PATH", 0.0)
    network, plain = (each.double() for each in train.both("DARTS_V2", TINY_TRAINING))
    images, labels = train.images_and_labels(TINY_TRAINING)
    monkeypatch.setattr(train, "images_and_labels", lambda shape: (images.double(), labels))
    for step in (train.engine_step(network, TINY_TRAINING), train.plain_step(plain, TINY_TRAINING)):
        step()
        step()
    for fast, slow in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-9)


def test_the_streamed_batches_are_those_of_the_loader(tmp_path):
    streaming.make_folder(tmp_path, pictures=60, side=9, ending="jpg")
    whole, streamed = (load_train(str(tmp_path), memory=memory)[0] for memory in ("whole", "stream"))
    order = streaming.order_of(streamed, batch=7)
    assert torch.cat(order).sort().values.tolist() == list(range(len(whole)))
    assert streaming.equal(streamed, whole, streaming.loader_of(streamed, order, workers=0), order)
    other = [order[1], order[0], *order[2:]]
    assert not streaming.equal(streamed, whole, streaming.loader_of(streamed, other, workers=0), order)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.method)
def test_what_a_mutation_changes_is_there_once(mutation):
    """In docs/mutations.md no line is out of date."""
    text = (ROOT / "src" / "dnas" / mutation.file).read_text("utf-8")
    assert text.count(mutation.old) == 1 and mutation.new != mutation.old


def test_a_command_beside_others_has_its_own_variables(monkeypatch):
    """And none that this process has; what it starts beside a command ends with it."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    code = (
        f"import os; assert {{n: os.environ[n] for n in {waiting.VARIABLES} if n in os.environ}} == {busy.waiting(12)}"
    )
    with busy.spinning(2) as processes:
        assert [process.poll() for process in processes] == [None, None]
        taken = busy.run_command([sys.executable, "-c", code], busy.environment(busy.waiting(12), threads=1))
    assert taken > 0 and None not in [process.poll() for process in processes]
    assert busy.waiting(waiting.SPINS) == waiting.BOUNDED


def test_a_command_that_fails_says_why():
    with pytest.raises(SystemExit, match="no such thing"):
        busy.run_command([sys.executable, "-c", "raise SystemExit('no such thing')"], dict(os.environ))
