import pytest
import torch
from reference import PlainSupernet, copy_weights, weight_pairs

from dnas.errors import InputError
from dnas.mapping import MAPPINGS
from dnas.relaxation import MixingWeights, edge_softmax, expand, sigmoid, softmax
from dnas.space import DARTS
from dnas.streams import numpy_stream, torch_stream
from dnas.supernet import SkipDropout, build_supernet

WITH_NONE = ("none", *DARTS.primitives)


def images(count=4, size=8, inputs=3):
    return torch.randn(count, inputs, size, size, generator=torch_stream(1, "test"), dtype=torch.float64)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("partial", [1, 2, 4])
@pytest.mark.parametrize("names", [DARTS.primitives, WITH_NONE], ids=["7", "with_none"])
def test_equals_the_plain_per_edge_network_in_output_and_all_gradients(mapping, partial, names):
    layers = 4  # a normal layer, a reduction, a reduction after a reduction, a layer after it
    supernet = build_supernet(DARTS, names, layers=layers, channels=8, classes=5, partial=partial).double()
    plain = PlainSupernet(names, layers, 8, 5, partial=partial).double()
    copy_weights(supernet, plain)
    parameters = MAPPINGS[mapping](layers, 14, len(names), scale=1.0).double()
    relax = softmax if names is WITH_NONE else sigmoid
    x, y = images(), torch.tensor([0, 1, 2, 3])

    def gradients(network):
        mixing = expand(relax(parameters.terms()), edge_softmax(parameters.edge_logits(), DARTS), layers)
        if isinstance(network, PlainSupernet):
            logits = network(x, mixing.operations, mixing.edges, mixing.bypass)
        else:
            logits = network(x, mixing)
        loss = torch.nn.functional.cross_entropy(logits, y)
        architecture = list(parameters.parameters())
        weights = list(network.parameters())
        grads = torch.autograd.grad(loss, architecture + weights)
        return logits, grads[: len(architecture)], dict(zip(weights, grads[len(architecture) :], strict=True))

    logits, arch_grads, weight_grads = gradients(supernet)
    plain_logits, plain_arch_grads, plain_weight_grads = gradients(plain)
    assert relative(logits, plain_logits) < 1e-9
    for a, b in zip(arch_grads, plain_arch_grads, strict=True):
        assert b.abs().max() > 0
        assert relative(a, b) < 1e-9
    pairs = weight_pairs(supernet, plain)
    # Convolutions into a batch norm have gradients orthogonal to their weights but not zero: all are compared.
    assert sum(b.numel() for _, _, b in pairs) == sum(p.numel() for p in supernet.parameters())
    scale = max(g.abs().max() for g in plain_weight_grads.values())
    for fast, where, slow in pairs:
        assert (weight_grads[fast][where] - plain_weight_grads[slow]).abs().max() < 1e-9 * scale


def test_one_hot_weights_make_it_the_single_operation():
    """With weight 1 on one operation per edge and 0 elsewhere, changing another operation's weights does nothing."""
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=2).double()
    operations = torch.zeros(3, 14, 7, dtype=torch.float64)
    operations[:, :, 3] = 1
    mixing = expand(operations, None, 3)
    before = supernet(images(), mixing)
    with torch.no_grad():
        for cell in supernet.cells:
            for block in cell.sources:
                block.apart["dil_conv_5x5"][1].weight.add_(1.0)
    assert torch.equal(before, supernet(images(), mixing))
    with torch.no_grad():
        supernet.cells[0].sources[0].apart["sep_conv_3x3"][1].weight.add_(1.0)
    assert not torch.equal(before, supernet(images(), mixing))


def test_bypass_weight_of_its_own():
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    plain = PlainSupernet(DARTS.primitives, 3, 8, 3, partial=4).double()
    copy_weights(supernet, plain)
    operations, edges = torch.rand(3, 14, 7).double(), torch.rand(3, 14).double()
    mixing = MixingWeights(operations, edges, torch.ones(3, 14).double())
    assert relative(supernet(images(), mixing), plain(images(), operations, edges, mixing.bypass)) < 1e-9
    assert relative(supernet(images(), mixing), plain(images(), operations, edges, edges)) > 1e-3


def test_skip_dropout_is_off_at_zero_and_keeps_the_mean():
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    mixing = expand(torch.full((3, 14, 7), 0.2).double(), None, 3)
    off = supernet(images(), mixing)
    zero = supernet(images(), mixing, SkipDropout(0.0, numpy_stream(0, "skip-dropout", 0)))
    assert relative(zero, off) < 1e-12
    first = supernet(images(), mixing, SkipDropout(0.5, numpy_stream(0, "skip-dropout", 1)))
    again = supernet(images(), mixing, SkipDropout(0.5, numpy_stream(0, "skip-dropout", 1)))
    other = supernet(images(), mixing, SkipDropout(0.5, numpy_stream(0, "skip-dropout", 2)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mask = SkipDropout(0.2, numpy_stream(0, "skip-dropout", 3)).factors(torch.zeros(64, 16, 16, 4), 4)
    assert set(mask.unique().tolist()) == {0.0, 1.25}
    assert abs(mask.mean() - 1) < 0.01


def test_skip_dropout_touches_identities_only():
    """With no weight on the skip, dropping it changes nothing; a reduction's strided skip is not an identity."""
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    operations = torch.rand(3, 14, 7).double()
    operations[:, :, 2] = 0
    mixing = expand(operations, None, 3)
    dropped = supernet(images(), mixing, SkipDropout(0.5, numpy_stream(0, "skip-dropout", 1)))
    assert relative(dropped, supernet(images(), mixing)) < 1e-12


@pytest.mark.parametrize("size", [7, 9, 14])
def test_odd_sizes_work(size):
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    assert supernet(images(size=size), expand(torch.rand(3, 14, 7).double(), None, 3)).shape == (4, 3)


@pytest.mark.parametrize(("channels", "partial"), [(6, 4), (4, 4), (8, 3), (0, 1), (3, 1), (8, 0)])
def test_widths_that_do_not_fit_are_refused(channels, partial):
    with pytest.raises(InputError, match="channels"):
        build_supernet(DARTS, DARTS.primitives, layers=3, channels=channels, classes=3, partial=partial)


def test_too_few_layers_are_refused():
    with pytest.raises(InputError, match="layers is 2"):
        build_supernet(DARTS, DARTS.primitives, layers=2, channels=8, classes=3)


def test_weights_come_from_the_seed_and_leave_the_global_state_alone():
    state = torch.get_rng_state()
    one, same, other = (
        build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, seed=s).state_dict() for s in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
