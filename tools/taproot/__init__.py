"""Desktop side of Taproot: emulator, drill, probe, trust, ca, device, bench and simulate."""

__version__ = "0.1.0"
