"""Times away, from events that AWS sends as best it can: only what has a beginning and an end is measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from planrunner.aws.events import (
    FAILED_OVER,
    FAILING_OVER,
    RESTARTED,
    SHUTDOWN,
    STOPPED,
    InstanceEvent,
    outages,
)

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MESSAGES = (SHUTDOWN, RESTARTED, FAILING_OVER, FAILED_OVER, STOPPED, "Backing up DB instance")


def at(seconds: float, message: str) -> InstanceEvent:
    return InstanceEvent(at=BEGIN + timedelta(seconds=seconds), message=message)


def test_a_shutdown_and_the_restart_after_it_are_a_reboot() -> None:
    found = outages([at(0, SHUTDOWN), at(11, f"{RESTARTED}.")])
    assert [o.seconds for o in found.reboots] == [11]
    assert found.unmeasured == 0


def test_the_order_in_which_aws_tells_them_does_not_count() -> None:
    assert outages([at(11, RESTARTED), at(0, SHUTDOWN)]) == outages([at(0, SHUTDOWN), at(11, RESTARTED)])


def test_a_reboot_without_a_standby_is_noted_by_its_end_alone() -> None:
    found = outages([at(0, RESTARTED), at(3600, SHUTDOWN), at(3640, RESTARTED)])
    assert [o.seconds for o in found.reboots] == [40]
    assert found.unmeasured == 1


def test_of_two_beginnings_only_the_one_before_the_end_is_believed() -> None:
    found = outages([at(0, SHUTDOWN), at(90000, SHUTDOWN), at(90030, RESTARTED)])
    assert [o.seconds for o in found.reboots] == [30]


def test_an_instance_that_somebody_stopped_was_not_rebooting() -> None:
    found = outages([at(0, SHUTDOWN), at(60, STOPPED), at(90000, RESTARTED)])
    assert found.reboots == ()
    assert found.unmeasured == 1


def test_a_failover_is_told_apart_with_its_own_restart() -> None:
    # As AWS's knowledge center shows one: the restart is noted some seconds after the completion.
    found = outages([at(0, FAILING_OVER), at(120, FAILED_OVER), at(135, RESTARTED)])
    assert [o.seconds for o in found.failovers] == [120]
    assert (found.reboots, found.unmeasured) == ((), 0)


def test_a_shutdown_within_a_failover_is_no_reboot() -> None:
    found = outages([at(0, FAILING_OVER), at(5, SHUTDOWN), at(50, RESTARTED), at(60, FAILED_OVER)])
    assert (found.reboots, [o.seconds for o in found.failovers], found.unmeasured) == ((), [60], 0)


def test_no_events_are_no_outage() -> None:
    assert outages([]) == outages([at(0, "DB instance created")])


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(MESSAGES)), max_size=40))
def test_whatever_is_sent_every_outage_has_an_end_after_its_beginning_and_they_do_not_overlap(
    sent: list[tuple[int, str]],
) -> None:
    events = [at(seconds, message) for seconds, message in sent]
    found = outages(events)
    for kind in (found.reboots, found.failovers):
        assert all(o.seconds >= 0 for o in kind)
        assert all(first.ended <= second.began for first, second in pairwise(kind))
    restarts = sum(message == RESTARTED for _, message in sent)
    assert len(found.reboots) + found.unmeasured <= restarts
    times = {e.at for e in events}
    assert all({o.began, o.ended} <= times for o in (*found.reboots, *found.failovers))


@given(st.lists(st.integers(1, 900), min_size=1, max_size=8))
def test_clean_reboots_are_all_found_with_their_lengths(lengths: list[int]) -> None:
    events = [
        event
        for day, length in enumerate(lengths)
        for event in (at(day * 86400, SHUTDOWN), at(day * 86400 + length, RESTARTED))
    ]
    assert [o.seconds for o in outages(reversed(events)).reboots] == lengths
