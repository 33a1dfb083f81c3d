"""Tests of main.py against a local IoT Hub: real TLS, real MicroPython, no cloud."""


def test_sends_its_temperature(emulator, device):
    board = device("main.py", heap="192k")
    message = board.wait_message()
    assert message.json["temperature"] > -40
    assert message.properties["kind"] == "climate"


def test_says_which_firmware_it_runs(emulator, device):
    board = device("main.py")
    assert board.wait_reported("firmware") == "1.2.0"


def test_comes_back_after_the_hub_dropped_it(emulator, device):
    board = device("main.py", heap="192k", desired={"interval_s": 1})
    board.wait_message()
    emulator.drop(board.id)
    recorded = len(board.messages)
    while len(board.messages) <= recorded:
        board.wait_message()
