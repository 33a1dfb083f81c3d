"""Builds mpy-cross and the host variants of MicroPython, one folder per configuration.

A build is keyed by everything that went in: sources, variant files, the user C module, flags,
compiler and, where the device package is frozen, firmware/azure_iot. When only files changed,
make compiles what they touch (a firmware edit: its frozen part); when sources, flags, makefiles or
the compiler changed, or a build was killed, its folder is made anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.setup.machine import Machine
from tools.setup.progress import Beat, Failure, clean_environment, run, step
from tools.setup.sources import Sources
from tools.setup.stamps import Stamps, copy_atomically, digest_of, digest_of_files, remove


@dataclass(frozen=True)
class Build:
    """One row of the build table."""

    name: str
    purpose: str
    defines: tuple[str, ...]
    bits: int = 64
    frozen: bool = False  # holds the device package, as a board does
    flags: str = ""  # compiler flags that are no defines
    options: tuple[str, ...] = ()  # more make variables

    @property
    def arguments(self) -> list[str]:
        """Make variables of this configuration."""
        flags = " ".join([*(f"-D{define}" for define in self.defines), self.flags]).strip()
        manifest = "manifest.py" if self.frozen else "manifest_asyncio.py"
        found = [f"CFLAGS_EXTRA={flags}", f"FROZEN_MANIFEST=$(VARIANT_DIR)/{manifest}"]
        found += self.options
        return found + (["MICROPY_FORCE_32BIT=1"] if self.bits == 32 else [])


_BOARD = ("TAPROOT_IN_CONTENT_LEN=4096", "TAPROOT_OUT_CONTENT_LEN=2048")
# The switches are explained in boards/unix/mbedtls_config_taproot.h.
BUILDS = (
    Build(
        "unix64",
        "runs every test",
        ("TAPROOT_NO_VARIABLE_BUFFER",),
        frozen=True,
    ),
    Build(
        "unix32",
        "heap limits, out-of-memory sweeps, drill",
        ("TAPROOT_IN_CONTENT_LEN=4096",),
        bits=32,
        frozen=True,
    ),
    Build(
        "unix64-nomfl",
        "TLS server that ignores max_fragment_length and sends full records",
        ("TAPROOT_NO_VARIABLE_BUFFER", "TAPROOT_NO_MFL", "TAPROOT_OUT_CONTENT_LEN=16384"),
    ),
    Build(
        "unix64-board",
        "settings of the shipped boards, software bignum: drill",
        _BOARD,
        frozen=True,
        options=("TLSBIGNUM=1",),
    ),
    Build(
        "unix32-board",
        "settings of the shipped boards, software bignum: 32-bit drill",
        _BOARD,
        bits=32,
        frozen=True,
        options=("TLSBIGNUM=1",),
    ),
    Build("unix64-vb", "variable buffers with a 16 KiB input buffer", ()),
    Build(
        "unix32-out2048",
        "max_fragment_length above the output buffer",
        ("TAPROOT_IN_CONTENT_LEN=4096", "TAPROOT_OUT_CONTENT_LEN=2048"),
        bits=32,
    ),
)


_SANITIZE = "-fsanitize=address,undefined --param asan-use-after-return=0"
# Made by `python3 -m tools.setup --extra` and for `make test-long`: what figures and sanitizers need.
EXTRA_BUILDS = (
    Build(
        "unix32-tiny",
        "the smallest buffers, software bignum",
        ("TAPROOT_IN_CONTENT_LEN=4096", "TAPROOT_OUT_CONTENT_LEN=1024"),
        bits=32,
        frozen=True,
        options=("TLSBIGNUM=1",),
    ),
    Build(
        "unix32-plain",
        "MicroPython's own cryptographic settings, to compare with",
        ("TAPROOT_IN_CONTENT_LEN=4096", "TAPROOT_PLAIN_ECP"),
        bits=32,
        frozen=True,
    ),
    Build(
        "unix32-stock",
        "MicroPython's own TLS settings throughout, to compare with",
        (
            "TAPROOT_PLAIN_ECP",
            "TAPROOT_NO_VARIABLE_BUFFER",
            "TAPROOT_NO_TICKETS",
            "TAPROOT_NO_CA_CALLBACK",
        ),
        bits=32,
        frozen=True,
    ),
    Build(
        "unix64-asan",
        "the C modules under the sanitizers",
        ("TAPROOT_NO_VARIABLE_BUFFER",),
        flags=_SANITIZE
        + " -fno-sanitize=nonnull-attribute -fno-sanitize-recover=undefined -Wno-error",
        options=(f"LDFLAGS_EXTRA={_SANITIZE}", "STRIP="),
    ),
)


class Builder:
    """Builds into `.build/obj`, installs into `.build/bin`."""

    def __init__(self, machine: Machine, stamps: Stamps, lock: int | None) -> None:
        self._machine = machine
        self._stamps = stamps
        self._lock = lock
        self._boards = machine.root / "boards"

    def stale(self, sources: Sources, table: tuple[Build, ...] = BUILDS) -> list[Build]:
        """Rows of the table whose interpreter is missing or older than its inputs."""
        return [b for b in table if not self._stamps.fresh(b.name, self._key(sources, b))]

    def mpy_cross_fresh(self, sources: Sources) -> bool:
        """True when mpy-cross is there and of these sources."""
        return self._stamps.fresh("mpy-cross", digest_of(sources.key, compiler()))

    def make_mpy_cross(self, sources: Sources) -> None:
        """Build the cross compiler that every other build uses."""
        key = digest_of(sources.key, compiler())
        with step("mpy-cross", "building MicroPython's compiler"):
            self._stamps.drop("mpy-cross")
            made = self.compile("mpy-cross", key, sources.folder / "mpy-cross", [], "mpy-cross")
            target = self._machine.build / "bin" / "mpy-cross"
            copy_atomically(made, target)
            self._stamps.write("mpy-cross", key, [target])

    def make(self, sources: Sources, build: Build) -> None:
        """Build one interpreter, try it, put it in place."""
        target = self._machine.build / "bin" / f"micropython-{build.name}"
        key = self._key(sources, build)
        with step(build.name, f"building for: {build.purpose}") as note:
            self._stamps.drop(build.name)
            made = self.compile(
                build.name,
                digest_of(sources.key, compiler(), build.arguments, self._makefiles()),
                sources.folder / "ports" / "unix",
                [
                    f"VARIANT_DIR={self._boards}/unix",
                    f"USER_C_MODULES={self._boards}/usermod",
                    f"MPY_LIB_DIR={self._boards}/unix/mpylib",
                    f"MICROPY_MPYCROSS={self._machine.build}/bin/mpy-cross",
                    f"MBEDTLS_DIR={sources.mbedtls}",
                    *build.arguments,
                ],
                "micropython",
            )
            self._try(made, build)
            copy_atomically(made, target)
            self._stamps.write(build.name, key, [target])
            note(f"{made.stat().st_size / 1000:.0f} KB")

    def _key(self, sources: Sources, build: Build) -> str:
        """Everything that goes into one interpreter."""
        firmware = self._machine.root / "firmware"
        inputs = [p for p in self._boards.glob("u*/**/*") if p.is_file()]
        if build.frozen:
            inputs += [firmware / "manifest.py", *(firmware / "azure_iot").rglob("*.py")]
        files = digest_of_files(self._machine.root, inputs)
        return digest_of(sources.key, compiler(), build.arguments, files)

    def _makefiles(self) -> str:
        """Makefiles of variant and modules: make does not see when these change."""
        return digest_of_files(self._boards, self._boards.glob("u*/**/*.mk"))

    def compile(
        self, name: str, key: str, folder: Path, arguments: list[str], product: str
    ) -> Path:
        """Run make in a folder of its own; made anew when `key` changed or the last run was killed."""
        objects = self._machine.build / "obj" / name
        kept, running = objects / "taproot-key", objects / "taproot-running"
        if objects.exists() and (
            running.exists() or not kept.exists() or kept.read_text("utf-8") != key
        ):
            remove(objects)
        objects.mkdir(parents=True, exist_ok=True)
        running.touch()
        if (
            objects / "frozen_mpy"
        ).is_dir():  # by time stamps alone an older file would stay unseen
            remove(objects / "frozen_mpy")
        kept.write_text(key, "utf-8")
        try:
            run(
                f"building {name}",
                ["make", "-C", folder, f"-j{os.cpu_count() or 1}", f"BUILD={objects}", *arguments],
                log=self._machine.logs / f"build-{name}.txt",
                environment=clean_environment(),
                beat=Beat(name),
                describe=_compiled(),
                keep_lock=self._lock,
            )
        except Failure:
            running.unlink()  # make ended by itself: what it left is whole
            raise
        running.unlink()
        return objects / product

    def _try(self, made: Path, build: Build) -> None:
        """Run the new interpreter once; an interpreter that cannot say its settings is not used."""
        asked = dict(define.split("=") for define in build.defines if "=" in define)
        wanted = [
            asked.get("TAPROOT_IN_CONTENT_LEN", "16384"),
            asked.get("TAPROOT_OUT_CONTENT_LEN", "4096"),
            str("TAPROOT_NO_VARIABLE_BUFFER" not in build.defines),
            "1" * (build.bits - 1),
        ]
        program = (
            "import sys, tlsopt as t\n"
            "print(t.IN_CONTENT_LEN, t.OUT_CONTENT_LEN, t.VARIABLE_BUFFER, bin(sys.maxsize)[2:])"
        )
        result = subprocess.run(
            [made, "-c", program],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=clean_environment(),
        )
        if result.stdout.split() != wanted:
            raise Failure(
                f"the new interpreter '{build.name}' says {result.stdout.split()}, not {wanted} "
                f"{result.stderr.strip()}",
                "see boards/unix/mbedtls_config_taproot.h and tools/setup/builds.py",
            )


def compiler() -> str:
    """The compiler by name and version, as its program file is called."""
    found = shutil.which("gcc") or shutil.which("cc")
    return os.path.basename(os.path.realpath(found)) if found else "none"


def _compiled() -> Callable[[int, str], str]:
    """Describe make's output: how many files so far, and which."""
    count = 0

    def describe(_lines: int, line: str) -> str:
        nonlocal count
        found = re.match(r"(CC|AS|LINK|MPY|GEN|CXX) (\S+)", line)
        if found and found.group(1) in ("CC", "AS"):
            count += 1
        return f"{count} files compiled" + (f", now {found.group(2)[-50:]}" if found else "")

    return describe
