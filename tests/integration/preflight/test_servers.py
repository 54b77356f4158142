"""Each check of the servers, their settings and rights: the planted defect is told, and its remedy mends it."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.model import Finding, Mark, Side
from planrunner.postgres import preflight_capacity, preflight_settings
from planrunner.postgres.preflight import preflight
from planrunner.postgres.preflight_section import Needs
from planrunner.sandbox.servers import PostgresServer, wheel_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from planrunner.postgres.connection import Server

pytestmark = pytest.mark.server
PLAN = "0123abcd"
NEEDS = Needs(plan_id=PLAN, owned=f"pr_{PLAN}_g")
_STATEMENT = re.compile(r"\b(?:ALTER|GRANT|SELECT|ROLLBACK|CREATE|DROP)\b [^;]*;")
_PATIENCE_SECONDS = 10.0
# The sandbox's servers are quick instead: what a test asks of them is told by STURDY.
STURDY = (
    "ALTER SYSTEM SET fsync = on",
    "ALTER SYSTEM SET full_page_writes = on",
    "SELECT pg_reload_conf()",
)


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A defect: ``statements`` plant it on a side, where ``{db}`` and ``{login}`` stand for names."""

    side: Side
    statements: tuple[str, ...]
    code: str
    mark: Mark
    words: str


@pytest.fixture(scope="module")
def first() -> Iterator[PostgresServer]:
    settings = {"wal_level": "logical", "max_prepared_transactions": "5"}
    with PostgresServer(wheel_bin(18), settings=settings, max_life=1200) as server:
        yield server


@pytest.fixture(scope="module")
def second() -> Iterator[PostgresServer]:
    settings = {"wal_retrieve_retry_interval": "100ms"}
    with PostgresServer(wheel_bin(18), settings=settings, max_life=1200) as server:
        yield server


@pytest.fixture
def source(place: Callable[[PostgresServer], Any], first: PostgresServer) -> Any:
    return place(first)


@pytest.fixture
def target(place: Callable[[PostgresServer], Any], second: PostgresServer) -> Any:
    return place(second)


@dataclass
class Pair:
    source: Any
    target: Any
    there: Server
    here: Server

    def place(self, side: Side) -> Any:
        return self.source if side is Side.SOURCE else self.target

    def found(self, needs: Needs | None = None) -> tuple[Finding, ...]:
        dial = {"host": "127.0.0.1", "port": str(self.source.server.port), "dbname": self.source.database}
        needs = needs or NEEDS
        needs = Needs(**{**vars(needs), "dial": {**dial, "user": "postgres", "sslmode": "disable"}})
        return preflight(self.there, self.here, needs)


@pytest.fixture
def pair(source: Any, target: Any) -> Pair:
    return Pair(source=source, target=target, there=source.connect(), here=target.connect(side=Side.TARGET))


def of(findings: Iterable[Finding], code: str, mark: Mark) -> list[Finding]:
    return [f for f in findings if f.code == code and f.mark is mark]


def remedies(findings: Sequence[Finding]) -> list[str]:
    return [statement for f in findings for statement in _STATEMENT.findall(f.remedy or "")]


