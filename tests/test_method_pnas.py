"""`pnas` (Liu et al. 2018): docs/methods/pnas.md."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_pnas_tools import Additive, random_cells, trials
from scipy.stats import spearmanr
from trial_tools import searched

from dnas.errors import InputError, RunError
from dnas.methods import pnas
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.searching.judging import judged
from dnas.space.architecture import Architecture, stack
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell

SMALL = {"ensemble": 2, "units": 8, "predictor_steps": 5}
LEARNS = {"predictor_steps": 20, "ensemble": 2, "units": 16}
ACTS = {
    "predictor": (SMALL, "lstm"),
    "ensemble": (SMALL, 1),
    "units": (SMALL, 9),
    "predictor_steps": (SMALL, 40),
}
KINDS = ("mlp", "lstm")


def method(budget=100, **options):
    made = create("pnas", None, options, DARTS)
    made.budget = budget
    return made


def cell_of(architecture):
    (gene,) = set(architecture.layers)
    return gene


# --- cells -------------------------------------------------------------------------------------------------


def test_there_are_49_147_294_and_490_nodes_and_each_is_once():
    slots = [[(op, s) for op in DARTS.primitives for s in range(n + 2)] for n in range(4)]
    for n, count in enumerate((49, 147, 294, 490)):
        rows = pnas.nodes(DARTS, n)
        assert rows.shape == (count, 4) and len(set(map(tuple, rows.tolist()))) == count
        # All ordered pairs of slots, of which an order and its reverse are one node.
        brute = {tuple(sorted(pair)) for pair in product(slots[n], repeat=2) if pair[0][1] != pair[1][1]}
        found = {tuple(sorted((DARTS.primitives[o], s) for s, o in ((a, c), (b, d)))) for a, b, c, d in rows.tolist()}
        assert found == brute


@given(seed=st.integers(0, 2**31), nodes=st.integers(0, 3))
@settings(deadline=None, max_examples=10)
def test_cells_grow_by_every_node_that_there_is(seed, nodes):
    cells = random_cells(3, nodes, seed)
    grown = pnas.expand(cells, DARTS)
    further = pnas.nodes(DARTS, nodes)
    assert grown.shape == (3 * len(further), nodes + 1, 4)
    for i, cell in enumerate(cells):
        mine = grown[i * len(further) : (i + 1) * len(further)]
        assert (mine[:, :-1] == cell).all() and torch.equal(mine[:, -1], further)


@given(seed=st.integers(0, 2**31), nodes=st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_cells_survive_the_way_to_architectures_and_back(seed, nodes):
    cells = random_cells(4, nodes, seed)
    history = trials(cells, [None] * 4)
    assert torch.equal(pnas.tokens(history, DARTS), cells)
    for trial in history:
        assert trial.architecture.in_space == (nodes == 4)
        assert cell_of(trial.architecture).concat == tuple(range(2, 2 + nodes))
    mixed = pnas.tokens([*trials(cells[:1, :1], [None]), *history], DARTS)
    assert (mixed[0, 1:] == -1).all() and torch.equal(mixed[1:], cells)


def test_the_order_of_a_nodes_inputs_does_not_matter():
    one, other = ((("max_pool_3x3", 1), ("skip_connect", 0)),), ((("skip_connect", 0), ("max_pool_3x3", 1)),)
    rows = [pnas.tokens([Trial(stack(Cell(g), Cell(g), 3), None)], DARTS) for g in (one, other)]
    assert torch.equal(*rows) and rows[0].tolist() == [[[0, 1, 2, 0]]]


# --- stages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "stages"),
    [
        (1, [0, 0, 0, 1]), (3, [0, 1, 1, 1]), (4, [1, 1, 1, 1]), (16, [4, 4, 4, 4]), (17, [4, 4, 4, 5]),
        (100, [25, 25, 25, 25]), (817, [49, 256, 256, 256]), (30_000, [49, 7203, 11374, 11374]),
    ],
)  # fmt: skip
def test_the_budget_is_divided_over_the_numbers_of_nodes(budget, stages):
    assert method(budget).stages() == stages and sum(stages) == budget


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 9, 20])
def test_cells_grow_stage_by_stage_from_those_that_were_trained(budget):
    made = method(budget, **SMALL)
    history, stages = [], [count for count in made.stages() if count]
    first = 5 - len(stages)
    for nodes, count in enumerate(stages, first):
        candidates = made.propose(history, 5, 1)
        genes = [cell_of(candidate.architecture) for candidate in candidates]
        assert len(set(genes)) == count and all(len(gene.nodes) == nodes for gene in genes)
        assert all(c.architecture.reductions == (1, 3) and len(c.architecture) == 5 for c in candidates)
        assert all(c.architecture.origin == {"method": "pnas", "mapping": "shared"} for c in candidates)
        assert all(c.architecture.in_space == (nodes == 4) for c in candidates)
        if nodes > first:
            before = {cell_of(trial.architecture).nodes for trial in history}
            assert all(gene.nodes[:-1] in before for gene in genes)
        # Within a stage nothing depends on the scores of that stage.
        part = [Trial(c.architecture, 0.1 * i) for i, c in enumerate(candidates[: count // 2])]
        assert made.propose(history + part, 5, 1) == candidates[count // 2 :]
        history += [Trial(c.architecture, 0.01 * i) for i, c in enumerate(candidates)]
    assert made.propose(history, 5, 1) == []
    assert made.choose(history).in_space


def test_all_cells_of_one_node_are_trained_where_the_budget_allows_it_else_a_uniform_sample():
    whole = method(196).propose([], 3, 0)
    assert {cell_of(c.architecture).nodes[0] for c in whole} == {
        tuple((DARTS.primitives[o], s) for o, s in zip(row[2:], row[:2], strict=True))
        for row in pnas.nodes(DARTS, 0).tolist()
    }
    counts = torch.zeros(49)
    order = {candidate.architecture: i for i, candidate in enumerate(whole)}
    for seed in range(400):
        some = method(20).propose([], 3, seed)
        assert len(some) == 5
        for candidate in some:
            counts[order[candidate.architecture]] += 1
    # Each is in a sample with probability 5/49: mean 40.8 and standard deviation 6.1.
    assert counts.sum() == 2000 and counts.min() > 40.8 - 5 * 6.1 and counts.max() < 40.8 + 5 * 6.1


@pytest.mark.parametrize("seed", range(5))
def test_with_a_perfect_predictor_the_beam_finds_the_best_cell_of_all(monkeypatch, seed):
    score, made = Additive(seed), method(196)
    assert made.stages() == [49] * 4
    monkeypatch.setattr(made, "predicted", lambda history, cells, seed: score(cells))
    history = judged(made, 3, seed, [], score.judge, lambda: False, 196)
    assert cell_of(made.choose(history)) == score.best()
    # And with one that is wrong about everything it does not.
    monkeypatch.setattr(made, "predicted", lambda history, cells, seed: -score(cells))
    history = judged(made, 3, seed, [], score.judge, lambda: False, 196)
    assert cell_of(made.choose(history)) != score.best()


def test_the_predictor_of_a_stage_sees_all_stages_before_and_no_more(monkeypatch):
    made, seen = method(16), []
    monkeypatch.setattr(
        made,
        "predicted",
        lambda history, cells, seed: seen.append((len(history), tuple(cells.shape))) or cells[:, 0, 0],
    )
    judged(made, 3, 0, [], lambda i, c: 0.5, lambda: False, 16)
    assert seen == [(4, (4 * 147, 2, 4)), (8, (4 * 294, 3, 4)), (12, (4 * 490, 4, 4))]


# --- the predictor -----------------------------------------------------------------------------------------


def predictor(kind, seed=0, **options):
    return pnas.fresh(DARTS, method(predictor=kind, **options).options, 0.5, torch_stream(seed, "test"))


@pytest.mark.parametrize("kind", KINDS)
@given(nodes=st.integers(1, 4), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_padding_changes_nothing(kind, nodes, seed):
    model = predictor(kind, seed).double()
    cells = random_cells(3, nodes, seed)
    whole = random_cells(2, 4, seed + 1)
    padded = pnas.tokens([*trials(cells, [None] * 3), *trials(whole, [None] * 2)], DARTS)
    assert padded.shape == (5, 4, 4)
    torch.testing.assert_close(model(padded), torch.cat([model(cells), model(whole)]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_counts(kind):
    """The counter-check of the padding: a predictor that is deaf would pass it."""
    model = predictor(kind).double()
    cell = random_cells(1, 4)
    for n, t in product(range(4), range(4)):
        other = cell.clone()
        other[0, n, t] = (other[0, n, t] + 1) % (n + 2 if t < 2 else 7)
        assert (model(other) - model(cell)).abs() > 1e-9


def test_the_mlp_is_the_formula():
    """Mean over nodes of the four embeddings side by side, two hidden layers, a sigmoid."""
    model = predictor("mlp", units=5).double()
    cells = random_cells(6, 3)
    mean = torch.zeros(6, 20, dtype=torch.float64)
    for n in range(3):
        tables = (model.states, model.states, model.operations, model.operations)
        mean += torch.cat([table.weight[cells[:, n, t]] for t, table in enumerate(tables)], 1) / 3
    first, _, second, _ = model.body
    hidden = (mean @ first.weight.T + first.bias).clamp_min(0)
    hidden = (hidden @ second.weight.T + second.bias).clamp_min(0)
    expected = 1 / (1 + torch.exp(-(hidden @ model.head.weight.T + model.head.bias)[:, 0]))
    torch.testing.assert_close(model(cells), expected, rtol=1e-12, atol=0)


def test_the_lstm_reads_the_inputs_and_operations_of_one_node_after_the_other():
    model = predictor("lstm", units=5).double()
    cell = random_cells(1, 2)
    h = c = torch.zeros(5, dtype=torch.float64)
    weights = dict(model.body.named_parameters())
    for n, t in product(range(2), range(4)):
        x = (model.states if t < 2 else model.operations).weight[cell[0, n, t]]
        gates = (
            weights["weight_ih_l0"] @ x + weights["bias_ih_l0"] + weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
        )
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    expected = (model.head.weight @ h + model.head.bias).sigmoid()
    torch.testing.assert_close(model(cell), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_the_mean_accuracy_with_small_embeddings(kind):
    options = method(predictor=kind).options
    model = pnas.fresh(DARTS, options, 0.86, torch_stream(0, "test"))
    assert model.head.bias.item() == pytest.approx(1.815, abs=1e-3)  # 1.8 in the paper, for its 86 %
    for table in (model.states.weight, model.operations.weight):
        assert 0.095 < table.abs().max() <= 0.1 and table.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.1)
    cells = random_cells(50, 4)
    assert (model(cells) - 0.86).abs().max() < 0.05
    assert torch.isfinite(pnas.fresh(DARTS, options, 1.0, torch_stream(0, "test")).head.bias).all()
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert sizes["states.weight"] == (5, 100) and sizes["operations.weight"] == (7, 100)
    assert sizes["head.weight"] == (1, 100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("nodes", "rate"), [(1, 0.01), (2, 0.002), (4, 0.002)])
def test_the_first_step_of_adam_has_the_size_of_the_rate(kind, nodes, rate):
    """0.01 for cells of one node, 0.002 from two on; against the gradient of the mean absolute error."""
    options = method(predictor=kind, ensemble=1, predictor_steps=1).options
    cells, scores = random_cells(8, nodes), [0.1 * i for i in range(8)]
    (moved,) = pnas.fit(trials(cells, scores), DARTS, options, 5)
    start = pnas.fresh(DARTS, options, sum(scores) / 8, torch_stream(5, "predictor", 8, 0))
    loss = sum((start(cell[None]) - s).abs() for cell, s in zip(cells, scores, strict=True)) / 8
    grads = torch.autograd.grad(loss, list(start.parameters()))
    for one, other, grad in zip(start.parameters(), moved.parameters(), grads, strict=True):
        clear = grad.abs() > 1e-5
        torch.testing.assert_close((other - one)[clear], -rate * grad.sign()[clear], rtol=2e-2, atol=0)
    assert any((grad.abs() > 1e-5).any() for grad in grads)


def test_the_loss_is_absolute_so_that_it_learns_the_median():
    cells = random_cells(1, 1).expand(5, 1, 4)
    made = method(ensemble=1, predictor_steps=200)
    expected = made.predicted(trials(cells, (0.2, 0.2, 0.2, 0.8, 0.8)), cells[:1], 0)
    assert expected.item() == pytest.approx(0.2, abs=0.03)  # the mean is 0.44


@pytest.mark.parametrize(("kind", "least"), [("mlp", 0.7), ("lstm", 0.4)])
def test_it_ranks_cells_that_it_has_not_seen(kind, least):
    score = Additive(0, alike=True)
    cells, others = random_cells(80, 3), random_cells(300, 3, 1)
    made = method(predictor=kind, ensemble=2, predictor_steps=60)
    expected = made.predicted(trials(cells, score(cells).tolist()), others, 0)
    assert expected.shape == (300,) and spearmanr(expected, score(others)).statistic > least


@given(count=st.integers(1, 60), members=st.integers(1, 8), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_each_trial_is_kept_from_one_member_and_each_member_sees_some(count, members, seed):
    seen = pnas.shares(count, members, seed)
    assert seen.shape == (members, count) and seen.any(1).all()
    if members == 1 or count == 1:
        assert seen.all()
    else:
        assert ((~seen).sum(0) == 1).all()
        missing = (~seen).sum(1)
        assert missing.max() - missing.min() <= 1  # four fifths each, with five members


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_no_trial_reads_is_as_good_as_the_last_one_that_one_reads(kind):
    """Of cells of two nodes none reads state 3 or 4, which are nodes: they count as state 2, whatever they began as."""
    cells = random_cells(12, 2)
    assert cells[:, :, :2].max() == 2
    options = method(predictor=kind, **SMALL).options
    members = pnas.fit(trials(cells, [0.05 * i for i in range(12)]), DARTS, options, 0)
    grown = random_cells(40, 4, 1)
    inputs = grown[:, :, :2]
    as_two = torch.cat([inputs.clamp_max(2), grown[:, :, 2:]], 2)
    assert (inputs > 2).any() and torch.equal(pnas.mean(members, grown), pnas.mean(members, as_two))
    for member in members:
        assert not torch.equal(member.states.weight[1], member.states.weight[2])
    whole = pnas.fit(trials(random_cells(12, 4), [0.05 * i for i in range(12)]), DARTS, method(**SMALL).options, 0)
    assert len({tuple(row) for row in whole[0].states.weight.tolist()}) == 5


def test_where_nobody_said_how_many_trials_there_are_it_goes_on_with_other_whole_cells():
    made = method(None, **SMALL)
    history = judged(made, 3, 0, [], lambda i, c: i * 7 % 19 / 19, lambda: False, 160)
    assert len(history) == 160 and made.stages() == [25] * 4
    cells = [cell_of(trial.architecture) for trial in history]
    assert all(len(cell.nodes) == 4 for cell in cells[75:]) and len(set(cells[75:])) == 85
    assert {cell.nodes[:3] for cell in cells[75:]} <= {cell.nodes for cell in cells[50:75]}
    # Again in stages, each of them a function of the trials before it.
    assert [c.architecture for c in made.propose(history[:110], 3, 0)] == [t.architecture for t in history[110:125]]


def test_the_members_parts_are_drawn():
    assert not torch.equal(pnas.shares(20, 5, 0), pnas.shares(20, 5, 1))


def test_the_ensemble_is_the_mean_of_its_members_in_any_order():
    cells = random_cells(20, 2)
    made = method(predictor_steps=2)
    members = pnas.fit(trials(cells, [0.05 * i for i in range(20)]), DARTS, made.options, 0)
    with torch.no_grad():
        each = [member(cells) for member in members]
        assert len(each) == 5
        for one, other in combinations(members, 2):  # each starts elsewhere
            assert (one.states.weight - other.states.weight).abs().max() > 0.1
        expected = sum(e.double() for e in each) / 5
        for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 0, 3, 2, 4]):
            got = pnas.mean([members[i] for i in order], cells)
            torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=0)


def test_many_cells_are_judged_in_parts(monkeypatch):
    cells, made = random_cells(50, 2), method(predictor_steps=2)
    history = trials(cells[:9], [0.1 * i for i in range(9)])
    whole = made.predicted(history, cells, 0)
    monkeypatch.setattr(pnas, "CHUNK", 7)
    torch.testing.assert_close(made.predicted(history, cells, 0), whole)


# --- what is pure, what failed, what is chosen ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_are_a_function_of_history_and_seed(kind):
    options = {**SMALL, "predictor": kind, "budget": 16}
    history = judged(method(**options), 3, 0, [], lambda i, c: i * 5 % 16 / 16, lambda: False, 8)
    state = torch.random.get_rng_state()
    first = method(**options).propose(history, 3, 0)
    assert len(first) == 4 and torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert method(**options).propose(history, 3, 0) == first
    assert method(**options).propose(history, 3, 1) != first
    other = [Trial(trial.architecture, 0.9 - trial.score) for trial in history]
    assert method(**options).propose(other, 3, 0) != first


def test_who_failed_is_as_good_as_the_worst():
    cells, made = random_cells(6, 2), method(predictor_steps=3)
    one, other = ([0.5, None, 0.3, 0.7, None, 0.6], [0.5, 0.3, 0.3, 0.7, 0.3, 0.6])
    assert torch.equal(*(made.predicted(trials(cells, scores), cells, 0) for scores in (one, other)))


def test_where_all_failed_it_goes_on_with_a_sample():
    made = method(8)
    history = judged(made, 3, 0, [], lambda i, c: None, lambda: False, 8)
    assert len(history) == 8
    with pytest.raises(RunError, match="none of the 2 candidates"):
        made.choose(history)
    with pytest.raises(RunError, match="none of the 3 candidates"):
        made.choose(history[:3])


def test_the_best_whole_cell_is_chosen_even_if_a_smaller_one_is_better():
    history = [*trials(random_cells(2, 3), (0.9, 0.99)), *trials(random_cells(3, 4, 1), (0.1, 0.5, 0.4))]
    assert method().choose(history) == history[3].architecture


@pytest.mark.parametrize("trained", [1, 3, 6, 9, 12])
def test_where_time_was_up_the_predictor_completes_the_best(trained):
    made = method(12, **SMALL)
    history = judged(made, 3, 0, [], lambda i, c: 0.05 * i, lambda: False, trained)
    found = made.choose(history)
    assert found.in_space and len(found) == 3 and found == made.choose(history)
    nodes = len(cell_of(history[-1].architecture).nodes)
    assert cell_of(found).nodes[:nodes] in [cell_of(t.architecture).nodes for t in history]


def test_what_is_missing_is_the_best_by_the_predictor(monkeypatch):
    score, made = Additive(0), method()
    monkeypatch.setattr(made, "predicted", lambda history, cells, seed: score(cells) * len(history))
    rows = pnas.nodes(DARTS, 0)
    found = cell_of(made.choose(trials(rows[:, None], [None, *[0.5] * 48])))
    assert found == score.best()


def test_only_shared_cells_grow():
    with pytest.raises(InputError, match="--mapping full cannot be used with method pnas"):
        create("pnas", "full", {}, DARTS)


def test_paper_settings():
    paper = method().paper_settings("cifar10")
    assert paper["search"] == {"layers": 8, "channels": 24, "trials": 817, "epochs": 20}
    assert paper["train"] == {"layers": 20}


# --- a whole search ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_trains_small_cells_and_gives_a_whole_architecture_and_the_same_bits(kind):
    found, scores, made = searched("pnas", None, {**SMALL, "predictor": kind}, 5)
    assert found.architecture.in_space and len(found.architecture) == 3 and len(cell_of(found.architecture).nodes) == 4
    assert len(scores) == made.budget == 5 and made.stages() == [1, 1, 1, 2]
    assert Architecture.from_json(found.architecture.to_json()) == found.architecture
    again, more, _ = searched("pnas", None, {**SMALL, "predictor": kind}, 5)
    assert (found.architecture, scores) == (again.architecture, more)
    # A search that was stopped proposes the same again, and goes on.
    history = judged(made, 3, 0, scores[:2], lambda i, c: scores[i], lambda: False, 5)
    assert history == judged(made, 3, 0, [], lambda i, c: scores[i], lambda: False, 5)
    assert made.choose(history) == found.architecture
