"""Finals: who takes part, who goes ahead, and that the winner's training goes on as if nobody else had been there."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from data_tools import refused
from faults.harness import contents, invoke, make_images
from run_tools import interrupt_finals
from torch.nn import functional as F

from dnas.data.splits import DataInfo, Split, chosen, halves
from dnas.errors import Diverged
from dnas.pipeline import carry_out, config
from dnas.pipeline import entrants as entrants_of
from dnas.pipeline.presets import QUICK_RECIPE
from dnas.reporter import Silent
from dnas.rng import numpy_stream
from dnas.runtime.names import FINALS_STAGE
from dnas.runtime.session import Session
from dnas.searching import finals
from dnas.searching.finals import Entrant, Finals, hold_finals, rounds
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.registry import SPACES, get_space
from dnas.space.sampling import sample
from dnas.study.design import Network, StudySettings, run_overrides
from dnas.supernet.worth import load_prior
from dnas.training.build import built
from dnas.training.trainer import Training, train_network

INFO = DataInfo("plain", ("dark", "light"), 1, 8, (0.5,), (0.25,), flip=False)
COSINE = {"schedule": "cosine", "drop_path": 0.3, "auxiliary_weight": 0.0, "learning_rate": 0.1}
TINY = ("--layers", "3", "--channels", "8", "--epochs", "4", "--batch-size", "16", "--no-baseline")


def pictures(count=60, size=8, seed=0):
    """Dark and light noise, all of it different."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 160, (count, 1, size, size)) + 90 * labels[:, None, None, None]
    return Split(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


def settings(epochs=10, images=60, size=8, **changed):
    given = {"channels": 4, "batch_size": 16, "images": images, "epochs": epochs, "flip": "off", **changed}
    return TrainSettings(**given).resolved(images, size)


def architectures(count, layers=3):
    rng = numpy_stream(5, "these")
    return [sample(get_space("darts"), rng, layers) for _ in range(count)]


def competing(count, **changed):
    return [Entrant(each, settings(**{**QUICK_RECIPE, **changed}), "test") for each in architectures(count)]


def held(entrants, split, reporter=None):
    session = Session(None, {}, reporter)
    return *hold_finals(entrants, split, INFO, seed=3, session=session), session


# --- the programme


@pytest.mark.parametrize("count", [*range(2, 18), 31, 32, 33, 64])
def test_rounds_halve_the_entrants_and_double_the_steps(count):
    programme = rounds(count)
    assert programme[0].entrants == count and programme[-1].entrants == 2
    assert len(programme) == max(1, math.ceil(math.log2(count)))
    assert programme[-1].share == 0.02
    for before, after in itertools.pairwise(programme):
        assert after.entrants == math.ceil(before.entrants / 2) and after.share == 2 * before.share
    # Every entrant trains until the last round that it is in; the winner's steps are its own training's.
    alone = sum(max(r.share for r in programme if rank < r.entrants) for rank in range(count))
    assert finals.beside(count) == pytest.approx(alone - 0.02)


def test_eight_take_a_sixteenth_of_a_training():
    assert [(r.entrants, r.share) for r in rounds(8)] == [(8, 0.005), (4, 0.01), (2, 0.02)]
    assert finals.beside(8) == pytest.approx(0.06)


def test_a_fifth_of_the_images_judges():
    assert [finals.held_out(n) for n in (10, 48, 10_000, 12_000, 50_000)] == [2, 10, 2_000, 2_000, 2_000]


def test_too_few_images_are_refused():
    finals.check_images(10, 4)
    with refused("--finals", "7 training images", "--finals 0"):
        finals.check_images(7, 4)
    with refused("--batch-size 2", "batch of one"):
        finals.check_images(11, 2)


@pytest.mark.parametrize(
    ("scores", "count", "ahead"),
    [
        ([0.5, 0.7, 0.5, 0.7], 2, [1, 3]),
        ([0.5, 0.7, 0.5, 0.7], 3, [0, 1, 3]),
        ([0.5, 0.5, 0.5, 0.5], 2, [0, 1]),
        ([0.1, 0.2, 0.3, 0.3], 1, [2]),
        ([None, 0.0, None, 0.0], 2, [1, 3]),
        ([None, None, 0.1, None], 2, [0, 2]),
    ],
)
def test_the_first_of_equals_goes_ahead(scores, count, ahead):
    state = Finals(competing(4), pictures(), INFO, 3, "cpu", half=False)
    state.scores = [[score] for score in scores]
    assert state.ahead(0, count) == ahead


def test_halving_is_what_a_plain_loop_gives(monkeypatch):
    entrants, split = competing(7), pictures()
    for case in range(20):
        table = np.random.default_rng(case).integers(0, 4, (7, 3)) / 4
        monkeypatch.setattr(
            Finals, "judged", lambda self, number, share, stepped: float(table[number][len(self.scores[number])])
        )
        winner, scores, _ = held(entrants, split)
        left = list(range(7))
        for r, count in enumerate([4, 2, 1]):
            assert [scores[number][r] for number in left] == [table[number][r] for number in left]
            left = sorted(sorted(left, key=lambda number: (-table[number][r], number))[:count])
        assert [winner] == left
        assert sum(map(len, scores)) == 7 + 4 + 2


# --- the trainings


@pytest.mark.parametrize(
    "recipe",
    [QUICK_RECIPE, {**dict.fromkeys(QUICK_RECIPE), **COSINE}, {**QUICK_RECIPE, "average": 0.9875}],
    ids=["quick", "cosine", "averaged from the finals on"],
)
def test_the_winners_training_goes_on_to_the_bits_of_one_that_was_never_interrupted(recipe):
    recipe = {name: value for name, value in recipe.items() if value is not None}
    entrants = [Entrant(each, settings(**{**recipe, "epochs": 80}), "test") for each in architectures(3)]
    split = pictures()
    winner, _, session = held(entrants, split)
    begun = session.handed_on
    assert begun.state["step"] == round(0.02 * 320) == 6  # 320 steps of 4 an epoch
    pool = split.subset(halves(60, 3, 0.8)[0])
    own = entrants[winner]
    plain = Training(built(own.architecture, own.settings, INFO, 3), own.settings, pool, INFO, 3, "train", "cpu")
    for step in range(6):
        plain.step(step)
        if step == 3:
            plain.end_epoch(step)
    tensors, state = plain.capture()
    assert begun.tensors.keys() == tensors.keys() and begun.state["loop"] == state
    assert all(torch.equal(begun.tensors[name], tensors[name]) for name in tensors)

    class Metrics(Silent):
        def __init__(self):
            self.lines = []

        def metric(self, values):
            self.lines.append(dict(values))

    weights, lines = [], []
    for start in (begun, None):
        reporter = Metrics()
        network = built(own.architecture, own.settings, INFO, 3)
        train_network(network, own.settings, pool, INFO, seed=3, session=Session(None, {}, reporter), begun=start)
        weights.append(network.state_dict())
        lines.append(reporter.lines)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(lines[1]) == 80 and lines[0] == lines[1][1:]


def test_who_learns_wins_over_who_rests():
    """The same architecture thrice; two of them hardly move."""
    (architecture,) = architectures(1)
    resting = settings(epochs=120, learning_rate=1e-9)
    learning = settings(epochs=120, learning_rate=0.1)
    entrants = [Entrant(architecture, each, "test") for each in (resting, resting, learning)]
    winner, scores, _ = held(entrants, pictures(200).subset(torch.arange(60)))
    assert winner == 2 and scores[2][-1] > max(scores[0][-1], 0.6)


def test_whose_training_diverges_does_not_win():
    (architecture,) = architectures(1)
    wild, calm = settings(40, learning_rate=1e30), settings(40, learning_rate=1e-9)
    winner, scores, _ = held([Entrant(architecture, each, "test") for each in (wild, wild, wild, calm)], pictures())
    assert winner == 3 and [None in each for each in scores] == [True, True, True, False]
    with pytest.raises(Diverged, match=r"each of the 2 candidates diverged; lower train\.learning_rate"):
        held([Entrant(architecture, wild, "test")] * 2, pictures())


def test_judging_leaves_a_network_as_it_was():
    network, split = built(architectures(1)[0], settings(**COSINE), INFO, 0).train(), pictures()
    before = copy.deepcopy(network)
    accuracy = finals.accuracy_of_batches(network, split, INFO, "cpu")
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.state_dict().items())
    with torch.no_grad():
        logits = before((split.images.float() / 255 - 0.5) / 0.25)
    assert accuracy == (logits.argmax(1) == split.labels).double().mean().item()


