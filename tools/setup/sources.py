"""MicroPython and Mbed TLS sources: from Debian's source packages, or a checkout the user names.

Debian: the machine's own mirror (or DEBIAN_MIRROR), suite trixie, in an apt configuration of its
own below .build, so that the machine's sources, lists and package state stay as they are. apt
checks the signatures; the key ring is package debian-archive-keyring. The `.orig` tarballs are
used as they are, without Debian's patches.

Checkout: MICROPYTHON_DIR, with Mbed TLS ≥ 3.6.3 inside it (older ones keep full-size buffers when
a fragment length below 4096 is agreed).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.setup.machine import Machine
from tools.setup.progress import Beat, Failure, run, say, step
from tools.setup.stamps import Stamps, digest_of, digest_of_file, remove, write_atomically

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE_PACKAGES = ("micropython", "mbedtls")
# The stock interpreter and every library it needs, its own libc included.
STOCK_PACKAGES = (
    "micropython", "libmbedcrypto16", "libmbedtls21", "libmbedx509-7", "libffi8", "libc6",
)  # fmt: skip
MBEDTLS_MIN = (3, 6, 3)


@dataclass
class Sources:
    """A MicroPython source tree that can be built, and the key of what is in it."""

    folder: Path
    key: str
    mbedtls: str  # MBEDTLS_DIR, relative to `folder`
    text: str


def key_of_debian() -> str:
    """Key of the stamp for sources from Debian: what is fetched once is kept."""
    return digest_of("debian", SUITE)


def no_sources(machine: Machine) -> Failure:
    """The one line that a machine without a Debian mirror gets."""
    return Failure(
        f"no Debian mirror is configured on this machine ({machine.distribution()}), and "
        "MicroPython's sources come from Debian",
        "type one of these:\n"
        "    make setup DEBIAN_MIRROR=URL_OF_A_DEBIAN_MIRROR   (ends in /debian; needs the package "
        "debian-archive-keyring)\n"
        "    make setup MICROPYTHON_DIR=/path/to/a/micropython/checkout",
    )


def prepare(machine: Machine, stamps: Stamps, lock: int | None = None) -> Sources:
    """Return the sources, fetched and unpacked if need be."""
    named = os.environ.get("MICROPYTHON_DIR")
    return _checkout(Path(named)) if named else _debian(machine, stamps, lock)


def version_of_mbedtls(folder: Path) -> tuple[int, ...] | None:
    """Version of an Mbed TLS tree, None when there is none."""
    header = folder / "include" / "mbedtls" / "build_info.h"
    if not header.is_file():
        return None
    found = re.search(r'MBEDTLS_VERSION_STRING\s+"([0-9.]+)"', header.read_text("utf-8"))
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def _checkout(folder: Path) -> Sources:
    folder = folder.expanduser().resolve()
    if not (folder / "ports" / "unix" / "Makefile").is_file():
        raise Failure(
            f"MICROPYTHON_DIR={folder} is not a MicroPython checkout (no ports/unix)",
            "name the top folder of a checkout, or leave MICROPYTHON_DIR unset",
        )
    candidates = [folder / "lib" / "mbedtls", *sorted(folder.glob("lib/mbedtls-*"))]
    seen = []
    for candidate in candidates:
        version = version_of_mbedtls(candidate)
        if version is None:
            continue
        if version >= MBEDTLS_MIN:
            where = str(candidate.relative_to(folder))
            text = f"MicroPython checkout, Mbed TLS {'.'.join(map(str, version))} ({where})"
            return Sources(folder, digest_of(str(folder), where, _state(folder)), where, text)
        seen.append(".".join(map(str, version)))
    wanted = ".".join(map(str, MBEDTLS_MIN))
    if seen:
        raise Failure(
            f"MICROPYTHON_DIR={folder} holds Mbed TLS {', '.join(seen)}; {wanted} or newer is "
            "needed",
            f"put a newer tree beside it, for example {folder}/lib/mbedtls-3.6.6",
        )
    raise Failure(
        f"MICROPYTHON_DIR={folder} has no lib/mbedtls",
        f"git -C {folder} submodule update --init lib/mbedtls   (and see that it is {wanted} "
        "or newer)",
    )


def _state(folder: Path) -> str:
    """What identifies a checkout's content: commit and local changes, or the version header."""
    try:
        line = ["git", "-C", str(folder)]
        commit = subprocess.run([*line, "rev-parse", "HEAD"], capture_output=True, check=True)
        changes = subprocess.run(
            [*line, "diff", "HEAD", "--", "py", "extmod", "ports/unix", "shared", "mpy-cross"],
            capture_output=True,
            check=True,
        )
        return digest_of(commit.stdout.hex(), changes.stdout.hex())
    except (OSError, subprocess.CalledProcessError):
        return digest_of_file(folder / "py" / "mpconfig.h")


