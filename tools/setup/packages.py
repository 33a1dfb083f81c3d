"""The Debian packages that set-up and tests need, by group.

As root the missing ones are installed. Otherwise the one command to type is printed and set-up
ends. The judges (mosquitto, valgrind, openssl: other people's programs that tests ask for a second
opinion) never stop set-up: who is not root gets them extracted below .build. mosquitto is always
extracted, never installed, because its package starts a system service.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.setup.machine import Machine
from tools.setup.progress import Beat, Failure, clean_environment, run, say, step
from tools.setup.sources import KEYRING, apt_folder, own_lists
from tools.setup.stamps import remove, write_atomically

EMULATOR = "qemu-system-riscv32"
COMPILER = "riscv64-unknown-elf-gcc"
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")


@dataclass(frozen=True)
class Group:
    """Packages that belong together, and how to see that they are there."""

    name: str
    packages: tuple[str, ...]
    present: Callable[[], bool]


def _links(*flags: str) -> bool:
    """True when a C program that uses libc and libm can be built."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return False
    with tempfile.TemporaryDirectory(prefix="taproot-") as folder:
        source = Path(folder) / "probe.c"
        source.write_text(
            '#include <math.h>\n#include <stdio.h>\nint main(void){return puts("");}\n'
        )
        line = [compiler, *flags, str(source), "-o", f"{folder}/probe", "-lm"]
        done = subprocess.run(line, capture_output=True, check=False, env=clean_environment())
        return done.returncode == 0


def _imports(modules: str) -> bool:
    line = [sys.executable, "-I", "-c", f"import {modules}"]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def board_groups() -> list[Group]:
    """What the emulated board takes: about 1.4 GB installed."""

    def present() -> bool:
        compiler = shutil.which(COMPILER)
        if compiler is None:
            return False
        line = [compiler, "--print-file-name=picolibc.specs"]
        found = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
        return Path(found).is_file()

    return [
        Group("board", ("qemu-system-misc",), lambda: shutil.which(EMULATOR) is not None),
        Group("board", ("gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf"), present),
    ]


def groups(debian_sources: bool) -> list[Group]:
    """What must be there before anything can be made."""
    found = [
        Group("build", ("gcc", "libc6-dev"), _links),
        Group("build", ("make",), lambda: shutil.which("make") is not None),
        Group("32-bit", ("gcc-multilib",), lambda: _links("-m32")),
        Group("python", ("python3-venv",), lambda: _imports("venv, ensurepip")),
    ]
    if debian_sources:
        found.append(Group("sources", ("debian-archive-keyring",), KEYRING.is_file))
    return found


def prepare(
    machine: Machine, debian_sources: bool, lock: int | None, more: Sequence[Group] = ()
) -> None:
    """See that the packages are there, or install them, or say what to type."""
    wanted = [*groups(debian_sources), *more]
    missing = [group for group in wanted if not group.present()]
    if not missing:
        return
    names = [package for group in missing for package in group.packages]
    by_group = "; ".join(f"{group.name}: {' '.join(group.packages)}" for group in missing)
    if debian_sources and (shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None):
        raise Failure(
            f"missing here ({by_group}), and this is no apt machine",
            "install them with your system's own package manager, then run the same command",
        )
    if machine.ordinary_user:
        raise Failure(
            f"Debian packages are missing ({by_group})",
            f"type this, then run the same command again:\n    sudo {shlex.join(INSTALL)} "
            + " ".join(names),
        )
    with step("packages", f"installing {' '.join(names)} ({by_group})") as note:
        install(machine, names, lock)
        left = [group for group in missing if not group.present()]
        if left:
            raise Failure(
                f"{' '.join(left[0].packages)} is installed but does not work",
                f"see {machine.logs}/apt-install.txt",
            )
        note("installed " + " ".join(names))


def install(machine: Machine, names: list[str], lock: int | None) -> None:
    """Install with the machine's own apt; read the package lists first when that is needed."""
    environment = clean_environment(DEBIAN_FRONTEND="noninteractive")
    line = [*INSTALL, "-q", "-o", "DPkg::Lock::Timeout=120", *names]
    log = machine.logs / "apt-install.txt"
    beat = Beat("packages")
    try:
        run("installing", line, log=log, environment=environment, beat=beat, keep_lock=lock)
    except Failure:
        run(
            "reading the package lists",
            ["apt-get", "update", "-q"],
            log=machine.logs / "apt-lists.txt",
            environment=environment,
            beat=beat,
            keep_lock=lock,
        )
        run("installing", line, log=log, environment=environment, beat=beat, keep_lock=lock)


# --- judges -----------------------------------------------------------------------------------