def test_only_the_chosen_images_train_and_judge_each_once():
    split = pictures(60)
    entrants = [Entrant(each, settings(images=40, **COSINE), "test") for each in architectures(2)]
    state = Finals(entrants, split, INFO, 3, "cpu", half=False)
    assert (len(state.pool), len(state.judges)) == (32, 8)
    both = [*state.pool.images, *state.judges.images]
    wanted = chosen(split, 40, 3).images
    assert sorted(image.numpy().tobytes() for image in both) == sorted(image.numpy().tobytes() for image in wanted)


def test_judges_have_the_size_that_was_seen():
    split = pictures(20, size=16)
    given = [Entrant(each, settings(images=20, size=16, half_size=0.5, **COSINE), "test") for each in architectures(2)]
    small, full = (Finals(given, split, INFO, 3, "cpu", half=half).judges for half in (True, False))
    wanted = full.images.view(4, 1, 8, 2, 8, 2).double().mean((3, 5)).round()
    assert torch.equal(small.images.double(), wanted) and torch.equal(small.labels, full.labels)
    assert torch.equal(F.avg_pool2d(full.images.float(), 2).round(), small.images.float())


# --- who takes part


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("shared", [False, True])
def test_entrants_differ_and_are_what_a_search_could_find(space, shared):
    rng = numpy_stream(1, "found")
    found, other = (sample(get_space(space), rng, 4, shared=shared) for _ in range(2))
    given = config.Config(space=space, finals=9, mapping="shared" if shared else "full")
    those = entrants_of.entrants(given, found, [other, found, other], None)
    names = ["found", "second choice", "random"]
    designed = {"darts": ["DARTS_V2", "PC_DARTS_cifar"]}
    for name, known in (
        ("mobile", "MobileNetV2"),
        ("resnet", "ResNet"),
        ("resnet-d", "ResNet-D"),
        ("shuffle", "ShuffleNetV2"),
    ):
        # With a skip, the normal layers differ.
        designed[name] = [f"{known} of {blocks} blocks" for blocks in ((4,) if shared else (3, 4))]
    for known in designed.get(space, []):
        names += [known, "random"]
    assert [name for name, _ in those] == names + ["random"] * (9 - len(names))
    assert those[0][1] == found and those[1][1] == other
    assert len({architecture.layers for _, architecture in those}) == 9
    assert all(len(architecture) == 4 for _, architecture in those)
    pairs = [layer_pair(architecture) is not None for name, architecture in those if name == "random"]
    assert all(pairs) if shared else not all(pairs)  # in a small space, all layers of a kind may be equal by chance
    assert entrants_of.entrants(given, found, [other], None) == those
    few = given.model_copy(update={"finals": 2})
    assert entrants_of.entrants(few, found, [other], None) == those[:2]


