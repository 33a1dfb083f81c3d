"""Runs the device's own TLS code on a MicroPython interpreter and reads what it says.

result = connect("unix64", port, [root.der], host="localhost")
result["verdict"] == "OK"
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taproot import interpreters

PROGRAM = Path(__file__).with_name("tls_device_program.py")


def connect(
    build: str,
    port: int,
    roots: Sequence[bytes],
    *,
    host: str = "localhost",
    heap: str | None = None,
    timeout: float = 30,
    wrapper: Sequence[str] = (),
    env: dict[str, str] | None = None,
    files: dict[str, bytes | str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Connect once (or `times`), return the program's last JSON line with `returncode`.

    Options: times, mfl, profile, mode, read (bytes to read), write (bytes to send), sessions,
    deadline_ms, cert, key, fail_alloc, verify_time … (see the program).
    """
    with tempfile.TemporaryDirectory(prefix="tls-") as name:
        folder = Path(name)
        for number, root in enumerate(roots):
            (folder / f"root{number}.der").write_bytes(root)
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        asked = {"host": host, "port": port, "roots": len(roots), **options}
        result = interpreters.run(
            build,
            PROGRAM,
            json.dumps(asked),
            heap=heap,
            cwd=folder,
            timeout=timeout,
            wrapper=wrapper,
            env=env,
        )
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"verdict": "CRASH", "text": result.text, "returncode": result.returncode}
    found = json.loads(lines[-1])
    found["all"] = [json.loads(line) for line in lines]
    found["returncode"] = result.returncode
    found["stderr"] = result.stderr
    return found
