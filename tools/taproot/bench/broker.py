"""A mosquitto of our own: the judge that is not written by us.

Responsible for: finding the program, its configuration (plain, TLS with password, TLS with
client certificate), starting, killing and restarting it with its persistent state.
Listens on 127.0.0.1, on ports the system picks, in a folder of its own.

    with Mosquitto() as broker:
        broker.tls_port, broker.root.der, broker.user, broker.password
        broker.kill(); broker.start()
"""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from taproot import interpreters
from taproot.console import PeerFailed, UsageFailed
from taproot.pki import Authority, Leaf

START_S = 10.0


def program(name: str = "mosquitto") -> Path:
    """Path of a mosquitto program: installed, or extracted beside the interpreters."""
    folder = interpreters.build_folder()
    places = [shutil.which(name), f"/usr/sbin/{name}"]
    places.append(str(folder / "bin" / name))  # a wrapper that names the libraries beside it
    places += [str(path) for path in folder.glob(f"**/usr/*bin/{name}")]
    for place in places:
        if place and Path(place).is_file():
            return Path(place)
    raise UsageFailed(f"no {name} here: run 'make setup', which fetches the judges")


def free_ports(n: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Mosquitto:
    """One broker. `client_leaf` is accepted by the certificate listener, its CN is the user."""

    user = "device1"
    password = "correct horse"  # noqa: S105 (of a broker that lives for one run)

    def __init__(self, folder: Path | None = None, key: str = "p256") -> None:
        self._own = None if folder else tempfile.mkdtemp(prefix="taproot-broker-")
        self.folder = Path(folder or self._own or ".")
        self.root = Authority.root("broker root", key)
        self.leaf = self.root.leaf("localhost", key, dns=["localhost"], ips=["127.0.0.1"])
        self.client_leaf: Leaf = self.root.leaf(self.user, key, client=True)
        self.plain_port, self.tls_port, self.cert_port = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self._write()

    def _write(self) -> None:
        folder = self.folder
        self.leaf.write(folder, "leaf")
        (folder / "root.pem").write_text(self.root.pem)
        (folder / "root.der").write_bytes(self.root.der)
        (folder / "client.der").write_bytes(self.client_leaf.der)
        (folder / "client.key.der").write_bytes(self.client_leaf.key_der)
        passwords = folder / "passwords"
        passwords.write_text("")
        passwords.chmod(0o600)
        subprocess.run(
            [str(program("mosquitto_passwd")), "-b", str(passwords), self.user, self.password],
            check=True,
            capture_output=True,
        )
        # The TLS version is pinned for figures that compare; mosquitto itself has no maximum.
        (folder / "openssl.cnf").write_text(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n"
            "[tls]\nMinProtocol = TLSv1.2\nMaxProtocol = TLSv1.2\n"
        )
        tls = f"certfile {folder}/leaf.pem\nkeyfile {folder}/leaf.key\n"
        (folder / "mosquitto.conf").write_text(
            "per_listener_settings true\nset_tcp_nodelay true\nmax_queued_messages 0\n"
            "max_queued_bytes 0\nmax_inflight_messages 0\npersistence true\n"
            f"user {getpass.getuser()}\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n"
            f"log_dest file {folder}/log\n"
            f"listener {self.plain_port} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.tls_port} 127.0.0.1\nallow_anonymous false\n"
            f"password_file {passwords}\n{tls}"
            f"listener {self.cert_port} 127.0.0.1\nallow_anonymous false\n{tls}"
            f"cafile {folder}/root.pem\nrequire_certificate true\n"
            "use_identity_as_username true\n"
        )

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [str(program()), "-c", str(self.folder / "mosquitto.conf")],
            env={"OPENSSL_CONF": str(self.folder / "openssl.cnf"), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.cert_port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        log = self.folder / "log"
        told = log.read_text().splitlines()[-1:] if log.exists() else []
        raise PeerFailed(f"mosquitto did not start: {' '.join(told) or 'no log'}")

    def hang(self) -> None:
        """SIGSTOP: it neither reads nor answers any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL, as a crash or a power cut."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            self.kills += 1

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)