@pytest.mark.parametrize("shared", [False, True])
def test_half_of_the_entrants_are_of_a_prior(shared):
    prior = load_prior("pictures")
    (found,) = architectures(1, layers=5)
    given = config.Config(finals=8, mapping="shared" if shared else "full")
    those = entrants_of.entrants(given, found, [], prior)
    assert [name for name, _ in those] == ["found", *["prior"] * 4, "random", "DARTS_V2", "random"]
    assert those[1][1] == prior.best(5, shared=shared)
    assert len({architecture.layers for _, architecture in those}) == 8
    worths = {name: [prior.of(each) for other, each in those if other == name] for name in ("prior", "random")}
    assert min(worths["prior"]) > max(worths["random"])
    assert entrants_of.entrants(given, found, [], prior) == those


def test_a_prior_without_a_use_is_refused(tmp_path):
    def drafted(**given):
        return config.draft({"command": "run", **given})[0]

    assert drafted(budget=60.0, space="darts").prior == "auto"
    assert (
        drafted(finals=4, space="s2").prior
        == drafted(finals=4, preset="paper").prior
        == drafted(finals=0).prior
        == drafted(budget=60.0).prior
        == "none"
    )
    with refused("--prior pictures", "--finals"):
        drafted(prior="pictures", finals=0)
    with refused("--prior pictures", "another space than 's2'", "--prior none"):
        drafted(prior="pictures", finals=4, space="s2")
    with refused("--prior 'nothing'"):
        drafted(prior="nothing", finals=4)


def test_a_prior_says_nothing_of_trainings_that_are_far_longer_than_its_own():
    longest = 2 * load_prior("pictures").steps
    auto, given = (config.Config(prior=name, finals=4) for name in ("auto", "pictures"))
    used = [carry_out._prior_for(each, steps) for each in (auto, given) for steps in (longest, longest + 1)]
    assert used == ["pictures", "none", "pictures", "pictures"]


def test_a_space_with_too_few_architectures_is_refused(monkeypatch):
    (only,) = architectures(1)
    monkeypatch.setattr(entrants_of, "sample", lambda *arguments, **options: only)
    with refused("--finals 9", "fewer architectures"):
        entrants_of.entrants(config.Config(finals=9, mapping="full"), only, [], None)


# --- runs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("finals") / "images", classes=3)


@pytest.fixture
def smallest_wins(monkeypatch):
    """So that another than what was found does."""
    monkeypatch.setattr(
        finals, "accuracy_of_batches", lambda network, *_: 1 - sum(p.numel() for p in network.parameters()) / 1e9
    )


