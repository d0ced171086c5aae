"""The command line: arguments, exit codes, printing. Not here: the work itself.

Torch, pydantic, numpy and rich are imported inside the commands that need them, so that `dnas --help` is fast.
"""

from dnas.cli.entry import main as main
