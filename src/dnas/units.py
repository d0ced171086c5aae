"""Quantities in the form that people write: durations like "90", "5m" or "1h30m", numbers like "130k"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

Quantity = TypeVar("Quantity", int, float)

# Seconds of each unit of time.
TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_TERM = r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|m|h|d)"
_SUM = re.compile(rf"(?:{_TERM}\s*)+", re.IGNORECASE)
# Factors of the letters after a number.
MANY = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
# Factors of the letters after a number of bytes.
BYTES = {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "kib": 1_024, "mib": 1_048_576}
_BYTES = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*(kib|mib|kb|mb|b|)", re.IGNORECASE)
_MANY = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*(k|m|g|)", re.IGNORECASE)


def duration(value: float | str) -> float:
    """Return a duration in seconds.

    Args:
        value: A number of seconds, as a number or a text, or a sum of terms with units from `TIMES`: "5m", "1h30m",
            "1.5 h", "500ms".

    Raises:
        ValueError: It is neither, or not finite. The message continues after a name: "must be a duration …, got '5x'".
    """
    seconds = math.nan
    if isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            if _SUM.fullmatch(value.strip()):
                terms = re.findall(_TERM, value, re.IGNORECASE)
                seconds = sum(float(number) * TIMES[unit.lower()] for number, unit in terms)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"must be a duration such as 90, 5m or 1h30m, got {value!r}")
    return seconds


def whole_number(value: int | str) -> int:
    """Return a whole number.

    Args:
        value: As a number or a text, which may have a unit from `MANY`: "78666", "130k", "1.2M".

    Raises:
        ValueError: It is not. The message continues after a name: "must be a whole number …, got '1.5'".
    """
    number = None
    if isinstance(value, str) and (found := _MANY.fullmatch(value.strip())):
        number = Fraction(found[1]) * MANY[found[2].lower()]
    elif isinstance(value, int) and not isinstance(value, bool):
        number = Fraction(value)
    if number is None or number.denominator != 1:
        raise ValueError(f"must be a whole number such as 78666, 130k or 1.2M, got {value!r}")
    return int(number)


def byte_count(value: int | str) -> int:
    """Return a whole number of bytes.

    Args:
        value: As a number or a text, which may have a unit from `BYTES`: "256KB" is 256,000 of them, "256KiB" 262,144.

    Raises:
        ValueError: It is not. The message continues after a name: "must be a number of bytes …, got '1.5'".
    """
    number = None
    if isinstance(value, str) and (found := _BYTES.fullmatch(value.strip())):
        number = Fraction(found[1]) * BYTES[found[2].lower()]
    elif isinstance(value, int) and not isinstance(value, bool):
        number = Fraction(value)
    if number is None or number.denominator != 1:
        raise ValueError(f"must be a number of bytes such as 500000, 256KB or 1.5MiB, got {value!r}")
    return int(number)


def one_or_several(
    read: Callable[[Any], Quantity], value: float | str | Sequence[float | str]
) -> Quantity | list[Quantity]:
    """Return a quantity, or several in ascending order.

    Args:
        read: `whole_number`, `byte_count` or `duration`.
        value: What that takes, or a list of it, or a text of them with commas between: "50k,100k".

    Raises:
        ValueError: As `read`; or of several one is zero or less, or there twice.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence):
        return read(parts)
    if len(parts) == 1:
        return read(parts[0])
    found = sorted(map(read, parts))
    if not found or found[0] <= 0 or len(set(found)) < len(found):
        raise ValueError(f"must be one number, or several different ones above 0, got {value!r}")
    return found


def time_text(seconds: float | None) -> str:
    """Return a duration in seconds, minutes or hours for people, and a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size_text(count: float) -> str:
    """Return a number of bytes as text in kB and MB (powers of 1000)."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} B"
