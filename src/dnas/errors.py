"""Errors that users see, each as one line; suggestions for mistyped names; and the interruption of a run.

Every error that is meant for a user is one of these; `assert` is for our own invariants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Wrong input: an option, a file or a value. The command line exits with 2.

    The message names the option or file, the value, and the remedy.
    """


class SettingError(InputError):
    """A setting with an invalid value, or an unknown setting. A caller with the user's own input can rename it.

    Attributes:
        key: The dotted name of the setting, e.g. "search.epochs".
        name: The name in the message, e.g. "--epochs".
        before, after: The message before and after that name.
    """

    def __init__(self, key: str, name: str, after: str, before: str = "") -> None:
        super().__init__(key, name, after, before)  # unchanged arguments, so that it can be pickled
        self.key, self.name, self.after, self.before = key, name, after, before

    def __str__(self) -> str:
        return f"{self.before}{self.name}{self.after}"

    def called(self, name: str) -> SettingError:
        """Return the same error with another name for the setting."""
        return SettingError(self.key, name, self.after, self.before)


@contextmanager
def calling(names: Mapping[str, str]) -> Iterator[None]:
    """Within this context, errors about settings use the names that the user typed.

    Args:
        names: Typed names by dotted names: {"search.epochs": "--epochs"}.
    """
    try:
        yield
    except SettingError as error:
        if error.key not in names:
            raise
        raise error.called(names[error.key]) from None


class InUse(InputError):
    """Another process is using the run folder."""


class RunError(RuntimeError):
    """A run failed although its input was right (a full disk, a non-finite loss). The command line exits with 1."""


class Diverged(RunError):
    """A loss or gradient is not finite."""


# These replace the number of a signal if --time-limit or `on_epoch` ended an execution.
TIME_LIMIT, ON_EPOCH = 0, 1000


class Interrupted(Exception):
    """A signal, --time-limit or `on_epoch` stopped a run, which can be resumed.

    Attributes:
        run: Its folder.
        signum: The signal's number, or `TIME_LIMIT` or `ON_EPOCH`.
    """

    def __init__(self, run: Path, signum: int) -> None:
        super().__init__(run, signum)  # unchanged arguments, so that it can be sent between processes
        self.run = run
        self.signum = signum

    @property
    def code(self) -> int:
        """Exit code of the command line: 128 + the signal number, or 75 (EX_TEMPFAIL, sysexits.h) without a signal."""
        return 75 if self.signum in (TIME_LIMIT, ON_EPOCH) else 128 + self.signum

    def __str__(self) -> str:
        return f"{self._what}; resume with: dnas resume {self.run}"

    def _render_traceback_(self) -> list[str]:
        """Return the line that IPython and notebooks show instead of a traceback."""
        return [f"{self._what}; resume with: dnas.resume({str(self.run)!r})"]

    @property
    def _what(self) -> str:
        return {TIME_LIMIT: "time limit reached", ON_EPOCH: "stopped by on_epoch"}.get(self.signum, "interrupted")


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean 'darts'?" for the known name closest to a mistyped one, or "" if none is close.

    Case is ignored: 'DARTS' is close to 'darts'. `prefix` is put before the known name in the result.
    """
    spelled = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean {prefix + spelled[close[0]]!r}?" if close else ""


# A message lists up to so many names. If there are more, it names the command that lists them.
LISTED = 6


def choices(name: str, known: Iterable[str], listed_by: str = "") -> str:
    """Return the end of a message "unknown X 'name'": the closest known name, and all names or where they are listed.

    Args:
        listed_by: The command that lists the known names if there are many, e.g. "`dnas methods`".
    """
    known = list(known)
    close = did_you_mean(name, known)
    if listed_by and len(known) > LISTED:
        return f"{close} List all with {listed_by}" if close else f"; list all with {listed_by}"
    if close and len(known) > LISTED:
        return close
    return f"{f'{close} Choose' if close else '; choose'} from {', '.join(known)}"


def unknown(key: str, name: str, value: object, known: Iterable[str], listed_by: str = "") -> SettingError:
    """Return the error for a setting whose value is not among the known names.

    Args:
        key, name: See `SettingError`.
        listed_by: See `choices`.
    """
    return SettingError(key, name, f" {value!r}{choices(str(value), known, listed_by)}", before="unknown ")


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def shown(value: Any) -> str:
    """Return a value as it appears in a message: on one line, with at most 60 characters."""
    text = repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= 60 else text[:57] + "…"
