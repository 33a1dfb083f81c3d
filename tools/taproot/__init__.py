"""Desktop side of Taproot: emulator, drill, probe, trust, ca, device, bench and simulate."""

import taproot.device_modules  # noqa: F401  (azure_iot's pure modules can be imported after it)

__version__ = "0.1.0"
