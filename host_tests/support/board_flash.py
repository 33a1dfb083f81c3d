"""Flash images of the emulated board, made and read by another littlefs than the board's."""

from __future__ import annotations

from littlefs import LittleFS

BLOCK, BLOCKS = 4096, 256  # boards/QEMU_RV32/modules/_boot.py
GEOMETRY = {"read_size": 32, "prog_size": 32, "cache_size": 128, "lookahead_size": 32}


def image(files: dict[str, bytes]) -> bytes:
    """A flash that holds these files; folders are made as needed."""
    system = LittleFS(block_size=BLOCK, block_count=BLOCKS, **GEOMETRY)
    for path, content in files.items():
        if "/" in path:
            system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with system.open(path, "wb") as file:
            file.write(content)
    return bytes(system.context.buffer)


def files(flash: bytes) -> dict[str, bytes]:
    """Every file of a flash, by path."""
    system = LittleFS(block_size=BLOCK, block_count=BLOCKS, mount=False, **GEOMETRY)
    system.context.buffer = bytearray(flash)
    system.mount()
    found = {}
    for folder, _, names in system.walk("/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with system.open(path, "rb") as file:
                found[path] = file.read()
    return found
