"""The command line: arguments, exit codes, printing. The work itself is done in the rooms below.

Torch, pydantic, numpy and rich are imported inside the commands that need them, so that `dnas --help` is fast.
"""

from dnas.cli.entry import main as main