def _debian(machine: Machine, stamps: Stamps, lock: int | None) -> Sources:
    stamp = stamps.read("sources")
    if stamps.fresh("sources", key_of_debian()):
        return _of_stamp(machine, stamp)
    files = fetch(machine, lock)
    tarballs = {name: _tarball(files, name) for name in SOURCE_PACKAGES}
    versions = {name: path.name.split("_")[1].split(".orig")[0] for name, path in tarballs.items()}
    if tuple(int(p) for p in re.findall(r"\d+", versions["mbedtls"])[:3]) < MBEDTLS_MIN:
        raise Failure(
            f"this mirror's Mbed TLS is {versions['mbedtls']}, too old",
            "name a mirror with current Debian 13: make setup DEBIAN_MIRROR=URL",
        )
    name = f"micropython-{versions['micropython']}-mbedtls-{versions['mbedtls']}"
    folder = machine.build / "src" / name
    with step("sources", f"unpacking MicroPython {versions['micropython']}") as note:
        stamps.drop("sources")
        new = folder.with_name(f".{name}.new")
        for old in (new, folder):
            if old.exists():
                remove(old)
        _unpack(tarballs["micropython"], new)
        _unpack(tarballs["mbedtls"], new / "lib" / "mbedtls")
        new.rename(folder)
        text = f"MicroPython {versions['micropython']}, Mbed TLS {versions['mbedtls']} from Debian"
        stamps.write(
            "sources",
            key_of_debian(),
            [folder, folder / "ports" / "unix" / "Makefile"],
            folder=name,
            text=text,
            content=digest_of(*[digest_of_file(path) for path in tarballs.values()]),
        )
        note(text)
    return _of_stamp(machine, stamps.read("sources"))


def _of_stamp(machine: Machine, stamp: dict[str, object]) -> Sources:
    folder = machine.build / "src" / str(stamp["folder"])
    return Sources(folder, str(stamp["content"]), "lib/mbedtls", str(stamp["text"]))


def _tarball(files: Sequence[Path], name: str) -> Path:
    return next(p for p in files if p.name.startswith(f"{name}_") and ".orig.tar." in p.name)


def _unpack(tarball: Path, folder: Path) -> None:
    """Unpack without the tarball's own top folder."""
    with tarfile.open(tarball) as archive:
        members = []
        for member in archive.getmembers():
            parts = member.name.split("/", 1)
            if len(parts) == 2 and ".." not in parts[1].split("/"):
                member.name = parts[1]
                if member.islnk():
                    member.linkname = member.linkname.split("/", 1)[-1]
                members.append(member)
        archive.extractall(folder, members)  # noqa: S202  (signature checked, names cut above)


# --- fetching ---------------------------------------------------------------------------------


def fetch(machine: Machine, lock: int | None = None) -> list[Path]:
    """Fetch sources and stock packages once; afterwards only their digests are checked."""
    folder = machine.build / "downloads"
    listing = folder / "SHA256.json"
    if listing.is_file():
        expected = json.loads(listing.read_text("utf-8"))
        wrong = [
            name
            for name, digest in expected.items()
            if not (folder / name).is_file() or digest_of_file(folder / name) != digest
        ]
        if not wrong:
            return [folder / name for name in expected]
        say(f"  sources      checksum wrong: {', '.join(wrong)}; fetching again")
        listing.unlink()
        for name in wrong:
            (folder / name).unlink(missing_ok=True)
    mirror = machine.debian_mirror()
    if mirror is None:
        raise no_sources(machine)
    if not KEYRING.is_file():
        raise Failure(
            "Debian's keys are not here, so nothing from a Debian mirror can be verified",
            "sudo apt-get install debian-archive-keyring",
        )
    with step("sources", f"fetching sources and stock packages from {mirror}") as note:
        files = _fetch(machine, mirror, folder, lock)
        digests = {path.name: digest_of_file(path) for path in files}
        write_atomically(listing, json.dumps(digests, indent=1))
        note(f"{len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.0f} MB, verified")
    return files


def _fetch(machine: Machine, mirror: str, folder: Path, lock: int | None) -> list[Path]:
    apt = apt_folder(machine, "apt")
    write_atomically(
        apt / "sources.list",
        "".join(
            f"{kind} [signed-by={KEYRING}] {mirror} {SUITE} main\n" for kind in ("deb", "deb-src")
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    beat = Beat("sources")

    def apt_get(what: str, *words: str) -> None:
        run(
            what,
            [
                "apt-get", "-q", *own_lists(apt),
                "-o", f"Dir::Etc::SourceList={apt}/sources.list",
                "-o", "Dir::Etc::SourceParts=/dev/null",
                "-o", "Dir::State::status=/dev/null",
                "-o", "APT::Update::Error-Mode=any",
                "-o", "Acquire::Retries=2",
                *words,
            ],
            log=machine.logs / f"apt-{words[0]}.txt", cwd=folder, beat=beat, keep_lock=lock,
        )  # fmt: skip

    apt_get("reading the mirror's package lists", "update")
    apt_get("fetching the sources", "source", "--download-only", *SOURCE_PACKAGES)
    apt_get("fetching the stock interpreter", "download", *STOCK_PACKAGES)
    found = [_newest(folder, f"{name}_*.orig.tar.*") for name in SOURCE_PACKAGES]
    return found + [_newest(folder, f"{name}_*.deb") for name in STOCK_PACKAGES]


def own_lists(apt: Path) -> list[str]:
    """apt options that keep lists and cache below `apt`."""
    return ["-o", f"Dir::State::Lists={apt}/lists", "-o", f"Dir::Cache={apt}/cache"]


def apt_folder(machine: Machine, name: str) -> Path:
    """A folder in which apt can keep its lists and cache."""
    apt = machine.build / name
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    return apt


def _newest(folder: Path, pattern: str) -> Path:
    found = [p for p in folder.glob(pattern) if not p.name.endswith(".asc")]
    if not found:
        raise Failure(
            f"the mirror gave no {pattern}",
            "name a full Debian mirror: make setup DEBIAN_MIRROR=URL",
        )
    return max(found, key=lambda path: path.stat().st_mtime)
