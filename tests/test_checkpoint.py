"""Checkpoints: round trips are bit-exact. Kills, faults and damage: tests/faults, F02, F04 to F07."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_tools import assert_holds, assert_same_bits, flip, names, save_number
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnas.disk import write_atomically
from dnas.errors import InputError, RunError
from dnas.runtime.checkpoint import newest, next_sequence, pack_optimizer, save, unpack_optimizer

# --- round trips -----------------------------------------------------------------------------------


def test_every_kind_of_tensor_comes_back_bit_by_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "transposed": base.t(),
        "every second column": base[:, ::2],
        "shares storage": base,
        "shares storage too": base[1:3],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "0-dim": torch.tensor(3.25),
        "empty": torch.empty(0, 3),
        "bfloat16": torch.randn(5).bfloat16(),
        "float16": torch.randn(5).half(),
        "float64": torch.randn(5, dtype=torch.float64),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    save(tmp_path / "c", 1, tensors, {})
    loaded, warnings = newest(tmp_path / "c")
    assert loaded is not None and not warnings and loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(loaded.tensors[name], tensor)
        loaded.tensors[name].zero_()  # writable, and no longer sharing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(state=st.dictionaries(st.text(), json_values, max_size=4))
def test_state_comes_back_exactly(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("state")
    save(folder, 1, {}, state)
    loaded, warnings = newest(folder)
    # The text form tells 1 from 1.0 and -0.0 from 0.0, and shows the order of keys.
    assert loaded is not None and not warnings and json.dumps(loaded.state) == json.dumps(state)


@pytest.mark.parametrize("state", [{"a": float("nan")}, {"a": (1, 2)}, {1: "a"}])
def test_state_that_would_not_come_back_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        save(tmp_path / "c", 1, {}, state)
    assert newest(tmp_path / "c") == (None, [])


def test_the_two_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    leftovers = [".00000009.json.0123456789abcdef.tmp", "00000000.safetensors"]
    for name in [*leftovers, "notes.txt"]:
        (folder / name).write_text("x")
    for number in (1, 2, 3, 7):
        save_number(folder, number)
    expected = ["00000003.json", "00000003.safetensors", "00000007.json", "00000007.safetensors", "notes.txt"]
    assert names(folder) == expected
    assert_holds(newest(folder)[0], 7)
    with pytest.raises(AssertionError):
        save_number(folder, 7)


def test_a_damaged_checkpoint_does_not_push_out_the_last_good_one(tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    flip(tmp_path / "00000002.safetensors", 100, 1)
    save_number(tmp_path, 3)
    (tmp_path / "00000003.json").write_bytes(b"")
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert len(warnings) == 2
    assert "00000003.json" in warnings[0] and "00000002.json" in warnings[1]


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") == (None, [])
    assert newest(tmp_path) == (None, [])
    assert next_sequence(tmp_path / "missing") == 1


def test_tensors_without_a_manifest_are_no_checkpoint_but_their_number_is_taken(tmp_path: Path) -> None:
    save_number(tmp_path, 4)
    (tmp_path / "00000009.safetensors").write_bytes((tmp_path / "00000004.safetensors").read_bytes())
    assert_holds(newest(tmp_path)[0], 4)
    assert next_sequence(tmp_path) == 10


@pytest.mark.skipif(os.name == "nt", reason="file modes")
def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_another_format_version_is_refused_not_passed_over(tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    path = tmp_path / "00000002.json"
    body = json.loads(path.read_bytes())
    del body["checksum"]
    body["format"] = "dnas-checkpoint/2"
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**body, "checksum": hashlib.sha256(text).hexdigest()}))
    with pytest.raises(InputError, match="dnas-checkpoint/2"):
        newest(tmp_path)


# --- optimisers ------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=3e-4),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, betas=(0.5, 0.999), weight_decay=1e-3),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, amsgrad=True),
}


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    network.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.5)))
    network.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))  # never gets a gradient
    network[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        (network(x) * network.scale).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("stop", [0, 3])
def test_going_on_is_bit_equal_to_not_having_stopped(kind: str, stop: int, tmp_path: Path) -> None:
    straight = small_network()
    train(straight, OPTIMIZERS[kind](straight.parameters()), range(6))

    stopped = small_network()
    optimizer = OPTIMIZERS[kind](stopped.parameters())
    train(stopped, optimizer, range(stop))
    tensors, state = pack_optimizer("weights", optimizer)
    weights = {f"network.{name}": value for name, value in stopped.state_dict().items()}
    save(tmp_path, 1, {**weights, **tensors, "weights.other": torch.ones(1)}, {"weights": state})

    loaded, _ = newest(tmp_path)
    assert loaded is not None
    resumed = small_network()
    resumed.load_state_dict({name: loaded.tensors[f"network.{name}"] for name in resumed.state_dict()})
    optimizer = OPTIMIZERS[kind](resumed.parameters())
    unpack_optimizer("weights", optimizer, loaded.tensors, loaded.state["weights"])
    for parameter, entries in optimizer.state.items():
        for name, entry in entries.items():
            assert name == "step" or entry.stride() == parameter.stride()
    del loaded
    gc.collect()
    train(resumed, optimizer, range(stop, 6))
    for expected, actual in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert_same_bits(actual, expected)


def test_hyperparameters_stay_those_of_the_new_optimizer() -> None:
    network = small_network()
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    train(network, optimizer, range(2))
    packed = pack_optimizer("w", optimizer)
    fresh = torch.optim.SGD(network.parameters(), lr=0.7, momentum=0.3)
    unpack_optimizer("w", fresh, *packed)
    assert fresh.param_groups[0]["lr"] == 0.7 and fresh.param_groups[0]["momentum"] == 0.3


def test_an_optimizer_of_another_kind_number_or_shape_is_refused() -> None:
    def packed(make: str, *shapes: int) -> tuple[torch.optim.Optimizer, dict[str, Tensor], dict[str, Any]]:
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        optimizer = OPTIMIZERS[make](parameters)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer, *pack_optimizer("w", optimizer)

    _, tensors, state = packed("adam", 3, 4)
    for make, shapes in [("sgd", (3, 4)), ("adam", (3,)), ("adam", (3, 5))]:
        with pytest.raises(RunError, match="resume with the options") as caught:
            unpack_optimizer("w", packed(make, *shapes)[0], tensors, state)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"w\.1\.step"):
        unpack_optimizer("w", packed("adam", 3, 4)[0], {**tensors, "w.1.step": torch.zeros(4)}, state)
