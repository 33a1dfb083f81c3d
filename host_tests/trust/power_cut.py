"""Cuts power at every mutating flash operation of a trust update (MicroPython).

    micropython power_cut.py FOLDER {lfs|fat} PLAN {single|double} STEP [FIRST]

PLAN names what is interrupted (below). A single cut is an operation and a tear mode; a double cut
is one while the plan runs and another, again in every mode, while what is left is repaired. Every
STEP-th of them is made (of double cuts, after every FIRST-th first one). STEP is odd, so that the
four modes take turns. Prints `["ops", n]` of the plan, `["all", n]` cuts there are, `["cuts", n]`
made, `["images", n]` different ones judged, and `["bad", […, why]]` for each violation.

The plan runs once; what a cut leaves is made from the record of its flash operations (flash.py).

After a cut: the other files are whole; the state is the old one, a step of the plan or the new one;
no floor is lower than before; the distrusted roots are the old or the new list; the next update
succeeds. A double cut interrupts the repair as well.
"""

import gc
import json
import sys
from hashlib import sha256

import loaded  # noqa: F401
import vfs
from azure_iot.errors import TrustError
from azure_iot.trust.factory import Factory
from azure_iot.trust.files import FileSource
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.store import Store
from flash import MODES, Recorder, torn
from still import Clock

NEIGHBOURS = {"a.txt": b"a" * 300, "b.txt": b"b" * 40, "main.py": b"c" * 900, "boot.py": b"d" * 10}

factories = {}


class Board:
    """One boot on a flash image."""

    def __init__(self, kind, root, image=None):
        self.kind = kind
        if kind == "lfs":
            self.flash = Recorder(24, 4096, True, image)
        else:
            self.flash = Recorder(128, 512, False, image)
        self.root = root
        self.store = None

    def format(self):
        maker = vfs.VfsLfs2 if self.kind == "lfs" else vfs.VfsFat
        maker.mkfs(self.flash)

    def mount(self):
        maker = vfs.VfsLfs2 if self.kind == "lfs" else vfs.VfsFat
        vfs.mount(maker(self.flash), "/flash")

    def boot(self):
        # In ROM and never changed: decoded once for all boots.
        if self.root not in factories:
            factories[self.root] = Factory.from_folder(self.root + "/factories/plain")
        self.store = Store("/flash/trust", factories[self.root])
        self.trust = TrustManager(self.store, Clock())
        return self

    def install(self, name):
        self.trust.install(FileSource(self.root + "/packages/" + name))

    def confirm(self):
        attempt = self.trust.attempt()
        if not attempt.is_trial:
            return False
        self.trust.succeeded(attempt, resumed=False)
        return self.trust.mqtt_accepted(attempt)


def unmount():
    try:
        vfs.umount("/flash")
    except OSError:
        pass


def stage_confirm(board):
    board.install("v3_min")
    board.confirm()


def refuse(board):
    """Let the server refuse every try of a trial."""
    for _ in range(3):
        attempt = board.trust.attempt()
        if attempt.is_trial:
            board.trust.failed(attempt, TrustError("no", "UNTRUSTED"))


def stage_revert_stage_confirm(board):
    board.install("v3_third")
    refuse(board)
    board.install("v4")
    board.confirm()


def stage_distrust(board):
    board.install("d3")
    refuse(board)
    board.install("d4_lifts")
    board.confirm()


def rotate(board):
    board.install("k2_v10")
    board.confirm()


def fast_forward(board):
    board.install("top_distrust")
    board.confirm()
    board.install("k2_v10")
    board.confirm()


PLANS = {
    "first_stage_confirm": stage_confirm,
    "stage_confirm": stage_confirm,
    "stage_revert_stage_confirm": stage_revert_stage_confirm,
    "stage_distrust": stage_distrust,
    "rotate": rotate,
    "fast_forward": fast_forward,
}
NEXT = {"rotate": "k3_v11", "fast_forward": "k3_v11"}


def facts(store):
    """What a plan passes through: comparable, and readable in a report."""
    state = store.state
    return (
        state.good and state.good.version,
        state.trial and state.trial.version,
        state.tries,
        state.floor,
        state.seen,
        state.kver,
        state.tfloor,
        state.dv,
        [digest.hex()[:8] for digest in state.distrust],
        [version for version, _ in state.bad],
    )


def prepare(kind, root, plan_name):
    """Return the image before the plan: v2 confirmed (not for a plan of a new device), four files."""
    board = Board(kind, root)
    board.format()
    board.mount()
    for name, data in NEIGHBOURS.items():
        with open("/flash/" + name, "wb") as file:
            file.write(data)
    if not plan_name.startswith("first"):
        board.boot()
        board.install("v2")
        board.confirm()
    unmount()
    return bytes(board.flash.data)


