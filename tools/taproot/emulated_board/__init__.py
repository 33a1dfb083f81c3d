"""The emulated board: QEMU with the firmware that `make board` built, and its connections.

    board = EmulatedBoard(flash)             # flash: 1 MiB, as from a littlefs image; bytes
    with board:
        board.wait_for("connected", 30)      # lines of the console
        board.kill()                         # cuts the power
    after = board.flash()                    # what the flash holds now

TEST FIRMWARE ONLY: random numbers on the board come from a fixed seed.
"""

from taproot.emulated_board.machine import FLASH_SIZE, EmulatedBoard, firmware

__all__ = ["FLASH_SIZE", "EmulatedBoard", "firmware"]
