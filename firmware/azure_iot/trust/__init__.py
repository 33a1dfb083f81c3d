"""The trust store: which roots this device believes, and who may change that.

Responsible for: signed bundles of roots, key rotation, trial and confirm, distrust, fall-back.
Not for: TLS itself (azure_iot/tls), scheduling and channels (agent.py).
Specification: firmware/docs/design.md, "Trust store".

Nothing is imported here: a device that only verifies loads only what it uses.
"""
