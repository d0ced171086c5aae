"""Registries that find their entries: those of dnas, of installed packages, and of this process."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from dnas.errors import InputError, first_line, shown

Thing = TypeVar("Thing")
HYPHENATED = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # since names are part of the names of run folders


class Registry(Mapping[str, Thing], Generic[Thing]):
    """The things of one kind by name: those of dnas, those of installed packages, and registered ones.

    A package adds a thing by an entry point of the `group` with the thing's name. Names of dnas are found without
    loading packages, so that a broken package does not affect them.

    Args:
        group: The group of the entry points.
        kind: The class of which each thing is an instance (or a subclass, see `classes`).
        word: The noun for one of the things in messages.
        own: Returns the things of dnas.
        name: The attribute with the name of a thing.
        classes: Whether the things are subclasses of `kind` instead of instances.
        spelled: The pattern of valid names, and a description of it.
        objection: Returns why a thing cannot be used, as the end of a sentence, or None if it can.
    """

    def __init__(
        self,
        group: str,
        kind: type[Any],
        word: str,
        own: Callable[[], Mapping[str, Thing]],
        *,
        name: str = "name",
        classes: bool = False,
        spelled: tuple[re.Pattern[str], str] = (HYPHENATED, "lowercase letters, digits and hyphens"),
        objection: Callable[[Thing], str | None] = lambda thing: None,
    ) -> None:
        self.group, self.kind, self.word = group, kind, word
        self._own_things, self._name, self._classes = own, name, classes
        self._spelled, self._objection = spelled, objection
        self._registered: dict[str, Thing] = {}

    def __getitem__(self, name: str) -> Thing:
        for things in (self._registered, self._own):
            if name in things:
                return things[name]
        return self._of_packages[name][0]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._own, *self._of_packages, *self._registered])

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def _own(self) -> Mapping[str, Thing]:
        return self._own_things()

    @cached_property
    def _of_packages(self) -> dict[str, tuple[Thing, str]]:
        """The things of installed packages, each with the package that it comes from."""
        found: dict[str, tuple[Thing, str]] = {}
        for entry in entry_points(group=self.group):
            package = getattr(entry, "dist", None)
            origin = f"{package.name} {package.version}" if package else entry.value
            what = f"{self.word} {entry.name!r} of {entry.value}"
            if entry.name in self._own or entry.name in found:
                other = "dnas" if entry.name in self._own else found[entry.name][1]
                raise InputError(f"{what} has the same name as one of {other}; rename its entry point")
            remedy = f"repair or remove its package ({origin})"
            try:
                thing = entry.load()
            except Exception as error:  # importing a package can raise anything
                text = f"{type(error).__name__}: {first_line(error)}"
                raise InputError(f"{what} cannot be loaded ({text}); {remedy}") from error
            if not self.takes(thing) or self._name_of(thing) != entry.name:
                raise InputError(
                    f"the entry point {entry.name!r} of the group {self.group!r} must be {self._described} with the "
                    f"{self._name} {entry.name!r}, got {shown(thing)}; {remedy}"
                )
            self._check(thing, what, remedy)
            found[entry.name] = (thing, origin)
        return found

    @property
    def _described(self) -> str:
        path = _path(self.kind)
        return f"a subclass of {path}" if self._classes else f"a {path}"

    def _name_of(self, thing: Any) -> Any:
        # A subclass without a name of its own would inherit that of its parent.
        return vars(thing).get(self._name) if self._classes else getattr(thing, self._name)

    def _check(self, thing: Thing, what: str, remedy: str) -> None:
        name = self._name_of(thing)
        pattern, words = self._spelled
        if not (isinstance(name, str) and pattern.fullmatch(name)):
            raise InputError(f"{what} has the {self._name} {name!r}; give it a {self._name} of {words}")
        if problem := self._objection(thing):
            raise InputError(f"{what} cannot be used: {problem}; {remedy}")

    def takes(self, thing: object) -> bool:
        """Return True if `thing` is of the kind of this registry."""
        if self._classes:
            return isinstance(thing, type) and issubclass(thing, self.kind)
        return isinstance(thing, self.kind)

    def register(self, thing: Thing) -> None:
        """Add a thing under its name, in this process. A thing that is defined again replaces its earlier version.

        Raises:
            InputError: It has no name, the name of another thing, or cannot be used for another reason.
        """
        what = thing.__name__ if isinstance(thing, type) else f"the {self.word}"
        self._check(thing, what, "change it")
        name = self._name_of(thing)
        known = self.get(name)
        if known is not None and not (name in self._registered and _path(known) == _path(thing)):
            raise InputError(
                f"{what} has the {self._name} {name!r} of {_path(known) or self.origin(name)}; give it another "
                f"{self._name}"
            )
        self._registered[name] = thing

    def origin(self, name: str) -> str:
        """Return the origin of a thing: "dnas", a package with its version, or "this process"."""
        if name in self._registered:
            return "this process"
        return "dnas" if name in self._own else self._of_packages[name][1]

    @property
    def registered(self) -> tuple[Thing, ...]:
        """The things that this process registered, to pass them on to processes that it starts."""
        return tuple(self._registered.values())

    def forget(self) -> None:
        """Forget registered things and those of packages, so that packages are searched again."""
        self._registered.clear()
        for looked_up in ("_own", "_of_packages"):
            vars(self).pop(looked_up, None)


def _path(thing: object) -> str:
    """Return the dotted path of a class, or "" for anything else."""
    return f"{thing.__module__}.{thing.__qualname__}" if isinstance(thing, type) else ""


def modules_of(package: str) -> Iterator[Any]:
    """Import and yield the modules in the folder of a package."""
    for module in pkgutil.iter_modules(sys.modules[package].__path__):
        yield import_module(f"{package}.{module.name}")


def classes_of(package: str, kind: type[Thing]) -> dict[str, type[Thing]]:
    """Return the subclasses of a kind that the files of a package define, by their `name`."""
    return {
        vars(value)["name"]: value
        for module in modules_of(package)
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__ and issubclass(value, kind) and "name" in vars(value)
    }
