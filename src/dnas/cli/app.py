"""The command-line application, and the options that several of its commands share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Group, Parameter

from dnas.cli.suggesting import Suggestion
from dnas.errors import InputError
from dnas.options import (
    WHOLE,
    ExecutionOptions,
)
from dnas.runtime.execution import Execution, execution


def shown(default: object) -> str | None:
    """Return the default as the help prints it, or None for a flag that is off and for an automatic value."""
    return None if default in (None, False, 0, "") else str(default)


app = App(
    name="dnas",
    help="Neural architecture search of whole networks: every layer may differ.",
    version_flags=["--version"],
    default_parameter=Parameter(negative="", show_default=shown),
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(
    help="Complete commands and options in your shell: bash, zsh, fish, powershell."
)
FLAT = Parameter(name="*")
_OUTPUT = Group("Output", sort_key=7)
RunFolder = Annotated[Path, Parameter(help="Run folder.")]
Json = Annotated[
    bool, Parameter(name="--json", group=_OUTPUT, help="Print one JSON value on stdout, everything else on stderr.")
]
Quiet = Annotated[bool, Parameter(name="--quiet", group=_OUTPUT, help="Hide progress output.")]
Debug = Annotated[bool, Parameter(name="--debug", group=_OUTPUT, help="Show a traceback on errors.")]
Processes = Annotated[
    int,
    WHOLE,
    Parameter(help="Number of runs in parallel. [default: one per CPU thread; 1 on a GPU; as many as fit a cluster]"),
]
Threads = Annotated[
    int,
    WHOLE,
    Parameter(help="CPU threads per run. [default: those of the machine, divided among its runs; 1 on a cluster]"),
]


def examples(*suggestions: Suggestion) -> str:
    """Return the examples at the end of a command's help, in Markdown."""
    return "\n".join(["Examples:", "", *(f"    # {does}\n    {command}" for command, does in suggestions)])


def begin_execution(options: ExecutionOptions) -> Execution:
    """Start the clock of --time-limit; called first in a command, before torch is imported."""
    return execution(**asdict(options))


def names_of(text: str) -> list[str]:
    """Return the names in a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers_of(option: str, text: str) -> list[int]:
    """Return the whole numbers in a list separated by commas. Raises InputError for anything else."""
    for name in names_of(text):
        if not name.isdecimal():
            raise InputError(f"{option} must be whole numbers separated by commas, got {name!r}")
    return [int(name) for name in names_of(text)]


def require_folder(option: str, file: str) -> None:
    """Raise InputError if the folder of a file does not exist."""
    if not Path(file).parent.is_dir():
        raise InputError(f"{option} {file}: folder {str(Path(file).parent)!r} does not exist; create it first")
