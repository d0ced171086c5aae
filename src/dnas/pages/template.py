"""What the pages of runs and studies share: the file, operations by depth, numbers in words."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dnas.errors import InputError
from dnas.space.architecture import Architecture
from dnas.space.primitives import PRIMITIVES, ordered

if TYPE_CHECKING:
    from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """A template of this package with these values, each escaped. Raises InputError where jinja2 is missing."""
    try:
        import jinja2
    except ImportError:
        raise InputError("a report needs jinja2, which is not there; pip install 'dnas[report]'") from None
    loader = jinja2.PackageLoader("dnas.pages", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template(template).render(**values, version=version("dnas"))
    # A number stays on one line with its per cent sign, and with the dash of its range.
    return re.sub(r"(?<=\d) (?=%|– [\d−+])", "&nbsp;", text)


def safe(svg: str) -> Markup:
    """Our own SVG, whose texts are escaped already."""
    from markupsafe import Markup

    return Markup(svg)


def both(draw: Callable[..., str], key: str, *arguments: Any, **look: Any) -> Markup:
    """A chart in both its shapes, of which the page shows the one that its reader's screen has room for."""
    broad, narrow = draw(key, *arguments, **look), draw(f"{key}-narrow", *arguments, **look, narrow=True)
    return safe(f'<div class="broad">{broad}</div><div class="narrow">{narrow}</div>')


def href(target: Path, base: Path) -> str:
    """A relative address that cannot be read as another scheme."""
    return "./" + quote(os.path.relpath(target, base).replace(os.sep, "/")) + ("/" if target.is_dir() else "")


# --- operations by depth --------------------------------------------------------------------------------------


def profile(architecture: Architecture) -> list[dict[str, float]]:
    """How often each operation occurs in every layer."""
    return [dict(Counter(op for node in cell.nodes for op, _ in node)) for cell in architecture.layers]


_KINDS = (("convolutions", ("sep_", "dil_", "conv_")), ("pools", ("max_", "avg_")), ("skips", ("skip_",)))


def thirds(profiles: Sequence[Sequence[Mapping[str, float]]]) -> list[tuple[str, list[str]]]:
    """For each kind of operation its share in the shallow, middle and deep third of the layers."""
    rows = []
    for kind, starts in _KINDS:
        shares = []
        for third in range(3):
            layers = [layer for p in profiles for k, layer in enumerate(p) if 3 * k // len(p) == third]
            total = sum(sum(layer.values()) for layer in layers)
            of_kind = sum(n for layer in layers for op, n in layer.items() if op.startswith(starts))
            shares.append(f"{100 * of_kind / total:.0f} %" if total else "–")
        rows.append((kind, shares))
    return rows


def legend(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, colour) of the operations that occur."""
    there = ordered({op for layer in layers for op in layer if op in PRIMITIVES})
    return [(PRIMITIVES[op].label, PRIMITIVES[op].colour) for op in there]


def mean_layer(layers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean shares of operations over searches, each of which counts the same."""
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
    """The name of a data set, or of a folder without the way to it."""
    return Path(source).name or source


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def spread(mean: float, sd: float) -> str:
    return f"{100 * mean:.2f} ± {100 * sd:.2f} %"


def percents(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.2f} – {100 * high:.2f} %"


def in_points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.2f}".replace("-", "−")


def p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
