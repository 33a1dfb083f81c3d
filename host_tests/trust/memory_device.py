"""Installs `package` with the factory of the present folder, in a heap of chosen shape.

start: only start. install: install. install-or-refuse: say OK or the code, and check the state.
holes SIZE: first fill the heap so that no free run is longer than SIZE bytes.
"""

import gc
import sys

from azure_iot.trust import rsa
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.factory import Factory
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.store import Store
from still import Clock


def package():
    """Return the package as a source; the module is loaded for it, as a channel would."""
    from azure_iot.trust.files import FileSource

    return FileSource("package")


def holes(size):
    """Fill the heap with blocks of `size` bytes and drop every second one."""
    kept = []
    piece = size - 64
    try:
        while True:
            kept.append(bytearray(piece))
    except MemoryError:
        pass
    small = []
    try:
        while True:
            small.append(bytearray(64))
    except MemoryError:
        pass
    for i in range(0, len(kept), 2):
        kept[i] = None
    return kept, small


def main():
    what = sys.argv[1]
    # The pure verifier: C needs less of this heap.
    store = Store("trust", Factory.from_folder("factory"))
    trust = TrustManager(store, Clock(), verifier=rsa.verify)
    gc.collect()
    if what == "start":
        return
    filled = holes(int(sys.argv[2])) if what == "holes" else None
    gc.collect()
    if what == "install-or-refuse":
        before = trust.store.state.seq
        try:
            trust.install(package())
            print("OK")
        except RefusedError as error:
            print(error.code)
            if trust.store.state.trial is not None or trust.store.state.seq != before:
                sys.exit("state changed")
        return
    if trust.install(package()) != 2:
        sys.exit("not installed")
    del filled


main()
