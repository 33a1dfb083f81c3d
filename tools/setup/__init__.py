"""Set-up of a Taproot checkout; run as `python3 -m tools.setup`. Standard library only."""
