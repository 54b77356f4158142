"""A copy, and a comparison, by the workers of a real scheduler: they are killed with units in hand, and so is it."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

import planrunner
import planrunner.pools.cluster
from planrunner.errors import PoolLost
from planrunner.model import DaskPool
from tests.benchmarks.proxy import SlowLine
from tests.faults.breaking import wait_until
from tests.faults.cluster import Cluster, cluster
from tests.faults.hosts import GATEWAY, can_be_made, hosts
from tests.faults.scene import Migration, migration, servers
from tests.pages import ROOT, commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.sandbox.servers import PostgresServer

distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")

TABLES = 8
ROWS = 4000
SCRIPT = "".join(
    f"CREATE TABLE t{n} (id int PRIMARY KEY, w text);"
    f" INSERT INTO t{n} SELECT i, repeat('x', 500) FROM generate_series(1, {ROWS}) i;"
    for n in range(TABLES)
)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with servers(source={"log_statement": "all"}) as both:
        yield both


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as made:
        yield made


def secrets(one: Migration) -> dict[str, str]:
    return {"SOURCE_PASSWORD": one.source.password, "TARGET_PASSWORD": one.target.password}


def begun(one: Migration) -> Counter[str]:
    """How often the source was asked for each table, by its own log."""
    lines = (line for line in one.source.log.read_text().splitlines() if f"@{one.name}/planrunner/" in line)
    return Counter(found[1] for line in lines if (found := re.search(r'COPY "public"\."(t\d+)"', line)))


def copied(one: Migration) -> dict[str, int]:
    with psycopg.connect(one.theirs) as session:
        return dict(session.execute("SELECT unit_id, rows FROM planrunner.unit").fetchall())


WHOLE = {f"public.t{n}": ROWS for n in range(TABLES)}


def test_workers_are_ready_before_there_is_a_task(workers: Cluster) -> None:
    workers.add("one", {})
    workers.wait_for(1)
    pool = planrunner.pools.cluster.Cluster(DaskPool(address=workers.address))
    pool.rouse()
    loaded = "'planrunner.pools.worker' in __import__('sys').modules"
    with distributed.Client(workers.address, set_as_default=False) as other:
        wait_until(lambda: list(other.run(eval, loaded).values()) == [True], "it has loaded what it needs")
    assert pool.open() == f"pool: 1 workers with 1 threads at {workers.address}"
    assert pool.open() is None
    # Whoever is gone since is dialled anew.
    workers.kill_scheduler()
    workers.start()
    workers.add("two", {})
    wait_until(lambda: not lives(pool), "it is seen to be gone")
    assert (pool.open() or "").startswith("pool: ")
    pool.close()


def lives(pool: planrunner.pools.cluster.Cluster) -> bool:
    try:
        pool.look()
    except PoolLost:
        return False
    return True


def test_a_worker_that_is_killed_with_a_unit_in_hand_costs_that_unit_once(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "killed", SCRIPT, copy="{jobs: 3}") as one:
        workers.add("one", {**secrets(one), "PLANRUNNER_FAILPOINTS": "copy.before_commit:kill"})
        workers.add("two", secrets(one))
        workers.add("three", secrets(one))
        workers.wait_for(3)
        said = one.succeeds("run --until copy", "--pool", workers.address)
        assert f"pool: 3 workers with 3 threads at {workers.address}" in said
        assert workers.workers["one"].wait(10) == -9
        assert copied(one) == WHOLE
        assert sorted(begun(one).values()) == [1] * (TABLES - 1) + [2]
        one.succeeds("run")
        one.assert_moved()


def test_a_scheduler_that_is_lost_in_mid_copy_is_a_resume(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    with (
        migration(pair, tmp_path, "lost", SCRIPT, copy="{jobs: 3}") as one,
        SlowLine(pair[0].port, delay=0, bytes_per_second=4 << 20) as line,
    ):
        one.plan.write_text(one.plan.read_text().replace(f":{pair[0].port}/", f":{line.port}/"))
        one.plan.write_text(one.plan.read_text() + f"pool: {{dask: '{workers.address}'}}\n")
        for name in ("one", "two", "three"):
            workers.add(name, secrets(one))
        child = one.start("run --until copy")
        wait_until(lambda: there(one), "no unit was copied")
        workers.kill_scheduler()
        said, _ = child.communicate(timeout=120)
        assert child.returncode == 1, said
        assert f"the scheduler at {workers.address} is not there" in said
        assert "Traceback" not in said, said
        before = copied(one)
        assert before
        assert before.keys() < WHOLE.keys()
        workers.close()
        workers.start()
        workers.add("four", secrets(one))
        one.succeeds("run --until copy")
        assert copied(one) == WHOLE
        kept = begun(one)
        one.succeeds("run")
        one.assert_moved()
        assert {kept[name.removeprefix("public.")] for name in before} == {1}


def there(one: Migration) -> bool:
    with psycopg.connect(one.theirs) as session:
        if session.execute("SELECT to_regclass('planrunner.unit')").fetchone() == (None,):
            return False
    return bool(copied(one))


def test_a_run_that_is_interrupted_leaves_nobody_at_work(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    with (
        migration(pair, tmp_path, "stopped", SCRIPT, copy="{jobs: 3}") as one,
        SlowLine(pair[0].port, delay=0, bytes_per_second=4 << 20) as line,
    ):
        one.plan.write_text(one.plan.read_text().replace(f":{pair[0].port}/", f":{line.port}/"))
        workers.add("one", secrets(one), threads=3)
        child = one.start("run --until copy", "--pool", workers.address)
        wait_until(lambda: there(one), "no unit was copied")
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=60)
        assert child.returncode == 130, said
        before = copied(one)
        assert before.keys() < WHOLE.keys()
        wait_until(lambda: at_work(one) == [], "the workers went on")
        assert copied(one) == before
        one.succeeds("run")
        one.assert_moved()


def at_work(one: Migration, kind: str = "copy") -> list[str]:
    found = []
    for dsn in (one.ours, one.theirs):
        with psycopg.connect(dsn) as session:
            found += session.execute(
                "SELECT application_name, query FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'planrunner/%%/' || %s::text || '/%%'",
                [kind],
            ).fetchall()
    return found


@pytest.mark.parametrize(
    "point",
    [
        "pool.submitted#5",
        pytest.param("shift.before_commit#1", marks=pytest.mark.soak),
        pytest.param("shift.replaced#1", marks=pytest.mark.soak),
        pytest.param("shift.before_commit#2", marks=pytest.mark.soak),
        pytest.param("shift.replaced#2", marks=pytest.mark.soak),
    ],
)
def test_a_runner_that_is_killed_while_workers_copy_is_a_resume(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path, point: str
) -> None:
    name = re.sub(r"\W", "", point)
    with migration(pair, tmp_path, name, SCRIPT, copy="{jobs: 3}") as one:
        workers.add("one", secrets(one), threads=3)
        code, said = one.run("run", "--pool", workers.address, failpoints=f"{point}:kill")
        assert code == -9, said
        # In the middle of it: the workers have not heard of their end, and this one needs none of them.
        one.succeeds("run")
        one.assert_moved()


def test_a_worker_with_another_planrunner_is_given_nothing(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(planrunner.__file__).parent, other / "planrunner")
    (other / "planrunner" / "units.py").open("a").write("# changed\n")
    with migration(pair, tmp_path, "another", SCRIPT) as one:
        workers.add("one", {**secrets(one), "PYTHONPATH": str(other)})
        code, said = one.run("run --until copy", "--pool", workers.address)
        assert code == 1, said
        assert "has planrunner" in said
        assert "Install the same planrunner on every worker as here" in said
        assert not there(one)


def test_a_worker_that_lacks_a_secret_says_so(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "secretless", SCRIPT) as one:
        workers.add("one", {})
        code, said = one.run("run --until copy", "--pool", workers.address)
        assert code == 1, said
        assert "env:SOURCE_PASSWORD is not set" in said or "env:TARGET_PASSWORD is not set" in said
        for password in secrets(one).values():
            assert password not in said + workers.log("one") + workers.log("scheduler")


def digested(one: Migration) -> Counter[str]:
    """How often the source was asked for the digest of each table or portion, by its own log; by workers alone."""
    lines = (line for line in one.source.log.read_text().splitlines() if f"@{one.name}/planrunner/" in line)
    return Counter(
        found[1]
        for line in lines
        if "/survey/" in line and (found := re.search(r'sum\(.* FROM ONLY "public"\.("t\d+".*)', line))
    )


def test_a_worker_that_is_killed_with_a_survey_in_hand_costs_that_survey_once(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "surveyed", SCRIPT) as one:
        one.succeeds("run --until copy")
        workers.add("one", {**secrets(one), "PLANRUNNER_FAILPOINTS": "survey.read:kill"})
        workers.add("two", secrets(one))
        workers.add("three", secrets(one))
        workers.wait_for(3)
        said = one.succeeds("verify", "--pool", workers.address)
        assert f"pool: 3 workers with 3 threads at {workers.address}" in said
        assert f"{TABLES} tables compared" in said
        assert workers.workers["one"].wait(10) == -9
        assert sorted(digested(one).values()) == [1] * (TABLES - 1) + [2]
        with psycopg.connect(one.theirs) as session:
            session.execute("UPDATE t5 SET w = 'hush' WHERE id = 77")
        one.plan.write_text(one.plan.read_text() + f"pool: {{dask: '{workers.address}'}}\n")
        code, said = one.run("verify")
        assert code == 7, said
        assert "public.t5: 1 rows differ" in said
        assert "'hush'" in said
        logs = workers.log("scheduler") + workers.log("two") + workers.log("three")
        for password in secrets(one).values():
            assert password not in said + logs


def test_a_worker_that_is_killed_in_a_big_table_costs_a_portion_of_it(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    script = (
        "CREATE TABLE t0 (id int PRIMARY KEY, w text);"
        " INSERT INTO t0 SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i;"
    )
    with migration(pair, tmp_path, "portioned", script) as one:
        one.succeeds("run --until copy")
        workers.add("one", {**secrets(one), "PLANRUNNER_FAILPOINTS": "survey.read:kill"})
        workers.add("two", secrets(one))
        workers.wait_for(2)
        assert "1 tables compared" in one.succeeds("verify", "--pool", workers.address)
        assert workers.workers["one"].wait(10) == -9
        read = digested(one)
        assert len(read) > 2, read
        assert sorted(read.values()) == [1] * (len(read) - 1) + [2]
        with psycopg.connect(one.theirs) as session:
            session.execute("UPDATE t0 SET w = 'hush' WHERE id = 60000")
        code, said = one.run("verify", "--pool", workers.address)
        assert code == 7, said
        assert "public.t0: 1 rows differ" in said


def test_a_comparison_whose_scheduler_is_lost_begins_anew(
    pair: tuple[PostgresServer, PostgresServer], workers: Cluster, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "unsurveyed", SCRIPT) as one:
        one.succeeds("run --until copy")
        frozen = {**secrets(one), "PLANRUNNER_FAILPOINTS": "survey.read#3:stop"}
        workers.add("one", frozen, threads=2)
        child = one.start("verify", "--pool", workers.address)
        wait_until(lambda: stopped(workers.workers["one"].pid), "the worker reads three tables")
        assert at_work(one, "survey") != []
        workers.kill_scheduler()
        said, _ = child.communicate(timeout=120)
        assert child.returncode == 1, said
        assert f"the scheduler at {workers.address} is not there" in said
        assert "a comparison begins anew" in said
        assert "Traceback" not in said, said
        # What nobody waits for is ended on the servers, whatever became of the worker.
        assert at_work(one, "survey") == []
        workers.close()
        workers.start()
        workers.add("two", secrets(one), threads=2)
        assert f"{TABLES} tables compared" in one.succeeds("verify", "--pool", workers.address)


def certificates(folder: Path) -> tuple[str, ...]:
    """Those of the page, made by its commands; the options that a scheduler and a worker take."""
    (folder / "pool").mkdir()
    made = [c for c in commands(ROOT / "docs/how-to/several-machines.md") if c.startswith("openssl ")]
    assert len(made) == 3
    for command in made:
        subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)
    ca, cert, key = (folder / "pool" / name for name in ("ca.pem", "me.pem", "me.key"))
    return ("--tls-ca-file", str(ca), "--tls-cert", str(cert), "--tls-key", str(key))


def test_a_pool_over_tls_shows_its_certificate(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    tls = certificates(tmp_path)
    with (
        migration(pair, tmp_path, "encrypted", SCRIPT) as one,
        cluster(tmp_path / "cluster", tls=tls) as workers,
    ):
        workers.add("one", secrets(one), threads=2)
        workers.add("two", secrets(one), threads=2)
        code, said = one.run("run --until copy", "--pool", workers.address)
        assert code == 1, f"without a certificate of ours: {said}"
        files = "ca: pool/ca.pem, cert: pool/me.pem, key: pool/me.key"
        one.plan.write_text(
            one.plan.read_text() + f"pool: {{dask: {{address: '{workers.address}', {files}}}}}\n"
        )
        said = one.succeeds("run --until copy")
        assert f"pool: 2 workers with 4 threads at {workers.address}" in said
        assert copied(one) == WHOLE


@pytest.mark.soak
@pytest.mark.skipif(not can_be_made(), reason="no network namespaces can be made here")
def test_a_worker_on_a_host_that_is_cut_off_costs_the_unit_that_it_has(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    settings = {"log_statement": "all", "listen_addresses": f"127.0.0.1,{GATEWAY}"}
    with (
        hosts("one", "two") as (first, second),
        servers(source=settings, target={"listen_addresses": settings["listen_addresses"]}) as pair,
        migration(pair, tmp_path, "cutoff", SCRIPT, copy="{jobs: 2}") as one,
        cluster(tmp_path / "cluster", tls=tls, host=GATEWAY) as workers,
    ):
        for server in pair:
            with (server.data / "pg_hba.conf").open("a") as rules:
                rules.write(
                    f"host all all {GATEWAY}/24 scram-sha-256\nhost replication all {GATEWAY}/24 scram-sha-256\n"
                )
            server.reload({})
        one.plan.write_text(
            one.plan.read_text().replace("127.0.0.1", GATEWAY)
            + f"pool: {{dask: {{address: '{workers.address}', ca: pool/ca.pem, cert: pool/me.pem, key: pool/me.key}}}}\n"
        )
        frozen = {**secrets(one), "PLANRUNNER_FAILPOINTS": "copy.before_commit#1:stop"}
        workers.add("one", frozen, at=first)
        workers.add("two", secrets(one), at=second)
        workers.wait_for(2)
        child = one.start("run --until copy")
        # With a unit in its transaction, its rows on the target; then its line is cut, and it goes on alone.
        wait_until(lambda: stopped(workers.workers["one"].pid), "the first worker came to its commit")
        first.cut()
        workers.workers["one"].send_signal(signal.SIGCONT)
        said, _ = child.communicate(timeout=240)
        assert child.returncode == 0, said
        assert copied(one) == WHOLE
        assert sorted(begun(one).values()) == [1] * (TABLES - 1) + [2]
        one.succeeds("run")
        one.assert_moved()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
