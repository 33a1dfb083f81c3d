"""The drill's own arithmetic: it must not be possible to lose a message without being told."""

from taproot.drill.account import count


def test_nothing_lost() -> None:
    found = count({0: True, 1: True, 2: False}, [0, 1, 2])
    assert (found.accepted, found.offline, found.recorded) == (3, 1, 3)
    assert found.lost == () and found.duplicated == 0 and found.unordered == 0


def test_a_lost_message_is_named() -> None:
    assert count({0: True, 1: True, 2: True}, [0, 2]).lost == (1,)


def test_a_duplicate_is_counted_and_not_unordered() -> None:
    found = count({0: True, 1: True}, [0, 1, 0])
    assert found.duplicated == 1 and found.unordered == 0 and found.recorded == 2


def test_a_late_first_delivery_is_unordered() -> None:
    assert count({0: True, 1: True}, [1, 0]).unordered == 1


def test_what_the_hub_recorded_but_no_call_accepted_is_not_a_loss() -> None:
    assert count({}, [7]).lost == ()
