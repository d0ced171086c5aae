"""The two errors that users see, each as one line, and the interruption of a run.

Everything raised on purpose for a user is one of these; `assert` is for our own invariants.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class InputError(ValueError):
    """The user's input is wrong: an option, a file, a value. The command line exits with 2.

    The message names the option or file, the value, and what to do about it.
    """


class InUse(InputError):
    """Another process has the run folder."""


class RunError(RuntimeError):
    """A run could not go on although its input was right (a full disk, a loss that is not finite). Exits with 1."""


class Diverged(RunError):
    """A loss or gradient is not finite."""


# In place of a signal's number, where no signal but --time-limit ended an execution.
TIME_LIMIT = 0


class Interrupted(Exception):
    """A signal or --time-limit stopped a run, which can be resumed."""

    def __init__(self, run: Path, signum: int) -> None:
        super().__init__(run, signum)  # the arguments as they are, so that it can be sent between processes
        self.run = run
        self.signum = signum

    @property
    def code(self) -> int:
        """What the command line exits with: 128 + the signal's number, or 75 (EX_TEMPFAIL, sysexits.h) by the limit."""
        return 75 if self.signum == TIME_LIMIT else 128 + self.signum

    def __str__(self) -> str:
        what = "the time limit is reached" if self.signum == TIME_LIMIT else "interrupted"
        return f"{what}; go on with: dnas resume {self.run}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'darts'?" for the known name closest to a mistyped one, or "" if none is close.

    Case does not count: 'DARTS' is close to 'darts'.
    """
    spelled = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean {spelled[close[0]]!r}?" if close else ""
