"""The main job in small on the emulated board: 32 bit, bare metal, a heap of 96 KiB."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.board_flash import image
from support.surface import outputs
from taproot.drill.chains import Hierarchy
from taproot.emulated_board import EmulatedBoard
from taproot.emulator import EmulatorConfig, running
from taproot.trust import package as packages
from taproot.trust.fleet import Fleet

PROGRAM = Path(__file__).with_name("device.py")
HUB = ("hub", "dps")


def until(test, board, limit=60.0):
    end = time.monotonic() + limit
    while not test():
        assert time.monotonic() < end and board.running, board.text[-3000:]
        time.sleep(0.1)


@pytest.mark.timeout(300)
@pytest.mark.requirement("R-19", "R-38")
def test_the_board_installs_a_bundle_and_survives_the_switch(record_property):
    old, new, foreign = Hierarchy("old"), Hierarchy("new"), Hierarchy("foreign")
    fleet = Fleet.create("emulated-board", bundle=(2, 3), root=(1, 1))
    first = fleet.bundle_jws(version=1, roots=[("old", old.root.der, HUB)])
    second = fleet.package(
        fleet.bundle_jws(version=2, roots=[("old", old.root.der, HUB), ("new", new.root.der, HUB)])
    )
    with running(EmulatorConfig(chain=old.leaf)) as hub:
        identity = hub.add_device("board")
        hub.patch_desired("board", {"interval": 7})
        config = {
            "connection_string": identity.connection_string,
            "factory_folder": "factory",
            "client": {"port": hub.mqtt_port, "fleet_size_hint": 1},
        }
        flash = image(
            {
                "main.py": PROGRAM.read_bytes(),
                "device.json": json.dumps(config).encode(),
                "factory/keyset.jws": fleet.keyset_jws(),
                "factory/bundle.jws": first,
                "factory/build_date": str(fleet.issued).encode(),
            }
        )

        def reported():
            return hub.twin("board")["properties"]["reported"].get("trust", {})

        with EmulatedBoard(flash, limit=280) as board:
            until(lambda: len(hub.messages("board")) >= 30, board)
            assert '["twin", 7]' in board.text
            until(lambda: reported().get("state") == "good", board)

            hub.patch_desired("board", {"trust": packages.desired_twin(2, second)})
            until(lambda: reported().get("version") == 2, board)
            until(lambda: reported().get("state") == "good", board)

            hub.switch_chain(foreign.leaf, drop=True)
            until(lambda: '"UNTRUSTED"' in board.text, board)
            refused_at = len(hub.messages("board"))
            hub.switch_chain(new.leaf, drop=True)
            until(lambda: len(hub.messages("board")) > refused_at + 30, board)
            until(lambda: reported().get("via") == new.root.sha256, board)
            board.kill()
            said, flash, stack = outputs(board.output), board.flash(), board.stack_used()
        numbers = [int(message.body) for message in hub.messages("board")]
        # A power cut later it needs nobody: the new root is in its flash.
        with EmulatedBoard(flash, limit=60) as board:
            until(lambda: len(hub.messages("board")) > len(numbers) + 5, board)
        shakes = [event for event in hub.events() if event["type"] == "tls"]
    assert {event["tls"] for event in shakes} == {"TLSv1.2"}
    assert len(shakes) >= 4, "first, trial, new root, after the power cut"
    assert sorted(set(numbers)) == list(range(max(numbers) + 1)), "a message was lost"
    assert stack < 16 * 1024, "what a task of MicroPython has on an ESP32"
    heaps = [facts for name, *facts in said if name == "heap"]
    used, free = max(h[0] for h in heaps), min(h[1] for h in heaps)
    text = (
        f"{len(set(numbers))} messages, {len(shakes)} connections, {shakes[-1]['suite']}, heap in use at most {used} B (least free {free} B), "
        f"TLS peak {heaps[-1][2]} B, largest TLS block {heaps[-1][3]} B, stack {stack} B"
    )
    print(text)
    record_property("emulated_board", text)
