"""The two errors that users see, each as one line.

Everything raised on purpose for a user is one of these; `assert` is for our own invariants.
"""


class InputError(ValueError):
    """The user's input is wrong: an option, a file, a value. The command line exits with 2.

    The message names the option or file, the value, and what to do about it.
    """


class RunError(RuntimeError):
    """A run could not go on although its input was right (a full disk, a loss that is not finite). Exits with 1."""