JUDGES = {
    "mosquitto": "a strict MQTT broker",
    "valgrind": "instruction counts",
    "openssl": "TLS peers and bundle signatures",
}
_NEVER_INSTALLED = ("mosquitto",)


def judge(machine: Machine, name: str) -> str | None:
    """Where a judge is, or None."""
    path = f"{machine.build}/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return shutil.which(name, path=path)


def missing_judges(machine: Machine) -> list[str]:
    """Judges that cannot be found."""
    return [name for name in JUDGES if judge(machine, name) is None]


def prepare_judges(machine: Machine, lock: int | None) -> None:
    """Install or extract the judges; what cannot be had is listed and stops nothing."""
    missing = missing_judges(machine)
    record_absent(machine, **dict.fromkeys(JUDGES))
    if missing and not machine.ordinary_user:
        ours = [name for name in missing if name not in _NEVER_INSTALLED]
        if ours:
            try:
                with step("packages", f"installing the judges {' '.join(ours)}"):
                    install(machine, ours, lock)
            except Failure as failure:
                say(f"  judges       not installed: {failure.cause}")
    for name in missing_judges(machine):
        try:
            with step("judges", f"extracting {name} ({JUDGES[name]})"):
                _extract(machine, name, lock)
        except Failure as failure:
            record_absent(machine, **{name: failure.cause.splitlines()[0]})
            say(
                f"  judges       {name} is not here ({failure.cause.splitlines()[0]}); tests that "
                f"need it will say so. To have it: sudo {shlex.join(INSTALL)} {name}"
            )


def record_absent(machine: Machine, **reasons: str | None) -> None:
    """Note for the tests what this machine cannot have, and why; None takes a note back."""
    path = machine.build / "not_here.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    found = {name: why for name, why in {**known, **reasons}.items() if why}
    if found != known or not path.is_file():
        write_atomically(path, json.dumps(found, indent=1))


def _extract(machine: Machine, name: str, lock: int | None) -> None:
    """Fetch a package and whatever it needs that this machine lacks, unpack, write a launcher."""
    if shutil.which("apt-get") is None:
        raise Failure("this is no apt machine", "")
    archives = machine.build / "judges" / name / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    apt = apt_folder(machine, "apt-judges")
    fetch = [
        "install", "-y", "-q", "--download-only", "--no-install-recommends",
        "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={archives}", name,
    ]  # fmt: skip
    log, beat = machine.logs / f"judge-{name}.txt", Beat("judges")
    try:
        run(f"fetching {name}", ["apt-get", *fetch], log=log, beat=beat, keep_lock=lock)
    except Failure:  # no or old package lists: read them into a place of our own
        own = ["apt-get", *own_lists(apt), "-o", "Debug::NoLocking=1"]
        run(
            "reading the package lists", [*own, "update", "-q"], log=log, beat=beat, keep_lock=lock
        )
        run(f"fetching {name}", [*own, *fetch], log=log, beat=beat, keep_lock=lock)
    new = machine.build / "judges" / name / "new"
    root = machine.build / "judges" / name / "root"
    for old in (new, root):
        if old.exists():
            remove(old)
    for archive in sorted(archives.glob("*.deb")):
        line: list[str | Path] = ["dpkg-deb", "-x", archive, new]
        run(f"extracting {archive.name}", line, log=log, keep_lock=lock)
    new.rename(root)
    _launcher(machine, name, root)


def _launcher(machine: Machine, name: str, root: Path) -> None:
    """A program in .build/bin that starts the extracted judge with its own libraries."""
    # Debian's `valgrind` is a script that starts valgrind.bin by its absolute path.
    candidates = (f"usr/bin/{name}.bin", f"usr/sbin/{name}", f"usr/bin/{name}")
    program = next((p for p in candidates if (root / p).is_file()), None)
    if program is None:
        raise Failure(f"package {name} holds no program {name}", "")
    folders = {str(p.parent.relative_to(root)) for p in root.glob("usr/lib/*/*.so*")}
    folders |= {str(p.parent.relative_to(root)) for p in root.glob("lib/*/*.so*")}
    libraries = ":".join(f"$root/{folder}" for folder in sorted(folders))
    lines = [
        "#!/bin/sh",
        f"# {name}, extracted from its Debian package and not installed.",
        'here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd) || exit 2',
        f"root=$here/judges/{name}/root",
    ]
    if libraries:
        lines.append(f'export LD_LIBRARY_PATH="{libraries}"')
    if (root / "usr/libexec/valgrind").is_dir():
        lines.append('export VALGRIND_LIB="$root/usr/libexec/valgrind"')
    lines.append(f'exec "$root/{program}" "$@"')
    write_atomically(machine.build / "bin" / name, "\n".join(lines) + "\n", 0o755)
