"""A fleet whose members run on the workers of a real scheduler: workers are killed with members in hand, and so is it."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.helpers import contents
from tests.faults.breaking import wait_until
from tests.faults.cluster import Cluster, cluster
from tests.faults.fleet import CLOCK, TEMPLATE, Fleet, database_of, make_databases
from tests.faults.scene import PATIENCE_SECONDS, servers
from tests.faults.test_pool import certificates

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from planrunner.sandbox.servers import PostgresServer

pytest.importorskip("distributed", reason="the extra `dask` is not installed")

NAMES = ("away-1", "away-2", "away-3")
SETTINGS = {"max_replication_slots": "30", "max_wal_senders": "30", "max_worker_processes": "40"}
MEMBERS = "inventory: {csv: shops.csv}\nmax_parallel: 3\nstop_after: 9\nstate: target\n"
# A member's run stands still with a unit in its transaction, its lock held, until somebody lets it go on.
FREEZE = "copy.before_commit#1:stop"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with servers({**SETTINGS, "log_statement": "all"}, SETTINGS) as both:
        yield both


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster", tls=certificates(tmp_path)) as made:
        yield made


@pytest.fixture
def fleet(pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, workers: Cluster) -> Iterator[Fleet]:
    make_databases(*pair, NAMES, rows=200)
    made = Fleet(source=pair[0], target=pair[1], folder=tmp_path, names=NAMES)
    files = "ca: pool/ca.pem, cert: pool/me.pem, key: pool/me.key"
    made.write(f"{MEMBERS}pool: {{dask: {{address: '{workers.address}', {files}}}}}\n")
    yield made
    workers.close()
    made.drop()


def secrets(fleet: Fleet) -> dict[str, str]:
    return {"SOURCE_PASSWORD": fleet.source.password, "TARGET_PASSWORD": fleet.target.password}


def runs(of: subprocess.Popen[bytes]) -> dict[int, str]:
    """The members' runs that a worker has started: each process with the state that the system gives it."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            words = stat.with_name("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(parent) == of.pid and b"run" in words:
            found[int(stat.parent.name)] = state
    return found


def frozen(of: subprocess.Popen[bytes]) -> int | None:
    return next((pid for pid, state in runs(of).items() if state == "T"), None)


def member_of(pid: int) -> str:
    """Whose run a process is."""
    said = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(one.partition("=")[2] for one in said if one.startswith("PLANRUNNER_MEMBER="))


def is_gone(pid: int) -> bool:
    """Ended, and by whoever has it now not yet asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def without_cutover(fleet: Fleet) -> None:
    """The copy alone: what is killed in it is the same, and it is through sooner."""
    (fleet.folder / "shop.yaml").write_text(TEMPLATE[: TEMPLATE.index("  - {id: follow")])


def assert_copied(fleet: Fleet) -> None:
    """Every row of the members, by SQL of the tests' own; without a cutover what follows is still there."""
    for name in NAMES:
        assert contents(fleet.dsn(fleet.source, name)) == contents(fleet.dsn(fleet.target, name)), name


def without_pool(fleet: Fleet) -> None:
    path = fleet.folder / "fleet.yaml"
    path.write_text(re.sub("pool: .*\n", "", path.read_text()))


def copied(fleet: Fleet, name: str, since: int) -> Counter[str]:
    """How often the source was asked for each table of a member, by its own log behind ``since``."""
    lines = fleet.source.log.read_bytes()[since:].decode().splitlines()
    asked = (line for line in lines if f"@{database_of(name)}/planrunner/" in line)
    return Counter(found[1] for line in asked if (found := re.search(r'COPY "public"\."(\w+)"', line)))


@pytest.mark.timeout(300)
def test_members_run_on_workers_and_are_seen_and_approved_from_here(fleet: Fleet, workers: Cluster) -> None:
    plan = fleet.folder / "shop.yaml"
    plan.write_text(
        plan.read_text().replace("uses: cutover_verify", "uses: cutover_verify, approval: manual")
    )
    for name in ("one", "two"):
        workers.add(name, secrets(fleet), threads=2)
    workers.wait_for(2)

    # Somebody stops the fleet: no run is left on any worker, and what was done is kept.
    child = fleet.start("run")
    wait_until(lambda: any(map(runs, workers.workers.values())), "a member was begun")
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 130, said
    assert not any(map(runs, workers.workers.values()))

    code, said = fleet.run("run", "--until", "follow")
    assert code == 0, said
    assert [(m["status"], m["step"]) for m in fleet.status()["members"]] == [("reached", "over")] * 3

    code, said = fleet.run("run")
    assert code == 4, said
    assert f"pool: 2 workers with 4 threads at {workers.address}" in said
    members = fleet.status()["members"]
    assert {(m["status"], m["step"]) for m in members} == {("waiting", "over")}
    assert members[0]["command"].split()[:5] == ["planrunner", "run", "shop.yaml", "--state", "target"]
    assert not list((fleet.folder / "fleet.fleet").glob("*.state.json")), "no state lies here"

    code, said = fleet.run("approve", "--step", "over", "--because", "a test")
    assert code == 0, said
    # The rest of it here: where the states are, a pool is not needed to go on.
    without_pool(fleet)
    code, said = fleet.run("run")
    assert code == 0, said
    fleet.assert_moved(NAMES)
    code, said = fleet.run("report", "--format", "json")
    assert [f'"fleet.fleet/{name}.report.html"' in said for name in NAMES] == [True] * 3, said
    assert "step over" in (fleet.folder / "fleet.fleet/away-1.log").read_text()
    for password in secrets(fleet).values():
        assert password not in workers.log("scheduler") + workers.log("one") + workers.log("two")


