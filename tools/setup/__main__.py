"""`make setup`: everything a checkout needs, made once, repaired when killed, kept when fresh."""

import sys

if sys.version_info < (3, 11):  # before any import that an older Python could not read
    sys.exit(
        "set-up: Python %d.%d is too old, Taproot needs 3.11 or newer\n"
        "remedy: install a newer python3, or name one: make setup PYTHON=/path/to/python3.12"
        % sys.version_info[:2]
    )

import argparse
import os
import signal
import time
from pathlib import Path

from tools.setup import packages, progress, sdk, sources, stock
from tools.setup.builds import Builder
from tools.setup.machine import Machine
from tools.setup.stamps import Lock, Stamps, sweep
from tools.setup.venv import Environment


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run set-up; the exit status."""
    parser = argparse.ArgumentParser(prog="make setup", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--etc", type=Path, default=Path("/etc"), help="instead of /etc (tests)")
    parser.add_argument("--processor", help="instead of this machine's (tests)")
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to do")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    machine = Machine(options.root.resolve(), options.etc)
    if options.processor:
        machine.processor = options.processor
    started = time.monotonic()
    try:
        machine.check()
        with Lock(machine.build) as lock:
            done = _set_up(machine, lock.descriptor)
    except progress.Failure as failure:
        return progress.fail(failure)
    except OSError as error:
        return progress.fail(progress.os_failure(error))
    except KeyboardInterrupt:
        print("\nset-up: stopped; the next run goes on where this one was", file=sys.stderr)
        return 130
    if done or not options.quiet:
        took = time.monotonic() - started
        progress.say(
            f"Set-up {'complete' if done else 'is complete, nothing to do'} ({took:.1f} s)"
        )
    return 0


def _set_up(machine: Machine, lock: int) -> bool:
    """Do what is stale, in order; True when anything was."""
    stamps = Stamps(machine.build)
    builder = Builder(machine, stamps, lock)
    environment = Environment(machine, stamps, lock)
    debian = not os.environ.get("MICROPYTHON_DIR")
    has_sources = not debian or stamps.fresh("sources", sources.key_of_debian())
    stale_python = environment.stale()
    stale_stock = debian and not stock.fresh(stamps)
    stale_judges = packages.missing_judges(machine) or not sdk.fresh(machine.root, stamps)
    if has_sources and not (stale_python or stale_stock or stale_judges):
        found = sources.prepare(machine, stamps, lock)
        if builder.mpy_cross_fresh(found) and not builder.stale(found):
            return False
    progress.say("Set-up of Taproot")
    for folder in (machine.build, machine.build / "bin", machine.build / "src", machine.root):
        sweep(folder)
    if not (has_sources and (machine.root / ".venv").exists()):
        machine.check_space()
        if debian and machine.debian_mirror() is None and not has_sources:
            raise sources.no_sources(machine)
    packages.prepare(machine, debian, lock)
    packages.prepare_judges(machine, lock)
    found = sources.prepare(machine, stamps, lock)
    if not builder.mpy_cross_fresh(found):
        builder.make_mpy_cross(found)
    for build in builder.stale(found):
        builder.make(found, build)
    if stale_stock:
        stock.make(machine, stamps, lock)
    environment.make(stale_python)
    sdk.prepare(machine.root, stamps, lock)
    return True


sys.exit(main())
