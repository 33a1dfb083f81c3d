"""Makes the device's pure modules importable on CPython; `import taproot` does it.

MicroPython's `const` is the one name they need that CPython lacks.
"""

from __future__ import annotations

import sys
import types

if "micropython" not in sys.modules:
    _shim = types.ModuleType("micropython", "CPython stand-in: const() only.")
    _shim.const = lambda value: value  # type: ignore[attr-defined]
    sys.modules["micropython"] = _shim
