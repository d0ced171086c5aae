"""Shared by the pages of runs and studies: rendering, operations by depth, formatting of numbers."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dnas.errors import InputError
from dnas.space.architecture import Architecture
from dnas.space.operations import group_of, groups_of, operation, ordered

if TYPE_CHECKING:
    from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """Render a template of this package with escaped values. Raises InputError if jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        raise InputError("a report requires jinja2; install it with: pip install 'dnas[report]'") from None
    loader = jinja2.PackageLoader("dnas.pages", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template(template).render(**values, version=version("dnas"))
    # Keep both ends of a range on one line.
    return re.sub(r"(?<=\d) (?=(?:±|to) [\d−+])", "&nbsp;", text)


def safe(svg: str) -> Markup:
    """Mark SVG made by dnas, whose texts are already escaped, as safe."""
    from markupsafe import Markup

    return Markup(svg)


def both(draw: Callable[..., str], key: str, *arguments: Any, **look: Any) -> Markup:
    """Draw a chart in its wide and its narrow form; the page shows the one that fits the screen."""
    broad, narrow = draw(key, *arguments, **look), draw(f"{key}-narrow", *arguments, **look, narrow=True)
    return safe(f'<div class="broad">{broad}</div><div class="narrow">{narrow}</div>')


def href(target: Path, base: Path) -> str:
    """Return a relative URL that cannot be mistaken for one with another scheme."""
    return "./" + quote(os.path.relpath(target, base).replace(os.sep, "/")) + ("/" if target.is_dir() else "")


# --- operations by depth --------------------------------------------------------------------------------------


def profile(architecture: Architecture) -> list[dict[str, float]]:
    """Count each operation in each layer."""
    return [dict(Counter(op for node in layer.nodes for op, _ in node)) for layer in architecture.layers]


def kinds_of(profiles: Iterable[Sequence[Mapping[str, float]]]) -> list[str]:
    """Return the kinds of operations that `thirds` distinguishes in these networks."""
    return groups_of(op for profile in profiles for layer in profile for op in layer)


def thirds(profiles: Sequence[Sequence[Mapping[str, float]]], kinds: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return the share of each kind of operation in the shallow, middle and deep third of the layers."""
    rows = []
    for kind in kinds:
        shares = []
        for third in range(3):
            layers = [layer for p in profiles for k, layer in enumerate(p) if 3 * k // len(p) == third]
            total = sum(sum(layer.values()) for layer in layers)
            of_kind = sum(n for layer in layers for op, n in layer.items() if group_of(op) == kind)
            shares.append(f"{100 * of_kind / total:.0f}%" if total else "–")
        rows.append((kind, shares))
    return rows


def legend(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (name, color) of the operations that occur."""
    there = map(operation, ordered({op for layer in layers for op in layer}))
    return [(found.label, found.colour) for found in there if found is not None]


def mean_layer(layers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean shares of operations over searches, each with the same weight."""
    mean: Counter[str] = Counter()
    for layer in layers:
        total = sum(layer.values()) or 1
        for op, n in layer.items():
            mean[op] += n / total / len(layers)  # type: ignore[assignment]
    return dict(mean)


# --- numbers in words -------------------------------------------------------------------------------------------


def amount(value: float | None) -> str:
    """3,276,410 → 3.28 M."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def short_source(source: str) -> str:
    """Return the name of a data set, or the last part of a path."""
    return Path(source).name or source


def percent(share: float | None) -> str:
    """Return a share as a percentage, and a dash for None."""
    return "–" if share is None else f"{100 * share:.2f}%"


def spread(mean: float, sd: float) -> str:
    """Return a mean and a standard deviation as percentages."""
    return f"{100 * mean:.2f} ± {100 * sd:.2f}%"


def percents(low: float | None, high: float | None) -> str:
    """Return an interval as percentages, and a dash for None."""
    return "–" if low is None or high is None else f"{100 * low:.2f}–{100 * high:.2f}%"


def in_points(share: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return "–" if share is None else f"{100 * share:+.2f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """Return a p value with three digits, and a dash for None."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