@pytest.mark.timeout(300)
def test_a_worker_killed_with_a_member_in_hand_costs_the_unit_and_never_runs_it_twice(
    fleet: Fleet, workers: Cluster
) -> None:
    without_cutover(fleet)
    since = fleet.source.log.stat().st_size
    workers.add("one", {**secrets(fleet), "PLANRUNNER_FAILPOINTS": FREEZE})
    workers.add("two", secrets(fleet), threads=2)
    workers.wait_for(2)
    child = fleet.start("run")
    first = workers.workers["one"]
    wait_until(lambda: frozen(first) is not None, "the first worker's member came to its commit")
    pid = frozen(first)
    assert pid is not None
    broken = member_of(pid)
    workers.kill("one")

    # It is frozen and holds its lock: another run of it is begun, and refused, as long as it lives.
    log = fleet.folder / "fleet.fleet" / f"{broken}.log"
    wait_until(
        lambda: log.exists() and "another run works on this plan" in log.read_text(),
        "the second run was refused",
    )
    # A moment in which the fleet might begin a third.
    CLOCK.sleep(3)
    assert not is_gone(pid)
    assert copied(fleet, broken, since), "it has a unit in hand"
    os.kill(pid, signal.SIGKILL)

    said, _ = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 0, said
    assert f"{broken}: a run that somebody else began is at work; it is waited for" in said
    assert_copied(fleet)
    for name in NAMES:
        # Both tables are copied side by side, so both may have been in hand.
        most = 2 if name == broken else 1
        found = copied(fleet, name, since)
        assert sorted(found) == ["items", "orders"]
        assert max(found.values()) == most, (name, found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("waits", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_scheduler_that_is_lost_ends_the_fleet_and_is_a_resume(
    fleet: Fleet, workers: Cluster, monkeypatch: pytest.MonkeyPatch, *, waits: bool
) -> None:
    # How long Dask looks for a scheduler that is gone; half a minute by itself.
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "5s")
    without_cutover(fleet)
    workers.add("one", {**secrets(fleet), "PLANRUNNER_FAILPOINTS": FREEZE}, threads=3)
    child = fleet.start("run")
    worker = workers.workers["one"]
    wait_until(lambda: list(runs(worker).values()) == ["T"] * 3, "every member came to its commit")
    pids = list(runs(worker))
    workers.kill_scheduler()
    said, _ = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 1, said
    assert f"the scheduler at {workers.address} is not there" in said
    assert "Traceback" not in said, said
    assert set(fleet.standings().values()) == {"running"}

    # Its workers end without it, after half a minute by themselves, and the runs with them where they can go on.
    if waits:
        assert worker.wait(60) is not None
    else:
        workers.kill("one")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: all(map(is_gone, pids)), "the runs end with their worker")
    assert set(fleet.standings().values()) == {"stopped"}

    workers.close()
    workers.start()
    workers.add("two", secrets(fleet), threads=3)
    code, said = fleet.run("run")
    assert code == 0, said
    assert_copied(fleet)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_fleet_that_is_killed_leaves_its_runs_to_the_workers_and_the_next_waits_for_them(
    fleet: Fleet, workers: Cluster
) -> None:
    without_cutover(fleet)
    workers.add("one", {**secrets(fleet), "PLANRUNNER_FAILPOINTS": FREEZE}, threads=3)
    worker = workers.workers["one"]
    child = fleet.start("run")
    wait_until(lambda: list(runs(worker).values()) == ["T"] * 3, "every member came to its commit")
    pids = set(runs(worker))
    child.kill()
    child.communicate()

    child = fleet.start("run")
    CLOCK.sleep(8)
    assert set(runs(worker)) == pids, "they are where they were, and nobody is beside them"
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    said, _ = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 0, said
    assert said.count("a run that somebody else began is at work; it is waited for") == 3
    assert {member["attempts"] for member in fleet.status()["members"]} == {1}
    assert_copied(fleet)


POINTS = {
    "errand.unpacked": "nobody is begun but by the journal",
    "errand.before_start": "the same, with a folder for the run",
    "errand.started": "a member is at work, and nobody looks after it",
    "lifeline.cut": "a run is killed when it hears that it is alone",
}


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_fleet_of_tasks_killed_at_any_point_goes_on(fleet: Fleet) -> None:
    without_pool(fleet)
    for point in POINTS:
        # For the last of them somebody has to kill the fleet; the others do it by themselves.
        also = ",errand.started:kill" if point == "lifeline.cut" else ""
        code, said = fleet.run("run", failpoints=f"{point}:kill{also}")
        assert code == -signal.SIGKILL, said

    # Who works on from before is not this fleet's to stop.
    wait_until(lambda: "running" not in fleet.standings().values(), "the runs of the others have ended")
    child = fleet.start("run", failpoints="errand.before_signal:kill")
    wait_until(lambda: any(step == "running" for step in fleet.standings().values()), "a member is at work")
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == -signal.SIGKILL, said

    # A member is done, and the journal does not say so.
    code, said = fleet.run("run", failpoints="errand.logged:kill")
    assert code == -signal.SIGKILL, said
    code, said = fleet.run("run")
    assert code == 0, said
    fleet.assert_moved(NAMES)
