"""What set-up says when it cannot work: the cause, and the line to type. Never a traceback."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import Checkout

TOOLS = ("make", "apt-get", "dpkg-deb", "git", "sh", "uname", "env")


def refused(checkout: Checkout, *words: str, **environment: str) -> str:
    """Run set-up, expect exit 2 with a remedy and no traceback; what it said."""
    ended = checkout.run(*words, **environment)
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.text
    assert "\nremedy: " in ended.errors
    return ended.text


def fake_etc(folder: Path, identity: str) -> Path:
    """An /etc with the os-release of another distribution and no package sources."""
    etc = folder / "etc"
    (etc / "apt" / "sources.list.d").mkdir(parents=True)
    (etc / "os-release").write_text(f'NAME="x"\nID={identity}\nVERSION_ID="24.04"\n')
    return etc


def test_ubuntu_is_told_the_exact_line_to_type(checkout: Checkout) -> None:
    etc = fake_etc(checkout.folder, "ubuntu")
    text = refused(checkout, "--etc", str(etc), DEBIAN_MIRROR="")
    assert "no Debian mirror is configured on this machine (ubuntu)" in text
    assert "make setup DEBIAN_MIRROR=" in text
    assert "make setup MICROPYTHON_DIR=" in text
    assert "debian-archive-keyring" in text


def test_ubuntu_lists_are_not_taken_for_a_debian_mirror(checkout: Checkout) -> None:
    etc = fake_etc(checkout.folder, "ubuntu")
    (etc / "apt" / "sources.list").write_text("deb http://127.0.0.1:9/ubuntu noble main\n")
    assert "no Debian mirror" in refused(checkout, "--etc", str(etc), DEBIAN_MIRROR="")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "sources.list.d/debian.sources",
            "Types: deb\nURIs: http://127.0.0.1:9/one\nSuites: trixie trixie-updates\n"
            "Components: main\n\nTypes: deb\nURIs: http://127.0.0.1:9/two-security\n"
            "Suites: trixie-security\n",
        ),
        (
            "sources.list",
            "# deb http://127.0.0.1:9/zero trixie main\n"
            "deb http://127.0.0.1:9/two-security bookworm-security main\n"
            "deb [arch=amd64 signed-by=/x] http://127.0.0.1:9/one/ bookworm main\n",
        ),
    ],
)
def test_debian_uses_the_mirror_of_the_machine(
    checkout: Checkout, name: str, content: str
) -> None:
    etc = fake_etc(checkout.folder, "debian")
    (etc / "apt" / name).write_text(content)
    text = refused(checkout, "--etc", str(etc), "--only", "sources", DEBIAN_MIRROR="")
    assert "from http://127.0.0.1:9/one …" in text


def test_no_network_is_said_in_words(checkout: Checkout) -> None:
    text = refused(checkout, "--only", "sources")
    assert "no network" in text
    assert "run the same command again" in text


def test_a_mirror_without_the_suite_is_named_as_the_cause(
    checkout: Checkout, tmp_path: Path
) -> None:
    text = refused(checkout, "--only", "sources", DEBIAN_MIRROR=f"file:{tmp_path}/nothing")
    assert "DEBIAN_MIRROR=" in text


def test_an_unsigned_mirror_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    suite = tmp_path / "debian" / "dists" / "trixie"
    suite.mkdir(parents=True)
    (suite / "Release").write_text(
        "Origin: Debian\nSuite: stable\nCodename: trixie\nComponents: main\nArchitectures: amd64\n"
        "Date: Mon, 23 Nov 2026 00:00:00 UTC\n"
    )
    text = refused(checkout, "--only", "sources", DEBIAN_MIRROR=f"file:{tmp_path}/debian")
    assert "signature" in text or "does not have it" in text
    assert not list((checkout.build / "src").glob("*"))


def bare_machine(folder: Path) -> Path:
    """A folder of programs as on a machine without compilers."""
    programs = folder / "bin"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found:
            (programs / name).symlink_to(found)
    return programs


def test_no_compiler_prints_the_one_command(checkout: Checkout, tmp_path: Path) -> None:
    programs = bare_machine(tmp_path)
    text = refused(checkout, "--ordinary-user", "--only", "sources", PATH=str(programs))
    assert "build: gcc libc6-dev" in text
    assert "32-bit: gcc-multilib" in text
    command = next(line for line in text.splitlines() if "sudo apt-get install" in line)
    assert command.split()[-3:] == ["gcc", "libc6-dev", "gcc-multilib"]


def test_the_emulated_board_asks_for_its_packages_only_when_it_is_wanted(
    checkout: Checkout, tmp_path: Path
) -> None:
    programs = bare_machine(tmp_path)
    text = refused(checkout, "--ordinary-user", "--only", "sources", PATH=str(programs))
    assert "riscv64" not in text and "qemu" not in text
    text = refused(checkout, "--ordinary-user", "--board", "--only", "board", PATH=str(programs))
    wanted = ["qemu-system-misc", "gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf"]
    command = next(line for line in text.splitlines() if "sudo apt-get install" in line)
    assert command.split()[-3:] == wanted


def test_another_processor_is_refused_in_one_line(checkout: Checkout) -> None:
    text = refused(checkout, "--processor", "aarch64")
    assert "set-up: this processor is aarch64" in text
    assert len(text.strip().splitlines()) == 2


def test_an_old_python_is_refused_before_anything_else(checkout: Checkout) -> None:
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); sys.argv[:] = ['setup'];"
        "runpy.run_module('tools.setup', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=checkout.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 1
    assert "Python 3.9 is too old, Taproot needs 3.11" in done.stderr
    assert "PYTHON=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_with_a_space_is_refused(checkout: Checkout) -> None:
    moved = checkout.folder / "a b"
    shutil.copytree(checkout.folder / "tools", moved / "tools")
    assert "holds a space" in refused(Checkout(moved))


@pytest.mark.parametrize(
    ("version", "said"),
    [(None, "has no lib/mbedtls"), ("3.6.2", "holds Mbed TLS 3.6.2; 3.6.3 or newer")],
)
def test_a_checkout_without_a_usable_mbedtls_is_refused(
    checkout: Checkout, tmp_path: Path, version: str | None, said: str
) -> None:
    fake_micropython(tmp_path, version)
    assert said in refused(checkout, MICROPYTHON_DIR=str(tmp_path))


def test_a_folder_that_is_no_checkout_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    assert "is not a MicroPython checkout" in refused(checkout, MICROPYTHON_DIR=str(tmp_path))


def fake_micropython(folder: Path, mbedtls: str | None) -> None:
    """The few files by which set-up recognises a checkout."""
    for name in ("ports/unix/Makefile", "py/mpconfig.h"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    if mbedtls:
        header = folder / "lib" / "mbedtls" / "include" / "mbedtls" / "build_info.h"
        header.parent.mkdir(parents=True)
        header.write_text(f'#define MBEDTLS_VERSION_STRING "{mbedtls}"\n')


def test_a_full_disk_is_said_before_anything_is_fetched(checkout: Checkout, not_checked) -> None:
    name_space = ["unshare", "--mount", "--map-root-user"]
    try:
        possible = subprocess.run([*name_space, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        not_checked("a full disk: no program unshare")
    if possible.returncode != 0:
        not_checked("a full disk: this machine allows no mount name space")
    small = checkout.folder / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=20m tmpfs {small} && cp -r $(ls -d {checkout.folder}/* | grep -v small) "
        f"{small}/ && "
        f"cd {small} && exec {sys.executable} -m tools.setup"
    )
    done = subprocess.run(
        [*name_space, "sh", "-c", script],
        env=checkout.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the disk is full: " in done.stderr
    assert "remedy: free some space" in done.stderr


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: re.sub(r" *\\\\?\n? *--hash=\S+", "", text), "the lock file is damaged"),
        (lambda text: text.replace("sha256:", "sha256:0"), "the lock file is damaged"),
        (lambda text: text.replace("==", ">="), "the lock file is damaged"),
        (lambda text: text[: len(text) - 9], "the lock file is damaged"),
        (None, "is missing"),
    ],
)
def test_a_damaged_lock_file_is_named(checkout: Checkout, damage, said: str) -> None:
    lock = checkout.folder / "tools" / "setup" / "build.lock"
    if damage is None:
        lock.unlink()
    else:
        lock.write_text(damage(lock.read_text()))
    text = refused(checkout, "--only", "venv", PIP_NO_INDEX="1")
    assert said in text
    assert "git checkout -- tools/setup" in text


def test_a_package_that_is_not_the_locked_one_is_refused(
    checkout: Checkout, tmp_path: Path
) -> None:
    lock = (checkout.folder / "tools" / "setup" / "build.lock").read_text()
    version = lock.split("setuptools==")[1].split()[0]
    (tmp_path / f"setuptools-{version}-py3-none-any.whl").write_bytes(b"not the locked package")
    text = refused(checkout, "--only", "venv", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "checksum wrong" in text


def test_os_errors_come_with_a_remedy() -> None:
    import errno

    from tools.setup.progress import os_failure

    full = os_failure(OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert full.cause == "the disk is full (/x)"
    denied = os_failure(PermissionError(errno.EACCES, "Permission denied", "/x"))
    assert "belongs to somebody else" in denied.cause
