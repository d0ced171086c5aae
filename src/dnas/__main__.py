"""`python -m dnas`."""

from dnas.cli import main

main()
