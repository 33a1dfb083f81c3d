"""Certificates for drills, tests and the emulator: roots, intermediates, leaves, and wrong ones.

Not for production CAs: keys are kept in memory or written in the clear where the caller says.

    root = Authority.root("old root")
    issuing = root.intermediate("old issuing CA")
    leaf = issuing.leaf("localhost", dns=["localhost"], ips=["127.0.0.1"])
    leaf.write(folder)
"""

from taproot.pki.authority import KINDS, Authority, Leaf, new_key

__all__ = ["KINDS", "Authority", "Leaf", "new_key"]
