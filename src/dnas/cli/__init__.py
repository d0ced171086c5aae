"""The command line: arguments, exit codes, printing. Not here: how anything is done.

Torch is imported where a command needs it, so that `dnas --help` answers at once.
"""

from dnas.cli.entry import main as main