def test_a_run_that_is_stopped_again_and_again_has_the_same_bits(images, tmp_path, monkeypatch, smallest_wins):
    given = ("run", "--data", images, *TINY, "--train-epochs", "16", "--finals", "4", "--prior", "none")
    whole = invoke(*given, "--out", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    sizes = [each["params"] for each in whole.json["finals"]]
    winner = int(np.argmin(sizes))
    assert winner > 0 and [each.get("winner", False) for each in whole.json["finals"]] == [
        k == winner for k in range(4)
    ]
    assert whole.json["params"] == sizes[winner] and whole.json["validation_accuracy"] is None
    found = json.loads((tmp_path / "whole" / "architecture.json").read_text())
    steps = interrupt_finals(monkeypatch)
    run, now = tmp_path / "stopped", ("--checkpoint-every", "0")
    outcome = invoke(*given, "--out", run, *now)
    stops = 0
    while outcome.code == 130:
        stops += 1
        outcome = invoke("resume", run, *now)
    assert outcome.code == 0, outcome.err
    assert stops >= 4 and next(steps) > 12
    assert contents(run) == contents(tmp_path / "whole")
    assert Architecture.from_json(found) == Architecture.load(run / "architecture.json")
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (run, tmp_path / "whole"))
    assert ours["finals"] == theirs["finals"]


def test_a_resumed_run_needs_no_prior_file(images, tmp_path, monkeypatch):
    prior, run = tmp_path / "mine.json", tmp_path / "run"
    prior.write_text(json.dumps(load_prior("pictures").to_json()))
    complete = Session.complete

    def stopped_after(self, *arguments):
        complete(self, *arguments)
        if self._stage == FINALS_STAGE:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Session, "complete", stopped_after)
        given = ("--data", images, *TINY, "--finals", "3", "--prior", prior, "--out", run)
        assert invoke("run", *given).code == 130
    prior.unlink()
    outcome = invoke("resume", run, "--json")
    assert outcome.code == 0, outcome.err
    assert [each["origin"] for each in outcome.json["finals"]] == ["found", "prior", "second choice"]


def test_what_was_found_keeps_its_validation_accuracy_when_it_wins(images, tmp_path, monkeypatch):
    monkeypatch.setattr(finals, "accuracy_of_batches", lambda *_: 0.5)  # the first of equals wins
    result = invoke("run", "--data", images, *TINY, "--finals", "2", "--out", tmp_path / "run", "--json").json
    assert result["finals"][0]["winner"] and 0 <= result["validation_accuracy"] <= 1


def test_streamed_images_have_the_finals_of_those_in_memory(images, tmp_path):
    def finals_of(memory):
        given = ("--finals", "3", "--train-epochs", "16", "--data-memory", memory, "--out", tmp_path / memory, "--json")
        outcome = invoke("run", "--data", images, *TINY, *given)
        assert outcome.code == 0, outcome.err
        return outcome.json["finals"], outcome.json["test_accuracy"]

    assert finals_of("stream") == finals_of("whole")


def test_shared_cells_compete_at_the_depth_that_is_trained(images, tmp_path, monkeypatch):
    competed = []

    def recorded(entrants, *arguments, **options):
        competed.extend(entrants)
        return hold_finals(entrants, *arguments, **options)

    monkeypatch.setattr(carry_out, "hold_finals", recorded)
    more = ("--mapping", "shared", "--train-layers", "4", "--finals", "3", "--out", tmp_path / "run")
    outcome = invoke("run", "--data", images, *TINY, *more)
    assert outcome.code == 0, outcome.err
    assert [len(each.architecture) for each in competed] == [4, 4, 4]
    assert all(layer_pair(each.architecture) is not None for each in competed)


def test_the_winner_takes_the_steps_of_its_own_number(images, tmp_path, smallest_wins):
    plan = tmp_path / "plan.toml"
    plan.write_text("finals = 3\nfinals_steps = [7, 12, 17]\n")
    result = invoke("run", "--data", images, *TINY, "--config", plan, "--out", tmp_path / "run", "--json").json
    winner = next(k for k, each in enumerate(result["finals"]) if each.get("winner"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["stage"] == "train"] == list(range(1, winner + 3))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"number {winner + 1} of 3" in log
    for count in (2, 4):
        outcome = invoke("run", "--data", images, *TINY, "--config", plan, "--finals", count, "--out", tmp_path / "no")
        assert (
            outcome.code == 2
            and "finals_steps must have one number per candidate" in outcome.err
            and not (tmp_path / "no").exists()
        )


def test_a_study_has_no_finals_unless_it_is_told():
    def finals_of(run, training=0):
        return run_overrides(StudySettings(run=run), Network("searched", "dnas", "full", 0), training).get("finals")

    assert finals_of({}) == 0 and finals_of({"budget": 60.0}) == 0 and finals_of({"finals": 4}) == 4
    assert finals_of({"finals": 4}, training=1) is None
