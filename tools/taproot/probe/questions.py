"""The questions, one handshake each, and the answers as one dictionary.

Responsible for: what is asked in which order, and summing it up: chains, fragment lengths,
resumption, the smallest input buffer, the plan the device would make; going on when a question is
not answered. Not for: the wire (flight.py, resumption.py), presentation (cli.py, picture.py).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from azure_iot.tls.profile import Build
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from taproot.probe.chain import UNREADABLE, Known, anchors, describe, name_fits
from taproot.probe.file import SIZES, server, speaks, usable
from taproot.probe.flight import CLASSES, ECDSA, RSA, SUITES, TLS13, VERSIONS, Flight, ask
from taproot.probe.resumption import Shake, context, shake
from taproot.probe.wire import Unreachable
from taproot.trust.roots import catalogue

_INPUTS = (512, 1024, 2048, 4096, 8192, 16384)  # MBEDTLS_SSL_IN_CONTENT_LEN, at most 16384
_BOTH = [*RSA, *ECDSA]
_OFFERS = {
    "rsa": [*RSA, 0xC013, 0xC014, 0x9C, 0x2F],
    "ecdsa": list(ECDSA),
}  # fmt: skip
_SILENCES = 2  # of one topic, then its other questions are not asked
# What the plans at the end are for, each with the profile's name. The first two mirror the settings
# of the boards (boards/esp32, host_tests/tls/test_probe_boards.py compares).
_OURS = {"module": True, "mfl": True, "keep_peer": False, "ca_callback": True, "version": "3.6.6"}
BOARDS = {
    "default": ("default", Build(in_len=4096, out_len=2048, variable_buffer=True, **_OURS)),
    "psram": ("default", Build(in_len=16384, out_len=4096, variable_buffer=False, **_OURS)),
    "tiny": ("tiny", Build(in_len=4096, out_len=1024, variable_buffer=True, **_OURS)),
    "stock": ("stock", Build()),
}
_Made = TypeVar("_Made", Flight, Shake)


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
    _silences: int = 0
    _largest: tuple[int, int] = (0, 0)  # handshake message, handshake record

    def run(self) -> dict[str, Any]:
        """Ask everything; raise Unreachable when there is no answer at all."""
        self.name = self.name or self.host
        found = self.answers
        found["target"] = f"{self.host}:{self.port}"
        found["name"] = self.name
        found["at"] = int(time.time())
        found["unanswered"] = []
        self._topic("versions")
        first = self._ask("the first hello", list(SUITES))
        # Some servers that want TLS 1.3 close without a word.
        newest = first if first.tls else self._ask("TLSv1.3", TLS13, version=VERSIONS["TLSv1.3"])
        found["tls"] = newest.tls
        if not first.accepted:
            found["note"] = first.alert or first.note
        if found["tls"]:
            found["versions"] = self._versions()
            if first.accepted:
                self._all(first)
            else:
                self._nothing(speaks(found["versions"]))
            found["plans"] = self._plans()
        found["handshakes"] = self.handshakes
        return found

    def _all(self, first: Flight) -> None:
        """Ask what is only told to a hello of TLS 1.2 or below."""
        found = self.answers
        found["chains"] = self._chains()
        found["suites"] = self._suites()
        found["sni"] = self._sni()
        found["client_certificate_asked"] = first.wants_certificate
        found["clock"] = self._clock(first)
        found["mfl"] = self._fragments()
        found["resumption"] = self._resumption()
        found["input_buffer"] = self._input_buffer()

    def _nothing(self, why: str) -> None:
        """The same keys for a server that refuses such hellos: none of it was asked."""
        self.answers.update(
            chains={}, suites=[], sni=None, client_certificate_asked=None, clock=None, mfl={},
            resumption={"asked": False, "why": why}, input_buffer=None,
        )  # fmt: skip

    def _topic(self, text: str) -> None:
        self._silences = 0
        self.say(text)

    def _ask(self, question: str, suites: list[int], device: bool = True, **hello: Any) -> Flight:
        """Ask once; `device`: devices say such a hello, so they need the answer."""
        hello.setdefault("name", self.name)
        where = (self.host, self.port)
        made = self._once(
            question, device, lambda: ask(where, suites, timeout=self.timeout, **hello)
        )
        return made or Flight(note="no answer", silent=True)

    def _shake(
        self, question: str, made: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> Shake:
        where = (self.host, self.port)
        return self._once(
            question, True,
            lambda: shake(where, self.name, made, session=session, timeout=self.timeout),
        ) or Shake(error="no answer")  # fmt: skip

    def _once(self, question: str, device: bool, make: Callable[[], _Made]) -> _Made | None:
        """Make a handshake; None when it goes unanswered, which is noted."""
        why = f"not asked after {_SILENCES} questions without an answer"
        if self._silences < _SILENCES:
            self.handshakes += 1
            try:
                return make()
            except Unreachable as error:
                if self.handshakes == 1:
                    raise
                self._silences += 1
                why = str(error)
        self.answers["unanswered"].append({"question": question, "device": device, "why": why})
        return None

    def _versions(self) -> dict[str, bool | None]:
        found: dict[str, bool | None] = {}
        for name, number in VERSIONS.items():
            suites = TLS13 if name == "TLSv1.3" else list(SUITES)
            flight = self._ask(name, suites, name == "TLSv1.2", version=number)
            found[name] = None if flight.silent else flight.accepted and flight.version == name
        return found

    def _suites(self) -> list[dict[str, str]]:
        self._topic("suites")
        found = []
        for code, kind in CLASSES:
            flight = self._ask(SUITES[code], [code], kind == "recommended")
            if flight.accepted and flight.suite == code:
                found.append({"suite": SUITES[code], "class": kind})
        return found

    def _chains(self) -> dict[str, Any]:
        self._topic("chains")
        found = {}
        for kind, suites in _OFFERS.items():
            flight = self._ask(f"{kind} chain", suites)
            self._measure(flight)
            if not flight.silent:
                found[kind] = self._chain(flight)
        return found

    def _measure(self, flight: Flight) -> None:
        message, record = self._largest
        self._largest = (
            max(message, flight.largest_message),
            max(record, flight.largest_handshake_record),
        )

    def _chain(self, flight: Flight) -> dict[str, Any] | None:
        if not flight.chain:
            return None
        try:
            return self._described(flight)
        except UNREADABLE as error:
            return {"certificate_message": flight.certificate_message, "unreadable": str(error)}

    def _described(self, flight: Flight) -> dict[str, Any]:
        certs = [x509.load_der_x509_certificate(der) for der in flight.chain]
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
        self._topic("server name")
        without = self._ask("a hello without a server name", _BOTH, False, name=None)
        wrong = self._ask("an unknown server name", _BOTH, False, name="no-such-host.invalid")
        with_name = self._ask("a hello with the server name", _BOTH)
        same = bool(without.chain) and without.chain[:1] == with_name.chain[:1]
        known = with_name.accepted and not without.silent
        return {
            "needed": not (without.accepted and same) if known else None,
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
        self._topic("fragment length")
        found: dict[str, Any] = {}
        plain = self._ask("a hello without a fragment length", _BOTH)
        self._measure(plain)
        self.ladders["full, no fragment length"] = plain
        for size in SIZES:
            flight = self._ask(f"fragment length {size}", _BOTH, mfl=size)
            if flight.silent:
                continue
            self._measure(flight)
            self.ladders[f"full, fragments of {size}"] = flight
            found[str(size)] = {
                "echoed": flight.mfl == size,
                "obeyed": flight.mfl == size and flight.largest_handshake_record <= size,
                # Without one it would have sent a longer record: that it did not proves something.
                "tested": plain.largest_handshake_record > size,
                "largest_record": flight.largest_handshake_record,
            }
            if plain.accepted and not flight.accepted:
                found[str(size)]["refused"] = flight.alert or flight.note
        return found

    def _resumption(self) -> dict[str, Any]:
        self._topic("resumption")
        verified = self._trusted()
        if verified is None:
            return {"asked": False, "why": "no known root carries the chain; give --root FILE"}
        if self.answers["versions"]["TLSv1.2"] is False:
            return {"asked": False, "why": speaks(self.answers["versions"])}
        return {"asked": True, **{way: self._resumed(way, verified) for way in ("ticket", "id")}}

    def _resumed(self, way: str, verified: str) -> dict[str, Any]:
        tickets = way == "ticket"
        made = context(verified, tickets=tickets)
        full = self._shake(f"a full handshake before resuming by {way}", made)
        session = full.session
        if full.error or session is None:
            return {"offered": None, "resumed": None, "error": full.error}
        if tickets:
            self.ladders["full handshake"] = full
        offered = session.has_ticket if tickets else bool(session.id)
        found: dict[str, Any] = {"offered": offered, "resumed": False}
        if not offered:
            return found
        again = self._shake(f"resuming by {way}", made, session)
        if again.error:
            return {**found, "resumed": None, "error": again.error}
        self.ladders[f"resumed by {way}" if again.resumed else f"asked to resume by {way}"] = again
        found["resumed"] = again.resumed
        found["bytes_down"] = [full.bytes("<"), again.bytes("<")]
        if tickets:  # ids carry no lifetime
            found["lifetime_s"] = session.ticket_lifetime_hint
        return found

    def _input_buffer(self) -> dict[str, Any] | None:
        """What IN must hold: the largest message whole, and records as a device would get them."""
        mfl = self.answers["mfl"]
        message, longest = self._largest
        if not message:
            return None
        record = min((mfl[str(size)]["largest_record"] for size in usable(mfl)), default=longest)
        smallest = next((size for size in _INPUTS if size >= max(message, record)), None)
        return {"largest_message": message, "largest_record": record, "smallest": smallest}

    def _plans(self) -> dict[str, str]:
        seen, found = server(self.answers), {}
        for board, (name, build) in BOARDS.items():
            ok, why = seen.plan(build, name)
            found[board] = why if ok else f"refused: {why}"
        return found


def _der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(Encoding.DER)


def alarms(answers: dict[str, Any], days: int, bundle: bool) -> list[str]:
    """What `--watch` wakes somebody for."""
    if not answers["tls"]:
        return [f"no TLS: {answers['note']}"]
    if "note" in answers:
        return [unusable(answers) or f"TLS 1.2 is refused: {answers['note']}"]
    found = []
    if len(answers["chains"]) == len(_OFFERS) and not any(answers["chains"].values()):
        found.append("no chain was presented")
    for kind, chain in answers["chains"].items():
        if chain is not None:
            found += _chain_alarms(kind, chain, days, bundle)
    if unusable(answers):
        found.append(unusable(answers))
    if accepted(answers, "recommended") == "none":
        found.append("none of the suites the devices offer is accepted")
    if not answers["clock"]["chain_valid_now"]:
        found.append("a certificate is not valid at this machine's time")
    return found


def accepted(answers: dict[str, Any], kind: str) -> str:
    """The suites of a class that the server accepts, in words."""
    asked = {SUITES[code] for code, of in CLASSES if of == kind}
    found = [s["suite"] for s in answers["suites"] if s["class"] == kind]
    silent = asked & {one["question"] for one in answers["unanswered"]}
    return ", ".join(found) or ("no answer" if silent else "none")


def unusable(answers: dict[str, Any]) -> str:
    """Why no shipped board can talk to this server; empty when one can."""
    if answers["versions"]["TLSv1.2"] is not False:
        return ""
    return f"{speaks(answers['versions'])}; the devices' default builds offer TLS 1.2"


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
