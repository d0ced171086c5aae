"""The three mappings: shapes, which layer reads which table, the initial law, and refusals."""

import pytest
import torch

from dnas.errors import InputError
from dnas.supernet.mapping import MAPPINGS, Decoupled, Full, Shared, mapping_class

LAYERS, KIND = 8, [0, 0, 1, 0, 0, 1, 0, 0]  # reductions of 8 layers lie at 2 and 5


def expanded(mapping):
    """The log-domain sum of the terms, [L, E, O]."""
    return sum(mapping.terms()).expand(mapping.layers, 14, 7).detach()


@pytest.mark.parametrize("name", MAPPINGS)
def test_terms_broadcast_to_layers_edges_operations(name):
    mapping = MAPPINGS[name](LAYERS, 14, 7)
    assert torch.broadcast_shapes(*(t.shape for t in mapping.terms()), (LAYERS, 14, 7)) == (LAYERS, 14, 7)
    assert len(mapping.terms()) == (2 if name == "decoupled" else 1)
    assert mapping.edge_logits().shape == (LAYERS, 14)
    assert mapping.kind.tolist() == KIND


@pytest.mark.parametrize(("name", "count"), [("shared", 2 * 98 + 28), ("full", 8 * 112), ("decoupled", 112 + 56 + 98)])
def test_counts(name, count):
    mapping = MAPPINGS[name](LAYERS, 14, 7)
    assert mapping.count() == count == sum(p.numel() for p in mapping.parameters())
    edges = 28 if name == "shared" else 112
    assert MAPPINGS[name](LAYERS, 14, 7, with_edges=False).count() == count - edges


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in MAPPINGS), ("decoupled", {"alpha_groups": 2})])
def test_a_mean_over_what_is_open_counts_each_parameter_that_an_edge_of_its_layers_has(name, more):
    """Against loops over layers, edges and operations; of the other parameters it has no gradient."""
    generator = torch.Generator().manual_seed(0)
    allowed = torch.rand(2, 14, 7, generator=generator) < 0.3
    allowed[:, :, 6] = False
    mapping = MAPPINGS[name](LAYERS, 14, 7, scale=1.0, allowed=allowed, **more)
    tables = mapping.operation_tables()
    used = {key: torch.zeros(table.shape, dtype=torch.bool) for key, table in tables.items()}
    for k, kind in enumerate(KIND):
        row = {2: kind, 1: 0, LAYERS: k}[len(mapping.alpha)]
        for edge in range(14):
            for operation in range(7):
                if allowed[kind, edge, operation]:
                    used["alpha"][row, edge, operation] = True
                    if "gamma" in tables:
                        used["gamma"][k, operation] = True
    mean = mapping.open_mean(**tables)
    values = torch.cat([tables[key][mask] for key, mask in used.items()])
    assert mean.item() == pytest.approx(values.mean().item(), rel=1e-5)
    for (key, mask), grad in zip(used.items(), torch.autograd.grad(mean, list(tables.values())), strict=True):
        assert torch.allclose(grad, mask / len(values)), key
    psi = torch.rand(LAYERS, 14, 7, generator=generator)
    assert mapping.open_mean(psi=psi).item() == pytest.approx(psi[allowed[KIND]].mean().item(), rel=1e-5)
    whole = MAPPINGS[name](LAYERS, 14, 7, scale=1.0, **more)
    assert whole.open_mean(alpha=whole.alpha).item() == pytest.approx(whole.alpha.mean().item())


def test_shared_layers_read_the_table_of_their_type():
    mapping = Shared(LAYERS, 14, 7, scale=1.0)
    (alpha,) = mapping.terms()
    for k, kind in enumerate(KIND):
        assert torch.equal(alpha[k], mapping.alpha[kind])
        assert torch.equal(mapping.edge_logits()[k], mapping.beta[kind])
    assert not torch.equal(mapping.alpha[0], mapping.alpha[1])


def test_full_layers_have_tables_of_their_own():
    mapping = Full(LAYERS, 14, 7, scale=1.0)
    assert torch.equal(mapping.terms()[0], mapping.alpha) and mapping.alpha.shape == (8, 14, 7)
    assert len({tuple(table.flatten().tolist()) for table in mapping.alpha}) == 8


@pytest.mark.parametrize("groups", [1, 2])
def test_decoupled_layers_add_what_edges_and_layers_say_of_an_operation(groups):
    mapping = Decoupled(LAYERS, 14, 7, scale=1.0, alpha_groups=groups)
    total = expanded(mapping)
    for k in range(LAYERS):
        for e in (0, 5, 13):
            for o in (0, 6):
                alpha = mapping.alpha[KIND[k] if groups == 2 else 0, e, o]
                torch.testing.assert_close(total[k, e, o], (alpha + mapping.gamma[k, o]).detach())
    assert mapping.count() == groups * 98 + 112 + 56


@pytest.mark.parametrize("name", MAPPINGS)
def test_gradients_reach_every_parameter(name):
    mapping = MAPPINGS[name](LAYERS, 14, 7)
    (expanded_terms := sum(mapping.terms())).expand(LAYERS, 14, 7).sum().backward()
    mapping.edge_logits().sum().backward()
    assert expanded_terms.requires_grad
    for p in mapping.parameters():
        assert (p.grad > 0).all()


@pytest.mark.parametrize("name", MAPPINGS)
def test_without_edges_there_is_no_beta(name):
    mapping = MAPPINGS[name](LAYERS, 14, 7, with_edges=False)
    assert mapping.edge_logits() is None and "beta" not in dict(mapping.named_parameters())


@pytest.mark.parametrize("name", MAPPINGS)
def test_initial_parameters_are_normal_and_a_function_of_the_seed(name):
    state = torch.get_rng_state()
    one, again, other = (MAPPINGS[name](100, 14, 7, scale=0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    values = torch.cat([p.detach().flatten() for p in one.parameters()])
    assert len(values.unique()) > 0.99 * len(values)  # no two tables are the same draw
    n = len(values)
    assert abs(values.mean()) < 5 * 0.5 / n**0.5
    assert abs(values.std() / 0.5 - 1) < 5 / (2 * n) ** 0.5
    for a, b, c in zip(one.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert all((p == 0).all() for p in MAPPINGS[name](8, 14, 7, scale=0.0).parameters())
    default = torch.cat([p.detach().flatten() for p in MAPPINGS[name](100, 14, 7).parameters()])
    torch.testing.assert_close(default * 500, values)  # the default scale is 1e-3


@pytest.mark.parametrize("name", MAPPINGS)
def test_parameters_are_all_that_a_state_holds(name):
    mapping, twin = (MAPPINGS[name](LAYERS, 14, 7, seed=seed) for seed in (0, 1))
    state = mapping.state_dict()
    assert set(state) == {key for key, _ in mapping.named_parameters()}
    twin.load_state_dict(state)
    assert torch.equal(expanded(twin), expanded(mapping))


def test_what_does_not_exist_is_refused():
    assert [mapping_class(name) for name in ("shared", "full", "decoupled")] == [Shared, Full, Decoupled]
    with pytest.raises(InputError, match=r"unknown --mapping 'block'; choose from shared, full, decoupled"):
        mapping_class("block")
    for mapping in MAPPINGS.values():
        with pytest.raises(InputError, match="layers must be at least 3, got 2"):
            mapping(2, 14, 7)
