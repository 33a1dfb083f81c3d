"""Server certificates that a careful client must refuse, made on demand.

Responsible for: the kinds of wrong chains, each a variation of a good leaf under the same
authority, so that only the named fault is wrong. Not for: showing them (`tls.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from taproot.pki import Authority, Leaf

_DAY = dt.timedelta(days=1)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc).replace(microsecond=0)


def _expired(issuing: Authority, host: str) -> Leaf:
    return issuing.leaf(host, not_before=_now() - 90 * _DAY, not_after=_now() - _DAY)


def _future(issuing: Authority, host: str) -> Leaf:
    return issuing.leaf(host, not_before=_now() + _DAY, not_after=_now() + 90 * _DAY)


def _wrong_host(issuing: Authority, host: str) -> Leaf:
    return issuing.leaf("wrong.example")


def _untrusted(issuing: Authority, host: str) -> Leaf:
    stranger = Authority.root("Taproot emulator stranger").intermediate("Stranger's issuing CA")
    return stranger.leaf(host)


def _impostor(issuing: Authority, host: str) -> Leaf:
    """A root and an issuing CA with the right names and the wrong keys."""
    names = [_common_name(one) for one in (issuing.top, issuing)]
    return Authority.root(names[0]).intermediate(names[1]).leaf(host)


def _missing_intermediate(issuing: Authority, host: str) -> Leaf:
    leaf = issuing.leaf(host)
    leaf.presented = []
    return leaf


def _wrong_chain(issuing: Authority, host: str) -> Leaf:
    leaf = issuing.leaf(host)
    leaf.presented = [Authority.root("Taproot emulator stranger").intermediate("Another CA")]
    return leaf


def _self_signed(issuing: Authority, host: str) -> Leaf:
    root = Authority.root(host)
    leaf = root.leaf(host)
    leaf.presented = [root]
    return leaf


def _sha1(issuing: Authority, host: str) -> Leaf:
    return issuing.leaf(host, hash_name="sha1")


def _rsa1024(issuing: Authority, host: str) -> Leaf:
    return issuing.leaf(host, "rsa1024")


def _client_only(issuing: Authority, host: str) -> Leaf:
    return issuing.leaf(host, dns=[host], client=True)


KINDS: dict[str, Callable[[Authority, str], Leaf]] = {
    "expired": _expired,
    "future": _future,
    "wrong-host": _wrong_host,
    "untrusted": _untrusted,
    "impostor": _impostor,
    "missing-intermediate": _missing_intermediate,
    "wrong-chain": _wrong_chain,
    "self-signed": _self_signed,
    "sha1": _sha1,
    "rsa1024": _rsa1024,
    "client-only": _client_only,
}


def make(kind: str, issuing: Authority, host: str) -> Leaf:
    """Make a wrong chain of a kind; raise ValueError for an unknown one."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of chain '{kind}': one of {', '.join(KINDS)}")
    return KINDS[kind](issuing, host)


def _common_name(authority: Authority) -> str:
    from cryptography.x509.oid import NameOID

    names = authority.cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else "impostor"