def recorded(kind, root, image, plan):
    """Run the plan uncut; return (the flash with its record, every state on flash on the way)."""
    board = Board(kind, root, image)
    board.mount()
    board.boot()
    seen = [facts(board.store)]
    write = Store._write

    def note(self, following):
        write(self, following)
        found = facts(self)
        if found not in seen:
            seen.append(found)

    Store._write = note
    try:
        plan(board)
    finally:
        Store._write = write
        unmount()
    return board.flash, seen


def neighbours():
    """Return which of the other files is damaged, or None."""
    for name, data in NEIGHBOURS.items():
        with open("/flash/" + name, "rb") as file:
            if file.read() != data:
                return name + " damaged"
    return None


def judge(kind, root, image, plan_name, states, before):
    """Return what is wrong after a reset, or None."""
    board = Board(kind, root, image)
    try:
        board.mount()
    except OSError as error:
        return "mount: %r" % error
    try:
        why = neighbours()
        if why:
            return why
        board.boot()
        found = facts(board.store)
        if found not in states:
            return "state %r" % (found,)
        state = board.store.state
        if state.good is None:
            lost = not plan_name.startswith("first")
        else:
            lost = board.store.facts(state.good) is None
        if lost:
            return "the good slot is gone"
        # New bundle keys start versions anew: floor and seen may then fall.
        kept = (3, 4, 5, 6) if state.kver == 1 else (5, 6)
        if [i for i in kept if found[i] < before[i]]:
            return "floor lowered"
        # The other record must not bring back an older list of distrusted roots.
        name = NEXT.get(plan_name, "v9_min")
        try:
            board.install(name)
        except TrustError as error:
            return "next update: %s" % error
        if not board.confirm():
            return "next update not confirmed"
        if board.store.state.good.version != (11 if name == "k3_v11" else 9):
            return "next update lost"
    except OSError as error:
        return "%r" % error
    finally:
        unmount()
    return None


def repair(board):
    """What a device does after a cut: the plan again, from wherever it is."""
    board.boot()
    board.confirm()
    try:
        board.install("v9_min")
    except TrustError:
        board.install("k3_v11")
    board.confirm()


def judge_twice(kind, root, image, before):
    """After two cuts: a good slot, no floor lowered, and the next update goes through."""
    board = Board(kind, root, image)
    try:
        board.mount()
        why = neighbours()
        if why:
            return why
        board.boot()
        state = board.store.state
        if state.good is None or board.store.facts(state.good) is None:
            return "the good slot is gone"
        if state.kver == 1 and (state.floor < before[3] or state.seen < before[4]):
            return "floor lowered"
        try:
            board.install("v9_min")
        except TrustError:
            try:
                board.install("k3_v11")
            except TrustError as error:
                return "next update: %s" % error
        if board.store.state.trial is not None and not board.confirm():
            return "next update not confirmed"
    except OSError as error:
        return "%r" % error
    finally:
        unmount()
    return None


class Judge:
    """Judges every `step`-th image offered, each different one once."""

    def __init__(self, step, judge):
        self._step = step
        self._judge = judge
        self._judged = {}
        self.all = 0
        self.cuts = 0

    def wanted(self, operation, mode):
        """Count a cut; tell whether it is made."""
        self.all += 1
        return self.all % self._step == 0

    def offer(self, label, image):
        """Judge what a cut left, and print a violation."""
        gc.collect()
        self.cuts += 1
        digest = sha256(image).digest()
        if digest not in self._judged:
            self._judged[digest] = self._judge(image)
        if self._judged[digest]:
            label.append(self._judged[digest])
            print(json.dumps(["bad", label]))

    def end(self):
        """Print the counts."""
        print(json.dumps(["all", self.all]))
        print(json.dumps(["cuts", self.cuts]))
        print(json.dumps(["images", len(self._judged)]))


def main():
    root, kind, plan_name, how, step = sys.argv[1:6]
    first = int(sys.argv[6]) if len(sys.argv) > 6 else 1
    image = prepare(kind, root, plan_name)
    flash, states = recorded(kind, root, image, PLANS[plan_name])
    before = states[0]
    print(json.dumps(["ops", flash.operations]))
    if how == "single":
        bench = Judge(int(step), lambda left: judge(kind, root, left, plan_name, states, before))
        for operation, mode, left in torn(flash, image, bench.wanted):
            bench.offer([operation, MODES[mode]], left)
    else:
        bench = Judge(int(step), lambda left: judge_twice(kind, root, left, before))
        repaired = []
        outer = Judge(first, None)
        for operation, mode, left in torn(flash, image, outer.wanted):
            digest = sha256(left).digest()
            if digest in repaired:
                continue  # the end of one operation is the beginning of the next
            repaired.append(digest)
            second, _ = recorded(kind, root, left, repair)
            for again, how, twice in torn(second, left, bench.wanted):
                bench.offer([operation, MODES[mode], again, MODES[how]], twice)
    bench.end()


if __name__ == "__main__":
    main()
