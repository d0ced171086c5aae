"""Ranks of torchrun: the same batch gives the same result, however many compute it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_tools import finish, start_ranks

from dnas.errors import InputError, RunError
from dnas.runtime import distributed

TOLERANCE = 1e-9


def outcome(folder, scenario, count, *more):
    for code, _, err in finish(start_ranks(count, scenario, folder, 2, *more)):
        assert code == 0, err
    return [torch.load(folder / f"{scenario}-{count}-{rank}.pt") for rank in range(count)]


@pytest.mark.parametrize(
    ("scenario", "more"),
    [
        ("search", ("dnas", "first-order")),
        pytest.param("search", ("darts", "second-order"), marks=pytest.mark.full),
        ("search", ("darts", "single-level")),
        pytest.param("search", ("spos", ""), marks=pytest.mark.full),
        ("train", ()),
    ],
    ids=["dnas", "second-order", "single-level", "spos", "train"],
)
def test_two_ranks_and_one_process_agree(tmp_path, scenario, more):
    """In float64: weights, architecture parameters, optimisers, running statistics, metrics, answers."""
    (one,) = outcome(tmp_path, scenario, 1, *more)
    first, second = outcome(tmp_path, scenario, 2, *more)
    assert one.keys() == first.keys() == second.keys()
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float64
            torch.testing.assert_close(first[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)
        else:
            assert torch.equal(first[name], tensor), name


@given(st.integers(1, 8), st.integers(2, 200))
def test_ranks_share_a_batch(parts, images):
    """Every image lies in one part; parts differ by one image at most, and their weights add up to one."""
    for count in (n for n in range(1, parts + 1) if parts % n == 0):
        rows, weights, sizes = [], 0.0, []
        for rank in range(count):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(distributed, "count", lambda count=count: count)
                patch.setattr(distributed, "rank", lambda rank=rank: rank)
                share = distributed.share(images, parts)
            mine = list(range(images))[share.rows]
            assert [row for part in share.parts for row in mine[part]] == mine
            rows += mine
            sizes += [part.stop - part.start for part in share.parts]
            weights += sum(share.weight(part) for part in share.parts)
        assert rows == list(range(images)) and len(sizes) == parts
        assert max(sizes) - min(sizes) <= 1 and weights == pytest.approx(1)


def test_parts_that_ranks_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 3)
    with pytest.raises(InputError, match=r"search.parts=4 cannot be divided among 3 ranks"):
        distributed.check_parts(4, "search")
    distributed.check_parts(6, "search")


def test_alone_everything_is_its_own(monkeypatch):
    tensors = [torch.ones(2), None]
    assert distributed.total(tensors) == tensors and distributed.number(2.5) == 2.5 and distributed.most(3, 0) == (3, 0)
    assert distributed.from_first("x") == "x" and distributed.leads()
    distributed.require_same({"a": "1"}, "here")


def test_a_rank_that_differs_is_named(monkeypatch):
    def gather(found, mine):
        found[:] = [{"mapping.alpha": "1", "x": "2"}, {"mapping.alpha": "3", "x": "2"}]

    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    with pytest.raises(RunError, match=r"search, step 7: rank 1 differs from rank 0 in mapping\.alpha"):
        distributed.require_same({"mapping.alpha": "1", "x": "2"}, "search, step 7")


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "nan"])
def test_a_time_that_is_none_is_refused(monkeypatch, text):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "DNAS_RANK_SECONDS": text}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="DNAS_RANK_SECONDS must be"), distributed.joined("cpu"):
        raise AssertionError("joined")
