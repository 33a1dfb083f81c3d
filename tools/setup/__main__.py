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

from tools.setup import board, packages, progress, sdk, sources, stock
from tools.setup.builds import BUILDS, EXTRA_BUILDS, Builder
from tools.setup.machine import Machine
from tools.setup.stamps import Lock, Stamps, sweep
from tools.setup.venv import PYTHON_STEPS, Environment


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make setup", description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to do")
    parser.add_argument("--extra", action="store_true", help="also the builds for long tests")
    parser.add_argument("--board", action="store_true", help="also the emulated board (1.4 GB)")
    parser.add_argument("--only", metavar="STEPS", help="only these steps, by name, with commas")
    tests = parser.add_argument_group("for the tests of set-up itself")
    tests.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    tests.add_argument("--etc", type=Path, default=Path("/etc"), help="instead of /etc")
    tests.add_argument("--processor", help="instead of this machine's")
    tests.add_argument("--ordinary-user", action="store_true", help="even when run by root")
    return parser.parse_args()


def main() -> int:
    """Run set-up; the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupted)
    machine = Machine(options.root.resolve(), options.etc)
    machine.processor = options.processor or machine.processor
    machine.ordinary_user = options.ordinary_user or machine.ordinary_user
    only = set(options.only.split(",")) if options.only else None
    started = time.monotonic()
    try:
        machine.check()
        with Lock(machine.build) as lock:
            done = SetUp(machine, lock.descriptor, options.extra, options.board).run(only)
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


class SetUp:
    """The steps in their order, and which of them are stale."""

    def __init__(
        self, machine: Machine, lock: int, extra: bool = False, with_board: bool = False
    ) -> None:
        self._machine = machine
        self._lock = lock
        self._table = BUILDS + EXTRA_BUILDS if extra else BUILDS
        self._stamps = Stamps(machine.build)
        self._builder = Builder(machine, self._stamps, lock)
        self._board = board.Board(machine, self._stamps, self._builder) if with_board else None
        self._environment = Environment(machine, self._stamps, lock)
        self._debian = not os.environ.get("MICROPYTHON_DIR")

    def run(self, only: set[str] | None) -> bool:
        """Do what is stale, in order; True when anything was."""
        todo = [name for name in self.stale() if only is None or name in only]
        if not todo:
            return False
        progress.say("Set-up of Taproot")
        machine = self._machine
        for folder in (machine.build, machine.build / "bin", machine.build / "src", machine.root):
            sweep(folder)
        if "venv" in todo or "sources" in todo:
            machine.check_space()
        if "sources" in todo and self._debian and machine.debian_mirror() is None:
            fetched = machine.build / "downloads" / "SHA256.json"
            if not fetched.is_file():
                raise sources.no_sources(machine)
        more = packages.board_groups() if "board" in todo else ()
        packages.prepare(machine, self._debian, self._lock, more)
        if "judges" in todo:
            packages.prepare_judges(machine, self._lock)
        self._interpreters(todo)
        absent = None if self._debian else "Debian's own MicroPython: built from MICROPYTHON_DIR"
        packages.record_absent(machine, stock=absent)
        if "stock" in todo:
            stock.make(machine, self._stamps, self._lock)
        self._environment.make([name for name in todo if name in PYTHON_STEPS])
        if "sdk" in todo:
            sdk.prepare(machine.root, self._stamps, self._lock)
        return True

    def stale(self) -> list[str]:
        """Names of the steps whose result is missing or older than its inputs."""
        found = []
        if packages.missing_judges(self._machine):
            found.append("judges")
        if self._debian and not self._stamps.fresh("sources", sources.key_of_debian()):
            found += ["sources", "mpy-cross", *(build.name for build in self._table)]
            found += ["board"] if self._board else []
        else:
            tree = sources.prepare(self._machine, self._stamps)
            if not self._builder.mpy_cross_fresh(tree):
                found.append("mpy-cross")
            found += [build.name for build in self._builder.stale(tree, self._table)]
            found += ["board"] if self._board and not self._board.fresh(tree) else []
        if self._debian and not stock.fresh(self._stamps):
            found.append("stock")
        found += self._environment.stale()
        if not sdk.fresh(self._machine.root, self._stamps):
            found.append("sdk")
        return found

    def _interpreters(self, todo: list[str]) -> None:
        """Sources, MicroPython's compiler, every interpreter of the table that is stale."""
        builds = [build for build in self._table if build.name in todo]
        if not builds and not {"sources", "mpy-cross", "board"} & set(todo):
            return
        tree = sources.prepare(self._machine, self._stamps, self._lock)
        if not self._builder.mpy_cross_fresh(tree):
            self._builder.make_mpy_cross(tree)
        for build in builds:
            self._builder.make(tree, build)
        if self._board and "board" in todo:
            self._board.make(tree)


sys.exit(main())
