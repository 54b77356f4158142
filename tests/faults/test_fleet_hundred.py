"""A hundred databases between two servers: members killed and failing among them, the fleet killed twice, all resumed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.fleet import CLOCK, Fleet, make_databases
from tests.faults.scene import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS = {
    "max_connections": "300",
    "max_replication_slots": "120",
    "max_wal_senders": "120",
    "max_worker_processes": "150",
    "max_logical_replication_workers": "120",
}
NAMES = tuple(f"shop-{number:03}" for number in range(1, 101))
KEYLESS = ("shop-012", "shop-047", "shop-083")
KILLED = ("shop-007", "shop-031", "shop-064", "shop-090")
WAVES = """
inventory: {csv: shops.csv}
canary: [shop-001]
waves:
  - {name: first, members: ["shop-0[0-3]*"]}
  - {name: second, members: ["shop-0[4-7]*"]}
  - {name: third, approval: manual}
max_parallel: 6
stop_after: 50
"""
SECONDS = 1_500


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_a_hundred_databases_come_through(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with servers(SETTINGS, SETTINGS) as pair:
        make_databases(*pair, NAMES, rows=50)
        fleet = Fleet(source=pair[0], target=pair[1], folder=tmp_path, names=NAMES)
        fleet.write(WAVES, cleaning=False)
        for name in KEYLESS:
            with psycopg.connect(fleet.dsn(fleet.source, name)) as session:
                session.execute("CREATE TABLE heap (note text)")
        began = CLOCK.monotonic()

        # In the midst of the first and of the second wave the fleet itself is killed.
        for last_of, done in ((KILLED[:2], 25), (KILLED[2:3], 65)):
            run = fleet.start("run")
            for name in last_of:
                fleet.kill(name)
            wait_for(lambda least=done: standing(fleet)["done"] >= least)
            run.kill()
            run.communicate()
        code, said = fleet.run("run", patience=SECONDS)
        assert code == 1, said
        assert standing(fleet) == Counter(done=77, failed=2, pending=21), said
        assert all("no replica identity" in said for said in errors(fleet).values())

        # What is mended goes on; the third wave is approved, one of it can't be copied and one is killed.
        mend(fleet, *KEYLESS[:2])
        assert fleet.run("run", patience=SECONDS)[0] == 4
        assert fleet.run("approve", "third")[0] == 0
        run = fleet.start("run")
        fleet.kill(KILLED[3])
        said, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == 1, said
        told = errors(fleet)
        assert told.keys() == {KEYLESS[2], KILLED[3]}
        assert told[KILLED[3]] == "ended by SIGKILL"
        mend(fleet, KEYLESS[2])
        code, said = fleet.run("run", patience=SECONDS)
        assert code == 0, said

        took = CLOCK.monotonic() - began
        attempts = sum(member["attempts"] for member in fleet.status()["members"])
        record_property("faults", len(KEYLESS) + len(KILLED) + 2)
        record_property("figures", f"100 databases in {took:.0f} s by {attempts} runs of members")
        assert standing(fleet) == Counter(done=100)
        # Nobody was begun twice but for a reason: a fault of his own, or the fleet's end under him.
        assert attempts <= 100 + len(KEYLESS) * 3 + len(KILLED) + 2 * 6
        fleet.assert_moved(NAMES)


def mend(fleet: Fleet, *names: str) -> None:
    for name in names:
        with psycopg.connect(fleet.dsn(fleet.source, name)) as session:
            session.execute("DROP TABLE heap")


def standing(fleet: Fleet) -> Counter[str]:
    return Counter(fleet.standings().values())


def errors(fleet: Fleet) -> dict[str, str]:
    return {m["name"]: m["error"] for m in fleet.status()["members"] if m["status"] == "failed"}


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = CLOCK.monotonic() + SECONDS
    while not happened():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(2)
