"""From package to trial to good, and back (R-22, R-38 to R-40)."""

import pytest

from support import trust_maker as tm


@pytest.mark.requirement("R-22", "R-38")
def test_confirmed_by_connection(device, fleet):
    device.put("p2", fleet.package(2, min_version=2))
    said = device.run(
        """
say(trust.report()["state"], trust.report()["version"], trust.report()["floor"])
say(install("p2"), trust.report()["state"], store.state.floor, store.state.seen)
say(connect(via="ab" * 32), trust.report()["state"], store.state.floor, store.state.seen)
boot()
say(trust.report()["state"], trust.report()["version"], trust.attempt().source)
"""
    )
    assert said == [
        ["good", 1, 1],
        [2, "trial", 1, 1],
        [["trial", True], "good", 2, 2],
        ["good", 2, "good"],
    ]


@pytest.mark.requirement("R-38")
def test_resumed_handshake_never_confirms(device, fleet):
    device.put("p2", fleet.package(2))
    said = device.run(
        """
install("p2")
say(connect(resumed=True), trust.report()["state"], store.state.tries)
"""
    )
    assert said == [["trial", False], "trial", 3]


@pytest.mark.requirement("R-39")
def test_crash_loop_reverts(device, fleet):
    device.put("p2", fleet.package(2))
    said = device.run(
        """
install("p2")
sources = []
for i in range(5):
    boot()
    sources.append(trust.attempt().source)
say(sources, trust.report()["state"], store.state.bad, install("p2"))
"""
    )
    assert said == [
        ["trial", "trial", "trial", "factory", "factory"],
        "reverted",
        [[2, "CRASH"]],
        "ROLLBACK",
    ]


@pytest.mark.requirement("R-40")
def test_network_outage_burns_no_try(device, fleet):
    device.put("p2", fleet.package(2))
    said = device.run(
        """
install("p2")
sources = []
for i in range(20):
    clock.ticks += 90000
    sources.append(fail(network()))
say(sources.count("trial") > 3, store.state.tries, trust.exhausted, trust.verdicts)
"""
    )
    assert said == [True, 3, False, 0]


@pytest.mark.requirement("R-39")
def test_three_verdicts_revert(device, fleet):
    device.put("p2", fleet.package(2))
    device.put("p3", fleet.package(3, [tm.root_der("third")]))
    said = device.run(
        """
install("p2"); connect()
install("p3")
say([fail(untrusted()) for i in range(4)], trust.report()["state"],
    trust.report()["last_error"]["code"], store.state.bad)
"""
    )
    assert said == [["trial", "trial", "trial", "good"], "reverted", "X509", [[3, "X509"]]]
