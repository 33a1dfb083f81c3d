"""The fault relay, for tests; it lives with the bench, which runs it too."""

from taproot.bench.relay import MODES, TO_CLIENT, TO_SERVER, Relay, reset

__all__ = ["MODES", "TO_CLIENT", "TO_SERVER", "Relay", "reset"]
