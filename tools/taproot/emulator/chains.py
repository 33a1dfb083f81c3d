"""What a TLS server shows and speaks: profiles, certificate chains, contexts, session tickets.

Responsible for: server contexts per profile and chain, choosing the chain by the ClientHello,
switching chains at run time, ticket keys kept or lost over a switch. Not for: connections
(`tls.py`), making certificates (`taproot.pki`), wrong ones (`badchains.py`).

A context is never reloaded: OpenSSL keeps one slot per key type, so an RSA chain loaded after an
ECC one would not be served. Each chain has a context of its own and a connection gets the one
that fits its ClientHello, before OpenSSL sees a byte.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from taproot.emulator import anycert
from taproot.emulator.hello import ClientHello

RSA_SUITES = (
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA384"
)
SUITES = RSA_SUITES + (
    ":ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384"
)


@dataclass(frozen=True)
class Profile:
    """What a kind of host name speaks."""

    name: str
    minimum: ssl.TLSVersion
    maximum: ssl.TLSVersion
    suites: str
    sni_required: bool = False


PROFILES = {
    "classic": Profile("classic", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, SUITES),
    "dps": Profile("dps", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, RSA_SUITES),
    "device": Profile("device", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, SUITES, True),
    # For negative tests: what OpenSSL still can do, weak keys and SHA-1 included.
    "legacy": Profile("legacy", ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2, "ALL:!aNULL:!eNULL"),
    "tls10": Profile("tls10", ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1, "ALL:!aNULL"),
    "tls11": Profile("tls11", ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1, "ALL:!aNULL"),
    # The hub without `minTlsVersion`: TLS 1.0 on, the legacy list beside the eight suites.
    "unrestricted": Profile(
        "unrestricted",
        ssl.TLSVersion.TLSv1,
        ssl.TLSVersion.TLSv1_2,
        SUITES + ":ECDHE-RSA-AES256-SHA:ECDHE-RSA-AES128-SHA:AES256-GCM-SHA384:"
        "AES128-GCM-SHA256:AES256-SHA256:AES128-SHA256:AES256-SHA:AES128-SHA",
    ),
}


class Certificate(Protocol):
    """What a chain is made of: `taproot.pki.Leaf`, or PEM texts read from files."""

    @property
    def chain_pem(self) -> str: ...

    @property
    def key_pem(self) -> str: ...


@dataclass(frozen=True)
class PemChain:
    """A chain read from files."""

    chain_pem: str
    key_pem: str = field(repr=False)


@dataclass
class TLSOptions:
    """The knobs of `[tls]`."""

    profile: str = "classic"
    profiles: dict[str, str] = field(default_factory=dict)  # host name -> profile
    tickets: str = "off"  # "off", "kept" (survive a chain switch), "lost" (do not)
    client_certificates: bool = True  # ask for one in every handshake
    record_size: int = 0  # plaintext bytes per record; 0: OpenSSL's 16384
    violate_mfl: bool = False  # join handshake records, whatever the client asked for
    refuse_sni: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.profile, *self.profiles.values()):
            if name not in PROFILES:
                raise ValueError(f"tls profile '{name}': one of {', '.join(PROFILES)}")
        if self.tickets not in ("off", "kept", "lost"):
            raise ValueError("tls.tickets is off, kept or lost")
        if self.record_size and not 512 <= self.record_size <= 16_384:
            raise ValueError("tls.record_size is 512 to 16384")


def load(context: ssl.SSLContext, chain: Certificate) -> None:
    """Load chain and key; `ssl` only reads files, so they are written to a private folder."""
    with tempfile.TemporaryDirectory(prefix="taproot-") as folder:
        path = os.path.join(folder, "chain.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(chain.chain_pem + chain.key_pem)
        context.load_cert_chain(path)


def bare_context(chain: Certificate, profile: Profile = PROFILES["legacy"]) -> ssl.SSLContext:
    """Make a server context of a profile with a chain, asking for no client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.0 and 1.1 are the point
        context.minimum_version, context.maximum_version = profile.minimum, profile.maximum
    # what the server shows may be weak on purpose; the client is the judge
    context.set_ciphers(f"{profile.suites}:@SECLEVEL=0")
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE  # the client's order decides
    load(context, chain)
    return context


class Chains:
    """Which certificate a host name shows: an RSA chain, an ECC chain, or both."""

    def __init__(self) -> None:
        self._by_name: dict[str | None, dict[str, Certificate]] = {}
        self.generation = 0

    def set(self, *chains: Certificate, name: str | None = None) -> None:
        """Show these chains under `name` (None: every other name) from the next handshake on."""
        self._by_name[name.lower() if name else None] = {_kind(chain): chain for chain in chains}
        self.generation += 1

    def forget(self, name: str) -> None:
        """Show the default under this name again."""
        if self._by_name.pop(name.lower(), None) is not None:
            self.generation += 1

    def choose(self, client: ClientHello, tls13: bool = False) -> Certificate | None:
        """Return the chain for a ClientHello: ECC only to a client that cannot use RSA."""
        found = self._by_name.get((client.server_name or "").lower()) or self._by_name.get(None)
        if not found:
            return None
        if "rsa" in found and (client.has_rsa(tls13) or "ecc" not in found):
            return found["rsa"]
        return found.get("ecc")


def _kind(chain: Certificate) -> str:
    key = getattr(chain, "key", None)
    if key is None:
        key = load_pem_private_key(chain.key_pem.encode(), None)
    return "ecc" if isinstance(key, ec.EllipticCurvePrivateKey) else "rsa"


class Contexts:
    """The server contexts of one listener, made when first needed."""

    def __init__(self, options: TLSOptions) -> None:
        self.options = options
        self._made: OrderedDict[tuple[int, str], tuple[Certificate, ssl.SSLContext]] = (
            OrderedDict()
        )
        self._ticket_base: dict[str, tuple[int, ssl.SSLContext]] = {}

    def get(self, chain: Certificate, profile: Profile) -> ssl.SSLContext:
        """Return the context that shows `chain` with `profile`."""
        key = (id(chain), profile.name)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key][1]
        context = self._make(chain, profile)
        self._made[key] = (chain, context)  # the chain is kept, so its id stays its own
        while len(self._made) > 64:
            self._made.popitem(last=False)
        return context

    def _make(self, chain: Certificate, profile: Profile) -> ssl.SSLContext:
        context = bare_context(chain, profile)
        if self.options.client_certificates:
            anycert.request_any(context)
        if self.options.record_size:
            anycert.set_record_size(context, self.options.record_size)
        if self.options.tickets == "off":
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context

    def base(self, chain: Certificate, profile: Profile, generation: int) -> ssl.SSLContext:
        """Return the context that holds the ticket keys, which a switch keeps or loses."""
        kept = self._ticket_base.get(profile.name)
        if kept is None or (self.options.tickets == "lost" and kept[0] != generation):
            kept = (generation, self._make(chain, profile))
            self._ticket_base[profile.name] = kept
        return kept[1]

    def forget_tickets(self) -> None:
        """Make new ticket keys from the next handshake on."""
        self._ticket_base.clear()

    def wrap(
        self, chain: Certificate, profile: Profile, generation: int, i: Any, o: Any
    ) -> ssl.SSLObject:
        """Make the TLS side of one connection."""
        context = self.get(chain, profile)
        if self.options.tickets == "off":
            return context.wrap_bio(i, o, server_side=True)
        wrapped = self.base(chain, profile, generation).wrap_bio(i, o, server_side=True)
        wrapped.context = context
        return wrapped
