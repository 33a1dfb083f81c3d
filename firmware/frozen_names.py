"""Full names of the package's modules, so that frozen firmware has them in flash.

Responsible for: that alone; nobody calls this, and only manifest.py takes it. MicroPython keeps the full name of each module it
imports for ever. A relative import puts that name together at run time, on the heap (35 bytes)
unless frozen code somewhere names it, as this does. The list is checked (taproot/checks/imports.py).
"""

# ruff: noqa: F401


def _in_flash() -> None:
    import asyncio.core  # type: ignore[import-not-found]
    import asyncio.event  # type: ignore[import-not-found]
    import asyncio.funcs  # type: ignore[import-not-found]

    import azure_iot.agent
    import azure_iot.arrivals
    import azure_iot.assignment
    import azure_iot.backoff
    import azure_iot.bag
    import azure_iot.bringup
    import azure_iot.c2d
    import azure_iot.client
    import azure_iot.clock
    import azure_iot.configuration
    import azure_iot.connection_string
    import azure_iot.core
    import azure_iot.credentials
    import azure_iot.dates
    import azure_iot.deadlines
    import azure_iot.desired
    import azure_iot.dps
    import azure_iot.errors
    import azure_iot.external
    import azure_iot.forever
    import azure_iot.guard
    import azure_iot.https
    import azure_iot.hub
    import azure_iot.identity
    import azure_iot.inbox
    import azure_iot.keymaterial
    import azure_iot.ladder
    import azure_iot.large
    import azure_iot.link
    import azure_iot.log
    import azure_iot.managed
    import azure_iot.methods
    import azure_iot.module
    import azure_iot.mqtt
    import azure_iot.mqtt.client
    import azure_iot.mqtt.connection
    import azure_iot.mqtt.packet
    import azure_iot.mqtt.receiving
    import azure_iot.mqtt.sending
    import azure_iot.mqtt.session
    import azure_iot.mqtt.stream
    import azure_iot.mqtt.words
    import azure_iot.pnp
    import azure_iot.provisioning
    import azure_iot.quiet
    import azure_iot.report
    import azure_iot.sas
    import azure_iot.timekeeper
    import azure_iot.tls
    import azure_iot.tls.context
    import azure_iot.tls.handshake
    import azure_iot.tls.planner
    import azure_iot.tls.presented
    import azure_iot.tls.profile
    import azure_iot.tls.room
    import azure_iot.tls.sessions
    import azure_iot.tls.verdict
    import azure_iot.transient
    import azure_iot.transport
    import azure_iot.trust
    import azure_iot.trust.bundle
    import azure_iot.trust.changes
    import azure_iot.trust.der
    import azure_iot.trust.errors
    import azure_iot.trust.factory
    import azure_iot.trust.files
    import azure_iot.trust.hosts
    import azure_iot.trust.jws
    import azure_iot.trust.keyset
    import azure_iot.trust.ladder
    import azure_iot.trust.manager
    import azure_iot.trust.native
    import azure_iot.trust.packages
    import azure_iot.trust.parts
    import azure_iot.trust.probe
    import azure_iot.trust.recovery
    import azure_iot.trust.report
    import azure_iot.trust.roots
    import azure_iot.trust.rsa
    import azure_iot.trust.scan
    import azure_iot.trust.sources
    import azure_iot.trust.state
    import azure_iot.trust.store
    import azure_iot.trust.stored
    import azure_iot.trust.update
    import azure_iot.twin
    import azure_iot.updater
    import azure_iot.upkeep
    import azure_iot.upload
    import azure_iot.websocket
    import azure_iot.x509
