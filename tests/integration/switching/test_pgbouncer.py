"""A real PgBouncer between two servers: paused, led over, led back, and never left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from planrunner.errors import PlanrunnerError, StepFailed, ToolFailed
from planrunner.model import Mark, Side
from planrunner.switching.command import Command
from planrunner.switching.hooks import Switching
from planrunner.switching.pgbouncer import PgBouncer
from planrunner.switching.terms import CommandTerms
from tests.bouncer import ADMIN_PASSWORD
from tests.integration.switching.conftest import FENCE_FUNCTION, FENCE_TRIGGER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.switching.conftest import Scene

WAIT_SECONDS = 30.0
FENCE = f"""
CREATE FUNCTION planrunner.{FENCE_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'moved'; END $$;
CREATE TRIGGER {FENCE_TRIGGER} BEFORE INSERT OR UPDATE OR DELETE ON public.t
  FOR EACH STATEMENT EXECUTE FUNCTION planrunner.{FENCE_FUNCTION}();
"""


def switching(scene: Scene, **more: object) -> Switching:
    around = scene.surroundings()
    return Switching([PgBouncer(scene.terms(**more), around)], around)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.02)


def version(scene: Scene) -> int:
    return int(scene.asked("SELECT current_setting('server_version_num')::int / 10000"))


def test_clients_wait_during_the_pause_and_find_themselves_on_the_other_side(scene: Scene) -> None:
    switch = switching(scene)
    with psycopg.connect(scene.bouncer.dsn("app"), autocommit=True) as client:
        assert client.info.server_version // 10000 == 16
        with switch.held(Side.TARGET):
            assert scene.bouncer.paused("app")
            assert not scene.bouncer.paused("other")
            answers: list[object] = []
            waiting = threading.Thread(
                target=lambda: answers.append(client.execute("SHOW server_version").fetchone())
            )
            waiting.start()
            switch.check()
            waiting.join(0.3)
            assert answers == []
        switch.after_commit(Side.TARGET)
        waiting.join(WAIT_SECONDS)
        assert str(answers).startswith("[('18.")
    assert version(scene) == 18
    assert scene.asked("SELECT current_setting('server_version_num')::int / 10000", "other") == 16
    # A resume calls it again.
    switching(scene).after_commit(Side.TARGET)
    assert version(scene) == 18
    back = switching(scene)
    with back.held(Side.SOURCE):
        pass
    back.after_commit(Side.SOURCE)
    assert version(scene) == 16


def test_a_fence_that_is_rolled_back_lets_traffic_go_on_where_it_was(scene: Scene) -> None:
    before = scene.bouncer.config.read_text()

    def fail() -> None:
        with switching(scene).held(Side.TARGET):
            raise StepFailed("the fence was rolled back")

    with pytest.raises(StepFailed, match="rolled back"):
        fail()
    assert not scene.bouncer.paused("app")
    assert version(scene) == 16
    assert scene.bouncer.config.read_text() == before


def test_a_transaction_that_stays_open_stops_the_switch_and_nothing_stays_paused(scene: Scene) -> None:
    with psycopg.connect(scene.bouncer.dsn("app")) as client:
        client.execute("SELECT 1")
        with pytest.raises(StepFailed, match=r"still open after 0\.3 s"):
            switching(scene, timeout=0.3).before_fence(Side.TARGET)
        assert not scene.bouncer.paused("app")
        assert client.execute("SELECT 2").fetchone() == (2,)


def test_another_entry_that_fails_lets_the_pool_go(scene: Scene) -> None:
    around = scene.surroundings()
    terms = CommandTerms(before_fence=("false",), after_commit=(), on_rollback=(), timeout=5.0)
    both = Switching([PgBouncer(scene.terms(), around), Command(terms, around)], around)
    with pytest.raises(ToolFailed, match="exit code 1"):
        both.before_fence(Side.TARGET)
    assert not scene.bouncer.paused("app")


def test_a_failure_after_the_commit_leaves_clients_waiting(scene: Scene) -> None:
    around = scene.surroundings()
    switch = Switching([PgBouncer(scene.terms(), around)], around)

    def fail() -> None:
        with switch.held(Side.TARGET):
            around.source.execute(sql.SQL(FENCE))
            raise StepFailed("after the commit")

    with pytest.raises(StepFailed, match="after the commit"):
        fail()
    assert scene.bouncer.paused("app")
    switch.after_commit(Side.TARGET)
    assert version(scene) == 18


def test_a_pool_that_somebody_resumed_must_not_be_fenced(scene: Scene) -> None:
    switch = switching(scene)
    switch.before_fence(Side.TARGET)
    switch.check()
    scene.bouncer.ask("RESUME {}", "app")
    with pytest.raises(StepFailed, match="not paused any more"):
        switch.check()
    switch.on_rollback(Side.TARGET)


def test_an_entry_that_would_not_come_into_force_stays_paused_until_it_does(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planrunner.switching.pgbouncer._IN_FORCE_SECONDS", 0.2)
    switch = switching(scene, config=None, command=("true",))
    switch.before_fence(Side.TARGET)
    with pytest.raises(StepFailed, match=r"stays paused: it leads to .* not to"):
        switch.after_commit(Side.TARGET)
    assert scene.bouncer.paused("app")
    switching(scene).after_commit(Side.TARGET)
    assert version(scene) == 18


def test_a_command_may_change_the_entry_where_the_file_is_elsewhere(scene: Scene, tmp_path: Path) -> None:
    script = tmp_path / "lead"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, psycopg, re\n"
        f"file = pathlib.Path({str(scene.bouncer.config)!r})\n"
        "lines = file.read_text().splitlines()\n"
        "def led(line):\n"
        "    return re.sub(\"port='[0-9]+'\", 'port=' + os.environ['PLANRUNNER_PORT'], line)\n"
        "pool = os.environ['PLANRUNNER_POOL'] + ' ='\n"
        "file.write_text('\\n'.join(led(l) if l.startswith(pool) else l for l in lines) + '\\n')\n"
        f"psycopg.connect({scene.bouncer.admin!r}, password={ADMIN_PASSWORD!r}, autocommit=True).execute('RELOAD')\n"
    )
    script.chmod(0o755)
    switch = switching(scene, config=None, command=(str(script),))
    with switch.held(Side.TARGET):
        pass
    switch.after_commit(Side.TARGET)
    assert version(scene) == 18


def test_findings_tell_the_state_of_console_entry_and_file(scene: Scene) -> None:
    found = PgBouncer(scene.terms(), scene.surroundings()).findings()
    assert {f.mark for f in found} == {Mark.PASS}, found
    assert any("pool_mode transaction" in f.text for f in found)
    impatient = PgBouncer(scene.terms(), scene.surroundings(budget=200.0)).findings()
    assert any(f.mark is Mark.FAIL and "query_wait_timeout" in f.text for f in impatient)
    nowhere = PgBouncer(scene.terms(config=Path("/nowhere/pgbouncer.ini")), scene.surroundings())
    assert any(f.mark is Mark.FAIL and "can't be read" in f.text for f in nowhere.findings())
    away = PgBouncer(scene.terms(admin="postgresql://admin@127.0.0.1:1/pgbouncer"), scene.surroundings())
    assert [f.mark for f in away.findings()] == [Mark.FAIL]
    assert ADMIN_PASSWORD not in str([*found, *away.findings()])
    watcher = scene.bouncer.admin.replace("admin@", "watcher@")
    around = scene.surroundings()
    reader = PgBouncer(scene.terms(admin=watcher), around)
    assert any(f.mark is Mark.FAIL for f in reader.findings()), "the password of another login"


RUNNER = """
import sys, time
from pathlib import Path
from planrunner.model import Side
from tests.integration.switching.driver import scene_of
from planrunner.switching.hooks import Switching
from planrunner.switching.pgbouncer import PgBouncer
scene = scene_of(sys.argv[1:6])
around = scene.surroundings(budget=float(sys.argv[6]))
switch = Switching([PgBouncer(scene.terms(), around)], around)
switch.before_fence(Side.TARGET)
if sys.argv[7] != "-":
    session = around.source.open(read_only=False)
    session.execute("BEGIN; LOCK TABLE public.t IN SHARE ROW EXCLUSIVE MODE; " + sys.argv[7])
    if sys.argv[8] == "commit":
        session.execute("COMMIT")
print("held", flush=True)
sys.stdin.read()
"""


def runner(
    scene: Scene, *, budget: float = 60.0, fence: str = "-", then: str = "hold"
) -> subprocess.Popen[str]:
    """Another process that holds traffic back, and then waits to be killed."""
    ports = [str(scene.source.port), scene.source.password, str(scene.target.port), scene.target.password]
    child = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *ports, str(scene.bouncer.folder), str(budget), fence, then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    assert scene.bouncer.paused("app")
    return child


def guardian_of(child: subprocess.Popen[str]) -> Path:
    """The guardian's folder in /proc."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"\nPPid:\t{child.pid}\n" in (folder / "status").read_text():
                return folder
        except OSError:
            continue
    raise AssertionError("the runner has no guardian")


def test_a_runner_that_is_killed_leaves_nobody_waiting(scene: Scene) -> None:
    child = runner(scene)
    child.kill()
    child.wait()
    until(lambda: not scene.bouncer.paused("app"), "nobody resumed it")
    assert version(scene) == 16


def test_a_runner_that_is_killed_with_an_open_fence_leaves_nobody_waiting(scene: Scene) -> None:
    child = runner(scene, fence=FENCE)
    child.kill()
    child.wait()
    until(lambda: not scene.bouncer.paused("app"), "nobody resumed it")
    scene.asked("INSERT INTO t VALUES (1) RETURNING n")


def test_a_runner_that_is_stopped_is_not_waited_for_longer_than_the_budget_and_its_margin(
    scene: Scene,
) -> None:
    child = runner(scene, budget=0.5)
    child.send_signal(signal.SIGSTOP)
    try:
        until(lambda: not scene.bouncer.paused("app"), "nobody resumed it")
    finally:
        child.kill()
        child.wait()


def test_a_stopped_runner_with_an_open_fence_is_outlived_by_neither_fence_nor_pause(scene: Scene) -> None:
    # As the fence's own session has it: the server ends it when it has been silent for too long.
    silent = FENCE + "SET LOCAL idle_in_transaction_session_timeout = 4000"
    child = runner(scene, budget=0.1, fence=silent)
    child.send_signal(signal.SIGSTOP)
    try:
        until(lambda: not scene.bouncer.paused("app"), "nobody resumed it")
        scene.asked("INSERT INTO t VALUES (1) RETURNING n")
    finally:
        child.kill()
        child.wait()


def test_a_runner_that_is_killed_after_the_fence_was_committed_leaves_the_pool_paused(scene: Scene) -> None:
    child = runner(scene, fence=FENCE, then="commit")
    guardian = guardian_of(child)
    child.kill()
    child.wait()
    # It has looked and gone.
    until(lambda: not guardian.exists() or _zombie(guardian), "the guardian stays")
    assert scene.bouncer.paused("app")
    switching(scene).after_commit(Side.TARGET)
    assert version(scene) == 18


def _zombie(folder: Path) -> bool:
    try:
        return "State:\tZ" in (folder / "status").read_text()
    except OSError:
        return True


def test_no_password_stands_where_other_users_could_read_it(scene: Scene) -> None:
    os.environ["PGPASSWORD"] = "a password of the environment"
    try:
        child = runner(scene)
    finally:
        del os.environ["PGPASSWORD"]
    guardian = guardian_of(child)
    shown = (guardian / "cmdline").read_bytes() + (guardian / "environ").read_bytes()
    assert b"guard.py" in shown
    for secret in (ADMIN_PASSWORD, scene.source.password, "a password of the environment"):
        assert secret.encode() not in shown
    child.kill()
    child.wait()


def test_a_guardian_that_gets_no_session_stops_the_switch_before_anything_is_paused(scene: Scene) -> None:
    with pytest.raises(PlanrunnerError):
        switching(scene, admin="postgresql://admin@127.0.0.1:1/pgbouncer").before_fence(Side.TARGET)
    assert not scene.bouncer.paused("app")
