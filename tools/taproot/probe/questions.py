"""The questions, one handshake each, and the answers as one dictionary.

Responsible for: what is asked in which order, and summing it up: chains, fragment lengths,
resumption, the smallest input buffer, the plan the device would make. Not for: the wire
(flight.py, resumption.py), presentation (cli.py, picture.py).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from azure_iot.errors import AzureIoTError
from azure_iot.tls.profile import Build, TLSProfile
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from taproot.probe.chain import Known, anchors, describe, name_fits
from taproot.probe.flight import CLASSES, ECDSA, RSA, SUITES, VERSIONS, Flight, ask
from taproot.probe.resumption import Shake, context, shake
from taproot.trust.roots import catalogue

SIZES = (512, 1024, 2048, 4096)
# The boards this project ships, for the plan at the end.
BOARDS = {
    "default": Build(
        module=True, in_len=4096, out_len=4096, variable_buffer=True, keep_peer=False, mfl=True,
        ca_callback=True, version="3.6.6",
    ),
    "tiny": Build(
        module=True, in_len=4096, out_len=1024, variable_buffer=True, keep_peer=False, mfl=True,
        ca_callback=True, version="3.6.6",
    ),
    "stock": Build(),
}  # fmt: skip


@dataclass
class Probe:
    """One target and everything found out."""

    host: str
    port: int
    known: list[Known]
    name: str = ""  # SNI and verified name, when it differs from where TCP goes
    bundle: bool = False
    timeout: float = 10
    say: Callable[[str], None] = lambda text: None
    answers: dict[str, Any] = field(default_factory=dict)
    handshakes: int = 0
    ladders: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Ask everything; raise Unreachable when there is no answer at all."""
        self.name = self.name or self.host
        found = self.answers
        found["target"] = f"{self.host}:{self.port}"
        found["name"] = self.name
        found["at"] = int(time.time())
        first = self._ask(list(SUITES))
        if first.note.startswith("not TLS"):
            found["tls"] = False
            found["note"] = first.note
            return found
        found["tls"] = True
        found["chains"] = {
            "rsa": self._chain([*RSA, *(s for s in SUITES if s in (0xC013, 0xC014, 0x9C, 0x2F))]),
            "ecdsa": self._chain(list(ECDSA)),
        }
        found["versions"] = self._versions()
        found["suites"] = self._suites()
        found["sni"] = self._sni()
        found["client_certificate_asked"] = first.wants_certificate
        found["clock"] = self._clock(first)
        found["mfl"] = self._fragments()
        found["resumption"] = self._resumption()
        found["input_buffer"] = self._input_buffer()
        found["plans"] = self._plans()
        found["handshakes"] = self.handshakes
        return found

    def _ask(self, suites: list[int], **hello: Any) -> Flight:
        hello.setdefault("name", self.name)
        self.handshakes += 1
        return ask((self.host, self.port), suites, timeout=self.timeout, **hello)

    def _shake(self, made: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Shake:
        self.handshakes += 1
        return shake(
            (self.host, self.port), self.name, made, session=session, timeout=self.timeout
        )

    def _versions(self) -> dict[str, Any]:
        self.say("versions")
        found: dict[str, Any] = {}
        for name, number in VERSIONS.items():
            flight = self._ask(list(SUITES), version=number)
            found[name] = flight.accepted and VERSIONS.get(flight.version) == number
        verified = self._trusted()
        if verified is None:
            found["TLSv1.3"] = None
        else:
            done = self._shake(context(verified, version=ssl.TLSVersion.TLSv1_3))
            found["TLSv1.3"] = done.version == "TLSv1.3"
        return found

    def _suites(self) -> list[dict[str, str]]:
        self.say("suites")
        return [
            {"suite": SUITES[code], "class": kind}
            for code, kind in CLASSES
            if (flight := self._ask([code])).accepted and flight.suite == code
        ]

    def _chain(self, suites: list[int]) -> dict[str, Any] | None:
        self.say("chain")
        flight = self._ask(suites)
        if not flight.chain:
            return None
        try:
            certs = [x509.load_der_x509_certificate(der) for der in flight.chain]
        except ValueError as error:
            return {"certificate_message": flight.certificate_message, "unreadable": str(error)}
        roots = anchors(certs, self.known)
        clouds = catalogue().clouds
        found: dict[str, Any] = {
            "suite": SUITES.get(flight.suite, f"0x{flight.suite:04x}"),
            "certificate_message": flight.certificate_message,
            "certificates": [describe(cert) for cert in certs],
            "name_fits": name_fits(certs[0], self.name),
            "roots": [
                {"name": root.name, "sha256": describe(root.cert)["sha256"],
                 "not_after": int(root.cert.not_valid_after_utc.timestamp())}
                for root in roots
            ],
            "clouds": {cloud: any(cloud in r.where for r in roots) for cloud in clouds},
        }  # fmt: skip
        if self.bundle:
            found["bundle"] = any("bundle" in root.where for root in roots)
        ends = [c["not_after"] for c in found["certificates"]] + [
            max((r["not_after"] for r in found["roots"]), default=1 << 40)
        ]
        found["days_left"] = (min(ends) - int(time.time())) // 86400
        return found

    def _trusted(self) -> str | None:
        """PEM of the roots that carry what was presented, None when no known root does."""
        digests = {
            root["sha256"]
            for chain in self.answers["chains"].values()
            if chain and chain.get("name_fits")
            for root in chain.get("roots", ())
        }
        held = [r.cert for r in self.known if describe(r.cert)["sha256"] in digests]
        return "".join(ssl.DER_cert_to_PEM_cert(_der(cert)) for cert in held) or None

    def _sni(self) -> dict[str, Any]:
        self.say("server name")
        without = self._ask([*RSA, *ECDSA], name=None)
        wrong = self._ask([*RSA, *ECDSA], name="no-such-host.invalid")
        with_name = self._ask([*RSA, *ECDSA])
        same = bool(without.chain) and without.chain[:1] == with_name.chain[:1]
        return {
            "needed": not (without.accepted and same) if with_name.accepted else None,
            "without": without.alert or without.note or ("same chain" if same else "other chain"),
            "unknown_name": wrong.alert or wrong.note or "served",
        }

    def _clock(self, flight: Flight) -> dict[str, Any]:
        """The server's time, where it still puts one into its random (RFC 5246 §7.4.1.2)."""
        claimed = int.from_bytes(flight.random[:4], "big")
        skew = claimed - int(time.time())
        found: dict[str, Any] = {"server_skew_s": skew if abs(skew) < 86400 else None}
        now = int(time.time())
        dated = [
            c
            for chain in self.answers["chains"].values()
            for c in (chain or {}).get("certificates", ())
        ]
        found["chain_valid_now"] = all(c["not_before"] <= now <= c["not_after"] for c in dated)
        return found

    def _fragments(self) -> dict[str, Any]:
        self.say("fragment length")
        found: dict[str, Any] = {}
        suites = [*RSA, *ECDSA]
        plain = self._ask(suites)
        self.ladders["full, no fragment length"] = plain
        for size in SIZES:
            flight = self._ask(suites, mfl=size)
            self.ladders[f"full, fragments of {size}"] = flight
            found[str(size)] = {
                "echoed": flight.mfl == size,
                "obeyed": flight.mfl == size and flight.largest_handshake_record <= size,
                "largest_record": flight.largest_handshake_record,
            }
        return found

    def _resumption(self) -> dict[str, Any]:
        self.say("resumption")
        verified = self._trusted()
        if verified is None:
            return {"asked": False, "why": "no known root carries the chain; give --root FILE"}
        found: dict[str, Any] = {"asked": True}
        for way, tickets in (("ticket", True), ("id", False)):
            made = context(verified, tickets=tickets)
            full = self._shake(made)
            if full.error or full.session is None:
                found[way] = {"offered": False, "resumed": False, "error": full.error}
                continue
            again = self._shake(made, full.session)
            session = full.session
            offered = session.has_ticket if tickets else bool(session.id)
            found[way] = {
                "offered": bool(offered),
                "resumed": bool(again.resumed and offered),
                "lifetime_s": session.ticket_lifetime_hint if tickets else session.timeout,
                "bytes_down": [full.bytes("<"), again.bytes("<")],
            }
            if tickets:
                self.ladders["full handshake"] = full
            self.ladders[f"resumed by {way}"] = again
        return found

    def _input_buffer(self) -> dict[str, Any]:
        largest = max(
            (c["certificate_message"] for c in self.answers["chains"].values() if c), default=0
        )
        smallest = 512
        while smallest < largest:
            smallest *= 2
        return {"largest_message": largest, "smallest": smallest}

    def _plans(self) -> dict[str, str]:
        sizes = [int(size) for size, answer in self.answers["mfl"].items() if answer["echoed"]]
        mode = "hub" if self.answers["chains"]["ecdsa"] else "dps"
        found = {}
        for name, build in BOARDS.items():
            profile = TLSProfile(name, build=build, mode=mode)
            profile.learn(
                self.name,
                acknowledged=max(sizes) if sizes else False,
                certificate=self.answers["input_buffer"]["largest_message"],
            )
            try:
                found[name] = profile.plan(self.name, roots=1).why
            except AzureIoTError as error:
                found[name] = f"refused: {error}"
        return found


def _der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(Encoding.DER)


def alarms(answers: dict[str, Any], days: int, bundle: bool) -> list[str]:
    """What `--watch` wakes somebody for."""
    if not answers.get("tls"):
        return [f"{answers['target']} does not answer with TLS: {answers.get('note', '')}"]
    found = []
    if not any(answers["chains"].values()):
        found.append("no chain was presented")
    for kind, chain in answers["chains"].items():
        if chain is not None:
            found += _chain_alarms(kind, chain, days, bundle)
    if not answers["versions"]["TLSv1.2"]:
        found.append("TLS 1.2 is not accepted: the devices speak nothing else")
    if not any(s["class"] == "recommended" for s in answers["suites"]):
        found.append("none of the suites the devices offer is accepted")
    if not answers["clock"]["chain_valid_now"]:
        found.append("a certificate is not valid at this machine's time")
    return found


def _chain_alarms(kind: str, chain: dict[str, Any], days: int, bundle: bool) -> list[str]:
    found = []
    if not chain.get("roots"):
        found.append(f"the {kind} chain leads to a root nobody here knows")
    elif not any(chain["clouds"].values()) and not chain.get("bundle"):
        found.append(f"the {kind} chain's root is in no cloud profile")
    if bundle and not chain.get("bundle"):
        found.append(f"the bundle does not hold the root of the {kind} chain")
    if not chain.get("name_fits", True):
        found.append(f"the {kind} chain is not for this host name")
    if chain.get("days_left", days + 1) <= days:
        found.append(f"the {kind} chain ends in {chain['days_left']} days")
    return found
