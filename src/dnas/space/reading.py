"""Checks of the numbers in architecture files, and the bound on their layers."""

from __future__ import annotations

from typing import Any

from dnas.errors import InputError

# Far above any real network, and small enough to reject a malicious file immediately.
MAX_LAYERS = 1000


def integers(value: Any, what: str) -> tuple[int, ...]:
    """Return a list of whole numbers from a file as a tuple. Raises InputError for anything else."""
    if not isinstance(value, list) or len(value) > MAX_LAYERS or not all(is_int(v) for v in value):
        raise InputError(f"{what} must be a list of integers")
    return tuple(value)


def is_int(value: Any) -> bool:
    """Return True for whole numbers, but not for booleans."""
    return isinstance(value, int) and not isinstance(value, bool)
