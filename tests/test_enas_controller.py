import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_enas_tools import CONVOLUTIONS, controller, forced, sampled, texts, toy

from dnas.space.darts import DARTS

# --- what the controller computes -----------------------------------------------------------------------------


def by_hand(made, kinds, tokens, constant=1.10, reduction=2.5, preference=0.25):
    """The log-probability and entropy of one text, choice by choice, with torch's own LSTM."""
    size = len(made.score)
    cell = torch.nn.LSTMCell(size, size, bias=False, dtype=torch.float64)
    i, f, o, g = made.lstm.T.chunk(4)  # torch's order is i, f, g, o
    gates = torch.cat([i, f, g, o])
    with torch.no_grad():
        cell.weight_ih.copy_(gates[:, :size])
        cell.weight_hh.copy_(gates[:, size:])
    state = (torch.zeros(1, size, dtype=torch.float64),) * 2
    texts, log, entropy = iter(tokens), 0.0, 0.0

    def choose(logits):
        nonlocal log, entropy
        p = [math.exp(v) / sum(map(math.exp, logits)) for v in logits]
        token = next(texts)
        log += math.log(p[token])
        entropy -= sum(x * math.log(x) for x in p if x > 0)
        return token

    for kind in kinds:
        states = []
        for _ in range(2):
            state = cell(made.start, state)
            states.append((torch.zeros(1, size, dtype=torch.float64), state[0]))
        for n in range(4):
            x, taken = made.start, []
            for _ in range(2):
                state = cell(x, state)
                logits = []
                for s, (_, h) in enumerate(states):
                    attention = torch.tanh(h @ made.key + state[0] @ made.query) @ made.score
                    logits.append(-math.inf if s in taken else constant * math.tanh(attention))
                assert len(logits) == n + 2
                taken.append(choose(logits))
                x = states[taken[-1]][0]
            for _ in range(2):
                state = cell(x, state)
                raw = (state[0] @ made.operation + made.bias)[0].tolist()
                logits = [constant / reduction * math.tanh(r) for r in raw]
                if not kind:
                    logits = [v + preference * (1 if o in CONVOLUTIONS else -1) for o, v in enumerate(logits)]
                x = made.embedding[choose(logits)][None]
            state = cell(x, state)
            states.append((state[0], state[0]))
    assert next(texts, None) is None
    return log, entropy


@pytest.mark.parametrize(
    ("mapping", "kinds"), [("shared", [False, True]), ("full", [False, True, True, False])], ids=["shared", "full"]
)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_probability_and_entropy_of_a_text_are_those_by_hand(mapping, kinds, scale):
    made = controller(mapping, scale=scale, hidden=12)
    written = sampled(made, 3)
    assert written.tokens.shape == (3, 16 * len(kinds))
    for tokens, log, entropy in zip(*written, strict=True):
        with torch.no_grad():
            expected = by_hand(made, kinds, tokens.tolist())
        assert (log.item(), entropy.item()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_the_probability_of_a_sample_is_that_of_its_text(mapping):
    made = controller(mapping, scale=0.7)
    written = sampled(made, 5)
    again = made(forced(written.tokens), 5)
    assert torch.equal(again.log_probability, written.log_probability)
    assert torch.equal(again.entropy, written.entropy) and not written.entropy.requires_grad
    one = made(forced(written.tokens[2:3]), 1)
    torch.testing.assert_close(one.log_probability, written.log_probability[2:3], rtol=1e-12, atol=0)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=5)
def test_the_probabilities_of_all_texts_add_up_to_one(seed):
    made = toy(seed)
    assert len(texts()) == 8
    assert made(forced(texts()), 8).log_probability.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_samples_come_by_their_probability():
    """A χ² of 7 degrees of freedom: 24.3 is its 99.9 % point."""
    made, count = toy(3), 20_000
    tokens = sampled(made, count).tokens
    observed = (tokens[:, None] == texts()).all(2).sum(0)
    expected = count * made(forced(texts()), 8).log_probability.exp().detach()
    assert observed.sum() == count and expected.min() > 50
    assert ((observed - expected) ** 2 / expected).sum() < 24.3
    uniform = torch.full((8,), count / 8)
    assert ((observed - uniform) ** 2 / uniform).sum() > 100


def test_the_inputs_of_a_node_differ_in_ten_thousand_samples_and_all_are_drawn():
    with torch.no_grad():
        tokens = sampled(controller(scale=1.0, hidden=4), 10_000).tokens.view(10_000, 2, 4, 2, 2)
    inputs, operations = tokens[:, :, :, 0], tokens[:, :, :, 1]
    assert (inputs[..., 0] != inputs[..., 1]).all()
    for n in range(4):
        for slot in range(2):
            assert inputs[:, :, n, slot].unique().tolist() == list(range(n + 2))
            assert operations[:, :, n, slot].unique().tolist() == list(range(7))


def test_a_text_is_read_as_it_was_written():
    """Input, input, operation, operation of each node; the first operation is that of the first input."""
    text = [1, 0, 2, 3, 2, 0, 4, 5, 3, 1, 6, 0, 0, 4, 1, 2]
    other = [0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 2, 2, 0, 1, 3, 3]
    ops = DARTS.primitives
    normal = (((ops[3], 0), (ops[2], 1)), ((ops[5], 0), (ops[4], 2)), ((ops[0], 1), (ops[6], 3)))
    (found,) = controller().architectures(torch.tensor([text + other]), {"method": "test"})
    assert found.layers[0].nodes == (*normal, ((ops[1], 0), (ops[2], 4))) == found.layers[3].nodes
    assert found.layers[1] == found.layers[2]
    assert found.layers[1].nodes[3] == ((ops[3], 0), (ops[3], 1))
    assert found.reductions == (1, 2) and found.origin == {"method": "test"}
    (found,) = controller("full").architectures(torch.tensor([text + other + text + other]), {})
    assert found.layers[0] == found.layers[2] != found.layers[1] == found.layers[3]
