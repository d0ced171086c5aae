"""Atomic, verified and bit-exact checkpoints in plain safetensors and JSON.

A checkpoint consists of two files, `<sequence>.safetensors` and a manifest `<sequence>.json`, which is written last and
contains the size and SHA-256 of the first, the JSON state, and a checksum of itself. Without a valid manifest a
checkpoint does not count, so that if a write stops at any point, the previous checkpoint is still the newest.

Run folders are examined without torch, which is only imported to read or write tensors.
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
    """The arguments of `save`: tensors on the CPU, by name in any order, and the JSON state in its order."""

    sequence: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors named NAME.SOMETHING as SOMETHING: the state of one module among others."""
        prefix = f"{name}."
        return {key[len(prefix) :]: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


def restore_module(checkpoint: Checkpoint, name: str, module: nn.Module) -> None:
    """Load the tensors of the part `name` into a module. Raises RunError if they do not fit the module."""
    try:
        module.load_state_dict(checkpoint.part(name))
    except RuntimeError as error:
        # torch lists each difference on a separate line.
        first = next(iter(str(error).splitlines()[1:]), str(error)).strip()
        raise RunError(
            f"{name} in the checkpoint is of another network ({first}); resume with the options of the original run"
        ) from error


class _DamagedError(Exception):
    """Describes the damage of one checkpoint; never leaves this module."""


def save(folder: Path, sequence: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> None:
    """Write checkpoint `sequence`, then delete all except the `keep` newest complete ones.

    `tensors` may have any shape, stride, device and safetensors dtype and may share storage; their bits are
    kept, their strides are not. `state` is plain JSON: finite numbers, string keys, lists for tuples. The
    parent of `folder` must exist. Raises RunError on a system error; older checkpoints are then intact.
    """
    from safetensors.torch import save as to_bytes

    assert keep >= 1 and sequence >= next_sequence(folder)
    assert json.loads(_canonical(state)) == state, "the state must be plain JSON"

    # Clone each, since safetensors rejects tensors that share storage or are not contiguous.
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
    # Not the sorted form: a resumed run needs the keys of the state in their original order.
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
        # On a full disk the next attempt needs this space. If the manifest was written, its file is kept.
        with contextlib.suppress(OSError):
            if not manifest_file.exists():
                file.unlink()
        raise
    # The checkpoint is complete; files that cannot be deleted now are deleted after a later one.
    with contextlib.suppress(OSError, RunError):
        _prune(folder, keep)


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the SHA-256 (hex) of the values of each tensor."""
    return {name: hashlib.sha256(_plain_copy(t).numpy().tobytes()).hexdigest() for name, t in tensors.items()}


def _plain_copy(tensor: Tensor) -> Tensor:
    import torch

    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _prune(folder: Path, keep: int) -> None:
    kept: set[int] = set()
    whole = 0
    # Only readable checkpoints count, so that a damaged one never displaces the last good one.
    for number in sorted(_numbers(folder, "json"), reverse=True):
        if whole == keep:
            break
        kept.add(number)
        with contextlib.suppress(_DamagedError, InputError):
            _read(folder, number)
            whole += 1

    # In sorted order a manifest is deleted before its tensors, so that it never remains without them.
    for path in sorted(folder.iterdir()):
        match = FILE_NAME.fullmatch(path.name)
        if match and int(match[1]) not in kept:
            path.unlink()
    remove_temporaries(folder)


# --- reading ---------------------------------------------------------------------------------------


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest intact checkpoint, and one sentence for each newer one that is damaged and was skipped.

    (None, …) if there is none. Raises InputError for an intact checkpoint of another format version and
    RunError if the folder itself cannot be read.
    """
    passed_over: list[str] = []
    for number in sorted(_numbers(folder, "json"), reverse=True):
        try:
            return _load(folder, number), passed_over
        except _DamagedError as damage:
            passed_over.append(f"checkpoint {_file(folder, number, 'json')} skipped: {damage}")
    return None, passed_over


def next_sequence(folder: Path) -> int:
    """Return one more than the number of the newest checkpoint, intact or not; 1 in an empty or missing folder."""
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
    """Return the manifest and the unparsed bytes of the tensors if both match their checksums."""
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
    # A pipe or device has size 0, but may be endless.
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
    # Not skipped, because resuming from an older checkpoint would discard intact work.
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{str(path)!r} has format {manifest.get('format')!r}, but this version of dnas reads {FORMAT!r}; "
            "resume with the version of dnas that wrote it"
        )
    expected = {"sequence": number, "file": f"{number:08d}.safetensors"}
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise _DamagedError(f"its manifest has {key} {manifest.get(key)!r} instead of {value!r}")
    if not isinstance(manifest.get("state"), dict) or not {"bytes", "sha256"} <= manifest.keys():
        raise _DamagedError("its manifest lacks state, bytes or sha256")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# --- optimizers ------------------------------------------------------------------------------------


def pack_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer as tensors named `<prefix>.<parameter>.<name>` and JSON for all other entries.

    Parameters are counted from 0 over all groups. Hyperparameters (learning rate, …) are not included, because
    they are functions of the step. The tensors belong to the optimizer and are not copies.
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
    """Restore the state from `pack_optimizer` in a new optimizer, bit for bit, on the devices of its parameters.

    `tensors` may contain others as well; only those under `prefix` are used, and they are copied. Raises RunError
    if the kind of optimizer, the number of parameters or a shape differs.
    """
    parameters = _parameters(optimizer)
    have, saved = (type(optimizer).__name__, len(parameters)), (state["kind"], state["parameters"])
    if have != saved:
        raise RunError(
            f"{prefix} in the checkpoint is {saved[0]} with {saved[1]} parameters, but {have[0]} with {have[1]} in "
            "this run; resume with the options of the original run"
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
            f"{key} in the checkpoint has shape {list(tensor.shape)}, but {list(shape)} in this run; "
            "resume with the options of the original run"
        )
    if name == "step":
        return tensor.clone()
    # With the strides of the parameter, as the optimizer created it: other strides may use a kernel that
    # rounds differently. On the CPU, since load_state_dict moves entries to the device of the parameter.
    return torch.empty_like(parameter, dtype=tensor.dtype, device="cpu").copy_(tensor)
