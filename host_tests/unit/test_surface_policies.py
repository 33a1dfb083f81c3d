"""The pure policies of the hub client: re-provisioning ladder, renewal, dates, addresses."""

import asyncio
import heapq
import io
import random

import pytest
from azure_iot import sas
from azure_iot.backoff import Backoff, first_window
from azure_iot.errors import (
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    ServiceError,
    TrustError,
)
from azure_iot.guard import Guard, classify
from azure_iot.ladder import (
    NETWORK,
    REFUSED,
    REPAIR,
    REPROVISION,
    RETRY,
    THROTTLED,
    TRUST,
    UNAVAILABLE,
    Ladder,
)


@pytest.fixture
def ladder():
    return Ladder(random.Random(3).randrange)


@pytest.mark.requirement("T10")
def test_the_first_refusal_with_an_unproven_clock_repairs_the_time_and_counts_nothing(ladder):
    assert ladder.failed(REFUSED, 0, clock_proven=False) == REPAIR
    assert ladder.reprovisions == 0
    assert ladder.failed(REFUSED, 1, clock_proven=False) == REPROVISION


@pytest.mark.requirement("T10")
def test_a_clock_that_is_moved_after_a_repair_is_repaired_again(ladder):
    assert ladder.failed(REFUSED, 0, clock_proven=False) == REPAIR
    assert ladder.failed(REFUSED, 1, clock_proven=True) == REPROVISION
    assert ladder.failed(REFUSED, 2, clock_proven=False) == REPAIR


def test_a_refusal_with_a_proven_clock_registers_at_once_then_ever_later(ladder):
    at, gaps, last = 0, [], None
    while len(gaps) < 8:
        if ladder.failed(REFUSED, at, clock_proven=True) == REPROVISION:
            if last is not None:
                gaps.append(at - last)
            last = at
        at += 5
    assert 225 <= gaps[0] <= 380 and max(gaps) <= 3600 * 1.26 and gaps[-1] >= 3600 * 0.74


def test_ten_unavailable_in_a_row_over_an_hour_register_anew_nine_do_not(ladder):
    actions = [ladder.failed(UNAVAILABLE, n * 1000, clock_proven=True) for n in range(10)]
    assert actions == [RETRY] * 9 + [REPROVISION]
    ladder = Ladder(random.Random(3).randrange)  # as after a connection
    for n in range(30):
        kind = THROTTLED if n % 9 == 8 else UNAVAILABLE
        assert ladder.failed(kind, 20000 + n * 1000, clock_proven=True) == RETRY


def test_a_hub_that_refuses_for_hours_is_left_once_even_if_it_is_silent_now_and_then(ladder):
    kinds = (UNAVAILABLE, NETWORK, UNAVAILABLE)
    actions = [ladder.failed(kinds[n % 3], n * 100, clock_proven=True) for n in range(72)]
    assert actions.count(REPROVISION) == 1 and actions.index(REPROVISION) * 100 >= 3600


@pytest.mark.parametrize("kind", [UNAVAILABLE, NETWORK])
def test_a_fleet_that_its_hint_made_far_too_small_bothers_dps_with_nothing(kind):
    """5,000 devices at 10 a second: like 50,000 at 100, all of them back at once at first."""
    source = random.Random(1)
    rate, room, last = 10, 10.0, 0.0
    backoffs = [
        Backoff(500, 120_000, source.randrange, window_ms=first_window(1)) for _ in range(5000)
    ]
    ladders = [Ladder(source.randrange) for _ in backoffs]
    queue = [(backoff.next() / 1000, number) for number, backoff in enumerate(backoffs)]
    heapq.heapify(queue)
    while queue:
        now, number = heapq.heappop(queue)
        room, last = min(rate, room + (now - last) * rate), now
        if room >= 1:
            room -= 1
            continue
        assert ladders[number].failed(kind, int(now), clock_proven=True) == RETRY
        heapq.heappush(queue, (now + backoffs[number].next() / 1000, number))


def test_an_outage_of_15_to_30_minutes_registers_once(ladder):
    actions = [ladder.failed(NETWORK, at, clock_proven=True) for at in range(0, 1800, 10)]
    assert actions.count(REPROVISION) == 1
    assert actions.index(REPROVISION) * 10 >= 900


def test_certificate_verdicts_and_throttling_never_register(ladder):
    for at in range(0, 100000, 500):
        assert ladder.failed(TRUST, at, clock_proven=True) == RETRY
        assert ladder.failed(THROTTLED, at, clock_proven=True) == RETRY


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CredentialError("CONNACK 5: not authorised"), REFUSED),
        (ConnectionFailedError("CONNACK 3: server unavailable"), UNAVAILABLE),
        (ConnectionFailedError("no address", "dns"), NETWORK),
        (ConnectionFailedError("did not answer", "tcp"), NETWORK),
        (ConnectionFailedError("refused", "refused"), UNAVAILABLE),
        (ConnectionFailedError("no handshake in time", "timeout"), UNAVAILABLE),
        (ConnectionFailedError("CONNACK did not come", "connack"), UNAVAILABLE),
        (ConnectionFailedError("short of memory", "memory"), None),
        (ProtocolError("an alert ended the handshake", "ALERT"), NETWORK),
        (TrustError("x", "UNTRUSTED"), TRUST),
        (ServiceError("x", 429), THROTTLED),
        (ServiceError("x", 503), UNAVAILABLE),
    ],
)
def test_errors_are_evidence_of_what_they_say(error, kind):
    assert classify(error) == kind


