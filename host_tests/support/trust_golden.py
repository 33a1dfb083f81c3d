"""The committed vectors of single modules (`host_tests/vectors/trust/modules.json`).

    python -m support.trust_golden write      from host_tests/: make new ones (new keys, new bytes)

Whole packages with their verdicts are `golden.json` beside it, which `taproot trust vectors` makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "trust"


def write() -> None:
    """Write new vectors."""
    from support import trust_vectors

    content = {
        "provenance": "support/trust_vectors.py: signatures and certificates by `cryptography`",
        "vectors": trust_vectors.Vectors().vectors,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    (FOLDER / "modules.json").write_text(text + "\n")


if __name__ == "__main__" and sys.argv[1:] == ["write"]:
    write()
