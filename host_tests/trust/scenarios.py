"""What a device does over time: installs, trials, reverts, rotations, damage, clocks.

Runs on MicroPython and on CPython alike (so that mutants of the modules meet it too). Each
scenario is a function of an Env whose docstring begins with the ids it shows. The folder given
holds the catalogue of support/trust_cases.py; each scenario gets an empty store.

    micropython scenarios.py FOLDER [NAME …]      prints `[name, null]` or `[name, "why"]` a line
"""

import asyncio
import json
import os
import sys
from binascii import b2a_base64
from hashlib import sha256

import loaded  # noqa: F401
from azure_iot.clock import Clock
from azure_iot.errors import (
    ClockError,
    ConnectionDroppedError,
    ConnectionFailedError,
    ProtocolError,
    TrustError,
)
from azure_iot.trust import bundle, files, jws, native, parts, probe, report, sources, state
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.factory import Factory
from azure_iot.trust.files import FileSource, PackageFile
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.recovery import Recovery
from azure_iot.trust.scan import Scanner
from azure_iot.trust.sources import Base64Source, BytesSource
from azure_iot.trust.store import Store

NOW = 1786000000
DAY = 86400
YEAR = 31536000


class Failed(Exception):
    """A promise did not hold."""


def same(found, expected):
    """Fail unless both are equal."""
    if found != expected:
        raise Failed("%r, expected %r" % (found, expected))


def refused(code, call, *args):
    """Fail unless the call is refused with this code."""
    try:
        call(*args)
    except RefusedError as error:
        same(error.code, code)
        return
    raise Failed("not refused: " + code)


class FakeClock(Clock):
    """The real rules over a clock that tests move."""

    def __init__(self, now=NOW):
        Clock.__init__(self, self._put)
        self.now = now
        self.ticks = 0
        self.synchronised = True

    def _put(self, unix_seconds):
        self.now = unix_seconds

    def unix_time(self):
        return self.now

    def ticks_ms(self):
        return self.ticks

    def ticks_diff(self, later, earlier):
        return later - earlier

    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds
        self.ticks += seconds * 1000


class Mirror:
    """NVS as the store sees it; `broken` makes it fail, `stop` names what cannot be written."""

    def __init__(self, **values):
        self.values = values
        self.stop = None
        self.broken = False
        self.log = []

    def get(self, name):
        if self.broken:
            raise OSError(5)
        return self.values.get(name)

    def set(self, name, value):
        if name == self.stop:
            raise OSError(5)
        self.values[name] = value
        self.log.append(name)


