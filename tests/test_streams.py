"""Random streams: pure functions of their arguments, independent of each other and of all global state."""

import hashlib
import random
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.rng import derived_seed, numpy_stream, torch_stream

ARGUMENTS = st.tuples(
    st.integers(0, 2**63 - 1),
    st.sampled_from(["init", "architecture", "split", "order", "augment", "drop-path"]),
    st.lists(st.integers(0, 10**6), max_size=3),
)


@given(arguments=ARGUMENTS)
@settings(deadline=None, max_examples=50)
def test_a_draw_is_a_function_of_its_arguments(arguments):
    seed, stream, counters = arguments
    number = derived_seed(seed, stream, *counters)
    assert number == derived_seed(seed, stream, *counters) and 0 <= number < 2**63
    one, two = (torch.rand(4, generator=torch_stream(seed, stream, *counters)) for _ in range(2))
    assert torch.equal(one, two)
    assert numpy_stream(seed, stream, *counters).random() == numpy_stream(seed, stream, *counters).random()


@given(one=ARGUMENTS, two=ARGUMENTS)
@settings(deadline=None, max_examples=50)
def test_other_arguments_give_other_seeds(one, two):
    assert (derived_seed(one[0], one[1], *one[2]) == derived_seed(two[0], two[1], *two[2])) == (one == two)


def test_arguments_do_not_run_together():
    """1, 23 is not 12, 3, and a counter is not part of a seed or of a name."""
    seeds = [
        derived_seed(0, "a", 1, 23), derived_seed(0, "a", 12, 3), derived_seed(0, "a", 123), derived_seed(0, "a1", 23),
        derived_seed(0, "a", 1, 23, 0), derived_seed(0, "a", 23, 1), derived_seed(1, "a", 23), derived_seed(0, "a"),
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)


def test_seeds_are_63_bits_of_sha256_so_that_runs_of_old_stay_what_they_were():
    for arguments, text in (((0, "init"), b"0:init"), ((7, "augment", 12, 1), b"7:augment:12:1")):
        assert derived_seed(*arguments) == int(hashlib.sha256(text).hexdigest()[:16], 16) // 2


def test_no_global_state_is_read_or_changed():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = torch.rand(3, generator=torch_stream(0, "init"))
    numpy_stream(0, "init").random(3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()
    torch.manual_seed(99)
    assert torch.equal(first, torch.rand(3, generator=torch_stream(0, "init")))


@pytest.mark.parametrize("kind", ["stream", "step", "seed"])
def test_neighbouring_streams_are_uncorrelated(kind):
    """Of 8 streams of 4096 numbers each pair's correlation is within 5 of its standard deviations (1/64)."""
    names = ["init", "architecture", "split", "order", "augment", "drop-path", "skip-dropout", "sample"]
    for draw in (
        lambda *a: torch.randn(4096, generator=torch_stream(*a)).double().numpy(),
        lambda *a: numpy_stream(*a).standard_normal(4096),
    ):
        rows = [
            draw(i if kind == "seed" else 0, names[i] if kind == "stream" else "order", i if kind == "step" else 0)
            for i in range(8)
        ]
        assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in combinations(rows, 2)) < 5 / 64
        assert all(abs(row.mean()) < 5 / 64 and abs(row.std() - 1) < 0.06 for row in rows)


def test_another_process_draws_the_same():
    code = (
        "import torch\nfrom dnas.rng import *\n"
        "print(derived_seed(5, 'order', 3), torch.rand(3, generator=torch_stream(5, 'order', 3)).tolist(),"
        " numpy_stream(5, 'order', 3).random(3).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    mine = (
        derived_seed(5, "order", 3),
        torch.rand(3, generator=torch_stream(5, "order", 3)).tolist(),
        numpy_stream(5, "order", 3).random(3).tolist(),
    )
    assert out.stdout.strip() == " ".join(map(str, mine))


def test_numpy_streams_need_no_torch():
    code = "import sys\nfrom dnas.rng import numpy_stream\nnumpy_stream(0, 'sample')\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
