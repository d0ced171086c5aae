"""Extensions of dnas by kind: registered in a notebook or script, or provided by installed packages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from dnas.data.sources.registry import DATA_SOURCES
from dnas.errors import InputError, shown
from dnas.methods.registry import METHODS
from dnas.parts.registry import PARTS
from dnas.plugins import Registry
from dnas.space.blocks import BLOCKS
from dnas.space.primitives import PRIMITIVES
from dnas.space.published import PUBLISHED, Published
from dnas.space.registry import SPACES
from dnas.supernet.relaxation import RELAXATIONS

Thing = TypeVar("Thing")
# A space after the primitives or blocks that it names.
KINDS: tuple[Registry[Any], ...] = (METHODS, PARTS, PRIMITIVES, BLOCKS, RELAXATIONS, SPACES, DATA_SOURCES)
NAMED: tuple[Registry[Any] | Published, ...] = (*KINDS, PUBLISHED)


def register(thing: Thing) -> Thing:
    """Register a method, part, primitive, block, relaxation, space or data source under its name in this process.

    For notebooks and scripts; for classes of methods and parts also as a decorator. Something that is defined again
    replaces its earlier version. A process that resumes a run with it must also register it. Code for other people
    belongs in a package with an entry point (docs/extending.md).

    Args:
        thing: A subclass of `Method` or `Part`, or a `Primitive`, `BlockKind`, `Relaxation`, `SearchSpace` or `Source`,
            with a name of its own.

    Returns:
        `thing` itself.

    Raises:
        InputError: It is none of these, has no name or a name that is taken, or cannot be used.
    """
    for kind in KINDS:
        if kind.takes(thing):
            kind.register(thing)
            return thing
    raise InputError(
        "register requires a subclass of Method or Part (such as one of GradientMethod), or a Primitive, BlockKind, "
        f"Relaxation, SearchSpace or Source, got {shown(thing)}"
    )


def registered() -> tuple[Any, ...]:
    """Return everything that this process registered, to pass it on to processes that it starts."""
    return tuple(thing for kind in KINDS for thing in kind.registered)


def register_all(things: Iterable[Any]) -> None:
    """Register everything that another process had registered."""
    for thing in things:
        register(thing)
