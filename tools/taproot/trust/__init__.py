"""Operator's side of the trust store: roots, keys, bundles, packages, publishing, status.

The rules that a device applies live in ``azure_iot.trust`` and are called from here, never
copied. What this package adds is everything a device cannot do: making keys, building and
signing documents, and talking to the hub's service side.
"""

from taproot.trust.builder import BundleRoot
from taproot.trust.fleet import Fleet
from taproot.trust.roots import cloud_roots

__all__ = ["BundleRoot", "Fleet", "cloud_roots"]
