"""Checkpoints that are atomic, checked and bit-exact, in plain safetensors and JSON.

A checkpoint is two files, `<sequence>.safetensors` and a manifest `<sequence>.json` that is written last and
holds the size and SHA-256 of the first, the JSON state, and a checksum of itself. A checkpoint without a
valid manifest does not exist, so a write that stops anywhere leaves the previous checkpoint the newest.

A run folder is looked at without torch, which is imported where tensors are read or written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dnas.disk import fsync_folder, remove_temporaries, write_atomically, writing
from dnas.errors import InputError, RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


FORMAT = "dnas-checkpoint/1"
MANIFEST_LIMIT = 64 * 2**20  # bytes
FILE_NAME = re.compile(r"([0-9]{8,})\.(json|safetensors)")


@dataclass(frozen=True)
class Checkpoint:
    """What `save` was given: tensors on the CPU, by name in any order, and the JSON state in its order."""

    sequence: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors called NAME.SOMETHING, as SOMETHING: one module's state among others."""
        prefix = f"{name}."
        return {key[len(prefix) :]: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


def restore_module(checkpoint: Checkpoint, name: str, module: nn.Module) -> None:
    """Gives a module the tensors of the part `name`. Raises RunError when they are not those of such a module."""
    try:
        module.load_state_dict(checkpoint.part(name))
    except RuntimeError as error:
        # torch lists each difference in a line of its own.
        first = next(iter(str(error).splitlines()[1:]), str(error)).strip()
        raise RunError(
            f"the checkpoint's {name} is of another network ({first}); resume with the options the run was started with"
        ) from error


class _DamagedError(Exception):
    """Says what is wrong with one checkpoint; never leaves this module."""


def save(folder: Path, sequence: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> None:
    """Writes checkpoint `sequence`, then deletes all but the `keep` newest whole ones.

    `tensors` may be of any shape, stride, device and safetensors dtype and may share storage; their bits are
    kept, their strides are not. `state` is plain JSON: finite numbers, string keys, lists for tuples. The
    parent of `folder` must exist. Raises RunError when the system refuses; the older checkpoints are then
    intact.
    """
    from safetensors.torch import save as to_bytes

    assert keep >= 1 and sequence >= next_sequence(folder)
    assert json.loads(_canonical(state)) == state, "the state must be plain JSON"

    # A clone of each: safetensors refuses tensors that share storage or are not contiguous.
    data = to_bytes({name: _plain_copy(tensor) for name, tensor in tensors.items()})
    file, manifest_file = _file(folder, sequence, "safetensors"), _file(folder, sequence, "json")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "sequence": sequence,
        "file": file.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "state": state,
    }
    manifest["checksum"] = hashlib.sha256(_canonical(manifest)).hexdigest()
    # Not the sorted form: a resumed run must see the keys of the state in the order they had.
    text = json.dumps(manifest, allow_nan=False).encode()
    assert len(text) <= MANIFEST_LIMIT

    with writing(folder):
        if not folder.exists():
            folder.mkdir()
            fsync_folder(folder.parent)
    write_atomically(file, data)
    try:
        write_atomically(manifest_file, text)
    except BaseException:
        # On a full disk its space is what the next attempt needs. A manifest that did arrive keeps its file.
        with contextlib.suppress(OSError):
            if not manifest_file.exists():
                file.unlink()
        raise
    # The checkpoint is complete; what cannot be deleted now is deleted after a later one.
    with contextlib.suppress(OSError, RunError):
        _prune(folder, keep)


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 (hex) of each tensor's numbers."""
    return {name: hashlib.sha256(_plain_copy(t).numpy().tobytes()).hexdigest() for name, t in tensors.items()}


def _plain_copy(tensor: Tensor) -> Tensor:
    import torch

    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _prune(folder: Path, keep: int) -> None:
    kept: set[int] = set()
    whole = 0
    # Only a checkpoint that reads back counts, so a damaged one never pushes out the last good one.
    for number in sorted(_numbers(folder, "json"), reverse=True):
        if whole == keep:
            break
        kept.add(number)
        with contextlib.suppress(_DamagedError, InputError):
            _read(folder, number)
            whole += 1

    # Sorted, a manifest comes before its tensors, so that none outlives them.
    for path in sorted(folder.iterdir()):
        match = FILE_NAME.fullmatch(path.name)
        if match and int(match[1]) not in kept:
            path.unlink()
    remove_temporaries(folder)


# --- reading ---------------------------------------------------------------------------------------


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and one sentence for each damaged newer one that was passed over.

    (None, …) when there is none. Raises InputError for a whole checkpoint of another format version and
    RunError when the folder itself cannot be read.
    """
    passed_over: list[str] = []
    for number in sorted(_numbers(folder, "json"), reverse=True):
        try:
            return _load(folder, number), passed_over
        except _DamagedError as damage:
            passed_over.append(f"checkpoint {_file(folder, number, 'json')} is passed over: {damage}")
    return None, passed_over


def next_sequence(folder: Path) -> int:
    """One more than the newest checkpoint's number, whole or not; 1 in an empty or missing folder."""
    return max(_numbers(folder, "json") + _numbers(folder, "safetensors"), default=0) + 1


def _file(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"{number:08d}.{suffix}"


def _numbers(folder: Path, suffix: str) -> list[int]:
    try:
        matches = [FILE_NAME.fullmatch(path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"cannot read the checkpoints in {folder} ({error.strerror or error}); make the folder readable and resume"
        ) from error
    return [int(match[1]) for match in matches if match and match[2] == suffix]


def _load(folder: Path, number: int) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    manifest, data = _read(folder, number)
    try:
        tensors = from_bytes(data)
    except (SafetensorError, AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise _DamagedError(f"{manifest['file']} is not a safetensors file ({error})") from error
    return Checkpoint(number, tensors, manifest["state"])


def _read(folder: Path, number: int) -> tuple[dict[str, Any], bytes]:
    """The manifest and the tensors' bytes, unparsed, once both match their checksums."""
    file, manifest_file = _file(folder, number, "safetensors"), _file(folder, number, "json")
    try:
        manifest = _parse_manifest(_read_bounded(manifest_file, MANIFEST_LIMIT))
        _check_manifest(manifest, number, manifest_file)
        size = file.stat().st_size
        if size != manifest["bytes"]:
            raise _DamagedError(f"{file.name} has {size} bytes instead of {manifest['bytes']}")
        data = _read_bounded(file, size)
    except OSError as error:
        raise _DamagedError(f"{Path(error.filename or file).name} cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise _DamagedError(f"{file.name} does not match its SHA-256")
    return manifest, data


def _read_bounded(path: Path, limit: int) -> bytes:
    # A pipe or a device has size 0 but need not end.
    if not path.is_file() and path.exists():
        raise _DamagedError(f"{path.name} is not a regular file")
    size = path.stat().st_size
    if size > limit:
        raise _DamagedError(f"{path.name} has {size} bytes, more than the limit of {limit}")
    with path.open("rb") as file:
        return file.read(size)


def _parse_manifest(text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(manifest, dict):
            raise ValueError("not an object")
        checksum = manifest.pop("checksum", None)
        actual = hashlib.sha256(_canonical(manifest)).hexdigest()
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"its manifest is not valid JSON ({error})") from error
    if checksum != actual:
        raise _DamagedError("its manifest does not match its checksum")
    return manifest


def _check_manifest(manifest: dict[str, Any], number: int, path: Path) -> None:
    # Going on from an older checkpoint would throw away work that is whole, so this is refused.
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {manifest.get('format')!r} and this dnas reads {FORMAT!r}; "
            "resume with the version of dnas that wrote it"
        )
    expected = {"sequence": number, "file": f"{number:08d}.safetensors"}
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise _DamagedError(f"its manifest says {key} {manifest.get(key)!r} instead of {value!r}")
    if not isinstance(manifest.get("state"), dict) or not {"bytes", "sha256"} <= manifest.keys():
        raise _DamagedError("its manifest lacks state, bytes or sha256")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# --- optimisers ------------------------------------------------------------------------------------


def pack_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's memory as tensors named `<prefix>.<parameter>.<name>` and JSON for all other entries.

    Parameters are counted from 0 over all groups. Hyperparameters (learning rate, …) are not part of it:
    they are functions of the step. The tensors are the optimiser's own, not copies.
    """
    import torch

    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in packed["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix}.{index}.{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value
    state = {"kind": type(optimizer).__name__, "parameters": len(_parameters(optimizer)), "values": values}
    return tensors, state


def unpack_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Gives a new optimiser the memory that `pack_optimizer` took, bit by bit, on its parameters' devices.

    `tensors` may hold others' too; only those under `prefix` are used, and they are copied. Raises RunError
    when they are of another kind of optimiser, number of parameters or shape.
    """
    parameters = _parameters(optimizer)
    have, saved = (type(optimizer).__name__, len(parameters)), (state["kind"], state["parameters"])
    if have != saved:
        raise RunError(
            f"the checkpoint's {prefix} is {saved[0]} with {saved[1]} parameters, this run's is {have[0]} "
            f"with {have[1]}; resume with the options the run was started with"
        )
    entries: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in state["values"].items()}
    own_key = re.compile(re.escape(prefix) + r"\.([0-9]+)\.(\w+)")
    for key, tensor in tensors.items():
        if match := own_key.fullmatch(key):
            index, name = int(match[1]), match[2]
            entries.setdefault(index, {})[name] = _shaped_like(parameters[index], tensor, key, name)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _shaped_like(parameter: Tensor, tensor: Tensor, key: str, name: str) -> Tensor:
    import torch

    shape = torch.Size([]) if name == "step" else parameter.shape
    if tensor.shape != shape:
        raise RunError(
            f"the checkpoint's {key} has shape {list(tensor.shape)}, this run needs {list(shape)}; "
            "resume with the options the run was started with"
        )
    if name == "step":
        return tensor.clone()
    # With the parameter's strides, as the optimiser made it: other strides may take a kernel that rounds
    # differently. On the CPU, since load_state_dict knows which entries go to the parameter's device.
    return torch.empty_like(parameter, dtype=tensor.dtype, device="cpu").copy_(tensor)