class Env:
    """One device: boot it, install, connect."""

    def __init__(self, root, wipe=True):
        self.root = root
        self.folder = "trust"
        self.clock = FakeClock()
        self.mirror = None
        self.factory = "plain"
        self.uses = ("hub",)
        self.config = {}
        self.changes = []
        with open(root + "/meta.json") as file:
            self.digests = json.load(file)
        if wipe:
            self.wipe()

    def wipe(self):
        """Empty the store."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return
        for name in names:
            os.remove(self.folder + "/" + name)

    def boot(self):
        """Start again from flash."""
        factory = Factory.from_folder(self.root + "/factories/" + self.factory)
        self.store = Store(self.folder, factory, mirror=self.mirror)
        config = {"uses": self.uses}
        config.update(self.config)
        self.trust = TrustManager(self.store, self.clock, config=config)
        self.trust.on_change = self.changes.append
        return self.trust

    def package(self, name):
        """Return a package as a source."""
        return FileSource(self.root + "/packages/" + name)

    def install(self, name, channel="url"):
        """Install; return the version, or the code of the refusal."""
        try:
            return self.trust.install(self.package(name), channel)
        except RefusedError as error:
            return error.code

    def connect(self, root="first", resumed=False, not_before=None):
        """Connect well; return (source, confirmed)."""
        attempt = self.trust.attempt()
        via = self.digests[root] if root else None
        self.trust.succeeded(attempt, resumed=resumed, via=via, not_before=not_before)
        return attempt.source, self.trust.mqtt_accepted(attempt)

    def meet(self, root):
        """Connect to a server whose chain ends in `root`: what the device's roots make of it."""
        attempt = self.trust.attempt()
        digest = bytes.fromhex(self.digests[root])
        if digest not in attempt.roots.digests():
            self.trust.failed(attempt, untrusted())
            return attempt.source, "refused"
        self.trust.succeeded(attempt, resumed=False, via=self.digests[root])
        return attempt.source, "confirmed" if self.trust.mqtt_accepted(attempt) else "ok"

    def fail(self, error):
        """Fail to connect; return the source that was tried."""
        attempt = self.trust.attempt()
        self.trust.failed(attempt, error)
        return attempt.source

    def good(self, name):
        """Install and confirm."""
        version = self.install(name)
        if not isinstance(version, int):
            raise Failed("%s: %s" % (name, version))
        same(self.connect(None), ("trial", True))

    def roots(self):
        """Return the digests of the roots of the next attempt, without spending a try."""
        for attempt in self.trust.rungs("hub"):
            return [digest.hex() for digest in attempt.roots.digests()]
        return []

    def damage(self, name, how="flip"):
        """Damage a file of the store."""
        path = self.folder + "/" + name
        if how == "remove":
            os.remove(path)
            return
        with open(path, "rb") as file:
            data = bytearray(file.read())
        if how == "empty":
            data = b""
        elif how == "half":
            data = data[: len(data) // 2]
        else:
            data[len(data) // 2] ^= 4
        with open(path, "wb") as file:
            file.write(data)


def untrusted():
    """The server's chain leads to none of our roots."""
    return TrustError("no", "UNTRUSTED")


def expired():
    """A certificate of the chain, or a root, has expired by our clock."""
    return TrustError("no", "EXPIRED")


def network():
    """No route, no answer."""
    return ConnectionFailedError("no", "tcp")


def summary(env):
    """What must survive a reboot."""
    state = env.store.state
    return (
        state.good.version if state.good else 0,
        state.trial.version if state.trial else 0,
        state.tries,
        state.floor,
        state.seen,
        state.kver,
    )


# From package to trial to good, and back


def confirmed_by_connection(env):
    """R-22 R-38 D4: floors rise at confirm, in the same record, and hold after a reboot."""
    env.boot()
    same((env.trust.report()["state"], env.trust.report()["version"]), ("good", 1))
    same(env.install("v2_min"), 2)
    same(summary(env), (0, 2, 3, 1, 1, 1))
    same(env.trust.report()["state"], "trial")
    same(env.connect(), ("trial", True))
    same(summary(env), (2, 0, 0, 2, 2, 1))
    env.boot()
    same(summary(env), (2, 0, 0, 2, 2, 1))
    same(env.trust.attempt().source, "good")
    same(env.changes, ["staged", "confirmed"])
    same(env.trust.last_error, None)


def install_from_a_stream(env):
    """R-36 H11: a source that cannot be read again is copied to flash first, and removed."""
    env.boot()

    class Stream:
        def __init__(self, name, size=None):
            self._file = env.package(name)
            self.size = size or self._file.size
            self._file.seek(0)
            self.readinto = self._file.readinto

    same(env.trust.install(Stream("v2"), "method"), 2)
    same("package.tmp" in os.listdir(env.folder), False)
    for size, code in ((99999, "TOO_LARGE"), (32768, "DOWNLOAD")):
        try:
            env.trust.install(Stream("v3", size), "method")
            raise Failed("installed")
        except RefusedError as error:
            same(error.code in (code, "DOWNLOAD"), True)
        same("package.tmp" in os.listdir(env.folder), False)
    same(env.trust.last_error["code"], "DOWNLOAD")


def same_package_changes_nothing(env):
    """R-20: the bundle in place, on trial or good, is success without a write."""
    env.boot()
    env.install("v2")
    seq = env.store.state.seq
    same(env.install("v2"), 2)
    same(env.store.state.seq, seq)
    env.connect()
    seq = env.store.state.seq
    same(env.install("v2"), 2)
    same(env.store.state.seq, seq)
    same(env.install("v2_third"), "ROLLBACK")
    same(env.trust.last_error["version"], 2)


def older_is_refused(env):
    """R-19 H3: not newer than what was confirmed."""
    env.boot()
    env.good("v5")
    for name in ("v1", "v2", "v4", "v5_third"):
        same(env.install(name), "ROLLBACK")
    same(summary(env), (5, 0, 0, 1, 5, 1))
    same(env.install("v6"), 6)


def newer_replaces_a_trial(env):
    """D4: another package during a trial starts a trial of its own."""
    env.boot()
    env.install("v2")
    env.fail(untrusted())
    same(env.install("v3"), 3)
    same(summary(env), (0, 3, 3, 1, 1, 1))
    same(env.connect(), ("trial", True))


def resumed_handshake_never_confirms(env):
    """R-38: a resumed session proves nothing about the roots."""
    env.boot()
    env.install("v2")
    same(env.connect(resumed=True), ("trial", False))
    same((env.trust.via, summary(env)), (None, (0, 2, 3, 1, 1, 1)))
    env.clock.wait(61)
    same(env.connect(), ("trial", True))


def only_the_trial_confirms(env):
    """R-38: a connection on the good roots leaves the trial alone."""
    env.boot()
    env.install("v2")
    env.fail(network())
    attempt = env.trust.attempt()
    same(attempt.source, "factory")
    env.trust.succeeded(attempt, resumed=False, via=env.digests["first"])
    same(env.trust.mqtt_accepted(attempt), False)
    same(summary(env)[:3], (0, 2, 3))
    # A trial that another package replaced cannot be confirmed by the old attempt.
    env.clock.wait(61)
    attempt = env.trust.attempt()
    same(attempt.source, "trial")
    env.install("v3")
    env.trust.succeeded(attempt, resumed=False)
    same(env.trust.mqtt_accepted(attempt), False)
    same(summary(env)[:3], (0, 3, 3))
    # Nor does its failure cost the new one a try.
    env.trust.failed(attempt, untrusted())
    same(summary(env)[:3], (0, 3, 3))


def handshake_without_connack(env):
    """R-38: TLS alone confirms nothing, and a refused CONNECT costs no try."""
    env.boot()
    env.install("v2")
    attempt = env.trust.attempt()
    env.trust.succeeded(attempt, resumed=False)
    env.trust.failed(attempt, network())
    same(summary(env)[:3], (0, 2, 3))


def dps_does_not_confirm(env):
    """R-38: a DPS connection uses what the hub has proven, the trial only as a last resort."""
    env.uses = ("hub", "dps")
    env.boot()
    env.install("dps")
    attempt = env.trust.attempt("dps")
    same(attempt.source, "factory")
    for _ in range(3):
        env.trust.failed(env.trust.attempt("dps"), untrusted())
    attempt = env.trust.attempt("dps")
    same((attempt.source, len(attempt.roots)), ("trial", 1))
    env.trust.succeeded(attempt, resumed=False)
    same(env.trust.mqtt_accepted(attempt), False)
    same(summary(env)[:3], (0, 2, 3))


def crash_loop_reverts(env):
    """R-39: a try is spent on flash before each attempt, so a crash counts."""
    env.boot()
    env.install("v2")
    sources = []
    for _ in range(5):
        env.boot()
        sources.append(env.trust.attempt().source)
    same(sources, ["trial"] * 3 + ["factory"] * 2)
    same((env.store.state.bad, env.trust.report()["state"]), ([(2, "CRASH")], "reverted"))
    same(env.install("v2"), "ROLLBACK")
    same(env.install("v3"), 3)
    env.boot()
    same(env.store.state.bad, [(2, "CRASH")])


def three_verdicts_revert(env):
    """R-39: certificate verdicts cost tries; the version is then refused until a higher one."""
    env.boot()
    env.good("v2")
    env.install("v3_third")
    same([env.fail(untrusted()) for _ in range(4)], ["trial"] * 3 + ["good"])
    same((env.trust.report()["state"], env.trust.last_error["code"]), ("reverted", "X509"))
    same(env.trust.last_error["version"], 3)
    same(env.install("v3_third"), "ROLLBACK")
    same(env.install("v4"), 4)
    same(env.connect(), ("trial", True))
    same(env.trust.report()["state"], "good")


def highest_bad_version_is_kept(env):
    """R-19: the list of versions given up is short, and never forgets the highest."""
    env.boot()
    for n in (9, 9, 9):
        same(env.install("v%d_third" % n) in (9, "ROLLBACK"), True)
        for _ in range(3):
            env.fail(untrusted())
    state = env.store.state.copy()
    for version in (3, 4, 5, 6, 7):
        state.add_bad(version, "X509")
    same((len(state.bad), max([v for v, _ in state.bad])), (4, 9))
    same(env.install("v8"), "ROLLBACK")
    state.add_bad(9, "CRASH")
    same([entry for entry in state.bad if entry[0] == 9], [(9, "CRASH")])


def outage_burns_no_try(env):
    """R-40 G1: DNS, TCP, timeouts: no try, no verdict, no recovery."""
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    recovery = Recovery(env.trust, None, lambda n: 0)
    env.install("v2")
    trials = 0
    for _ in range(50):
        env.clock.wait(3600)
        for error in (network(), ConnectionFailedError("no", "dns"), OSError(5)):
            trials += env.fail(error) == "trial"
    same((env.store.state.tries, env.trust.verdicts, env.trust.exhausted), (3, 0, False))
    same((trials > 10, recovery.due_ms()), (True, None))


def trial_pauses_for_work(env):
    """R-40: after a failure that says nothing, the good bundle works meanwhile."""
    env.boot()
    env.good("v2")
    same(env.trust.trial_due_ms(), None)
    env.install("v3")
    same(env.trust.trial_due_ms(), 0)
    same(env.fail(network()), "trial")
    same(env.trust.trial_due_ms(), 60000)
    same(env.connect(), ("good", False))
    env.clock.wait(60)
    same(env.trust.trial_due_ms(), 0)
    same(env.fail(network()), "trial")
    same(env.trust.trial_due_ms(), 120000)
    for _ in range(9):
        env.clock.wait(7200)
        same(env.fail(network()), "trial")
    same(env.trust.trial_due_ms(), 3600000)
    env.clock.wait(3600)
    same(env.connect(), ("trial", True))


def memory_is_no_verdict(env):
    """R-40: out of memory, an internal error, a root that cannot be read: nothing is proven."""
    env.boot()
    env.install("v2")
    for code in ("INTERNAL", "MEMORY", "STORAGE", "BAD_ROOT"):
        env.clock.wait(4000)
        same(env.fail(TrustError("no", code)), "trial")
    same((env.store.state.tries, env.trust.verdicts), (3, 0))


def outcome_counts_once(env):
    """R-39: a second report of the same attempt changes nothing."""
    env.boot()
    env.install("v2")
    attempt = env.trust.attempt()
    env.trust.failed(attempt, network())
    env.trust.failed(attempt, network())
    same(env.store.state.tries, 3)


# Fall-back


def falls_back_to_previous(env):
    """R-24 L1: three verdicts against the good bundle, then the previous one, then the factory."""
    env.boot()
    env.good("v2")
    env.good("v3_third")
    env.boot()
    same([env.fail(untrusted()) for _ in range(5)], ["good"] * 3 + ["previous", "factory"])
    same(env.trust.exhausted, True)
    same([env.fail(untrusted()) for _ in range(4)], ["good", "previous", "factory", "good"])
    before = summary(env)
    same(env.connect("second"), ("previous", False))
    same((summary(env), env.trust.report()["source"]), (before, "previous"))
    same(env.trust.exhausted, False)
    same(env.trust.attempt().source, "good")


def floor_bars_fall_back(env):
    """R-24 L2: below the floor neither the previous bundle nor the factory's is used."""
    env.boot()
    env.good("v2")
    env.good("v3_min")
    env.boot()
    same([attempt.source for attempt in env.trust.rungs("hub")], ["good"])
    same([env.fail(untrusted()) for _ in range(5)], ["good"] * 5)
    same(env.trust.exhausted, True)


def given_up_is_no_fall_back(env):
    """L1: a version that was tried and given up is not the previous one."""
    env.boot()
    env.good("v2")
    env.install("v3")
    for _ in range(3):
        env.fail(untrusted())
    env.boot()
    same([attempt.source for attempt in env.trust.rungs("hub")], ["good", "factory"])


def network_failures_stay_on_the_rung(env):
    """G1: only verdicts lead to another rung."""
    env.boot()
    env.good("v2")
    env.fail(untrusted())
    env.fail(untrusted())
    for _ in range(9):
        same(env.fail(network()), "good")
    same(env.trust.verdicts, 2)
    env.connect()
    same((env.trust.verdicts, env.trust.first_verdict), (0, None))


def uses_have_their_own_rungs(env):
    """R-30: what fails for DPS says nothing about the hub."""
    env.boot()
    env.good("v2")
    for _ in range(3):
        env.trust.failed(env.trust.attempt("dps"), untrusted())
    same(env.trust.attempt("dps").source, "factory")
    same(env.trust.attempt("hub").source, "good")
    same(env.trust.attempt("https").source if env.trust.rungs("https") else None, None)


# Damage


def bit_rot(env):
    """R-35 R-33: each file damaged in turn: the next best step, never an exception."""
    for how in ("flip", "half", "empty", "remove"):
        for name, expected in (
            ("slot0.jws", ("good", 3)),
            ("slot1.jws", ("previous", 2)),
            ("state0", ("good", 3)),
            ("state1", ("good", 3)),
        ):
            env.wipe()
            env.boot()
            env.good("v2")
            env.good("v3")
            newest = env.store._record
            env.damage(name, how)
            env.boot()
            attempt = env.trust.attempt()
            if name == "state%d" % newest:
                # The older record still says: v2 good, v3 on trial.
                expected = ("trial", 3)
            same((how, name, (attempt.source, attempt.version)), (how, name, expected))
            env.trust.failed(attempt, network())
            same(env.install("v4"), 4)
            env.clock.wait(4000)
            same(env.connect(), ("trial", True))


def both_records_lost(env):
    """R-35 R-21 H15: the slots' own signatures decide; the highest wins, and its floor holds."""
    for how in ("flip", "remove"):
        env.wipe()
        env.boot()
        env.good("v2")
        env.good("v3_min")
        env.damage("state0", how)
        env.damage("state1", how)
        env.boot()
        same(summary(env), (3, 0, 0, 3, 3, 1))
        same(env.install("v2"), "ROLLBACK")
        same(env.trust.attempt().source, "good")
        same(env.install("v4"), 4)
        env.boot()
        same(summary(env)[:2], (3, 4))
        env.connect()
        env.boot()
        same(summary(env)[0], 4)


def everything_lost(env):
    """R-35: without records and slots the factory bundle rules."""
    env.boot()
    env.good("v2")
    for name in os.listdir(env.folder):
        env.damage(name, "flip")
    env.boot()
    same((summary(env), env.trust.attempt().source), ((0, 0, 0, 1, 1, 1), "factory"))
    same(env.install("v3"), 3)
    same(env.connect(), ("trial", True))


def damaged_slot_and_same_version(env):
    """R-19 R-35: a damaged slot is not repaired by its own version; a higher one is needed."""
    env.boot()
    env.good("v2")
    env.damage("slot0.jws")
    env.boot()
    same((env.install("v2"), env.install("v3")), ("ROLLBACK", 3))


def factory_without_substance(env):
    """R-50: a factory is a key-set with a bundle, or roots alone; nothing else."""
    for keyset, first in ((None, None), (b"{}", None), (None, b"{}")):
        try:
            Factory(keyset, first, 0)
            raise Failed("made")
        except RefusedError as error:
            same(error.code, "MALFORMED")
    try:
        Factory.from_folder(env.root + "/packages")
        raise Failed("made")
    except RefusedError as error:
        same(error.code, "STORAGE")


def one_part_is_enough(env):
    """H11: a package in a single part."""
    env.boot()
    env.store.make_folder()
    arriving = parts.Parts(env.store.path("parts"))
    arriving.begin("0" * 64, 1)
    arriving.add(0, b"x")
    same(arriving.whole, True)


def source_that_changes(env):
    """R-03 R-37: what is staged is what was verified, though the source changes in between."""
    env.boot()
    _stage_another(env, "v3_third", ("STORAGE", "MALFORMED"))
    # A bundle as long as the verified one is whole by itself, and not the verified one.
    _stage_another(env, "v3", ("STORAGE",))


def _stage_another(env, name, codes):
    real = env.package("v2")
    other = env.package(name)

    class Turning:
        size = real.size
        passes = 0

        def seek(self, at):
            if env.store.path("slot0.jws") in files_open:
                other.seek(at)
            real.seek(at)

        def readinto(self, view):
            if env.store.path("slot0.jws") in files_open:
                return other.readinto(view)
            return real.readinto(view)

    files_open = []
    write_span = files.write_span

    def spying(path, source, start, end):
        files_open.append(path)
        try:
            return write_span(path, source, start, end)
        finally:
            files_open.remove(path)

    files.write_span = spying
    try:
        env.trust.install(Turning(), "url")
        raise Failed("installed")
    except RefusedError as error:
        same((error.code, error.code in codes), (error.code, True))
    finally:
        files.write_span = write_span
    same(summary(env)[:2], (0, 0))


def source_that_shrinks(env):
    """R-01 H2: a source that ends early from any read on is refused, whatever was read before."""
    env.boot()

    class Shrinking(BytesSource):
        left = 0

        def readinto(self, view):
            self.left -= 1
            return 0 if self.left < 0 else BytesSource.readinto(self, view)

    package = sources.read_span(env.package("v2"), 0, env.package("v2").size)
    for reads in range(400):
        source = Shrinking(package)
        source.left = reads
        try:
            same(env.trust.install(source, "url"), 2)
            break
        except RefusedError as error:
            same((reads, error.code), (reads, "MALFORMED"))
        same(env.store.state.trial, None)
    same((reads > 30, source.left >= 0), (True, True))


def what_ends_early(env):
    """H2 R-03: fewer bytes than announced are no bytes: neither zeros nor what was read before."""
    env.boot()
    env.store.make_folder()
    text = BytesSource(b"QUJD" * 65)
    refused("MALFORMED", sources.read_span, text, 100, 261)
    refused("MALFORMED", files.write_span, env.store.path("x"), text, 0, 261)
    reader = Base64Source(text, 0, 264)
    piece = bytearray(192)
    same(reader.readinto(memoryview(piece)), 192)
    refused("MALFORMED", reader.readinto, memoryview(piece))


def size_limits_of_a_text(env):
    """R-02 H11: too large by what is announced: not a byte is read; by what comes: cut off there."""

    class Announced:
        size = 4

        def seek(self, position):
            raise Failed("read")

        def readinto(self, view):
            raise Failed("read")

    refused("TOO_LARGE", Scanner, Announced(), 3)
    for announced, code in ((3, "TOO_LARGE"), (4, None)):
        source = BytesSource(b"[1] ")
        source.size = announced
        scanner = Scanner(source, announced)
        source.size = 4
        if code:
            refused(code, scanner.next)
        else:
            same([scanner.next() for _ in range(4)], [0x5B, 0x30, 0x5D, 0])


def no_text_is_slow(env):
    """H11 H13: what stands for itself is read by the run, and nothing of a run is read twice."""

    class Counting(Scanner):
        slow = 0

        def _character(self, c):
            self.slow += 1
            return Scanner._character(self, c)

    for text, slow in (
        (b"A" * 999, 0),
        (b"A!" * 999, 0),
        (b"AAA\\\\" * 999, 999),
        (b"~ " * 999, 0),
    ):
        scanner = Counting(BytesSource(b'"' + text + b'"'), 6000, 5000)
        same(scanner.next(), 0x22)
        # Beside these one at the beginning of each 256 bytes.
        same(slow <= scanner.slow <= slow + len(text) // 256, True)
        same(scanner.text, text.replace(b"\\\\", b"\\"))


def payload_of_another_digest(env):
    """R-01: a payload is refused that is not the one whose signatures were verified."""
    env.boot()
    env.good("v2")
    path = env.store.slot_path(env.store.state.good.slot)
    envelope = jws.scan_envelope(FileSource(path), jws.BUNDLE)
    digest = env.store.slot_payload_digest(env.store.state.good)
    same(bundle.read_bundle(envelope, digest).version, 2)
    refused("MALFORMED", bundle.read_bundle, envelope, bytes(32))


def roots_on_demand(env):
    """R-26 R-37: a root comes from flash when a chain needs it, and only as it was verified."""
    env.boot()
    env.good("v2")
    roots = env.trust.attempt().roots
    with open(env.root + "/packages/first.der", "rb") as file:
        first = file.read()
    digest = bytes.fromhex(env.digests["first"])
    same((roots.get(digest) == first, len(list(roots))), (True, 2))
    path = env.store.slot_path(env.store.state.good.slot)
    with open(path) as file:
        text = file.read()
    envelope = jws.scan_envelope(FileSource(path), jws.BUNDLE)
    payload = text[envelope.payload[0] : envelope.payload[1]]
    raw = bytearray(sources.base64url(payload.encode()))
    at = raw.find(b'"der":"') + 107
    raw[at] = 0x41 if raw[at] != 0x41 else 0x42
    changed = str(b2a_base64(raw)[:-1].rstrip(b"="), "utf-8").replace("+", "-").replace("/", "_")
    with open(path, "w") as file:
        file.write(text.replace(payload, changed))
    refused("MALFORMED", roots.get, digest)
    same(len(roots.get(bytes.fromhex(env.digests["second"]))) > 100, True)
    # A file that ends early, or is gone, is storage that failed.
    with open(path, "w") as file:
        file.write(text[: envelope.payload[0] + 40])
    refused("STORAGE", roots.get, digest)
    os.remove(path)
    refused("STORAGE", roots.get, digest)


def tls_library_refuses_a_root(env):
    """R-29: each new root is shown to the TLS library, which has the last word."""
    shown = []

    def loader(der):
        shown.append(sha256(der).digest().hex())
        if len(shown) == 2:
            raise ValueError("unsupported curve")

    env.config = {"loader": loader}
    env.boot()
    same(env.install("v2"), "NOT_CA")
    same(shown, [env.digests["first"], env.digests["second"]])
    same((env.install("v2"), len(shown)), (2, 4))


def records_that_contradict_themselves(env):
    """R-35 H15: a whole record whose members cannot be true is none."""
    env.boot()
    env.good("v2")
    env.install("v3")
    fleet = env.store.state.fleet
    good = state.encode(env.store.state)
    same(state.decode(good, fleet).trial.version, 3)

    def changed(**changes):
        members = json.loads(good[:-32])
        members.update(changes)
        body = json.dumps(members).encode()
        return state.decode(body + sha256(body).digest(), fleet)

    members = json.loads(good[:-32])
    same(changed(distrust=["ab" * 32]).distrust, [b"\xab" * 32])
    for changes in (
        {"trial": members["good"]}, {"distrust": ["ab"]}, {"distrust": ["AB" * 32]}, {"distrust": [7]},
        {"good": dict(members["good"], sha="x")}, {"good": dict(members["good"], slot=2)},
        {"good": dict(members["good"], slot=-1)}, {"seq": -1}, {"seq": 2**30}, {"seq": "1"},
        {"seq": True}, {"seq": None}, {"rec": [0]}, {"bad": [{}]}, {"fleet": "other"}, {"good": 7},
    ):  # fmt: skip
        same((changes, changed(**changes)), (changes, None))
    same(changed(seq=2**30 - 1).seq, 2**30 - 1)
    same(state.decode(good[:-1], fleet), None)


def swapped_slots(env):
    """H15: a slot that does not hold what the record says is not used as that."""
    env.boot()
    env.good("v2")
    env.good("v3")
    a, b = env.folder + "/slot0.jws", env.folder + "/slot1.jws"
    os.rename(a, env.folder + "/x")
    os.rename(b, a)
    os.rename(env.folder + "/x", b)
    env.boot()
    same(sorted([attempt.version for attempt in env.trust.rungs("hub")]), [1, 2, 3])
    same(env.trust.rungs("hub")[0].source, "previous")
    same(env.install("v4"), 4)


def foreign_record(env):
    """H15: a whole record of another device or fleet does not put its slots into use."""
    env.boot()
    env.good("v5_min")
    with open(env.folder + "/state%d" % env.store._record, "rb") as file:
        record = file.read()
    env.wipe()
    env.boot()
    env.good("v2")
    with open(env.folder + "/state%d" % (1 - env.store._record), "wb") as file:
        file.write(record)
    env.boot()
    versions = [attempt.version for attempt in env.trust.rungs("hub")]
    same((5 in versions, env.store.state.floor >= 1), (False, True))
    env.factory = "demo"
    env.boot()
    same(summary(env), (0, 0, 0, 1, 1, 1))


def slot_of_another_fleet(env):
    """R-11 R-35: the fleet is checked again when a slot is read."""
    env.boot()
    env.good("v2")
    env.factory = "demo"
    env.boot()
    same([attempt.source for attempt in env.trust.rungs("hub")], ["factory"])


def sequence_grows(env):
    """H15: the record with the higher number rules, however high."""
    env.boot()
    env.good("v2")
    state = env.store.state.copy()
    state.seq = 1000000
    env.store.state = state
    env.good("v3")
    env.boot()
    same((env.store.state.seq > 1000000, summary(env)[0]), (True, 3))


def missing_folder(env):
    """R-36: a store that was never written works, and is made when needed."""
    env.folder = "trust/deeper"
    env.boot()
    same(env.trust.attempt().source, "factory")
    env.folder = "trust"


class Disk:
    """Stands before `open` in files.py: fails or lies at the n-th write."""

    def __init__(self, n, how):
        self.left = n
        self.how = how
        self.hit = False
        self.real = getattr(files, "open", None) or open

    def due(self, *hows):
        """Count an operation that counts; tell whether it is the one."""
        if self.how not in hows:
            return False
        self.left -= 1
        self.hit = self.hit or self.left == 0
        return self.left == 0

    def __call__(self, path, mode):
        if mode == "rb":
            return self.real(path, mode)
        if self.due("open"):
            raise OSError(30)
        return Writing(self, self.real(path, mode))


class Writing:
    """A file being written on such a disk."""

    def __init__(self, disk, file):
        self.disk = disk
        self.file = file
        self.seek = file.seek

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def close(self):
        self.file.close()

    def flush(self):
        if self.disk.due("fail"):
            raise OSError(5)
        self.file.flush()

    def write(self, data):
        if self.disk.due("fail"):
            self.file.write(bytes(data)[: len(data) // 2])
            raise OSError(28)
        if self.disk.due("lie"):
            data = bytearray(data)
            data[len(data) // 2] ^= 1
        return self.file.write(data)


def failing_disk(env):
    """R-34 R-37 H15: full, read-only or lying at any write: refused, nothing changed, works later."""
    for how in ("fail", "lie", "open"):
        for name, version, step in (("v3_third", 3, 2), ("k2_v3", 3, 5)):
            n = 1 - step
            while True:
                n += step
                env.wipe()
                env.boot()
                env.good("v2")
                before = summary(env)
                disk = Disk(n, how)
                files.open = disk
                try:
                    answer = env.install(name)
                finally:
                    files.open = disk.real
                if not disk.hit:
                    same(answer, version)
                    break
                same((how, n, name, answer), (how, n, name, "STORAGE"))
                same(env.trust.last_error["code"], "STORAGE")
                if env.store.state.trial is not None:
                    # Only the second of the two records failed: reported, and the first rules.
                    before = (2, 3, 3, 1, before[4])
                if env.store.state.kver == 2:
                    # Key-sets accepted before the bundle stay, and start versions anew.
                    before = (before[0], before[1], before[2], before[3], 0)
                same((how, n, summary(env)[:5]), (how, n, before[:5]))
                env.boot()
                same((how, -n, summary(env)[:5]), (how, -n, before[:5]))
                same(env.install(name), version)
                same(env.connect(), ("trial", True))
            same(n > 1, True)


class Unreadable:
    """A file that opens and cannot be read."""

    def seek(self, at):
        return at

    def readinto(self, view):
        raise OSError(5)

    def close(self):
        return None


def file_errors(env):
    """R-34 H11: each failure of the file system has one name, and a package file its limit."""
    env.boot()
    env.store.make_folder()
    path = env.store.path("x")
    refused("STORAGE", FileSource, path)
    refused("STORAGE", PackageFile, env.store.path("none/x"))
    files.write_bytes(path, b"abc")
    source = FileSource(path)
    os.remove(path)
    refused("STORAGE", source.seek, 0)
    files.write_bytes(path, b"abc")
    source = FileSource(path)
    real = getattr(files, "open", None) or open
    files.open = lambda path, mode: Unreadable()
    try:
        refused("STORAGE", source.readinto, memoryview(bytearray(3)))
    finally:
        files.open = real
    for call in (
        lambda: files.write_bytes(path, b"abc"),
        lambda: files.write_span(path, BytesSource(b"abc"), 0, 3),
    ):
        # All is written, and only the flush fails.
        files.open = Disk(2, "fail")
        try:
            refused("STORAGE", call)
        finally:
            files.open = real
    files.open = Disk(1, "fail")
    try:
        sink = PackageFile(path)
        refused("STORAGE", sink.write, b"abc")
        same(files.exists(path), False)
        files.open.left = 2
        sink = PackageFile(path)
        sink.write(b"abc")
        refused("STORAGE", sink.done)
        sink.abort()
    finally:
        files.open = real
    sink = PackageFile(path)
    sink.write(bytes(32767))
    sink.write(b"x")
    same(sink.done().size, 32768)
    refused("STORAGE", sink.write, b"x")
    sink = PackageFile(path)
    sink.write(bytes(32768))
    refused("TOO_LARGE", sink.write, b"x")
    same(files.exists(path), False)


def memory_runs_out(env):
    """R-31 R-40: memory that runs out in an install is a refusal, and says so."""
    env.boot()

    class Hungry(BytesSource):
        def readinto(self, view):
            raise MemoryError

    refused("MEMORY", env.trust.install, Hungry(b"{}"), "url")
    same(env.trust.last_error["code"], "MEMORY")


def stream_that_breaks(env):
    """R-34 H11: a source that fails while it is copied."""
    env.boot()

    class Stream:
        size = 100

        def readinto(self, view):
            raise OSError(104)

    refused("DOWNLOAD", env.trust.install, Stream(), "method")
    same("package.tmp" in os.listdir(env.folder), False)


def second_record_fails(env):
    """R-34 R-48: the second write of a changed distrust list fails: reported, the first rules."""
    for n in range(1, 40):
        env.wipe()
        env.boot()
        env.good("v2")
        disk = Disk(n, "open")
        files.open = disk
        try:
            answer = env.install("d3")
        finally:
            files.open = disk.real
        if not disk.hit:
            break
        same(answer, "STORAGE")
        staged = env.store.state.dv == 3
        env.boot()
        same(env.store.state.dv == 3, staged)
        same(env.install("v4"), 4)
        env.damage("state%d" % env.store._record)
        env.boot()
        same(env.store.state.dv, 4)
    same((n, staged), (4, True))


def writes_that_fail_later(env):
    """R-34: a record that cannot be written: no trial without a note, no confirmation, no revert."""
    env.boot()
    env.good("v2")
    env.install("v3")

    def broken(call):
        disk = Disk(1, "open")
        files.open = disk
        try:
            return call()
        finally:
            files.open = disk.real

    same(broken(env.trust.attempt).source, "good")
    same(env.store.state.tries, 3)
    attempt = env.trust.attempt()
    env.trust.succeeded(attempt, resumed=False)
    same(broken(lambda: env.trust.mqtt_accepted(attempt)), False)
    same(summary(env)[:3], (2, 3, 2))
    attempt = env.trust.attempt()
    broken(lambda: env.trust.failed(attempt, network()))
    same((summary(env)[:3], env.trust.last_error["code"]), ((2, 3, 1), "STORAGE"))
    env.clock.wait(4000)
    attempt = env.trust.attempt()
    broken(lambda: env.trust.failed(attempt, untrusted()))
    same(summary(env)[:3], (2, 3, 0))
    same(broken(lambda: env.trust.attempt().source), "good")
    same(env.trust.attempt().source, "good")
    same(env.store.state.bad, [(3, "CRASH")])
    seq = env.store.state.seq
    broken(lambda: env.trust.raise_time_floor(env.trust.time_floor() + 9 * DAY))
    same((env.store.state.seq, env.trust.last_error["code"]), (seq, "STORAGE"))


# Key rotation


def rotation_persists(env):
    """R-15 R-16: key-sets are written, then recorded; the chain is walked again from the frozen one."""
    env.boot()
    same(env.install("k2_v3"), 3)
    same((env.store.state.kver, "keys.2.jws" in os.listdir(env.folder)), (2, True))
    env.connect()
    env.boot()
    same((env.store.keyset().version, summary(env)), (2, (3, 0, 0, 1, 3, 2)))
    same(env.install("k3_v11"), 11)
    same(env.store.keyset().version, 3)
    same(env.changes.count("keys"), 2)


def rotation_survives_a_refused_bundle(env):
    """R-15: key-sets before a bad bundle stay accepted."""
    env.boot()
    same(env.install("k2_bad_bundle"), "THRESHOLD")
    same(env.store.state.kver, 2)
    same(env.install("k2_v3"), 3)


def revoked_keys(env):
    """H5 R-17: rotated-out keys sign nothing any more, neither new nor old bundles."""
    env.boot()
    env.good("k2_v3")
    same(env.install("old_keys_v12"), "THRESHOLD")
    same(env.install("v9"), "THRESHOLD")


def skipped_keyset(env):
    """R-13: exactly the next version."""
    env.boot()
    same(env.install("k3_alone"), "KEY_CHAIN")
    same(env.store.state.kver, 1)


def keyset_file_lost(env):
    """R-16: `kver` is a floor: no bundle until a package brings the chain back."""
    env.boot()
    env.good("k2_v3")
    for how in ("flip", "empty", "half", "remove"):
        env.damage("keys.2.jws", how)
        env.boot()
        same((how, env.trust.attempt().source, env.install("v9")), (how, "good", "KEY_CHAIN"))
        same(env.install("k2_v3"), 3)
        same(env.store.keyset().version, 2)


def fast_forward_recovery(env):
    """R-18 R-21: a bundle at the highest version by stolen keys; new bundle keys start anew."""
    env.boot()
    env.good("top_distrust")
    same(summary(env), (2**30 - 1, 0, 0, 2**30 - 1, 2**30 - 1, 1))
    same(env.install("v9"), "ROLLBACK")
    same(env.install("k2_v10"), 10)
    same((env.store.state.seen, env.store.state.dv, len(env.store.state.distrust)), (0, 10, 0))
    env.boot()
    same(env.connect(), ("trial", True))
    same(summary(env), (10, 0, 0, 4, 10, 2))
    same(env.install("k2_v3"), "ROLLBACK")


def fast_forward_keeps_distrust(env):
    """R-48 R-18: the list stays until a bundle of the new keys replaces it."""
    env.boot()
    env.good("top_distrust")
    same(env.install("k2_bad_bundle"), "THRESHOLD")
    state = env.store.state
    same(
        (state.seen, state.dv, [d.hex() for d in state.distrust]), (0, 0, [env.digests["second"]])
    )
    env.boot()
    same(env.install("k2_v10_distrust"), 10)
    same(env.store.state.dv, 10)


def fast_forward_drops_a_trial(env):
    """R-18: a bundle on trial that the old keys signed cannot be confirmed after the rotation."""
    env.boot()
    env.install("top")
    same(env.install("k2_bad_bundle"), "THRESHOLD")
    same(summary(env), (0, 0, 0, 1, 0, 2))
    env.boot()
    same(env.install("k2_v2"), 2)
    same(env.connect(), ("trial", True))
    same(summary(env), (2, 0, 0, 1, 2, 2))


def fast_forward_empties_bad(env):
    """R-18: versions given up under the old keys do not bar the new ones."""
    env.boot()
    env.install("top")
    for _ in range(3):
        env.fail(untrusted())
    same(env.install("v9"), "ROLLBACK")
    same(env.install("k2_v3"), 3)


def rotation_of_root_keys_alone(env):
    """R-17: the same bundle keys: versions go on, no fast-forward."""
    env.boot()
    env.good("v2")
    same(env.install("k2_same_v3"), 3)
    same(env.store.state.seen, 2)
    env.connect()
    env.boot()
    same([a.version for a in env.trust.rungs("hub")], [3, 2, 1])


def rotated_slot_falls_out(env):
    """R-35: a slot signed by rotated-out keys alone is no fall-back."""
    env.boot()
    env.good("v2")
    env.good("k2_v3")
    env.boot()
    same([a.version for a in env.trust.rungs("hub")], [3, 1])


def records_lost_after_rotation(env):
    """R-35 R-16: the chain on flash decides which slots still count."""
    env.boot()
    env.good("v2")
    env.good("k2_v3")
    env.damage("state0")
    env.damage("state1")
    env.boot()
    same(summary(env), (3, 0, 0, 1, 3, 2))


def records_lost_after_fast_forward(env):
    """R-18 R-35 R-48: versions under the factory's keys do not outdo a slot signed by later ones."""
    env.factory = "newer_bundle"
    env.boot()
    env.good("k2_v3_distrust")
    env.damage("state0")
    env.damage("state1")
    env.boot()
    same((summary(env), env.trust.attempt().source), ((3, 0, 0, 1, 3, 2), "good"))
    state = env.store.state
    same((state.dv, [d.hex() for d in state.distrust]), (3, [env.digests["third"]]))
    same(env.install("k2_v10"), 10)


# Distrust


def distrust_from_staging(env):
    """R-48 D8: in force before the trial is decided, in both records, on every rung."""
    env.boot()
    env.good("v2")
    same(env.install("d3"), 3)
    second = env.digests["second"]
    for _ in range(2):
        for attempt in env.trust.rungs("hub") + env.trust.rungs("dps"):
            same(second in [d.hex() for d in attempt.roots.digests()], False)
        same([d.hex() for d in env.store.state.distrust], [second])
        env.boot()
    env.damage("state%d" % env.store._record)
    env.boot()
    same([d.hex() for d in env.store.state.distrust], [second])
    same(env.changes[-2:], ["distrust", "staged"])


def distrust_closes_connections(env):
    """R-48: the live connection goes when its root is distrusted or not known."""
    env.boot()
    env.connect("second")
    same(env.trust.must_close(), False)
    generation = env.trust.generation
    env.install("d3")
    same(env.trust.must_close(), True)
    same(env.trust.generation > generation, True)
    env.trust.via = env.digests["first"]
    same(env.trust.must_close(), False)
    env.trust.via = None
    same(env.trust.must_close(), True)


def distrust_during_a_handshake(env):
    """R-48: a handshake that ends after its root was distrusted is not accepted."""
    env.boot()
    attempt = env.trust.attempt()
    env.install("d3")
    try:
        env.trust.succeeded(attempt, resumed=False, via=env.digests["second"])
        raise Failed("accepted")
    except RefusedError as error:
        same(error.code, "DISTRUSTED")
    same((attempt.full, env.trust.via), (False, None))


def distrust_during_a_handshake_of_unknown_root(env):
    """R-48: where the root is not known, one that is distrusted by now may be the anchor."""
    env.boot()
    env.good("v2")
    attempt = env.trust.attempt()
    same(env.install("d3"), 3)
    try:
        env.trust.succeeded(attempt, resumed=False, via=None)
        raise Failed("accepted")
    except RefusedError as error:
        same(error.code, "DISTRUSTED")
    attempt = env.trust.attempt()
    env.trust.succeeded(attempt, resumed=False, via=None)
    same(env.trust.mqtt_accepted(attempt), True)


def names_that_nothing_has(env):
    """R-46: functions that are loaded for a call are the listed ones; any other name is an error."""
    env.boot()
    for thing in (env.trust, env.store):
        same(hasattr(thing, "no_such_name"), False)


def records_that_memory_hides(env):
    """R-21 R-35: records that could not be read for lack of memory are not written over."""
    env.boot()
    env.good("v2")
    env.good("v3_min")
    before = summary(env)
    decode = state.decode

    def fail(*args):
        raise MemoryError

    state.decode = fail
    try:
        env.boot()
    finally:
        state.decode = decode
    same(env.trust.last_error["code"], "STORAGE")
    refused("MEMORY", env.store.raise_time_floor, NOW + 9 * DAY)
    env.boot()
    same((summary(env), env.install("v2")), (before, "ROLLBACK"))


def distrust_survives_revert(env):
    """R-48: an attacker with the old root answers every trial: reverted, still distrusted."""
    env.boot()
    env.good("v2")
    env.install("d3_third")
    met = [env.meet("second") for _ in range(6)]
    same([m[1] for m in met], ["refused"] * 6)
    same(env.trust.report()["state"], "reverted")
    for _ in range(9):
        env.boot()
        same(env.meet("second")[1], "refused")
    same(env.meet("first"), ("good", "ok"))
    same(env.trust.report()["distrusted"], [env.digests["second"][:16]])


def distrust_is_the_whole_list(env):
    """R-48: a higher bundle replaces the list, a lower one leaves it alone."""
    env.boot()
    env.install("d3")
    same(env.install("v2"), 2)
    same(env.store.state.dv, 3)
    same(len(env.store.state.distrust), 1)
    same(env.install("d4_lifts"), 4)
    same((env.store.state.dv, env.store.state.distrust), (4, []))


def distrust_leaves_nothing(env):
    """R-48 G1: no root left: the rung is skipped, and recovery becomes due after one random wait."""
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    env.good("d4_all")
    same(env.meet("third"), ("good", "ok"))
    env.install("d5_third")
    recovery = Recovery(env.trust, None, lambda n: 600000 if n > 900000 else 0)
    same(recovery.due_ms(), None)
    same(env.meet("first"), ("trial", "confirmed"))


def no_root_left(env):
    """R-48: with every root distrusted there is no attempt, and the error says so."""
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    state = env.store.state
    state.distrust = [bytes.fromhex(env.digests[name]) for name in ("first", "second")]
    recovery = Recovery(env.trust, None, lambda n: 600000 if n > 900000 else 0)
    try:
        env.trust.attempt()
        raise Failed("an attempt without roots")
    except RefusedError as error:
        same(error.code, "NO_ROOTS")
    same(recovery.due_ms(), 600000)
    env.clock.wait(600)
    same(recovery.due_ms(), 0)
    same(env.trust.report()["state"], "recovery")


def no_root_for_https(env):
    """G1: an upload that no root serves is refused; the device connects and needs no recovery."""
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    env.connect()
    recovery = Recovery(env.trust, None, lambda n: 0)
    refused("NO_ROOTS", env.trust.attempt, "https")
    same((env.trust.report()["state"], recovery.due_ms()), ("good", None))


def trial_without_hub_root(env):
    """R-48: a trial whose roots are all distrusted is given up."""
    env.boot()
    env.install("d4_all")
    same(env.install("v3_third"), 3)
    env.store.state.distrust = [bytes.fromhex(env.digests["third"])]
    same(env.trust.attempt().source, "factory")
    same(env.store.state.bad, [(3, "NO_ROOTS")])


def distrust_after_damage(env):
    """R-48: with both records lost the list is that of the highest slot whose signatures hold."""
    env.boot()
    env.good("v2")
    env.good("d3")
    env.damage("state0")
    env.damage("state1")
    env.boot()
    same([d.hex() for d in env.store.state.distrust], [env.digests["second"]])
    same(env.store.state.dv, 3)


def uneven_records_are_levelled(env):
    """R-48: after a cut between the two writes the other record is rewritten first."""
    env.boot()
    env.good("v2")
    with open(env.folder + "/state%d" % (1 - env.store._record), "rb") as file:
        older = file.read()
    place = 1 - env.store._record
    env.install("d3")
    newest = env.store._record
    if newest == place:
        place = 1 - place
    # As if the second write had not happened: the other record is an old one.
    with open(env.folder + "/state%d" % (1 - newest), "wb") as file:
        file.write(older)
    env.boot()
    same((env.store._uneven, env.store.state.dv), (True, 3))
    same(env.install("v4"), 4)
    same(env.store._uneven, False)
    env.damage("state%d" % env.store._record)
    env.boot()
    same(env.store.state.dv >= 3, True)


# Factory, NVS, unmanaged, demo


def mirror_holds_the_floor(env):
    """R-21 H15: NVS copies the floors; the higher one rules when the records are gone."""
    env.mirror = Mirror()
    env.boot()
    env.good("v3_min")
    same(env.mirror.log, ["kver", "fleet", "bver", "kver", "tfloor"])
    env.good("v4")
    same(env.mirror.log[5:], ["bver", "kver", "tfloor"])
    same((env.mirror.values["bver"], env.mirror.values["kver"]), (3, 1))
    env.wipe()
    env.boot()
    same((env.store.state.floor, env.trust.rungs("hub")), (3, []))
    env.mirror.broken = True
    env.boot()
    same((env.store.state.floor, env.trust.attempt().source), (1, "factory"))


def mirror_of_older_keys_is_void(env):
    """R-18: after fast-forward recovery the mirror's floor of the old keys does not bind."""
    env.mirror = Mirror()
    env.boot()
    env.good("top")
    same(env.mirror.values["bver"], 2**30 - 1)
    env.good("k2_v10")
    same((env.store.state.floor, env.mirror.values["bver"]), (4, 4))
    env.mirror.values.update({"bver": 2**30 - 1, "kver": 1})
    env.boot()
    same(env.store.state.floor, 4)


def mirror_of_newer_keys(env):
    """R-16: a `kver` in NVS above the chain on flash bars installs until the chain is back."""
    env.mirror = Mirror(kver=2, bver=1)
    env.boot()
    same((env.store.state.kver, env.install("v2")), (2, "KEY_CHAIN"))
    same(env.install("k2_v3"), 3)


def mirror_below_a_newer_factory(env):
    """R-18 R-21: a floor of older keys than the factory's does not bar the factory's roots."""
    env.mirror = Mirror()
    env.boot()
    env.good("top")
    env.factory = "newer"
    for _ in range(2):
        env.boot()
        same((env.store.state.floor, env.trust.attempt().source), (5, "factory"))
        env.store.raise_time_floor(NOW + DAY)
    env.wipe()
    env.boot()
    same((env.store.state.floor, env.trust.attempt().source), (1, "factory"))


def mirror_of_another_fleet(env):
    """R-11 R-21: a board that changes its fleet is not held by the versions of the one before."""
    env.mirror = Mirror()
    env.boot()
    env.good("v3_min")
    env.good("k2_v10")
    env.factory = "demo"
    env.boot()
    same((env.store.state.floor, env.store.state.kver, env.trust.attempt().source),
         (1, 1, "factory"))  # fmt: skip
    env.mirror.stop = "bver"
    env.good("demo_fleet")
    env.mirror.stop = None
    env.boot()
    same((env.store.state.floor, env.store.state.kver, env.store.state.good.version), (1, 1, 2))


def mirror_that_fails(env):
    """R-22 T4: a copy that cannot be written costs neither the confirmation nor the connection."""
    env.mirror = Mirror()
    env.boot()
    env.install("v2")
    env.mirror.stop = "bver"
    same(env.connect(), ("trial", True))
    env.mirror.stop = "tfloor"
    same(env.connect(not_before=NOW + 9 * DAY), ("good", False))
    same((env.trust.time_floor(), isinstance(env.store.error, OSError)), (NOW + 9 * DAY, True))


def mirror_time_floor(env):
    """T1 D7: the mirror keeps seconds since 2000, which fit an i32 beyond 2038."""
    env.mirror = Mirror()
    env.boot()
    env.trust.raise_time_floor(NOW + 3 * DAY)
    same(env.mirror.values["tfloor"], NOW + 3 * DAY - 946684800)
    env.wipe()
    env.boot()
    same(env.trust.time_floor(), NOW + 3 * DAY)


def newer_factory_takes_over(env):
    """R-24: firmware with a newer bundle replaces the confirmed one; older ones stay refused."""
    env.boot()
    env.good("v3")
    env.factory = "newer_bundle"
    env.boot()
    same((summary(env), env.trust.attempt().version), ((0, 0, 0, 1, 5, 1), 5))
    same((env.install("v4"), env.install("v6")), ("ROLLBACK", 6))


def newer_factory_keys(env):
    """R-16 R-18: firmware with newer keys: versions under the old ones compare with nothing."""
    env.boot()
    env.good("top")
    env.install("v9")
    env.factory = "newer"
    env.boot()
    same(summary(env), (0, 0, 0, 5, 5, 2))
    same((env.install("k2_v3"), env.install("k2_v10")), ("ROLLBACK", 10))


def older_factory_changes_nothing(env):
    """R-24: a confirmed bundle newer than the factory's stays."""
    env.boot()
    env.good("k2_v3")
    env.factory = "newer_bundle"
    env.boot()
    same(summary(env), (3, 0, 0, 1, 3, 2))


def factory_below_the_floor(env):
    """L2 R-24: the factory bundle counts only at or above the floor."""
    env.factory = "min_5"
    env.boot()
    same((env.store.state.floor, env.trust.attempt().source), (5, "factory"))


def unmanaged_device(env):
    """R-50 D9: no key-set, no channel, no inbox, no recovery; it says so."""
    env.factory = "unmanaged"
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    for channel in ("url", "twin", "method", "c2d", "dps", "inbox", "recovery"):
        same(env.install("v2", channel), "UNMANAGED")
    same(env.trust.attempt().source, "factory")
    for _ in range(9):
        env.fail(untrusted())
    same(Recovery(env.trust, None, lambda n: 0).due_ms(), None)
    found = env.trust.report()
    same((found["state"], found["source"], len(found["roots"])), ("unmanaged", "factory", 2))
    for name in ("version", "key_version", "floor"):
        same(name in found, False)
    line = report.boot_line(env.trust)
    same(line.startswith("trust: unmanaged, 2 roots, first expires 20"), True)
    same('run "taproot trust init" and deploy again' in line, True)
    env.trust.raise_time_floor(NOW + 9 * DAY)
    env.boot()
    same(env.trust.time_floor(), NOW + 9 * DAY)


def demo_fleet_stays_home(env):
    """R-50: a demo fleet connects to loopback and private addresses only."""
    env.factory = "demo"
    env.boot()
    for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "10.0.0.1", "192.168.1.1",
                 "172.16.0.1", "172.31.255.255", "169.254.1.1", "::1", "fd00::1", "fc00::1"):  # fmt: skip
        same(env.trust.attempt("hub", host).source, "factory")
    for host in ("x.azure-devices.net", "8.8.8.8", "172.15.0.1", "172.32.0.1", "192.169.1.1",
                 "11.0.0.1", "localhost.example", "10.0.0", "10.0.0.256", "10.0.0.x", "fe.example",
                 "010.8.8.8", "1270.0.0.1", "10.0.0.1.example", "fd.example", "128.0.0.1"):  # fmt: skip
        try:
            env.trust.attempt("hub", host)
            raise Failed(host)
        except RefusedError as error:
            same((host, error.code), (host, "DEMO_HOST"))
    env.factory = "plain"
    env.boot()
    same(env.trust.attempt("hub", "x.azure-devices.net").source, "factory")


def demo_fleet_recovers_at_home(env):
    """R-50: a demo fleet's recovery asks loopback and private addresses only."""
    env.factory = "demo"
    recovery = stranded(env, "http://recovery.example/a", "http://127.0.0.1:1/b")
    server = recovery._fetcher = Server(env.package("demo_fleet"))
    same(refusal(recovery.run()), "DEMO_HOST")
    same(server.asked, [])
    env.clock.wait(90000)
    same(refusal(recovery.run()), 2)
    same(len(server.asked), 1)


def inbox_file(env):
    """L4 G9: a package put there by hand meets the same rules and is removed once judged."""
    env.boot()
    same(env.trust.install_inbox(), None)
    env.store.make_folder()

    def put(name):
        with open(env.root + "/packages/" + name, "rb") as file:
            data = file.read()
        with open(env.folder + "/inbox.json", "wb") as file:
            file.write(data)

    put("v2")
    same(env.trust.install_inbox(), 2)
    same("inbox.json" in os.listdir(env.folder), False)
    env.connect()
    same(env.trust.report()["source"], "inbox")

    def short(source, channel):
        raise RefusedError("no room", "MEMORY")

    # That says nothing about the package: it stays for the second try, and goes with that one.
    env.trust.install = short
    put("v1")
    for again in (True, False):
        try:
            env.trust.install_inbox(again=again)
            raise Failed("installed")
        except RefusedError as error:
            same(error.code, "MEMORY")
        same("inbox.json" in os.listdir(env.folder), again)
    del env.trust.install
    put("v1")
    try:
        env.trust.install_inbox()
        raise Failed("installed")
    except RefusedError as error:
        same(error.code, "ROLLBACK")
    same("inbox.json" in os.listdir(env.folder), False)


def parts_resume(env):
    """D3: parts in order, repeated ones passed over, resumed after a reset, digest checked."""
    from azure_iot.trust.files import digest_of

    env.boot()
    env.store.make_folder()
    whole = env.package("v2")
    digest = digest_of(whole).hex()
    data = bytearray(whole.size)
    whole.seek(0)
    whole.readinto(memoryview(data))
    pieces = [bytes(data[i : i + 700]) for i in range(0, len(data), 700)]
    path = env.store.path("parts")
    for i, piece in enumerate(pieces):
        arriving = parts.Parts(path)
        arriving.begin(digest, len(pieces))
        same((arriving.next, arriving.whole), (i, False))
        if i:
            arriving.add(i - 1, pieces[i - 1])
        if i + 1 < len(pieces):
            try:
                arriving.add(i + 1, pieces[i + 1])
                raise Failed("gap")
            except RefusedError as error:
                same(error.code, "DOWNLOAD")
        if i == 2:
            # Power went after the data and before the note.
            with open(path, "ab") as file:
                file.write(piece[:300])
            arriving = parts.Parts(path)
        arriving.add(i, piece)
    same(arriving.whole, True)
    same(env.trust.install(arriving.source(), "c2d"), 2)
    arriving.discard()
    same(parts.Parts(path).count, 0)
    for digest_text, count, code in (
        ("x", 2, "MALFORMED"), (digest, True, "MALFORMED"), (digest, "2", "MALFORMED"),
        (digest, 0, "TOO_LARGE"), (digest, 65, "TOO_LARGE"),
    ):  # fmt: skip
        try:
            parts.Parts(path).begin(digest_text, count)
            raise Failed("begun")
        except RefusedError as error:
            same(error.code, code)
    arriving.begin("0" * 64, 64)
    same(arriving.count, 64)
    arriving.begin("0" * 64, 2)
    for index, piece, code in (
        (2, b"x", "MALFORMED"), (-1, b"x", "MALFORMED"), (True, b"x", "MALFORMED"),
        (0, b"", "TOO_LARGE"), (0, bytes(32769), "TOO_LARGE"),
    ):  # fmt: skip
        try:
            arriving.add(index, piece)
            raise Failed("added")
        except RefusedError as error:
            same(error.code, code)
    parts.open = Disk(1, "open")
    try:
        refused("STORAGE", arriving.add, 0, b"x")
    finally:
        parts.open = open
    arriving.add(0, bytes(32767))
    arriving.add(1, b"y")
    same((arriving.size, arriving.whole), (32768, True))
    refused("DOWNLOAD", arriving.source)
    same(parts.Parts(path).count, 0)


# Time


def clock_behind_the_floor(env):
    """T2 T1 H17: RTC at 2000: set to the floor."""
    env.boot()
    env.clock.now = 946684800
    env.clock.synchronised = False
    env.clock.start(env.trust.time_floor())
    same((env.clock.now, env.clock.source), (env.trust.time_floor(), "floor"))
    before = env.clock.now = NOW
    env.clock.start(env.trust.time_floor())
    same(env.clock.now, before)


def ntp_below_the_floor(env):
    """T3 H17: NTP 1970 is refused."""
    env.boot()
    floor = env.trust.time_floor()
    same((env.clock.offer(0, floor), env.clock.now), (False, NOW))
    same((env.clock.offer(floor - 1, floor), env.clock.source), (False, "floor"))
    same((env.clock.offer(floor, floor), env.clock.now, env.clock.source), (True, floor, "ntp"))


def ntp_never_raises_the_floor(env):
    """T3 H17: NTP 2099: believed, never remembered."""
    env.boot()
    floor = env.trust.time_floor()
    same(env.clock.offer(NOW + 73 * YEAR, floor), True)
    same(env.trust.time_floor(), floor)
    env.boot()
    same(env.trust.time_floor(), floor)


def floor_from_a_connection(env):
    """T4 R-44: a server certificate's notBefore has passed; written at most once a day."""
    env.boot()
    floor = env.trust.time_floor()
    env.connect(not_before=floor + DAY - 1)
    same(env.trust.time_floor(), floor)
    env.connect(not_before=floor + DAY)
    same(env.trust.time_floor(), floor + DAY)
    seq = env.store.state.seq
    env.connect(not_before=floor + 2 * DAY - 1)
    same((env.trust.time_floor(), env.store.state.seq), (floor + DAY, seq))
    env.boot()
    same(env.trust.time_floor(), floor + DAY)
    env.connect(not_before=floor + 3 * DAY, resumed=True)
    same(env.trust.time_floor(), floor + DAY)


def floor_from_a_confirmed_bundle(env):
    """T1 R-44: `issued` counts once confirmed, not before."""
    env.boot()
    env.clock.now = NOW + 400 * DAY
    env.install("v2")
    floor = env.trust.time_floor()
    env.connect(not_before=NOW + 100 * DAY)
    same((floor, env.trust.time_floor()), (1785542400, NOW + 100 * DAY))


def dates_ask_for_time_first(env):
    """T5 H17 R-44: EXPIRED and FUTURE repair the time three times before they cost anything."""
    env.boot()
    floor = env.trust.time_floor()
    env.install("v2")
    env.clock.now = NOW + 73 * YEAR
    same(env.fail(expired()), "trial")
    same((env.trust.time_repair_wanted, env.store.state.tries), (True, 3))
    same(env.trust.repair_step(), 0)
    env.trust.repair_time(NOW + 73 * YEAR)
    same((env.trust.time_repair_wanted, env.clock.source), (False, "ntp"))
    env.clock.wait(4000)
    same(env.fail(ClockError("no")), "trial")
    same(env.trust.repair_step(), 1)
    env.trust.repair_time(None)
    env.clock.wait(4000)
    same(env.fail(expired()), "trial")
    same((env.store.state.tries, env.trust.repair_step()), (3, 2))
    env.trust.repair_time(None)
    same((env.clock.now, env.clock.synchronised), (floor, False))
    env.clock.ticks += 99999999
    for _ in range(3):
        same(env.fail(expired()), "trial")
    same(env.store.state.bad, [(2, "X509")])


def repair_by_nobody(env):
    """T5: a device without time servers still comes to its other roots."""
    env.boot()
    env.good("v2")
    sources = [env.fail(expired()) for _ in range(9)]
    same((sources[0], "factory" in sources, env.trust.verdicts > 0), ("good", True, True))


def time_server_after_the_floor(env):
    """T5: one that was out of reach for all three repairs is believed when it answers at last."""
    env.boot()
    for _ in range(5):
        env.fail(expired())
        env.trust.repair_time(None)
    same(env.clock.now, env.trust.time_floor())
    verdicts = env.trust.verdicts
    env.fail(expired())
    same((env.trust.verdicts > verdicts, env.trust.time_repair_wanted), (True, True))
    env.trust.repair_time(NOW)
    same((env.clock.now, env.clock.source), (NOW, "ntp"))


def success_ends_time_repair(env):
    """T5: the next failure about dates starts anew."""
    env.boot()
    for _ in range(3):
        env.fail(expired())
        env.trust.repair_time(None)
    env.clock.synchronised = True
    env.clock.now = NOW
    env.connect()
    same(env.trust.repair_step(), 0)
    env.fail(expired())
    same(env.trust.verdicts, 0)


def authenticated_time_repairs(env):
    """T10 T8 H17: NTP -2 h, -400 d, +10 y: set from the connection, floor raised to a day before."""
    for delta, moved in (
        (-7200, True),
        (-40 * DAY, True),
        (10 * YEAR, True),
        (300, False),
        (-301, True),
    ):
        env.wipe()
        env.clock = FakeClock(NOW + 50 * DAY)
        env.boot()
        truth = NOW + 50 * DAY
        env.clock.offer(truth + delta, env.trust.time_floor())
        same((delta, env.trust.authenticated_time(truth)), (delta, moved))
        same(env.clock.now, truth if moved else truth + delta)
        same(env.trust.time_floor(), truth - DAY)
        same(env.clock.report(env.trust.time_floor()), {
            "source": "authenticated", "ntp_delta": -delta, "floor_age_days": 1,
        })  # fmt: skip


def integers_only(env):
    """T7: no time is ever a float."""
    env.boot()
    env.install("v2")
    env.connect(not_before=NOW + 5 * DAY)
    for value in (env.trust.time_floor(), env.store.state.tfloor, Clock().unix_time()):
        same(type(value) is int, True)


# Health and report


def health_warnings(env):
    """T9 D5: 90, 30 and 7 days before a root or the bundle expires; retired or dropped roots."""
    env.boot()
    env.good("v2")
    facts = env.trust.present()
    env.connect("first")
    same(env.trust.warnings(), [])
    for days in (90, 30, 7):
        env.clock.now = facts.expires - days * DAY
        same(env.trust.warnings()[-1], "bundle 2 expires within %d days" % days)
        env.clock.now -= 1
        same("bundle 2 expires within %d days" % days in env.trust.warnings(), False)
    env.clock.now = facts.roots[0].not_after - 29 * DAY
    said = env.trust.warnings()
    same("used root %s expires within 30 days" % env.digests["first"][:16] in said, True)
    same("root %s expires within 30 days" % env.digests["second"][:16] in said, True)
    env.clock.now = NOW
    env.install("v3_third")
    same(env.trust.warnings(), [
        "the connection rests on root %s, which bundle 3 does not carry" % env.digests["first"][:16]
    ])  # fmt: skip
    retired = facts.roots[0]
    retired.state = "retired"
    facts.records[0] = retired.pack()
    same("the connection rests on root %s, which is retired" % env.digests["first"][:16]
         in env.trust.warnings(), True)  # fmt: skip
    same(report.date(facts.expires), "2028-07-31")
    for seconds, text in (
        (0, "1970-01-01"),
        (951782400, "2000-02-29"),
        (4102444799, "2099-12-31"),
    ):
        same(report.date(seconds), text)


def expired_bundle_stays(env):
    """R-23 D5: an expired bundle that was confirmed stays in use and is only reported."""
    env.boot()
    env.good("v2")
    env.clock.now = 1848614400 + 9 * YEAR
    env.boot()
    same(env.trust.attempt().source, "good")
    same("bundle 2 expires within 7 days" in env.trust.warnings(), True)


def report_members(env):
    """G8: version, key version, floor, state, source, last error, roots, via, distrusted."""
    env.boot()
    found = env.trust.report()
    same(
        (found["version"], found["key_version"], found["floor"], found["source"]),
        (1, 1, 1, "factory"),
    )
    same((found["last_error"], "via" in found, found["distrusted"]), (None, False, []))
    same([len(root["sha256"]) for root in found["roots"]], [16, 16])
    same(found["roots"][0]["use"], ["hub", "dps"])
    env.good("v2_min")
    env.connect("second")
    found = env.trust.report()
    same(
        (found["version"], found["floor"], found["source"], found["via"]),
        (2, 2, "ota", env.digests["second"]),
    )
    env.install("v1")
    found = env.trust.report()
    same((found["last_error"]["code"], found["last_error"]["version"]), ("ROLLBACK", 1))
    json.dumps(found)
    same("version 2" in repr(env.trust), True)


# Recovery


def recovery_waits(env):
    """G1: three verdicts over 15 minutes with every rung exhausted and a clock at the floor."""
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    recovery = Recovery(env.trust, None, lambda n: 0)
    env.trust.recovery = recovery
    for _ in range(2):
        env.fail(untrusted())
    same(env.trust.next_recovery_ms(), None)
    env.fail(untrusted())
    same((env.trust.exhausted, env.trust.next_recovery_ms()), (True, 900000))
    env.clock.wait(899)
    same(env.trust.next_recovery_ms(), 1000)
    env.clock.wait(1)
    same(env.trust.next_recovery_ms(), 0)
    now = env.clock.now
    env.clock.now = env.trust.time_floor() - 1
    same(env.trust.next_recovery_ms(), None)
    env.clock.now = now
    env.connect()
    same(env.trust.next_recovery_ms(), None)


def recovery_off_by_default(env):
    """R-41 G2 D6: without a URL recovery is never due."""
    env.boot()
    recovery = Recovery(env.trust, None, lambda n: 0)
    for _ in range(9):
        env.clock.wait(3600)
        env.fail(untrusted())
    same((env.trust.exhausted, env.trust.recovery_urls(), recovery.due_ms()), (True, [], None))


def recovery_urls_of_the_bundle(env):
    """G2: the firmware's list, then the bundle's, none twice."""
    env.config = {"recovery": ("http://127.0.0.1:2/b",)}
    env.boot()
    env.good("v2_recovery")
    same(env.trust.recovery_urls(), ["http://127.0.0.1:2/b", "http://127.0.0.1:1/a"])


def recovery_is_no_fresher(env):
    """G5 G10: newer than mine is taken though not the newest; older is not; no freshness is asked."""
    env.boot()
    env.good("v2")
    same(env.install("v1", "recovery"), "ROLLBACK")
    env.clock.now = 1848614400 + YEAR
    same(env.install("v3", "recovery"), "EXPIRED")
    env.clock.synchronised = False
    same(env.install("v3", "recovery"), 3)
    same(env.store.state.trial.source, "recovery")
    env.connect()
    same(env.trust.report()["source"], "recovery")


def recovery_pauses(env):
    """G7: 15 minutes doubling to a day, with jitter, persisted."""
    env.boot()
    recovery = Recovery(env.trust, None, lambda n: 0)
    same([recovery.pause_s(n) for n in range(9)],
         [900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400])  # fmt: skip
    recovery = Recovery(env.trust, None, lambda n: n - 1)
    same([recovery.pause_s(n) for n in (0, 1, 7)], [1125, 2250, 86400])
    env.store.note_recovery(4, NOW + 14400)
    env.boot()
    same((env.store.state.recoveries, env.store.state.recovery_at), (4, NOW + 14400))
    env.good("v2")
    same((env.store.state.recoveries, env.store.state.recovery_at), (0, 0))


def recovery_pause_holds(env):
    """G7: the pause on flash delays the next attempt; a clock set back cannot stretch it."""
    env.config = {"recovery": ("http://127.0.0.1:1/",)}
    env.boot()
    env.store.note_recovery(2, NOW + 5000)
    recovery = Recovery(env.trust, None, lambda n: 0)
    for _ in range(3):
        env.fail(untrusted())
    env.clock.wait(900)
    same(recovery.due_ms(), 4100000)
    env.store.note_recovery(2, NOW + 900 + DAY)
    same(recovery.due_ms(), 86400000)
    env.store.note_recovery(2, NOW + 901 + DAY)
    same(recovery.due_ms(), 0)


class Server:
    """What Recovery fetches from: a package, an error, or silence."""

    def __init__(self, package=None, error=None):
        self.package = package
        self.error = error
        self.asked = []

    async def fetch(self, url, sink, limit, *, redirects, chunked, context):
        """Answer as https.Fetcher does."""
        self.asked.append((url, limit, redirects, chunked, context))
        if self.error is not None:
            raise self.error
        data = bytearray(self.package.size)
        self.package.seek(0)
        self.package.readinto(memoryview(data))
        sink.write(data)


def stranded(env, *urls):
    """Return a device that recovery is due for."""
    env.config = {"recovery": urls}
    env.boot()
    env.trust.recovery = Recovery(env.trust, None, lambda n: 0)
    for _ in range(3):
        env.fail(untrusted())
    env.clock.wait(900)
    return env.trust.recovery


def refusal(work):
    """Run a coroutine; return its result, or the code of its refusal."""
    try:
        return asyncio.run(work)
    except RefusedError as error:
        return error.code
    except ConnectionFailedError:
        return "CONNECTION"


def recovery_runs(env):
    """G4 G6 G7 R-42: fetched within limits, judged like any package, paused before it begins."""
    recovery = stranded(env, "http://127.0.0.1:1/a", "http://127.0.0.1:1/b")
    server = recovery._fetcher = Server(env.package("v2"))
    same(refusal(recovery.run()), 2)
    same(server.asked, [("http://127.0.0.1:1/a", 32768, 0, False, None)])
    same(summary(env)[:3], (0, 2, 3))
    same((env.store.state.recoveries, recovery.due_ms()), (1, 900000))
    same(env.trust.report()["state"], "recovery")
    same("recovery.tmp" in os.listdir(env.folder), False)
    same(refusal(recovery.run()), "DOWNLOAD")
    for name, code in (
        ("equal_version_other_digest", "ROLLBACK"),
        ("package_html", "MALFORMED"),
    ):
        env.clock.wait(90000)
        recovery._fetcher = Server(env.package(name))
        same(refusal(recovery.run()), code)
        same(env.trust.last_error["code"], code)
    env.clock.wait(90000)
    recovery._fetcher = Server(error=network())
    same(refusal(recovery.run()), "CONNECTION")
    same(env.trust.last_error["code"], "DOWNLOAD")
    same("recovery.tmp" in os.listdir(env.folder), False)
    env.clock.wait(90000)
    recovery._fetcher = Server(error=asyncio.TimeoutError())
    same(refusal(recovery.run()), "DOWNLOAD")


def recovery_by_https(env):
    """G3: with a context of the factory's roots, or not at all."""
    made = []
    recovery = stranded(env, "https://127.0.0.1:1/a")
    recovery._fetcher = server = Server(env.package("v2"))
    same(refusal(recovery.run()), "NO_ROOTS")
    same(server.asked, [])
    env.clock.wait(90000)
    recovery._contexts = lambda roots: made.append(roots) or "context"
    same(refusal(recovery.run()), 2)
    same(server.asked[0][4], "context")
    same(sorted([d.hex() for d in made[0].digests()]),
         sorted([env.digests["first"], env.digests["second"]]))  # fmt: skip
    env.clock.wait(90000)
    env.store.state.distrust = [bytes.fromhex(env.digests[n]) for n in ("first", "second")]
    same(refusal(recovery.run()), "NO_ROOTS")


class Link:
    """A connection that a probe opens and closes."""

    def __init__(self):
        self.closed = False

    async def close(self):
        self.closed = True


def probe_results(env):
    """R-49: one root, one handshake, closed at once; each failure has its own word."""
    env.boot()
    env.good("v2")
    env.install("d3")
    opened = []
    link = Link()
    first = env.digests["first"]

    def opener(error=None):
        async def work(host, port, roots):
            opened.append((host, port, [d.hex() for d in roots.digests()]))
            if error is not None:
                raise error
            return link

        return work

    before = summary(env), env.trust.generation, env.trust.via
    request = {"host": "localhost", "port": 8883, "root": first}
    found = refusal(probe.probe(env.trust, request, opener()))
    same((found["result"], found["root"], found["at"] > 0, link.closed), ("ok", first, True, True))
    same(opened, [("localhost", 8883, [first])])
    for error, result in (
        (untrusted(), "UNTRUSTED"),
        (ClockError("no"), "CLOCK"),
        (network(), "TCP"),
        (ConnectionFailedError("no"), "NETWORK"),
        (ProtocolError("no", "CIPHER"), "CIPHER"),
        (ProtocolError("no"), "PROTOCOL"),
        (ConnectionDroppedError("no"), "DROPPED"),
        (MemoryError(), "MEMORY"),
    ):
        found = refusal(probe.probe(env.trust, request, opener(error)))
        same(found["result"], result)
        same(env.trust.probes, [found])
    for name, result in (("second", "DISTRUSTED"), ("third", "NOT_CARRIED")):
        asked = {"host": "localhost", "port": 8883, "root": env.digests[name]}
        same(refusal(probe.probe(env.trust, asked, opener()))["result"], result)
    same(len(opened), 9)
    same((summary(env), env.trust.generation, env.trust.via), before)
    for n in range(12):
        env.trust.note_probe({"root": first, "host": "host%d" % n, "result": "ok"})
    same((len(env.trust.probes), env.trust.probes[-1]["host"]), (8, "host11"))
    for wrong in (
        {"host": ""}, {"host": "h" * 254}, {"host": 7}, {"port": 0}, {"port": 65536}, {"port": "8883"},
        {"port": True}, {"root": "x"}, {"root": 7}, {"root": first.upper()}, {"root": None},
    ):  # fmt: skip
        same(refusal(probe.probe(env.trust, dict(request, **wrong), opener())), "MALFORMED")
    for right in ({"host": "h"}, {"host": "h" * 253}, {"port": 1}, {"port": 65535}):
        same(refusal(probe.probe(env.trust, dict(request, **right), opener()))["result"], "ok")


def verifier_in_c(env):
    """D2: the C function behind the same call: form first, memory apart, one kind of refusal."""
    kept = native._verify
    asked = []

    def fake(answer):
        def work(alg, n, e, digest, signature):
            asked.append((alg, len(n), e, len(digest), len(signature)))
            if answer is None:
                raise OSError(12)
            return answer

        return work

    try:
        native._verify = fake(True)
        env.boot()
        same(env.install("v2"), 2)
        same(asked[0], ("PS256", 256, b"\x01\x00\x01", 32, 256))
        native._verify = fake(False)
        env.boot()
        same(env.install("v3"), "BAD_SIGNATURE")
        native._verify = fake(None)
        env.boot()
        same(env.install("v3"), "MEMORY")
        asked.clear()
        same(env.install("signature_short"), "MEMORY")
        native._verify = fake(True)
        env.boot()
        same(env.install("signature_n"), "BAD_SIGNATURE")
        native._verify = None
        env.boot()
        same(env.install("v3"), 3)
    finally:
        native._verify = kept


SKIP = (
    "same",
    "refused",
    "stranded",
    "refusal",
    "untrusted",
    "expired",
    "network",
    "summary",
    "main",
)


def names():
    """Return the scenarios' names."""
    here = globals()
    return sorted(
        name
        for name in here
        if name not in SKIP and type(here[name]) is type(same) and name.islower() and name[0] != "_"
        and (here[name].__module__ if hasattr(here[name], "__module__") else __name__) == __name__
        and name not in ("names", "run_one")
    )  # fmt: skip


def run_one(name, root):
    """Run one scenario in the present folder; return None or why it failed."""
    try:
        globals()[name](Env(root))
    except Failed as error:
        return str(error)
    return None


def main():
    """Run the scenarios named, or all."""
    root = sys.argv[1]
    for name in sys.argv[2:] or names():
        try:
            why = run_one(name, root)
        except Exception as error:
            sys.print_exception(error)
            why = repr(error)
        print(json.dumps([name, why]))


if __name__ == "__main__":
    main()
