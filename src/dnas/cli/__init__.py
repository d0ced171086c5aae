"""The command line: arguments, exit codes, printing. Not here: how anything is done.

Torch, pydantic, numpy and rich are imported where a command needs them, so that `dnas --help` answers at once.
"""

from dnas.cli.entry import main as main
