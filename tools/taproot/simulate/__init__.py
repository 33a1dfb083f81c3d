"""Fleets in virtual time, driven by the firmware's own policies."""
