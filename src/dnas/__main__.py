"""`python -m dnas`."""

from dnas.cli.entry import main

main()
