"""A state in a cabinet, where a reply is lost, a name vanishes, or another writer was faster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import LockedByAnother, StateUnfit
from planrunner.state.codec import to_json
from planrunner.state.control import Control
from planrunner.state.lease import Lease
from planrunner.state.record import State
from planrunner.state.remote import RemoteHome
from planrunner.state.succession import BACKUPS
from tests.unit.state.drawer import Drawer

CLOCK = SystemClock()
FIRST = State(lineage="l", plan="orders", plan_digest="d", serial=1)


def home(drawer: Drawer) -> RemoteHome:
    return RemoteHome(drawer, "orders", Lease(drawer, "orders.lock", heartbeat=60), place="s3://b/orders")


def test_a_save_whose_reply_was_lost_is_known_by_its_text_and_can_be_followed() -> None:
    drawer = Drawer()
    mine = home(drawer)
    mine.save(FIRST)
    drawer.lose_reply = True
    mine.save(replace(FIRST, serial=2))
    mine.save(replace(FIRST, serial=3))
    loaded = home(drawer).load()
    assert loaded is not None
    assert loaded.serial == 3


@pytest.mark.parametrize("meanwhile", ["another", "gone"])
def test_a_save_over_what_is_no_longer_there_is_refused(meanwhile: str) -> None:
    drawer = Drawer()
    mine = home(drawer)
    mine.save(FIRST)
    if meanwhile == "another":
        drawer.put("orders", to_json(replace(FIRST, serial=9)))
    else:
        drawer.remove("orders")
    with pytest.raises(LockedByAnother, match="another process has written state s3://b/orders"):
        mine.save(replace(FIRST, serial=2))


def test_only_as_many_backups_stay_as_are_promised() -> None:
    drawer = Drawer()
    mine = home(drawer)
    for serial in range(1, BACKUPS + 4):
        mine.save(replace(FIRST, serial=serial))
    assert [state.serial for state in mine.history()] == [7, 6, 5, 4, 3]
    assert drawer.names("orders.backup.")[0] == "orders.backup.000000003"


def test_a_backup_that_another_process_wrote_already_is_not_written_twice() -> None:
    drawer = Drawer()
    drawer.put("orders.backup.000000001", "kept")
    mine = home(drawer)
    mine.save(FIRST)
    mine.save(replace(FIRST, serial=2))
    found = drawer.read("orders.backup.000000001")
    assert found is not None
    assert found.text == "kept"


def test_a_backup_that_vanishes_between_two_looks_is_passed_over() -> None:
    class Leaky(Drawer):
        def names(self, prefix: str) -> list[str]:
            return [*super().names(prefix), *([f"{prefix}999999999"] if prefix.endswith("backup.") else [])]

    drawer = Leaky()
    mine = home(drawer)
    mine.save(FIRST)
    mine.save(replace(FIRST, serial=2))
    assert [state.serial for state in mine.history()] == [1]
    loaded = home(drawer).load()
    assert loaded is not None
    assert loaded.serial == 2


def test_a_vanished_state_names_its_backup_and_a_damaged_one_without_any_says_so() -> None:
    drawer = Drawer()
    mine = home(drawer)
    assert mine.load() is None
    mine.save(FIRST)
    mine.save(replace(FIRST, serial=2))
    drawer.remove("orders")
    with pytest.raises(StateUnfit, match="s3://b/orders is gone, its backups are there") as gone:
        home(drawer).load()
    assert gone.value.remedy == "Restore the newest good backup: put orders.backup.000000001 over orders"
    drawer.put("orders.backup.000000001", "nonsense")
    drawer.put("orders", "nonsense")
    with pytest.raises(StateUnfit, match="state s3://b/orders: it is damaged") as damaged:
        home(drawer).load()
    assert "No backup of it can be read either" in (damaged.value.remedy or "")


def test_the_lock_of_another_is_told_with_its_holder_and_place() -> None:
    drawer = Drawer()
    with home(drawer).locked(CLOCK):
        there = home(drawer).holder()
        assert there is not None
        assert there.pid > 0
        with (
            pytest.raises(LockedByAnother, match=r"process \d+.*lock of s3://b/orders"),
            home(drawer).locked(CLOCK),
        ):
            pass
    assert home(drawer).holder() is None


def test_set_aside_finds_a_free_name_and_makes_room_for_a_new_state() -> None:
    drawer = Drawer()
    mine = home(drawer)
    assert mine.set_aside() is None
    mine.save(FIRST)
    assert mine.set_aside() == "s3://b/orders.aside.1"
    assert mine.set_aside() == "s3://b/orders.aside.2"
    # Over what was set aside, a state of another lineage is no longer a mistake.
    mine.save(replace(FIRST, lineage="new"))
    kept = drawer.read("orders.aside.1")
    assert kept is not None
    assert kept.text == to_json(FIRST)


def test_a_part_of_the_events_that_vanished_is_passed_over() -> None:
    class Leaky(Drawer):
        def names(self, prefix: str) -> list[str]:
            return [*super().names(prefix), *([f"{prefix}999999999"] if prefix.endswith("events/") else [])]

    mine = home(Leaky())
    mine.push_events(1, b"one\n")
    mine.push_events(12, b"two\n")
    assert mine.events() == b"one\ntwo\n"


def test_a_home_is_named_by_its_place() -> None:
    assert home(Drawer()).place == "s3://b/orders"


def test_an_older_copy_of_it_is_refused() -> None:
    drawer = Drawer()
    mine = home(drawer)
    for serial in range(1, 4):
        mine.save(replace(FIRST, serial=serial))
    drawer.put("orders", to_json(FIRST))
    with pytest.raises(StateUnfit, match="state s3://b/orders"):
        home(drawer).load()


def test_the_state_of_another_migration_is_not_overwritten() -> None:
    drawer = Drawer()
    mine = home(drawer)
    mine.save(FIRST)
    with pytest.raises(StateUnfit, match="state s3://b/orders"):
        mine.save(replace(FIRST, lineage="another", serial=2))
    assert home(drawer).load() == FIRST


def test_whoever_has_lost_the_lock_neither_saves_nor_sets_aside() -> None:
    drawer = Drawer()
    lock = Lease(drawer, "orders.lock", heartbeat=60)
    mine = RemoteHome(drawer, "orders", lock, place="s3://b/orders")
    with mine.locked(CLOCK):
        mine.save(FIRST)
        lock._lost = True
        with pytest.raises(LockedByAnother, match=r"has taken the lock orders\.lock over"):
            mine.save(replace(FIRST, serial=2))
        with pytest.raises(LockedByAnother, match=r"has taken the lock orders\.lock over"):
            mine.set_aside()
    assert home(drawer).load() == FIRST
    assert drawer.names("orders.aside.") == []


def test_the_lock_is_given_back_at_the_end_of_its_block() -> None:
    drawer = Drawer()
    with home(drawer).locked(CLOCK):
        assert home(drawer).holder() is not None
    assert home(drawer).holder() is None


def test_what_is_asked_of_a_run_is_there_for_whoever_looks() -> None:
    drawer = Drawer()
    assert home(drawer).control() == Control()
    home(drawer).steer(Control(who="ana"))
    assert home(drawer).control() == Control(who="ana")


def test_a_damaged_backup_hides_none_of_the_others() -> None:
    drawer = Drawer()
    mine = home(drawer)
    for serial in range(1, 5):
        mine.save(replace(FIRST, serial=serial))
    drawer.put("orders.backup.000000002", "garbage")
    assert [state.serial for state in mine.history()] == [3, 1]
