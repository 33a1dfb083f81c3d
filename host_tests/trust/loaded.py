"""Loads the modules that a device loads for a moment, so that they stay: a test that starts the
store thousands of times would compile them from source as often. test_resident_trust.py, test_nvs.py
and the drill run without this.
"""

from azure_iot.trust import (  # noqa: F401
    bundle,
    changes,
    der,
    files,
    hosts,
    jws,
    keyset,
    ladder,
    native,
    packages,
    report,
    rsa,
    scan,
    sources,
    state,
    stored,
    update,
)
