"""The certificates of one run: an old and a new root, each with what the hub presents under it.

The Certificate message is kept between 3,500 and 4,000 bytes, which is what IoT Hub's chains
need, so that the figures of a drill mean something. The bytes come from where real ones do:
signed certificate timestamps (RFC 6962), opaque to a device.
"""

from __future__ import annotations

import os

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from taproot.pki import Authority, Leaf

SMALLEST, LARGEST = 3500, 4000
_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_TARGET = 3750
# what the extension's own framing costs, so that the first leaf already comes out right
_FRAMING = 25

KEYS = {"rsa": ("rsa2048", "rsa2048", "rsa2048"), "ecc": ("p384", "p384", "p256")}


class Hierarchy:
    """One root with the issuing CA and leaf that the hub uses under it."""

    def __init__(self, name: str, kind: str = "rsa", host: str = "localhost") -> None:
        self.name, self.host = name, host
        self._root_kind, self._ca_kind, self._leaf_kind = KEYS[kind]
        self.root = Authority.root(f"{name} root", self._root_kind)
        self.roll_intermediate()

    def roll_intermediate(self) -> Leaf:
        """New issuing CA and new leaf under the same root."""
        serial = os.urandom(2).hex()
        self.issuing = self.root.intermediate(f"{self.name} issuing CA {serial}", self._ca_kind)
        return self.roll_leaf()

    def roll_leaf(self) -> Leaf:
        """New leaf, new key, under the same issuing CA."""
        plain = self._leaf(0)
        self.leaf = self._leaf(_TARGET - plain.certificate_message_size - _FRAMING)
        return self.leaf

    def _leaf(self, padding: int) -> Leaf:
        timestamps = x509.UnrecognizedExtension(_SCT_LIST, b"\x04\x82" + os.urandom(padding))
        return self.issuing.leaf(
            self.host,
            self._leaf_kind,
            dns=[self.host],
            ips=["127.0.0.1"],
            extensions=[(timestamps, False)] if padding else [],
        )