def test_renewal_lies_between_70_and_85_percent_and_uses_the_whole_range():
    delays = [sas.renewal_delay(3600, random.getrandbits(32)) for _ in range(2000)]
    assert 2520 <= min(delays) < 2540 and 3040 < max(delays) <= 3060
    lives = [sas.first_life(3600, random.getrandbits(32)) for _ in range(2000)]
    assert 1080 <= min(lives) < 1110 and 3570 < max(lives) <= 3600


def test_no_credential_shows_its_secret():
    from azure_iot import credentials, external

    key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    token = sas.token("h%2Fdevices%2Fd", 1900000000, credentials.SymmetricKey(key).sign)
    for shown in (credentials.SymmetricKey(key), external.StaticToken(token)):
        assert key[:10] not in repr(shown) and "sig=" not in repr(shown)


@pytest.mark.parametrize("before", ["", "HostName=h.net;DeviceId=d;SharedAccessKey="])
def test_a_key_given_as_a_name_is_not_shown(before):
    from azure_iot import dps, identity

    key = before + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    for check in (identity.check_host, dps.check_scope, dps.check_registration_id):
        with pytest.raises(CredentialError) as refused:
            check(key)
        assert key[-20:] not in str(refused.value) and "MDEy" not in str(refused.value)


class Connection:
    """What a guard sees of the link, the clock and the time keeper; notes what it asks for."""

    trust = None
    proven = False
    held = True
    unreachable = 0
    moves = False  # the clock, while DPS is asked

    def __init__(self, uses_token: bool) -> None:
        self.uses_token = uses_token
        self.identity = type("Identity", (), {"gateway": "hub"})
        self.asked: list[str] = []

    def context(self):
        return None

    def release(self):
        self.held = False

    async def repair(self, host, context):
        assert not self.held, "two record buffers may not fit"
        self.asked.append("time")

    async def reprovision(self):
        assert not self.held, "two record buffers may not fit"
        self.asked.append("DPS")
        if self.moves:
            self.moves = False
            self.proven = False
            raise CredentialError("DPS refused the token")
        if self.unreachable:
            self.unreachable -= 1
            raise ConnectionFailedError("no route", "tcp")

    def retarget(self, assignment):
        self.asked.append("hub")

    def ticks_ms(self):
        return 0

    def ticks_diff(self, a, b):
        return a - b

    def ticks_add(self, a, b):
        return a + b


@pytest.mark.requirement("T10")
@pytest.mark.parametrize(
    "uses_token, asked", [(True, ["time", "time", "DPS", "hub"]), (False, ["DPS", "hub"])]
)
def test_the_time_is_repaired_before_dps_is_asked_with_a_token(uses_token, asked):
    """DPS takes the same kind of token: with a wrong clock it would refuse the device, too."""
    seen = Connection(uses_token)
    guard = Guard(seen, seen, random.Random(3).randrange, reprovision=seen.reprovision)

    async def refused():
        soon = guard.failed(CredentialError("CONNACK 5"), uses_token)
        await guard.before(seen)
        return soon

    soon = [asyncio.run(refused()) for _ in range(3)]
    assert seen.asked == asked
    assert soon == ([True, True, False] if uses_token else [True, False, False])


@pytest.mark.requirement("T10")
def test_dps_that_refused_for_a_clock_moved_meanwhile_is_asked_again():
    """Who sets the clock while DPS is asked makes the token wrong: no reason to wait for minutes."""
    seen = Connection(True)
    seen.proven = seen.moves = True
    guard = Guard(seen, seen, random.Random(3).randrange, reprovision=seen.reprovision)
    guard.failed(CredentialError("CONNACK 5"), True)
    for _ in range(2):
        asyncio.run(guard.before(seen))
    assert seen.asked == ["DPS", "time", "DPS", "hub"]
    assert guard.ladder.reprovisions == 1


def test_dps_out_of_reach_is_asked_again_before_the_next_attempt():
    """A registration that never came about is not one of those that are minutes apart."""
    seen = Connection(False)
    seen.unreachable = 2
    guard = Guard(seen, seen, random.Random(3).randrange, reprovision=seen.reprovision)
    for error in (CredentialError("CONNACK 5"), *[ConnectionFailedError("reset", "closed")] * 3):
        guard.failed(error, False)
        asyncio.run(guard.before(seen))
    assert seen.asked == ["DPS", "DPS", "DPS", "hub"]
    assert guard.ladder.reprovisions == 1
    guard.failed(CredentialError("CONNACK 5"), False)
    asyncio.run(guard.before(seen))
    assert len(seen.asked) == 4, "a registration that did happen is"


def test_a_chunk_that_full_flash_refuses_at_its_close_is_empty(monkeypatch):
    from azure_iot import desired

    class Full(io.BytesIO):
        def close(self):
            raise OSError(28)

    monkeypatch.setattr(desired, "open", lambda path, mode: Full(), raising=False)
    got = []
    sink = desired.DesiredFilter(lambda name: name, got.append)
    sink.write(memoryview(b'{"trust":{"c0":"abc","version":2}}'))
    sink.close()
    assert got == [b'{"trust":{"c0":0,"version":2}}']
