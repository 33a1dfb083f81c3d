"""Boards on a serial line: look at one, deploy to it. Operator-side keys for DPS."""
