"""Replays an update's log of writes on a POSIX file system up to every point (MicroPython).

    micropython posix_cut.py FOLDER PLAN FIRST STEP

A recording file system in memory notes create, truncate, write, sync, remove. For the prefixes
FIRST, FIRST + STEP, … of the log a disk is built on which synced data is there, and what was not yet synced is: all there;
all missing; reordered (the file emptied, the data missing); torn (half of the last write). Prints
as power_cut.py does. The directory entry of a synced file is taken to be safe, as on ext4, XFS,
Btrfs and F2FS; a file system that loses it loses the slot, which scenario `bit_rot` covers.
"""

import json
import sys

import power_cut
import vfs
from azure_iot.errors import TrustError

MODES = ("all", "missing", "emptied", "torn")


class File:
    """One open file of the recording file system."""

    def __init__(self, disk, name, mode):
        self._disk = disk
        self._name = name
        self._at = 0
        if "w" in mode:
            disk.note("truncate", name, b"")
        elif name not in disk.files:
            raise OSError(2)
        if "a" in mode:
            self._at = len(disk.files[name])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read(self, n=-1):
        data = self._disk.files[self._name]
        end = len(data) if n < 0 else min(len(data), self._at + n)
        found = bytes(data[self._at : end])
        self._at = end
        return found

    def readinto(self, view):
        found = self.read(len(view))
        view[: len(found)] = found
        return len(found)

    def write(self, data):
        self._disk.note("write", self._name, bytes(data), self._at)
        self._at += len(data)
        return len(data)

    def seek(self, at, whence=0):
        self._at = at + (len(self._disk.files[self._name]) if whence == 2 else 0)
        return self._at

    def flush(self):
        self._disk.note("sync", self._name)

    def close(self):
        return None


class Disk:
    """A file system of named byte strings with a log."""

    def __init__(self, files=None):
        self.files = dict(files or {})
        self.log = []

    def note(self, *entry):
        """Log an operation and carry it out."""
        self.log.append(entry)
        apply(self.files, entry)

    def mount(self, readonly, mkfs):
        return None

    def umount(self):
        return None

    def open(self, path, mode):
        return File(self, path.strip("/"), mode)

    def stat(self, path):
        name = path.strip("/")
        if name in self.files:
            return (0x8000, 0, 0, 0, 0, 0, len(self.files[name]), 0, 0, 0)
        if name in ("", "trust"):
            return (0x4000, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        raise OSError(2)

    def mkdir(self, path):
        raise OSError(17)

    def remove(self, path):
        name = path.strip("/")
        if name not in self.files:
            raise OSError(2)
        self.note("remove", name)


def apply(files, entry):
    """Carry out one operation."""
    kind, name = entry[:2]
    if kind == "truncate":
        files[name] = b""
    elif kind == "write":
        old = files.get(name, b"")
        at = entry[3]
        files[name] = old[:at] + entry[2] + old[at + len(entry[2]) :]
    elif kind == "remove":
        files.pop(name, None)


def disk_after(start, log, mode):
    """Build the files as they may be after power went at the end of `log`."""
    files = dict(start)
    last_sync = {}
    for i, entry in enumerate(log):
        if entry[0] == "sync":
            last_sync[entry[1]] = i
    for i, entry in enumerate(log):
        if i <= last_sync.get(entry[1], -1) or mode == "all":
            apply(files, entry)
        elif mode == "emptied":
            if entry[0] in ("truncate", "remove"):
                apply(files, entry)
        elif mode == "torn":
            if entry[0] == "write" and i == len(log) - 1:
                half = len(entry[2]) // 2
                entry = (entry[0], entry[1], entry[2][:half], entry[3])
            apply(files, entry)
    return files


def mount(disk):
    """Mount a disk where power_cut.py expects it."""
    vfs.mount(disk, "/flash")


class Board(power_cut.Board):
    """A board whose disk is a Disk."""

    def __init__(self, root, disk):
        self.root = root
        self.disk = disk

    def mount(self):
        mount(self.disk)


def main():
    root, plan_name, first, step = sys.argv[1:5]
    plan = power_cut.PLANS[plan_name]
    disk = Disk()
    board = Board(root, disk)
    board.mount()
    for name, data in power_cut.NEIGHBOURS.items():
        disk.files[name] = data
    board.boot()
    board.install("v2")
    board.confirm()
    start = dict(disk.files)
    disk.log = []
    states = [power_cut.facts(board.store)]
    write = power_cut.Store._write

    def note(self, following):
        write(self, following)
        states.append(power_cut.facts(self))

    power_cut.Store._write = note
    plan(board)
    power_cut.Store._write = write
    power_cut.unmount()
    log = list(disk.log)
    print(json.dumps(["ops", len(log)]))
    cuts = 0
    for end in range(int(first), len(log) + 1, int(step)):
        before = None
        for mode in MODES:
            files = disk_after(start, log[:end], mode)
            if files == before:
                continue
            before = files
            cuts += 1
            why = judge(root, files, plan_name, states)
            if why:
                print(json.dumps(["bad", [end, mode, why]]))
    print(json.dumps(["cuts", cuts]))


def judge(root, files, plan_name, states):
    """Return what is wrong after a reset, or None."""
    board = Board(root, Disk(files))
    real = power_cut.Board
    power_cut.Board = lambda kind, where, image: board
    try:
        return power_cut.judge("posix", root, None, plan_name, states, states[0])
    except TrustError as error:
        return str(error)
    finally:
        power_cut.Board = real


if __name__ == "__main__":
    main()
