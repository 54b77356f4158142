"""A lease in a cabinet: held, renewed, expired, taken over, and never believed when it may be lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import LockedByAnother
from planrunner.state.lease import Lease
from tests.unit.state.drawer import Drawer

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.ports import Kept

CLOCK = SystemClock()
NAME = "orders.lock"
BEAT = 0.01
EXPIRY = 30.0


class Patient(SystemClock):
    """Sleeps no time, and remembers for how long it was asked to; ``meanwhile`` happens in its sleep."""

    def __init__(self, meanwhile: Callable[[], Any] = lambda: None) -> None:
        self.slept: list[float] = []
        self.meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()


def lease(drawer: Drawer, *, heartbeat: float = BEAT, expiry: float = EXPIRY) -> Lease:
    return Lease(drawer, NAME, heartbeat=heartbeat, expiry=expiry)


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        CLOCK.sleep(0.002)


def test_while_it_is_held_its_holder_is_told_and_afterwards_nobody() -> None:
    drawer = Drawer()
    mine, other = lease(drawer), lease(drawer)
    assert other.signature() is None
    with mine.held("ana", CLOCK):
        assert other.signature() == "ana"
        with pytest.raises(LockedByAnother) as refused, other.held("bo", CLOCK):
            pass
        assert refused.value.message == "ana"
        mine.check()
        # A run that ends otherwise is not kept by it.
        assert [each.daemon for each in threading.enumerate() if each.name == "state lease"] == [True]
    assert other.signature() is None
    found = drawer.read(NAME)
    assert found is not None
    assert found.text == ""
    with other.held("bo", CLOCK):
        assert mine.signature() == "bo"


def test_it_is_renewed_for_as_long_as_it_is_held() -> None:
    drawer = Drawer()
    with lease(drawer).held("ana", CLOCK):
        tags = set()
        wait_for(lambda: len(tags) > 3 or bool(tags.add(_kept(drawer).tag)))
        assert _kept(drawer).text == "ana"


def _kept(drawer: Drawer) -> Kept:
    found = drawer.read(NAME)
    assert found is not None
    return found


@pytest.mark.parametrize(("age", "held"), [(EXPIRY - 5, True), (EXPIRY, False), (EXPIRY + 5, False)])
def test_one_that_is_not_renewed_any_more_may_be_taken_over_when_it_has_expired(
    age: float, held: bool
) -> None:
    drawer = Drawer()
    drawer.put(NAME, "dead")
    drawer.aged = age
    assert lease(drawer).signature() == ("dead" if held else None)
    if held:
        with pytest.raises(LockedByAnother, match="dead"), lease(drawer).held("bo", CLOCK):
            pass
    else:
        with lease(drawer).held("bo", CLOCK):
            drawer.aged = 0.0
            assert lease(drawer).signature() == "bo"


def test_whoever_was_taken_over_is_told_and_does_not_free_the_new_holders_lock() -> None:
    drawer = Drawer()
    mine = lease(drawer)
    with mine.held("ana", CLOCK):
        mine.check()
        drawer.put(NAME, "bo")
        wait_for(lambda: _is_lost(mine))
        with pytest.raises(LockedByAnother, match=f"the lock {NAME} over.* for 30 s") as told:
            mine.check()
        assert "planrunner status" in (told.value.remedy or "")
    assert _kept(drawer).text == "bo"
    # Held anew it is believed again.
    drawer.put(NAME, "")
    with mine.held("ana", CLOCK):
        mine.check()


def test_whoever_is_told_to_take_over_does_so_once() -> None:
    drawer = Drawer()
    told = Lease(drawer, NAME, heartbeat=BEAT, expiry=EXPIRY, take_over=True)
    with lease(drawer).held("first", CLOCK), told.held("second", CLOCK):
        pass
    # Whoever comes after it is another one, which nobody told it to take over from.
    with lease(drawer).held("third", CLOCK), pytest.raises(LockedByAnother), told.held("fourth", CLOCK):
        pass


def _is_lost(one: Lease) -> bool:
    try:
        one.check()
    except LockedByAnother:
        return True
    return False


def test_a_cabinet_that_is_away_for_a_beat_does_not_cost_the_lease() -> None:
    drawer = Drawer()
    mine = lease(drawer)
    with mine.held("ana", CLOCK):
        drawer.away = True
        tried = drawer.writes
        wait_for(lambda: drawer.writes > tried + 3)
        drawer.away = False
        tag = _kept(drawer).tag
        wait_for(lambda: _kept(drawer).tag != tag)
        mine.check()
    assert _kept(drawer).text == ""


def test_a_renewal_whose_reply_was_lost_is_known_by_its_text() -> None:
    drawer = Drawer()
    mine = lease(drawer)
    with mine.held("ana", CLOCK):
        drawer.lose_reply = True
        wait_for(lambda: not drawer.lose_reply)
        tag = _kept(drawer).tag
        wait_for(lambda: _kept(drawer).tag != tag)
        mine.check()


def test_a_lock_that_vanished_is_lost() -> None:
    drawer = Drawer()
    mine = lease(drawer)
    with mine.held("ana", CLOCK):
        drawer.remove(NAME)
        wait_for(lambda: _is_lost(mine))
    assert drawer.read(NAME) is None


def test_whoever_loses_the_race_three_times_is_refused_with_the_winners_name() -> None:
    class Contested(Drawer):
        """Somebody else writes between our look and our write."""

        def write(self, name: str, text: str, *, over: str | None) -> str | None:
            self.put(name, "" if self.writes < 2 else "bo")
            return super().write(name, text, over=over)

    drawer, clock = Contested(), Patient()
    with pytest.raises(LockedByAnother) as refused, lease(drawer).held("ana", clock):
        pass
    assert refused.value.message == "bo"
    assert clock.slept == pytest.approx([0.1, 0.2, 0.3])
    assert drawer.writes == 3


def test_whoever_loses_a_race_against_one_who_gave_up_gets_it_the_next_time() -> None:
    class Contested(Drawer):
        def write(self, name: str, text: str, *, over: str | None) -> str | None:
            if self.writes == 0:
                self.put(name, "")
            return super().write(name, text, over=over)

    drawer, clock = Contested(), Patient()
    with lease(drawer, heartbeat=60).held("ana", clock):
        assert _kept(drawer).text == "ana"
    assert clock.slept == pytest.approx([0.1])


def test_a_race_that_nobody_won_in_the_end_has_no_name() -> None:
    class Contested(Drawer):
        def write(self, name: str, text: str, *, over: str | None) -> str | None:
            self.put(name, "")
            return super().write(name, text, over=over)

    with pytest.raises(LockedByAnother) as refused, lease(Contested()).held("ana", Patient()):
        pass
    assert refused.value.message == ""


def test_the_thread_that_renews_ends_with_the_block_however_it_ends() -> None:
    drawer = Drawer()

    def work() -> None:
        with lease(drawer, heartbeat=60).held("ana", CLOCK):
            assert "state lease" in {thread.name for thread in threading.enumerate()}
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        work()
    assert "state lease" not in {thread.name for thread in threading.enumerate()}
    assert lease(drawer).signature() is None


def test_a_day_without_a_beat_is_no_beat_a_minute_is_enough_to_be_believed() -> None:
    drawer = Drawer()
    drawer.put(NAME, "dead")
    usual = Lease(drawer, NAME)
    drawer.aged = 59.0
    assert usual.signature() == "dead"
    drawer.aged = 61.0
    assert usual.signature() is None
