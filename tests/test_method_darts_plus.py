"""`darts-plus` (Liang et al. 2019): docs/methods/darts-plus.md."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from method_tools import NODES, kept, parameters, with_gradient
from tiny_gradient import INFO, assert_goes_on_to_the_same_bits, found

from dnas.errors import InputError
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline.config import resolve
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS

# option → (options around it, a value with which a search is another one)
ACTS = {
    "partial_channels": ({}, 2),
    "with_none": ({}, False),
    "initial_scale": ({}, 0.5),
    "stop": ({"initial_scale": 0.0}, "ranking"),
    "skips": ({"initial_scale": 0.3}, 3.0),
    "ranking": ({"stop": "ranking"}, "best"),
    "patience": ({"stop": "ranking", "initial_scale": 0.0}, 50),
}
NAMES = ("none", *DARTS.primitives)
SKIP, SEP3, SEP5, DIL3, DIL5 = (NAMES.index(name) for name in ("skip_connect", *DARTS.primitives[3:]))
SLOTS = [first + i for first, _ in NODES for i in (0, 1)]  # the edges that the planted parameters keep


def cell(skips):
    """[E, O], alpha of a cell that keeps the first two edges of each node, `skips` of these as skip connections."""
    table = torch.zeros(14, 8)
    table[:, [SEP3, SEP5, DIL3, DIL5]] = torch.tensor([0.4, 0.3, 0.2, 0.1])
    table[SLOTS, SEP3] = 3.0
    table[SLOTS[:skips], SKIP] = 4.0
    return table


def watch(method, tables, epochs=None, warmup=0):
    """Epochs after which alpha is each of these tables; memory goes through JSON, as in a checkpoint. What ended them:
    (epoch from 0, architecture), or None."""
    memory = {}
    for epoch, table in enumerate(tables):
        search = SimpleNamespace(mapping=method.mapping(6, 0), memory=json.loads(json.dumps(memory)))
        with torch.no_grad():
            search.mapping.alpha.copy_(table)
        stopped = method.after_epoch(search, Progress(epoch, epochs or len(tables), warmup, draw=1))
        if stopped is not None:
            return epoch, stopped
        memory = search.memory
    return None


def shared(*skips):
    """Tables [2, E, O] of normal cells with so many skip connections, and of reductions with none."""
    return [torch.stack([cell(count), cell(0)]) for count in skips]


def derived(method, table):
    mapping = method.mapping(6, 0)
    with torch.no_grad():
        mapping.alpha.copy_(table)
    return method.derive(mapping, Progress())


# --- criterion 1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(0, 2), (1, 2), (0, 1, 1, 5), (1, 0, 1, 2), (3, 2, 1, 2), (2, 0, 8, 0)])
def test_stops_at_the_epoch_that_crosses_and_exports_the_one_before(counts):
    """Also from a start with too many, which has nothing to go back to: what is crossed is crossed upwards."""
    method = create("darts-plus", None, {}, DARTS)
    tables = shared(*counts, 0, 0)
    crossing = next(t for t in range(1, len(counts)) if counts[t - 1] < 2 <= counts[t])
    epoch, architecture = watch(method, tables)
    assert epoch == crossing
    assert architecture == derived(method, tables[crossing - 1]) != derived(method, tables[crossing])
    origin = architecture.origin
    assert (origin["method"], origin["mapping"]) == ("darts-plus", "shared")
    assert (origin["stop"]["rule"], origin["stop"]["epoch"]) == ("skips", crossing + 1)
    # The other one of the two is kept, too, in a form that a file can hold.
    other = json.loads(architecture.dumps()) | {"layers": json.loads(json.dumps(origin["stop"]["other"]))}
    assert Architecture.from_json(other) == derived(method, tables[crossing])


@pytest.mark.parametrize("counts", [(0,) * 12, (1, 0, 1, 0, 1), (2,) * 5, (5, 4, 3, 2), (8,)])
def test_never_stops_where_convolutions_win_or_skips_only_fall(counts):
    assert watch(create("darts-plus", None, {}, DARTS), shared(*counts)) is None


def test_skip_connections_of_reductions_do_not_count():
    method = create("darts-plus", None, {}, DARTS)
    assert watch(method, [torch.stack([cell(0), cell(count)]) for count in (0, 8, 8)]) is None


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 1), (2.0, 2), (3.0, 3), (2.5, 3), (4.0, None)])
def test_the_limit_is_an_option(limit, expected):
    stopped = watch(create("darts-plus", None, {"skips": limit}, DARTS), shared(0, 1, 2, 3))
    assert (None if stopped is None else stopped[0]) == expected


@pytest.mark.parametrize("mapping_name", ["full", "decoupled"])
@pytest.mark.parametrize(("limit", "stops"), [(2.0, True), (2.01, False)])
def test_of_many_normal_layers_the_mean_counts(mapping_name, limit, stops):
    """Six layers reduce at 2 and 4; of the four others, two have 4 skip connections and two none: 2 in the mean."""
    method = create("darts-plus", mapping_name, {"skips": limit}, DARTS)
    memory = {}
    for epoch, count in enumerate((0, 4)):
        mapping = method.mapping(6, 0)
        with torch.no_grad():
            if mapping_name == "full":
                mapping.alpha.copy_(
                    torch.stack([cell(count if k in (0, 3) else 8 if k in (2, 4) else 0) for k in range(6)])
                )
            else:  # alpha likes `count` skips a little less than sep_conv_3x3, and gamma of these layers makes up for it
                mapping.alpha.copy_(cell(count))
                mapping.alpha[:, :, SKIP] -= 2.0
                mapping.gamma.zero_()
                mapping.gamma[[0, 2, 3, 4], SKIP] = 2.0
        stopped = method.after_epoch(SimpleNamespace(mapping=mapping, memory=memory), Progress(epoch, 9, draw=1))
    now = method.derive(mapping, Progress())
    counts = [list(layer.values()).count("skip_connect") for layer in kept(now)]
    assert counts == ([4, 0, 8, 4, 8, 0] if mapping_name == "full" else [4, 0, 4, 4, 4, 0])
    assert (stopped is not None) == stops


# --- criterion 1* ----------------------------------------------------------------------------------------


def moved(table, *places, row=0, by=1.0):
    table = table.clone()
    for e, o in places:
        table[row, e, o] += by
    return table


START = shared(0)[0]
SWAPPED = moved(START, (7, DIL5))  # on an edge that is not kept, the last learnable operation becomes the first
LOWER = moved(START, (7, DIL3), by=0.15)  # ..., the third becomes the second: 0.4, 0.3, 0.35, 0.1
FIRST = moved(START, (7, SEP5), by=0.15)  # ..., the second becomes the first
LAST = moved(START, (7, DIL5), by=0.15)  # ..., the last becomes the third
UNLEARNABLE = moved(START, *[(e, o) for e in range(14) for o in (0, 1, 2, SKIP)], by=0.35)


@pytest.mark.parametrize("patience", [1, 3, 10])
def test_stops_when_the_ranking_has_not_changed_for_so_many_epochs(patience):
    """Exports the architecture of that epoch; scales may change, as long as the order does not."""
    method = create("darts-plus", None, {"stop": "ranking", "patience": patience}, DARTS)
    tables = [START * (1 + 0.1 * epoch) for epoch in range(20)]
    tables[patience][0, SLOTS[0], SKIP] = 9.0  # the last one is another architecture
    epoch, architecture = watch(method, tables)
    assert epoch == patience
    assert architecture == derived(method, tables[patience]) != derived(method, tables[patience - 1])
    stop = architecture.origin["stop"]
    assert (stop["rule"], stop["epoch"]) == ("ranking", patience + 1)
    assert stop["other"] == derived(method, tables[patience - 1]).to_json()["layers"]


def test_the_counter_starts_anew_after_a_change():
    method = create("darts-plus", None, {"stop": "ranking", "patience": 3}, DARTS)
    assert watch(method, [START] * 3 + [SWAPPED] * 3 + [START] * 2) is None
    assert watch(method, [START] * 3 + [SWAPPED] * 4)[0] == 6
    assert watch(method, [START, SWAPPED] * 10) is None


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("e", [0, 6, 13])
def test_one_edge_of_one_cell_is_enough_to_change_the_ranking(row, e):
    method = create("darts-plus", None, {"stop": "ranking", "patience": 2}, DARTS)
    other = moved(START, (e, DIL5), row=row, by=5.0)
    assert watch(method, [START, START, other, START, START]) is None


def test_operations_without_weights_are_not_ranked():
    """`none`, the pools and the skip connection may rise and fall: 0.35 lifts them from below into the middle."""
    method = create("darts-plus", None, {"stop": "ranking", "patience": 2}, DARTS)
    assert watch(method, [START, UNLEARNABLE, START])[0] == 2


def test_only_the_best_may_be_watched():
    for ranking, expected in (("order", None), ("best", 3)):
        method = create("darts-plus", None, {"stop": "ranking", "patience": 3, "ranking": ranking}, DARTS)
        stopped = watch(method, [START, LOWER, START, LOWER])
        assert (None if stopped is None else stopped[0]) == expected
        assert watch(method, [START, FIRST] * 4) is None  # the last stays the last


def test_the_whole_order_is_watched_down_to_the_last():
    method = create("darts-plus", None, {"stop": "ranking", "patience": 3}, DARTS)
    assert watch(method, [START, LAST, START, LAST]) is None


@pytest.mark.parametrize(("epochs", "patience"), [(60, 10), (50, 8), (10, 2), (6, 1), (2, 1)])
def test_the_patience_is_a_sixth_of_the_search_unless_set(epochs, patience):
    method = create("darts-plus", None, {"stop": "ranking"}, DARTS)
    assert watch(method, [START] * epochs, epochs)[0] == patience


# --- both, and the warm-up -------------------------------------------------------------------------------


def test_each_criterion_stops_for_itself_and_both_for_either():
    tables = [START, SWAPPED, START, START, START, *shared(2)]  # settled for 2 epochs at 4, crossed at 5
    late = [START, SWAPPED, *shared(2), *shared(2), *shared(2)]  # crossed at 2, settled at 4
    for stop, first, second in (("skips", 5, 2), ("ranking", 4, 4), ("both", 4, 2)):
        options = {"stop": stop} | ({} if stop == "skips" else {"patience": 2})
        method = create("darts-plus", None, options, DARTS)
        assert (watch(method, tables)[0], watch(method, late)[0]) == (first, second)


def test_where_both_are_met_the_epoch_before_is_exported():
    method = create("darts-plus", None, {"stop": "both", "patience": 2}, DARTS)
    tables = [START, START, *shared(3)]
    epoch, architecture = watch(method, tables)
    assert epoch == 2 and architecture == derived(method, START)
    assert architecture.origin["stop"]["rule"] == "skips"


@pytest.mark.parametrize("stop", ["skips", "ranking"])
def test_the_warm_up_is_not_watched(stop):
    """The architecture rests: no ranking settles, and its noise is nothing to go back to."""
    options = {"stop": stop} | ({} if stop == "skips" else {"patience": 2})
    method = create("darts-plus", None, options, DARTS)
    assert watch(method, [START] * 5 + shared(2, 2), warmup=5) is None
    later = watch(method, [START] * 5 + [START] * 2 + shared(2, 2), warmup=5)
    assert later[0] == 7


# --- the rest is darts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_the_relaxation_is_that_of_darts(mapping_name):
    one, two = (create(name, mapping_name, {}, DARTS) for name in ("darts-plus", "darts"))
    results = [with_gradient(method, parameters(method, 4, 0, 1.0), 0) for method in (one, two)]
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][2][key], grad) for key, grad in results[1][2].items())
    assert one.operations == two.operations == NAMES


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"stop": "ranking", "skips": 3.0}, "skips=3.0"),
        ({"patience": 5}, "patience=5"),
        ({"ranking": "best"}, "ranking=best"),
        ({"skips": 0.0}, "skips must be above 0, got 0.0"),
        ({"stop": "eigenvalue"}, "stop 'eigenvalue'"),
    ],
)
def test_options_that_could_not_act_are_refused(options, named):
    with pytest.raises(InputError, match=f"--option {re.escape(named)}"):
        create("darts-plus", None, options, DARTS)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_paper_settings_are_those_of_darts_for_60_epochs(mapping_name):
    chosen = {"mapping": mapping_name, "preset": "paper"}
    config, darts = (resolve({"method": name, **chosen}, INFO, 50_000, "")[0] for name in ("darts-plus", "darts"))
    epochs = 60 if mapping_name == "shared" else 50
    assert config.search.model_dump() == {**darts.search.model_dump(), "epochs": epochs}
    assert config.train == darts.train


# --- a whole search --------------------------------------------------------------------------------------

SETTLED = {"stop": "ranking", "patience": 2, "initial_scale": 10.0}  # alphas lie too far apart to change places


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_is_a_function_of_its_seed(mapping_name):
    one, again, other = (found("darts-plus", mapping_name, seed=seed) for seed in (0, 0, 1))
    assert one == again and one[2] != other[2]
    assert one[0].in_space and len(one[0]) == 3


def test_a_search_ends_at_its_criterion():
    architecture, origin, _, cost = found("darts-plus", "full", SETTLED, epochs=5)
    assert origin["stop"]["epoch"] == 3 and architecture.in_space
    whole = found("darts-plus", "full", {**SETTLED, "patience": 99}, epochs=5)
    assert "stop" not in whole[1]
    assert cost["step_equivalents"] == whole[3]["step_equivalents"] * 3 / 5


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_search_goes_on_to_the_same_bits_and_the_same_end(stop):
    """Captured before, at and after the epoch that ends it; the counter and the architecture before survive."""
    search = assert_goes_on_to_the_same_bits("darts-plus", "decoupled", SETTLED, stop, epochs=5)
    assert search.stopped.origin["stop"]["epoch"] == 3
