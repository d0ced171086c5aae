"""Entry point of the program: call a command and turn exceptions into a one-line message and an exit code.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 the run failed; 2 the user's input is wrong;
128 + the signal's number if a signal stopped the run after a checkpoint (130 SIGINT, 138 SIGUSR1, 143 SIGTERM); 75 if
--time-limit did.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

from dnas.cli import comparing, deploying, looking, running  # noqa: F401 (they register their commands in the app)
from dnas.cli.app import app
from dnas.cli.printing import print_start
from dnas.data.memory import is_short, shortage
from dnas.data.unreadable import Unreadable
from dnas.errors import InputError, Interrupted, RunError
from dnas.runtime.execution import follows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit the process with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed()
    if follows():
        # Only the first rank of torchrun prints results.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Do not fail on a character that the locale lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_call(arguments))


def _open_closed() -> None:
    """Replace stdin, stdout and stderr by the null device if the caller has closed them.

    Otherwise the next file to be opened would get the number of the closed stream, and printed text would end up in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # another file already has this number
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _call(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        if not arguments:
            print_start(Path())
            return 0
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UnusedCliTokensError as error:
        command = " ".join(["dnas", *(error.command_chain or ())])
        given = " ".join(map(str, error.unused_tokens or ()))
        return _fail(f"unexpected argument {given!r}; remove it, or see {command} --help", 2, debug)
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), 2, debug)
    except InputError as error:
        if debug and isinstance(error, Unreadable):
            print(*error.lines(), sep="\n", file=sys.stderr)
        return _fail(str(error), 2, debug)
    except RunError as error:
        return _fail(str(error), 1, debug)
    except Interrupted as stop:
        if not follows():
            print(stop, file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except BrokenPipeError:
        # The reader has closed the pipe; keep Python from printing an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(_unexpected(error), 1, debug)
    return 0


def _unexpected(error: Exception) -> str:
    """Return the message for an error that dnas did not raise: out of memory, a disk error, or a bug in dnas."""
    if is_short(error):
        return f"{shortage(error)}; use a smaller --image-size, --batch-size or --channels, or close other programs"
    if isinstance(error, OSError):
        name = f" {error.filename}" if error.filename else ""
        return f"cannot use{name}: {error.strerror or error}; free space or choose another place"
    return f"internal error, {type(error).__name__}: {error}; repeat the command with --debug and report the traceback"


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    who = f"rank {os.environ['RANK']}: " if follows() else ""
    print(f"error: {who}{' '.join(message.splitlines())}", file=sys.stderr)
    return code
