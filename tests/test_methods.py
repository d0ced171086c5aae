"""What methods have in common, on `dnas` and its pair `pc-darts`."""

from itertools import chain, combinations, repeat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, NODES, outcome, parameters

import dnas
from dnas.errors import InputError
from dnas.methods.registry import create, list_methods
from dnas.rng import numpy_stream, torch_stream
from dnas.space.darts import DARTS
from dnas.space.sampling import sample, unseen
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import MAPPINGS, Full, Shared


@pytest.mark.parametrize(
    ("name", "options", "masses"),
    [
        ("dnas", {}, [1.75] * 4),
        ("dnas", {"beta_softmax": "layer"}, [0.25, 0.375, 0.5, 0.625]),
        ("pc-darts", {}, [1.0] * 4),
        ("pc-darts", {"edge_normalisation": False}, [2.0, 3.0, 4.0, 5.0]),
    ],
)
def test_mass_of_a_node_at_equal_parameters(name, options, masses):
    """The sum of psi over a node's edges and operations."""
    method = create(name, None, {**options, "initial_scale": 0}, DARTS)
    psi = method.mixing(method.mapping(6, 0).double(), ALWAYS).psi
    for (first, last), mass in zip(NODES, masses, strict=True):
        torch.testing.assert_close(psi[:, first:last].sum((1, 2)), torch.full((6,), mass, dtype=torch.float64))


@pytest.mark.parametrize("name", ["dnas", "pc-darts"])
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_equal_beta_and_gamma_in_all_layers_export_one_gene(name, seed):
    method = create(name, "decoupled", {}, DARTS)
    mapping = parameters(method, 6, seed, 1.0)
    assert len(set(method.derive(mapping, ALWAYS).layers)) > 1
    with torch.no_grad():
        mapping.beta.copy_(mapping.beta[:1].clone().expand_as(mapping.beta))
        mapping.gamma.copy_(mapping.gamma[:1].clone().expand_as(mapping.gamma))
    assert len(set(method.derive(mapping, ALWAYS).layers)) == 1


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@pytest.mark.parametrize("name", ["dnas", "pc-darts"])
def test_zero_start_exports_one_degenerate_gene_and_noise_breaks_it_by_the_seed(name, mapping_name):
    method = create(name, mapping_name, {"initial_scale": 0}, DARTS)
    architecture = method.derive(method.mapping(6, 0), ALWAYS)
    assert set(architecture.layers) == {architecture.layers[0]}
    assert architecture.layers[0].nodes == ((("max_pool_3x3", 0), ("max_pool_3x3", 1)),) * 4
    noisy = create(name, mapping_name, {}, DARTS)
    one, same, other = (noisy.derive(noisy.mapping(6, seed), ALWAYS) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert len(set(one.layers)) == (2 if mapping_name == "shared" else 6)


@pytest.mark.parametrize("name", ["dnas", "pc-darts"])
def test_full_tables_tied_by_type_equal_shared_ones(name):
    """Equal logits, and the shared gradient is the sum over the layers of a type."""
    layers = 4
    shared_method, full_method = create(name, "shared", {}, DARTS), create(name, "full", {}, DARTS)
    shared, full = parameters(shared_method, layers, 0, 1.0), parameters(full_method, layers, 1, 1.0)
    assert isinstance(shared, Shared) and isinstance(full, Full)
    kind = [0, 1, 1, 0]  # reductions of 4 layers lie at 1 and 2
    with torch.no_grad():
        for k, t in enumerate(kind):
            full.alpha[k] = shared.alpha[t]
            full.beta[k] = shared.beta[t]
    names = shared_method.operations
    supernet = build_supernet(DARTS, names, layers=layers, channels=8, classes=3, partial=4).double()
    images = torch.randn(3, 3, 8, 8, generator=torch_stream(0, "images"), dtype=torch.float64)
    results = []
    for method, mapping in ((shared_method, shared), (full_method, full)):
        logits = supernet(images, method.mixing(mapping, ALWAYS))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]))
        results.append((logits.detach(), torch.autograd.grad(loss, [mapping.alpha, mapping.beta])))
    (logits, shared_grads), (full_logits, full_grads) = results
    assert torch.equal(logits, full_logits)
    for mine, theirs in zip(shared_grads, full_grads, strict=True):
        summed = torch.stack([sum(theirs[k] for k in range(layers) if kind[k] == t) for t in (0, 1)])
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, summed, rtol=1e-9, atol=1e-14)
    assert shared_method.derive(shared, ALWAYS) == full_method.derive(full, ALWAYS)


@pytest.mark.parametrize("name", ["dnas", "pc-darts"])
def test_every_mapping_acts(name):
    outcomes = [outcome(name, {}, mapping_name) for mapping_name in MAPPINGS]
    for one, two in combinations(outcomes, 2):
        assert one["operations"] != two["operations"]
        assert one["logits"] != two["logits"]
        assert one["derived"] != two["derived"]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"unknown --method 'dart'; did you mean 'darts'\? List all with `dnas methods`"
    ):
        create("dart", None, {}, DARTS)
    with pytest.raises(InputError, match=r"unknown --mapping 'tied'; choose from shared, full, decoupled"):
        create("dnas", "tied", {}, DARTS)


def test_a_stream_of_known_architectures_ends_where_there_are_no_others():
    """As where limits leave two: the search then ends with fewer trials, and does not draw for ever."""
    one, two = (sample(DARTS, numpy_stream(seed, "known"), 3) for seed in (0, 1))
    assert list(unseen(chain([one] * 3, [two], repeat(one)), [one])) == [two]


def test_origin_says_how_the_architecture_was_found():
    method = create("pc-darts", "full", {}, DARTS)
    origin = method.derive(method.mapping(3, 0), ALWAYS).origin
    assert origin["method"] == "pc-darts" and origin["mapping"] == "full"


def test_a_methods_name_stands_in_its_own_file_only():
    """As a text of the program. Five names are other things' names, too: the package's (and the default method), two
    spaces', a section's of the settings, an option's value.
    """
    package = Path(dnas.__file__).parent
    texts = {file: file.read_text("utf-8") for file in package.rglob("*.py")}
    for name in set(list_methods()) - {"dnas", "darts", "spos", "data", "random"}:
        own = package / "methods" / f"{name.replace('-', '_')}.py"
        assert f'name = "{name}"' in texts[own]
        assert [file for file, text in texts.items() if file != own and f'"{name}"' in text] == [], name
