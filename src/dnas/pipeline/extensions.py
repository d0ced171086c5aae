"""What others add to dnas, kind by kind: registered in a notebook or a script, or given by installed packages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from dnas.data.sources.registry import DATA_SOURCES
from dnas.errors import InputError, shown
from dnas.methods.registry import METHODS
from dnas.parts.registry import PARTS
from dnas.plugins import Registry
from dnas.space.primitives import PRIMITIVES
from dnas.space.registry import SPACES
from dnas.supernet.relaxation import RELAXATIONS

Thing = TypeVar("Thing")
# A space after the primitives that it names.
KINDS: tuple[Registry[Any], ...] = (METHODS, PARTS, PRIMITIVES, RELAXATIONS, SPACES, DATA_SOURCES)


def register(thing: Thing) -> Thing:
    """Make a method, part, primitive, relaxation, space or data source known by its name in this process.

    It serves notebooks and scripts; as a decorator, too, for the classes of methods and parts. What is defined again
    takes the place of its former self. A process that resumes a run of it has to register it, too; what others are to
    use belongs in a package with an entry point (docs/extending.md).

    Args:
        thing: A subclass of `Method` or `Part`, or a `Primitive`, `Relaxation`, `Space` or `Source`, with a name of its
            own.

    Returns:
        The same.

    Raises:
        InputError: It is none of these, has no name or that of another, or cannot be used.
    """
    for kind in KINDS:
        if kind.takes(thing):
            kind.register(thing)
            return thing
    raise InputError(
        "register takes a class of method or part, such as a subclass of GradientMethod, or a Primitive, Relaxation, "
        f"Space or Source, got {shown(thing)}"
    )


def registered() -> tuple[Any, ...]:
    """What this process has registered, for processes that it begins."""
    return tuple(thing for kind in KINDS for thing in kind.registered)


def register_all(things: Iterable[Any]) -> None:
    """What another process had registered."""
    for thing in things:
        register(thing)
