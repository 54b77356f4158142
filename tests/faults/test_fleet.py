"""A fleet broken off in every way: members killed and failing, the fleet itself killed and interrupted, all resumed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.fleet import CLOCK, Fleet, make_databases
from tests.faults.scene import PATIENCE_SECONDS, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

SETTINGS = {
    "max_connections": "200",
    "max_replication_slots": "60",
    "max_wal_senders": "60",
    "max_worker_processes": "80",
    "max_logical_replication_workers": "60",
}
WAVES = """
inventory: {csv: shops.csv}
canary: [shop-1]
waves:
  - {name: first, members: ["shop-[2-5]"]}
  - {name: second, approval: manual}
max_parallel: 3
stop_after: 9
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with servers(SETTINGS, SETTINGS) as both:
        yield both


@pytest.fixture
def fleet(pair: tuple[PostgresServer, PostgresServer], tmp_path: Path) -> Iterator[Fleet]:
    names = tuple(f"shop-{number}" for number in range(1, 7))
    make_databases(*pair, names, rows=200)
    made = Fleet(source=pair[0], target=pair[1], folder=tmp_path, names=names)
    made.write(WAVES)
    yield made
    made.drop()


@pytest.mark.timeout(400)
def test_a_fleet_comes_through_what_breaks_in_it(fleet: Fleet) -> None:
    broken = "shop-3"
    with psycopg.connect(fleet.dsn(fleet.source, broken)) as session:
        session.execute("CREATE TABLE heap (note text)")

    # In the first wave a member is killed, another one can't be copied, and then the fleet itself is killed.
    first = fleet.start("run")
    fleet.kill("shop-2")
    wait_for(lambda: fleet.steps(broken).get("copy") == "failed")
    wait_for(lambda: bool(fleet.runs().keys() - {broken}))
    first.kill()
    first.communicate()
    assert fleet.runs().keys() - {broken}, "members' runs outlive the fleet that began them"
    with psycopg.connect(fleet.dsn(fleet.source, broken)) as session:
        session.execute("DROP TABLE heap")

    # Whoever is still at work is waited for; the second wave waits for a person.
    code, said = fleet.run("run")
    assert code == 4, said
    assert "a run that somebody else began is at work" in said
    assert "wave second (1 members) waits for approval" in said
    members = {member["name"]: member for member in fleet.status()["members"]}
    assert [n for n, member in members.items() if member["status"] != "done"] == ["shop-6"]
    assert members["shop-2"]["attempts"] == members[broken]["attempts"] == 2

    code, said = fleet.run("approve", "second", "--because", "the first wave is well")
    assert code == 0, said
    last = fleet.start("run")
    fleet.kill("shop-6")
    said, _ = last.communicate(timeout=PATIENCE_SECONDS)
    assert last.returncode == 1, said
    assert "shop-6: failed: ended by SIGKILL" in said
    assert fleet.standings()["shop-6"] == "failed"

    code, said = fleet.run("run")
    assert code == 0, said
    assert set(fleet.standings().values()) == {"done"}
    fleet.assert_moved(fleet.names)


@pytest.mark.timeout(400)
def test_all_members_follow_wave_by_wave_and_are_cut_over_wave_by_wave(fleet: Fleet) -> None:
    # Killed in the first wave: who is at work goes on by itself, up to the step that he was begun for.
    first = fleet.start("run", "--until", "follow")
    wait_for(lambda: bool(fleet.runs().keys() - {"shop-1"}))
    first.kill()
    first.communicate()
    code, said = fleet.run("run", "--until", "follow")
    assert code == 4, said
    assert "planrunner fleet approve fleet.yaml second --until follow" in said
    assert fleet.run("approve", "second", "--until", "follow")[0] == 0
    code, said = fleet.run("run", "--until", "follow")
    assert code == 0, said
    assert set(fleet.standings().values()) == {"reached"}
    assert {member["until"] for member in fleet.status()["members"]} == {"follow"}
    for name in fleet.names:
        steps = fleet.steps(name)
        assert {step for step, how in steps.items() if how == "done"} == {"copy", "follow"}

    # All of them follow, while nobody runs.
    for name in fleet.names:
        with psycopg.connect(fleet.dsn(fleet.source, name)) as session:
            session.execute("INSERT INTO orders VALUES (9000, %s, 'followed')", [name])
    for name in fleet.names:
        wait_for(lambda name=name: has_followed(fleet, name))  # type: ignore[misc]

    # The cutover goes in waves again, and is killed in the first of them.
    last = fleet.start("run")
    wait_for(lambda: bool(fleet.runs().keys() - {"shop-1"}))
    assert fleet.steps("shop-1")["over"] == "done", "the canary is cut over before the first wave"
    last.kill()
    last.communicate()
    code, said = fleet.run("run")
    assert code == 4, said
    assert "approve fleet.yaml second\n" in said, "the approval to follow is none to cut over"
    assert fleet.standings()["shop-6"] == "reached"
    assert fleet.run("approve", "second")[0] == 0
    code, said = fleet.run("run")
    assert code == 0, said
    assert set(fleet.standings().values()) == {"done"}
    fleet.assert_moved(fleet.names)


def has_followed(fleet: Fleet, name: str) -> bool:
    with psycopg.connect(fleet.dsn(fleet.target, name)) as session:
        row = session.execute("SELECT note FROM orders WHERE id = 9000").fetchone()
    return row == ("followed",)


POINTS = {
    "fleet.before_replace": "the roster is not there yet",
    "fleet.journalled": "it is known how far the run is to go, and nothing more",
    "fleet.journalled#2": "a member is begun by the journal alone",
    "fleet.before_start": "the same, with a log",
    "fleet.started": "a member is at work, and nobody looks after it",
}


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_fleet_killed_at_any_point_goes_on(fleet: Fleet) -> None:
    for point in POINTS:
        code, said = fleet.run("run", failpoints=f"{point}:kill")
        assert code == -signal.SIGKILL, said

    # A signal comes to the members at work, who stop where they can go on; killed while it passes it on, they do not.
    for armed, expected in (("fleet.before_signal:kill", -signal.SIGKILL), ("", 130)):
        # Who works on from before is not this fleet's to stop.
        wait_for(lambda: not fleet.runs())
        child = fleet.start("run", failpoints=armed)
        wait_for(lambda: any(fleet.steps(name) for name in fleet.runs()))
        child.send_signal(signal.SIGTERM)
        said, _ = child.communicate(timeout=PATIENCE_SECONDS)
        assert child.returncode == expected, said
    assert fleet.runs() == {}, "no run of a fleet that ended by itself is at work"
    assert "stopped" in fleet.standings().values()

    assert fleet.run("approve", "second")[0] == 0
    code, said = fleet.run("run")
    assert code == 0, said
    fleet.assert_moved(fleet.names)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = CLOCK.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(0.05)
