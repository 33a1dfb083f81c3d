"""Debian's own MicroPython, extracted beside the others and started with its own libc.

Nothing is installed: the packages are unpacked below .build/stock, and a small launcher names the
loader and the libraries, so that it runs whatever libc the machine has.
"""

from __future__ import annotations

import subprocess

from tools.setup.machine import Machine
from tools.setup.progress import Failure, clean_environment, run, step
from tools.setup.sources import STOCK_PACKAGES, fetch
from tools.setup.stamps import Stamps, digest_of, remove, write_atomically

_LAUNCHER = """#!/bin/sh
# Debian's MicroPython, unmodified, with the libraries it was built for.
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd) || exit 2
libraries=$here/stock/usr/lib/x86_64-linux-gnu
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" \\
    "$here/stock/usr/bin/micropython" "$@"
"""


def fresh(stamps: Stamps) -> bool:
    """True when the stock interpreter is in place."""
    return stamps.fresh("stock", digest_of(_LAUNCHER))


def make(machine: Machine, stamps: Stamps, lock: int | None) -> None:
    """Extract the stock interpreter and write its launcher."""
    files = fetch(machine, lock)
    launcher = machine.build / "bin" / "micropython-stock"
    with step("stock", "extracting Debian's MicroPython") as note:
        stamps.drop("stock")
        folder = machine.build / "stock"
        new = machine.build / ".stock.new"
        for old in (new, folder):
            if old.exists():
                remove(old)
        for path in files:
            if path.suffix == ".deb" and path.name.split("_")[0] in STOCK_PACKAGES:
                run(
                    f"extracting {path.name}",
                    ["dpkg-deb", "-x", path, new],
                    log=machine.logs / "stock.txt",
                    keep_lock=lock,
                )
        new.rename(folder)
        write_atomically(launcher, _LAUNCHER, 0o755)
        program = "import sys; print(sys.version.split('MicroPython ')[1].split()[0])"
        result = subprocess.run(
            [launcher, "-c", program],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=clean_environment(),
        )
        if result.returncode != 0:
            raise Failure(
                f"Debian's MicroPython does not start here: {result.stderr.strip()[:200]}",
                "make clean, then make setup",
            )
        stamps.write(
            "stock", digest_of(_LAUNCHER), [launcher, folder / "usr" / "bin" / "micropython"]
        )
        note(f"MicroPython {result.stdout.strip()}")
