"""`python -m taproot` is the same program as `taproot`."""

from taproot.cli import main

main()
