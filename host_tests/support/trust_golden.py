"""Golden vectors of the trust store: a committed choice from the catalogue, for everybody.

    python -m support.trust_golden write      from host_tests/: make new ones (new keys, new bytes)

`unpack(folder)` lays them out as the catalogue's folder, so that the same programs judge them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "trust"
PER_KIND = 3
MAX_PACKAGE = 9000


def choose(cases: list) -> list:
    """Take up to three cases of each (expected answer, first id), none of them large."""
    taken: dict[tuple, int] = {}
    chosen = []
    for case in cases:
        key = (case.expect, case.ids[0])
        if case.tls or len(case.package) > MAX_PACKAGE or taken.get(key, 0) >= PER_KIND:
            continue
        taken[key] = taken.get(key, 0) + 1
        chosen.append(case)
    return chosen


def _text(data: bytes) -> dict:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"hex": data.hex()}


def write() -> None:
    """Make the catalogue and write the chosen cases and all module vectors."""
    import taproot.device_modules  # noqa: F401
    from support import trust_cases

    with tempfile.TemporaryDirectory() as scratch:
        made = trust_cases.build(Path(scratch))
    chosen = choose(made.cases)
    factories = {
        name: {file: _text(data) for file, data in made.factories[name].items()}
        for name in sorted({case.factory for case in chosen})
    }
    packages = {
        "provenance": "support/trust_golden.py: made from the specification with throw-away keys",
        "factories": factories,
        "cases": [
            {
                "name": case.name,
                "ids": case.ids,
                "factory": case.factory,
                "now": case.now,
                "synchronised": case.synchronised,
                "channel": case.channel,
                "uses": list(case.uses),
                "expect": case.expect,
                "package": _text(case.package),
            }
            for case in chosen
        ],
    }
    modules = {
        "provenance": "support/trust_vectors.py: signatures and certificates by `cryptography`",
        "vectors": made.vectors,
    }
    for name, content in (("packages.json", packages), ("modules.json", modules)):
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
        (FOLDER / name).write_text(text + "\n")


def _bytes(entry: dict) -> bytes:
    return bytes.fromhex(entry["hex"]) if "hex" in entry else entry["text"].encode()


def unpack(folder: Path) -> dict[str, str]:
    """Lay the committed vectors out in `folder`; return name -> expected answer."""
    content = json.loads((FOLDER / "packages.json").read_text())
    for name, files in content["factories"].items():
        (folder / "factories" / name).mkdir(parents=True)
        for file, entry in files.items():
            (folder / "factories" / name / file).write_bytes(_bytes(entry))
    (folder / "packages").mkdir()
    cases = []
    for case in content["cases"]:
        (folder / "packages" / case["name"]).write_bytes(_bytes(case.pop("package")))
        cases.append(case | {"tls": False})
    (folder / "cases.json").write_text(json.dumps(cases))
    return {case["name"]: case["expect"] for case in cases}


if __name__ == "__main__" and sys.argv[1:] == ["write"]:
    write()
