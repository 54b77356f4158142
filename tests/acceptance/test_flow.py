"""How a run goes, on two real servers: order, conditions, hooks, retries, timeouts, notifications, and the way back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from planrunner.clock import SystemClock
from planrunner.engine.events import read_events
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import slots, state_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from planrunner.engine.events import Event

SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, total numeric); INSERT INTO orders SELECT i, i / 3.0
  FROM generate_series(1, 500) i;
CREATE TABLE items (id int PRIMARY KEY, what text); INSERT INTO items SELECT i, 'i' || i FROM generate_series(1, 300) i;
"""
MIGRATION: tuple[Mapping[str, Any], ...] = (
    {"id": "check", "uses": "validate"},
    {"id": "copy", "uses": "snapshot"},
    {"id": "follow", "uses": "sync"},
)


@dataclass
class Place:
    """Two databases, and a plan on them that is run as a user would."""

    source: PostgresServer
    target: PostgresServer
    folder: Path
    database: str

    @property
    def plan(self) -> Path:
        return self.folder / "plan.yaml"

    @property
    def ours(self) -> str:
        return self.source.dsn("postgres", self.database, password=self.source.password)

    @property
    def theirs(self) -> str:
        return self.target.dsn("postgres", self.database, password=self.target.password)

    def write(self, *steps: Mapping[str, Any], **more: Any) -> None:
        sides = {
            side: {
                "dsn": f"postgresql://postgres@127.0.0.1:{server.port}/{self.database}?sslmode=disable",
                "password": {"secret": {"env": f"{side.upper()}_PASSWORD"}},
            }
            for side, server in (("source", self.source), ("target", self.target))
        }
        tree = {
            "apiVersion": "planrunner/v1",
            "kind": "MigrationPlan",
            "metadata": {"name": self.database},
            "connections": sides,
            **more,
            "steps": list(steps),
        }
        self.plan.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))

    def environment(self, failpoints: str = "") -> dict[str, str]:
        passwords = {"SOURCE_PASSWORD": self.source.password, "TARGET_PASSWORD": self.target.password}
        return {
            **os.environ,
            **passwords,
            "PLANRUNNER_FAILPOINTS": failpoints,
            "HOOK_TOKEN": "hunter2hunter2",
        }

    def command(self, verb: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "planrunner", verb, str(self.plan), *options]

    def planrunner(self, verb: str, *options: str, failpoints: str = "") -> tuple[int, str]:
        ran = subprocess.run(
            self.command(verb, *options),
            env=self.environment(failpoints),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    def begin(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("run", *options),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def statuses(self) -> dict[str, str]:
        return {name: step["status"] for name, step in state_in(self.plan)["steps"].items()}

    def events(self, kind: str) -> list[Event]:
        return [e for e in read_events(self.plan.with_name("plan.yaml.events.jsonl")) if e.kind.value == kind]

    def written(self) -> str:
        """Everything that lies beside the plan after its runs."""
        return "".join(p.read_text() for p in self.folder.glob("plan.yaml.*") if p.is_file())


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    logical = {"wal_level": "logical"}
    with (
        PostgresServer(wheel_bin(16), settings=logical, max_life=7200) as source,
        PostgresServer(wheel_bin(18), max_life=7200) as target,
    ):
        yield source, target


@pytest.fixture
def place(
    servers: tuple[PostgresServer, PostgresServer], tmp_path: Path, request: pytest.FixtureRequest
) -> Place:
    database = f"d{abs(hash(request.node.name)) % 10**8}"
    for server in servers:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute(f"CREATE DATABASE {database}".encode())
    made = Place(*servers, tmp_path, database)
    execute(made.ours, SCHEMA)
    return made


def execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(statements.encode())


def value(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as session:
        row = session.execute(query.encode()).fetchone()
        return row[0] if row else None


def await_query(dsn: str, query: str) -> None:
    clock = SystemClock()
    until = clock.monotonic() + 60
    while not value(dsn, query):
        assert clock.monotonic() < until, query
        clock.sleep(0.05)


def shell(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"./{path.name}"


COUNTED = "CREATE TABLE IF NOT EXISTS marks (n int); INSERT INTO marks VALUES (1)"
MARKED = "SELECT count(*) > 0 FROM marks"


def sql_step(name: str, statements: str, **more: Any) -> dict[str, Any]:
    options = {k: more.pop(k) for k in list(more) if k in {"done_when", "transaction", "side", "file"}}
    return {"id": name, "uses": "sql", "with": {"statements": [statements], **options}, **more}


# -- order, conditions, what follows a failure


def test_an_independent_branch_goes_on_when_another_has_failed(place: Place) -> None:
    place.write(
        sql_step("bad", "SELECT 1 / 0", on_failure="continue"),
        sql_step("after_bad", "CREATE TABLE after_bad ()"),
        sql_step("good", "CREATE TABLE good ()", needs=[]),
        sql_step("after_good", "CREATE TABLE after_good ()"),
    )
    code, text = place.planrunner("run")
    assert code == 1
    assert "step bad failed" in text
    assert "not begun, because they need it: after_bad" in text
    assert place.statuses() == {"bad": "failed", "good": "done", "after_good": "done"}
    assert value(
        place.theirs, "SELECT to_regclass('after_good') IS NOT NULL AND to_regclass('after_bad') IS NULL"
    )


def test_a_condition_over_facts_skips_a_step_and_says_why_everywhere(place: Place) -> None:
    place.write(
        {**sql_step("old", "CREATE TABLE old ()"), "when": "source.version < 16 or source.is_rds"},
        {**sql_step("new", "CREATE TABLE new ()"), "when": 'target.version == 18 and vars.env == "test"'},
        {**sql_step("then", "CREATE TABLE then_ ()"), "when": 'steps.old.status == "skipped"'},
        vars={"env": {"default": "test"}},
    )
    code, text = place.planrunner("preview")
    assert code == 0
    assert (
        "old (sql): skipped\n  when: source.version < 16 or source.is_rds is false (source.version is 16"
        in text
    )
    assert 'decided at run time: only when steps.old.status == "skipped"' in text
    code, text = place.planrunner("run")
    assert code == 0, text
    assert place.statuses() == {"old": "skipped", "new": "done", "then": "done"}
    assert "source.version is 16" in place.planrunner("status")[1]
    assert value(place.theirs, "SELECT to_regclass('old') IS NULL AND to_regclass('then_') IS NOT NULL")
    report = place.plan.with_name("plan.yaml.report.md")
    assert "skipped" in (report.read_text() if report.exists() else place.planrunner("report")[1])


def test_a_failure_with_rollback_leaves_nothing_on_both_servers(place: Place) -> None:
    place.write(*MIGRATION, sql_step("bad", "SELECT 1 / 0", on_failure="rollback"))
    code, text = place.planrunner("run", "--yes")
    assert code == 1, text
    assert "division by zero" in text
    for server in (place.source, place.target):
        assert [slot for slot in slots(server.superuser_dsn) if slot.startswith("pr_")] == []
    for dsn in (place.ours, place.theirs):
        assert value(dsn, "SELECT count(*) FROM pg_subscription WHERE subname LIKE 'pr_%'") == 0
        assert value(dsn, "SELECT count(*) FROM pg_publication") == 0
        assert value(dsn, "SELECT to_regnamespace('planrunner') IS NULL")
    assert place.statuses() == {"check": "done", "copy": "pending", "follow": "pending", "bad": "failed"}
    assert {event.step for event in place.events("step_undone")} == {"copy", "follow"}
    # And begun anew it comes to its end.
    execute(place.theirs, "DROP TABLE orders, items")
    place.write(*MIGRATION, {"id": "tidy", "uses": "cleanup"})
    code, text = place.planrunner("run", "--yes", "--accept", "bad")
    assert code == 0, text


def test_nothing_is_undone_after_a_committed_cutover(place: Place) -> None:
    place.write(
        *MIGRATION,
        {"id": "cutover", "uses": "cutover_verify"},
        sql_step("bad", "SELECT 1 / 0", on_failure="rollback"),
    )
    code, _ = place.planrunner("run", "--yes")
    assert code == 1
    assert any("the cutover is committed" in event.message for event in place.events("warning"))
    assert place.events("step_undone") == []
    assert place.statuses()["cutover"] == "done"
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        execute(place.ours, "INSERT INTO orders VALUES (0, 0)")


# -- hooks


def test_hooks_run_once_around_a_step_and_their_secrets_are_masked(place: Place) -> None:
    hook = shell(place.folder / "hook.sh", 'echo "$1 $PLANRUNNER_STEP token=$TOKEN"; echo $1 >> hooks.log')
    token = {"TOKEN": {"secret": {"env": "HOOK_TOKEN"}}}
    place.write(
        sql_step(
            "mark",
            COUNTED,
            before=[{"command": [hook, "first"], "env": token}],
            after=[{"command": [hook, "last"]}],
        )
    )
    code, preview = place.planrunner("preview")
    assert code == 0
    assert "TOKEN=(env:HOOK_TOKEN) ./hook.sh first" in preview
    code, text = place.planrunner("run")
    assert code == 0, text
    assert "first mark token=***" in text
    assert (place.folder / "hooks.log").read_text() == "first\nlast\n"
    assert "hunter2" not in text + preview + place.written()


def test_a_hook_that_fails_fails_its_step_and_is_run_again(place: Place) -> None:
    hook = shell(place.folder / "hook.sh", "echo tried >> hooks.log; test -e ready")
    place.write(sql_step("mark", COUNTED, before=[{"command": [hook]}]))
    code, text = place.planrunner("run")
    assert code == 1
    assert "./hook.sh ended with exit code 1" in text
    (place.folder / "ready").touch()
    code, text = place.planrunner("run")
    assert code == 0, text
    assert (place.folder / "hooks.log").read_text() == "tried\ntried\n"


@pytest.mark.parametrize("repeatable", [False, True])
@pytest.mark.parametrize("failpoint", ["hook.before", "hook.after"])
def test_a_kill_in_a_hook_is_asked_about_unless_it_may_be_repeated(
    place: Place, failpoint: str, repeatable: bool
) -> None:
    hook = shell(place.folder / "hook.sh", "echo called >> hooks.log")
    place.write(sql_step("mark", COUNTED, before=[{"command": [hook], "repeatable": repeatable}]))
    code, _ = place.planrunner("run", failpoints=f"{failpoint}:kill")
    assert code == -signal.SIGKILL
    code, text = place.planrunner("run")
    if not repeatable:
        assert code == 4
        assert "before 1 was begun when the run ended" in text
        code, text = place.planrunner("run", "--accept", "mark")
    assert code == 0, text
    assert value(place.theirs, "SELECT count(*) FROM marks") == 1


# -- sql, wait, approve, analyze, verify, cleanup


@pytest.mark.parametrize(
    "failpoint",
    ["mark.script.before", "sql.statement", "sql.before_commit", "sql.after_commit", "mark.script.after"],
)
def test_a_kill_around_observable_sql_is_resumed_to_one_effect(place: Place, failpoint: str) -> None:
    place.write(sql_step("mark", COUNTED, done_when=MARKED))
    code, _ = place.planrunner("run", failpoints=f"{failpoint}:kill")
    assert code == -signal.SIGKILL
    code, text = place.planrunner("run")
    assert code == 0, text
    assert value(place.theirs, "SELECT count(*) FROM marks") == 1


def test_a_kill_around_unobservable_sql_is_asked_about(place: Place) -> None:
    place.write(sql_step("mark", COUNTED))
    code, _ = place.planrunner("run", failpoints="sql.after_commit:kill")
    assert code == -signal.SIGKILL
    assert place.planrunner("run")[0] == 4
    code, text = place.planrunner("run", "--accept", "mark")
    assert code == 0, text
    assert value(place.theirs, "SELECT count(*) FROM marks") == 1


def test_refused_sql_is_rolled_back_and_resumed_without_a_question(place: Place) -> None:
    place.write(sql_step("mark", "CREATE TABLE half (); SELECT * FROM later"))
    code, text = place.planrunner("run")
    assert code == 1
    assert "statement 2 (line 1)" in text
    assert value(place.theirs, "SELECT to_regclass('half') IS NULL")
    execute(place.theirs, "CREATE TABLE later ()")
    code, text = place.planrunner("run")
    assert code == 0, text


def test_a_file_is_sent_statement_by_statement_where_no_transaction_may_be(place: Place) -> None:
    script = """
    -- An index; built without a lock; see the manual
    CREATE TABLE wide (id int, note text DEFAULT 'a;b');
    CREATE INDEX CONCURRENTLY wide_id ON wide (id);
    CREATE FUNCTION twice(i int) RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN i * 2; END $body$;
    CREATE FUNCTION thrice(i int) RETURNS int BEGIN ATOMIC SELECT CASE WHEN i > 0 THEN 1 END; SELECT i * 3; END;
    VACUUM wide /* nested /* ; */ ; */;
    """
    (place.folder / "wide.sql").write_text(script)
    options = {"file": "wide.sql", "transaction": False, "done_when": "SELECT thrice(2) = 6 AND twice(2) = 4"}
    place.write({"id": "wide", "uses": "sql", "with": options})
    code, text = place.planrunner("run")
    assert code == 0, text
    assert value(place.theirs, "SELECT thrice(2) + twice(2) = 10 AND to_regclass('wide_id') IS NOT NULL")
    # An edit of the file is an edit of the step.
    (place.folder / "wide.sql").write_text(script + "SELECT 1;")
    code, text = place.planrunner("run")
    assert code == 6
    assert "was edited after it began" in text


def test_waiting_survives_a_kill_and_ends_when_the_query_holds(place: Place) -> None:
    options = {"side": "source", "query": "SELECT count(*) > 500 FROM orders", "interval": "50ms"}
    place.write({"id": "pause", "uses": "wait", "with": options}, sql_step("mark", COUNTED))
    code, _ = place.planrunner("run", failpoints="wait.asked#3:kill")
    assert code == -signal.SIGKILL
    running = place.begin()
    await_query(
        place.ours,
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%count(*) > 500%' AND"
        " pid <> pg_backend_pid()",
    )
    execute(place.ours, "INSERT INTO orders VALUES (0, 0)")
    text, _ = running.communicate(timeout=60)
    assert running.returncode == 0, text


def test_a_wait_that_writes_is_refused_and_one_that_never_holds_ends(place: Place) -> None:
    writes = {"query": "INSERT INTO orders VALUES (-1, 0) RETURNING true", "side": "source"}
    place.write({"id": "pause", "uses": "wait", "with": writes})
    code, text = place.planrunner("run")
    assert code == 1
    assert "read-only" in text
    place.write(
        {
            "id": "pause",
            "uses": "wait",
            "with": {"query": "SELECT false", "timeout": "200ms", "interval": "50ms"},
        }
    )
    code, text = place.planrunner("run")
    assert code == 1
    assert "still does not hold" in text


def test_a_whole_plan_of_all_kinds_of_steps(place: Place) -> None:
    place.write(
        *MIGRATION,
        {"id": "little", "uses": "wait", "with": {"lag_below": "1MB", "interval": "100ms"}},
        {"id": "compare", "uses": "verify", "with": {"max_load": 50}},
        {"id": "stats", "uses": "analyze", "with": {"only": "all", "jobs": 2}},
        {"id": "agree", "uses": "approve", "with": {"message": "Is the report fine?"}},
        {"id": "cutover", "uses": "cutover_verify"},
        sql_step("index", "CREATE INDEX IF NOT EXISTS items_what ON items (what)"),
        {"id": "tidy", "uses": "cleanup"},
    )
    code, text = place.planrunner("run")
    assert code == 4
    assert "Is the report fine?" in text
    assert place.statuses()["stats"] == "done"
    assert place.planrunner("approve", "agree", "--because=fine")[0] == 0
    code, text = place.planrunner("run")
    assert code == 0, text
    assert set(place.statuses().values()) == {"done"}
    assert value(
        place.theirs, "SELECT to_regnamespace('planrunner') IS NULL AND to_regclass('items_what') IS NOT NULL"
    )
    assert [slot for slot in slots(place.source.superuser_dsn) if slot.startswith("pr_")] == []
    assert state_in(place.plan)["steps"]["compare"]["progress"]["differences"] == 0


def test_a_difference_ends_the_run_with_exit_code_7(place: Place) -> None:
    place.write(*MIGRATION, {"id": "compare", "uses": "verify", "with": {"tables": ["public.ord*"]}})
    assert place.planrunner("run", "--until", "follow", "--yes")[0] == 0
    execute(place.theirs, "UPDATE orders SET total = 0 WHERE id = 7")
    code, text = place.planrunner("run")
    assert code == 7
    assert "public.orders" in text
    execute(place.theirs, "UPDATE orders SET total = 7 / 3.0 WHERE id = 7")
    assert place.planrunner("run")[0] == 0
    assert place.planrunner("cleanup", "--yes")[0] == 0


# -- timeouts and retries


def test_a_step_that_takes_too_long_is_stopped_on_the_server_and_resumed(place: Place) -> None:
    place.write(sql_step("slow", f"{COUNTED}; SELECT pg_sleep(60)", timeout="1s"))
    code, text = place.planrunner("run")
    assert code == 1
    assert "step slow took longer than its timeout of 1.0 s" in text
    assert (
        value(
            place.theirs,
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'"
            " AND pid <> pg_backend_pid()",
        )
        == 0
    )
    assert value(place.theirs, "SELECT to_regclass('marks') IS NULL")
    assert place.statuses() == {"slow": "failed"}
    # A longer timeout is no edit of the work.
    tree = yaml.safe_load(place.plan.read_text())
    tree["steps"][0]["timeout"] = "2s"
    place.plan.write_text(yaml.safe_dump(tree))
    assert "took longer than its timeout of 2.0 s" in place.planrunner("run")[1]


def test_a_frozen_server_does_not_keep_a_step_beyond_its_timeout(tmp_path: Path) -> None:
    with PostgresServer(wheel_bin(16)) as source, PostgresServer(wheel_bin(18)) as target:
        for server in (source, target):
            execute(server.superuser_dsn, "CREATE DATABASE frozen")
        place = Place(source, target, tmp_path, "frozen")
        place.write(sql_step("slow", "SELECT pg_sleep(600)", timeout="2s"))
        running = place.begin()
        await_query(
            place.theirs,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'"
            " AND pid <> pg_backend_pid()",
        )
        pid = value(
            place.theirs,
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()",
        )
        os.kill(pid, signal.SIGSTOP)
        try:
            text, _ = running.communicate(timeout=90)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert running.returncode == 1, text
        assert "took longer than its timeout" in text


def test_a_lock_that_is_not_free_is_tried_again_until_it_is(place: Place) -> None:
    execute(place.theirs, "CREATE TABLE busy (n int)")
    step = sql_step(
        "alter",
        "ALTER TABLE busy ADD COLUMN m int",
        done_when="SELECT count(*) = 2 FROM information_schema.columns WHERE table_name = 'busy'",
        retries={"on": ["lock_timeout"], "attempts": 30, "wait": "100ms", "max_wait": "200ms"},
    )
    step["with"]["lock_timeout"] = "200ms"
    place.write(step)
    with psycopg.connect(place.theirs) as session:
        session.execute("LOCK TABLE busy")
        running = place.begin()
        clock = SystemClock()
        until = clock.monotonic() + 60
        while len(place.events("retry")) < 2:
            assert clock.monotonic() < until
            clock.sleep(0.05)
    text, _ = running.communicate(timeout=60)
    assert running.returncode == 0, text
    first = place.events("retry")[0]
    assert first.fields["class"] == "lock_timeout"
    assert "attempt 1 of 30 failed (lock_timeout)" in text


def test_a_lock_that_never_comes_free_fails_after_the_last_attempt(place: Place) -> None:
    execute(place.theirs, "CREATE TABLE busy (n int)")
    step = sql_step(
        "alter",
        "ALTER TABLE busy ADD COLUMN m int",
        done_when="SELECT false",
        retries={"attempts": 3, "wait": "50ms", "max_wait": "50ms"},
    )
    step["with"]["lock_timeout"] = "100ms"
    destructive = {**step, "with": {**step["with"], "statements": ["DROP TABLE busy"]}}
    with psycopg.connect(place.theirs) as session:
        session.execute("LOCK TABLE busy")
        place.write(step)
        assert place.planrunner("run")[0] == 1
        assert len(place.events("retry")) == 2
        place.write(destructive)
        assert place.planrunner("run", "--rerun", "alter")[0] == 1
        assert len(place.events("retry")) == 2, "what is destructive is not tried again"


def test_a_server_that_restarts_in_mid_step_is_waited_for(tmp_path: Path) -> None:
    with PostgresServer(wheel_bin(16)) as source, PostgresServer(wheel_bin(18)) as target:
        for server in (source, target):
            execute(server.superuser_dsn, "CREATE DATABASE again")
        place = Place(source, target, tmp_path, "again")
        place.write(
            sql_step(
                "mark",
                f"SELECT pg_sleep(2); {COUNTED}",
                done_when=MARKED,
                retries={"attempts": 20, "wait": "200ms", "max_wait": "1s"},
            )
        )
        running = place.begin()
        await_query(
            place.theirs,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(2)%'"
            " AND pid <> pg_backend_pid()",
        )
        target.restart()
        text, _ = running.communicate(timeout=90)
        assert running.returncode == 0, text
        assert {event.fields["class"] for event in place.events("retry")} == {"connection"}
        assert value(place.theirs, "SELECT count(*) FROM marks") == 1


# -- notifications


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        answers: list[int] = self.server.answers  # type: ignore[attr-defined]
        self.send_response(answers.pop(0) if answers else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.seen, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_is_told_and_its_secrets_show_nowhere(
    place: Place, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_URL", f"http://127.0.0.1:{listener.server_port}/T0K3N")
    page = shell(place.folder / "page.sh", 'echo "$PLANRUNNER_EVENT $PLANRUNNER_STEP" >> pages.log')
    header = {"name": "Authorization", "secret": {"env": "HOOK_TOKEN"}}
    webhook = {"url": {"secret": {"env": "HOOK_URL"}}, "header": header}
    place.write(
        sql_step("mark", COUNTED),
        sql_step("bad", "SELECT 1 / 0"),
        notifications=[
            {"on": ["started", "step_done", "failed"], "webhook": webhook},
            {"on": ["step_failed"], "command": [page]},
        ],
    )
    listener.answers = [503, 500]
    code, text = place.planrunner("run")
    assert code == 1
    assert [body["event"] for _, _, body in listener.seen] == ["started"] * 3 + ["step_done", "failed"]
    path, headers, body = listener.seen[-1]
    assert (path, headers["Authorization"]) == ("/T0K3N", "hunter2hunter2")
    assert body["plan"] == place.database
    assert "division by zero" in body["message"]
    assert (place.folder / "pages.log").read_text() == "step_failed bad\n"
    assert "T0K3N" not in text + place.written()
    assert "hunter2" not in text + place.written()


def test_a_webhook_that_is_not_reachable_or_not_trusted_is_a_warning(place: Place, listener: Any) -> None:
    port = listener.server_port
    listener.shutdown()
    listener.server_close()
    place.write(
        sql_step("mark", COUNTED),
        notifications=[
            {"on": ["done"], "webhook": {"url": f"http://127.0.0.1:{port}/T0K3N"}},
            {"on": ["done"], "command": ["./no-such-program"]},
        ],
    )
    code, text = place.planrunner("run")
    assert code == 0, text
    warnings = [event.message for event in place.events("warning")]
    assert len(warnings) == 2
    assert "not delivered" in warnings[0]
    assert "T0K3N" not in text + place.written()