def until(look: Callable[[], Sequence[Finding]], *, there: bool) -> Sequence[Finding]:
    """What ``look`` finds once it finds something, or no longer does; a reloaded setting takes a moment."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = look()
        if bool(found) is there or time.monotonic() > deadline:
            return found
        SystemClock().sleep(0.05)


def system(setting: str) -> tuple[str, str]:
    return f"ALTER SYSTEM SET {setting}", "SELECT pg_reload_conf()"


S, T, WARN, FAIL = Side.SOURCE, Side.TARGET, Mark.WARN, Mark.FAIL
PLANTS = (
    Plant(side=T, statements=system("fsync = off"), code="PR0518", mark=WARN, words="fsync is off"),
    Plant(side=T, statements=system("full_page_writes = off"), code="PR0518", mark=WARN, words="full_page"),
    Plant(side=T, statements=system("autovacuum = off"), code="PR0520", mark=WARN, words="autovacuum is off"),
    Plant(side=T, statements=system("wal_receiver_timeout = 900"), code="PR0517", mark=WARN, words="900 ms"),
    Plant(side=S, statements=system("wal_sender_timeout = 800"), code="PR0517", mark=WARN, words="800 ms"),
    Plant(side=S, statements=system("max_slot_wal_keep_size = 64"), code="PR0515", mark=WARN, words="64 MB"),
    Plant(
        side=S,
        statements=system("idle_replication_slot_timeout = 300"),
        code="PR0516",
        mark=WARN,
        words="300 s",
    ),
    Plant(side=S, statements=system("password_encryption = md5"), code="PR0311", mark=WARN, words="as MD5"),
    Plant(side=T, statements=system("password_encryption = md5"), code="PR0411", mark=WARN, words="as MD5"),
    Plant(
        side=T,
        statements=system("synchronous_standby_names = 'nobody'"),
        code="PR0519",
        mark=FAIL,
        words="none confirms",
    ),
    Plant(
        side=S,
        statements=system("synchronous_standby_names = 'nobody'"),
        code="PR0519",
        mark=FAIL,
        words="none confirms",
    ),
    Plant(
        side=T,
        statements=("ALTER DATABASE {db} SET lock_timeout = '5s'",),
        code="PR0521",
        mark=WARN,
        words="lock_timeout is 5000 ms",
    ),
    Plant(
        side=T,
        statements=("ALTER DATABASE {db} SET transaction_timeout = '5min'",),
        code="PR0521",
        mark=WARN,
        words="transaction_timeout is 300000 ms",
    ),
    Plant(
        side=S,
        statements=("SELECT pg_create_physical_replication_slot('forgotten', true)",),
        code="PR0550",
        mark=WARN,
        words="1 inactive slot of others, holding WAL for nobody: forgotten (",
    ),
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda p: f"{p.side.value}-{p.code}-{p.words.split(' ')[0]}")
def test_planted_defect_is_told_and_its_remedy_mends_it(pair: Pair, plant: Plant) -> None:
    place = pair.place(plant.side)

    def told() -> list[Finding]:
        found = of(pair.found(), plant.code, plant.mark)
        return [f for f in found if plant.side.value in f"{f.text} {f.remedy}".lower()]

    def reconnect() -> list[Finding]:
        # The settings of a database hold for sessions that begin later.
        pair.there.close()
        pair.here.close()
        return told()

    try:
        pair.target.execute(*STURDY)
        assert until(told, there=False) == []
        place.execute(*(statement.format(db=place.database) for statement in plant.statements))
        (finding,) = until(reconnect, there=True)
        assert plant.words in finding.text
        assert finding.why
        place.execute(*remedies([finding]))
        assert until(reconnect, there=False) == []
    finally:
        for each in (pair.source, pair.target):
            each.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
        if plant.code == "PR0550":
            place.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_sound_pair_has_no_failure_and_no_warning(pair: Pair) -> None:
    pair.source.execute("CREATE TABLE kept (id int PRIMARY KEY, note text)")
    pair.target.execute(*STURDY)
    try:

        def bad() -> list[Finding]:
            wrong = [f for f in pair.found() if f.mark is not Mark.PASS]
            return [f for f in wrong if f.section != "Local Environment"]

        assert until(bad, there=False) == []
    finally:
        pair.target.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    found = pair.found()
    ours = {f.code for f in found if f.code[:4] in {"PR03", "PR04", "PR05"}}
    assert len(ours) > 30


def test_commit_hangs_for_want_of_a_standby_until_the_remedy_has_run(pair: Pair) -> None:
    pair.target.execute(*system("synchronous_standby_names = 'nobody'"))
    try:
        (finding,) = until(lambda: of(pair.found(), "PR0519", FAIL), there=True)
        writer = threading.Thread(target=pair.target.execute, args=["CREATE TABLE written ()"])
        writer.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not pair.target.value(waits) and time.monotonic() < deadline:
            SystemClock().sleep(0.05)
        assert pair.target.value(waits) == 1
        pair.target.execute(*remedies([finding]))
        writer.join(_PATIENCE_SECONDS)
        assert not writer.is_alive()
    finally:
        pair.target.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


def test_read_only_database_would_refuse_the_application_until_the_remedy_has_run(pair: Pair) -> None:
    pair.target.execute(
        "CREATE TABLE written (id int)",
        f"ALTER DATABASE {pair.target.database} SET default_transaction_read_only = on",
    )
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pair.target.execute("INSERT INTO written VALUES (1)")
    (finding,) = of(pair.found(), "PR0522", WARN)
    pair.target.execute("BEGIN READ WRITE", *remedies([finding]), "COMMIT")
    pair.here.close()
    assert of(pair.found(), "PR0522", WARN) == []
    pair.target.execute("INSERT INTO written VALUES (1)")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lock_timeout = '100ms'", "lock timeout"),
        ("transaction_timeout = '300ms'", "transaction timeout"),
    ],
)
def test_setting_of_the_database_ends_the_apply_worker_until_the_safe_fix_has_run(
    pair: Pair, setting: str, words: str
) -> None:
    source, target = pair.source, pair.target
    for place in (source, target):
        place.execute("CREATE TABLE moved (id int PRIMARY KEY)")
    # Slow enough to meet a timeout, on the target alone.
    target.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON moved FOR EACH ROW EXECUTE FUNCTION slow()",
        "ALTER TABLE moved ENABLE ALWAYS TRIGGER slow",
        f"ALTER DATABASE {target.database} SET {setting}",
    )
    source.execute("CREATE PUBLICATION p FOR TABLE moved")
    dial = conninfo.make_conninfo(source.server.superuser_dsn, dbname=source.database)
    said = target.server.log.read_text().count(words)
    blocker = psycopg.connect(
        conninfo.make_conninfo(target.server.superuser_dsn, dbname=target.database),
        options="-c lock_timeout=0 -c transaction_timeout=0",
    )
    try:
        target.execute(
            f"CREATE SUBSCRIPTION s_{target.database} CONNECTION '{dial}' PUBLICATION p WITH (copy_data = false)",
        )
        if "lock" in setting:
            blocker.execute("LOCK TABLE moved IN SHARE MODE")
        source.execute("INSERT INTO moved VALUES (1)")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while target.server.log.read_text().count(words) == said and time.monotonic() < deadline:
            SystemClock().sleep(0.05)
        assert target.server.log.read_text().count(words) > said
        blocker.rollback()
        pair.here.close()
        finding = next(f for f in pair.found() if f.code == "PR0521" and f.mark is not Mark.PASS)
        assert finding.fix is not None
        assert finding.fix.where is Side.TARGET
        target.execute(*finding.fix.statements)
        deadline = time.monotonic() + 3 * _PATIENCE_SECONDS
        while not target.value("SELECT count(*) FROM moved") and time.monotonic() < deadline:
            SystemClock().sleep(0.1)
        assert target.value("SELECT count(*) FROM moved") == 1
    finally:
        blocker.close()
        target.execute(f"DROP SUBSCRIPTION IF EXISTS s_{target.database}")


def test_every_place_that_is_short_is_told_and_the_remedies_make_room(pair: Pair) -> None:
    short = {
        Side.SOURCE: ("max_replication_slots", "max_wal_senders"),
        Side.TARGET: (
            "max_logical_replication_workers",
            "max_worker_processes",
            "max_active_replication_origins",
        ),
    }
    codes = ("PR0506", "PR0507", "PR0510", "PR0511", "PR0512")
    streams = Needs(plan_id=PLAN, owned=f"pr_{PLAN}_g", streams=2)
    try:
        for side, names in short.items():
            place = pair.place(side)
            place.execute(*(f"ALTER SYSTEM SET {name} = 1" for name in names))
            place.server.restart()
        told = [f for f in pair.found(streams) if f.mark is Mark.FAIL]
        assert tuple(f.code for f in told) == codes
        for finding in told:
            assert finding.remedy is not None
            assert "restart the server" in finding.remedy
            side = Side.SOURCE if "on the source" in finding.remedy else Side.TARGET
            pair.place(side).execute(*remedies([finding]))
        for side in short:
            pair.place(side).server.restart()
        assert [f for f in pair.found(streams) if f.mark is Mark.FAIL] == []
    finally:
        for side in short:
            pair.place(side).execute("ALTER SYSTEM RESET ALL")
            pair.place(side).server.restart()


def test_schema_that_overflows_the_lock_table_is_told_before_it_does(pair: Pair) -> None:
    names = ("max_connections", "max_worker_processes", "max_wal_senders", "autovacuum_max_workers")
    values = (12, 2, 2, 1)
    tables = (
        "DO $$ BEGIN FOR n IN 1..{} LOOP EXECUTE format('CREATE TABLE t%s (x text)', n); END LOOP; END $$"
    )
    for begin in range(0, 900, 300):  # in pieces that the lock table holds
        rows = f"FOR n IN {begin + 1}..{begin + 300}"
        pair.source.execute(tables.format(0).replace("FOR n IN 1..0", rows))
    place = pair.target
    try:
        place.execute(*(f"ALTER SYSTEM SET {n} = {v}" for n, v in zip(names, values, strict=True)))
        place.execute("ALTER SYSTEM SET max_locks_per_transaction = 10")
        place.server.restart()
        found = list(preflight_capacity.locks(pair.there, pair.here))
        (finding,) = of(found, "PR0513", FAIL)
        assert "one transaction of ours takes about 2700" in finding.text
        with pytest.raises(psycopg.errors.OutOfMemory):
            place.execute(tables.format(900))
        place.execute(*remedies([finding]))
        place.server.restart()
        found = list(preflight_capacity.locks(pair.there, pair.here))
        assert [f.mark for f in found] == [Mark.PASS, Mark.PASS]
        place.execute(tables.format(900))
    finally:
        place.execute("ALTER SYSTEM RESET ALL")
        place.server.restart()


def test_temp_file_limit_that_ends_an_index_build_is_told_and_mended(pair: Pair) -> None:
    rows = "CREATE TABLE wide AS SELECT n, md5(n::text) AS word FROM generate_series(1, 40000) n"
    pair.source.execute(rows, "CREATE INDEX ON wide (word)")
    build = (
        "SET maintenance_work_mem = '1MB'",
        "SET max_parallel_maintenance_workers = 0",
        "CREATE INDEX ON wide (word)",
    )
    place = pair.target
    try:
        place.execute(rows, *system("temp_file_limit = 1000"))
        finding = until(lambda: of(pair.found(), "PR0523", WARN), there=True)[0]
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            place.execute(*build)
        place.execute(*remedies([finding]))
        assert until(lambda: of(pair.found(), "PR0523", WARN), there=False) == []
        place.execute(*build)
    finally:
        place.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


def test_small_max_wal_size_is_told_only_where_much_arrives(pair: Pair) -> None:
    def warned(size: int) -> list[Finding]:
        return of(preflight_settings.target(pair.here, size), "PR0524", WARN)

    assert warned(1 << 30) == []
    (finding,) = warned(50 << 30)
    assert "512 MB, for 50 GB" in finding.text
    try:
        pair.target.execute(*remedies([finding]))
        assert until(lambda: warned(50 << 30), there=False) == []
    finally:
        pair.target.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


@pytest.mark.parametrize("limited", ["ROLE", "DATABASE"])
@pytest.mark.parametrize("side", [Side.SOURCE, Side.TARGET])
def test_connection_limit_below_the_jobs_is_told_and_mended(pair: Pair, limited: str, side: Side) -> None:
    place = pair.place(side)
    login = place.role()
    name = login if limited == "ROLE" else place.database
    place.execute(f"ALTER {limited} {name} CONNECTION LIMIT 5")
    server = place.connect(login, side=side)
    check = preflight_capacity.source if side is Side.SOURCE else preflight_capacity.target

    (finding,) = of(check(server, NEEDS), "PR0509", FAIL)

    assert f"{name} is limited to 5 connections" in finding.text
    place.execute(*remedies([finding]))
    assert of(check(server, NEEDS), "PR0509", FAIL) == []


def test_session_of_ours_outlives_the_database_s_timeout_of_idle_sessions(pair: Pair) -> None:
    pair.target.execute(f"ALTER DATABASE {pair.target.database} SET idle_session_timeout = '100ms'")
    pair.here.close()
    pid = pair.here.value("SELECT pg_backend_pid()")
    SystemClock().sleep(0.4)
    assert pair.here.value("SELECT pg_backend_pid()") == pid
