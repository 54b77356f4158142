"""A password inside a statement: kept out of the server's log where the login may say so, told where it may not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.errors import QueryFailed
from planrunner.model import Mark, SecretKind, SecretRef, Side
from planrunner.postgres import quiet
from planrunner.postgres.preflight_local import secret_files
from planrunner.postgres.preflight_log import recorded_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.postgres.connection import Server

ALL = {"log_statement": "all", "log_min_duration_statement": "0", "debug_print_parse": "on"}


@pytest.fixture
def told(target: Any) -> Iterator[Callable[[Server, str], bool]]:
    """Whether the target logs a statement that a login says unrecorded; the target logs every other."""
    for name, value in ALL.items():
        target.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    target.execute("SELECT pg_reload_conf()", "SELECT pg_sleep(0.2)")

    def say(server: Server, word: str) -> bool:
        with server.transaction() as session:
            with quiet.unrecorded(session):
                session.execute(f"SELECT 'hushed {word}'".encode())
            session.execute(f"SELECT 'plain {word}'".encode())
        log = target.server.log.read_text()
        assert f"plain {word}" in log
        return f"hushed {word}" in log

    yield say
    for name in ALL:
        target.execute(f"ALTER SYSTEM RESET {name}")
    target.execute("SELECT pg_reload_conf()")


def test_superuser_keeps_one_statement_out_of_the_log(
    target: Any, told: Callable[[Server, str], bool]
) -> None:
    server = target.connect(side=Side.TARGET)

    assert told(server, "of a superuser") is False
    assert quiet.telling(server) == []


def test_refused_statement_is_not_logged_either(target: Any, told: Callable[[Server, str], bool]) -> None:
    server = target.connect(side=Side.TARGET)

    with (
        pytest.raises(QueryFailed, match="division by zero"),
        server.transaction() as session,
        quiet.unrecorded(session),
    ):
        session.execute("SELECT 1/0 AS hushed_division")

    assert "hushed_division" not in target.server.log.read_text()


def test_whoever_watches_sessions_does_not_see_the_statement(target: Any) -> None:
    server, watcher = target.connect(side=Side.TARGET), target.connect(side=Side.TARGET)
    asked = "SELECT query, state FROM pg_stat_activity WHERE pid = %s"

    with server.transaction() as session:
        pid = session.info.backend_pid
        with quiet.unrecorded(session):
            session.execute("SELECT 'hushed'")
            assert watcher.rows(asked, [pid]) == [("", "disabled")]
        session.execute("SELECT 'plain'")
        assert watcher.rows(asked, [pid]) == [("SELECT 'plain'", "idle in transaction")]


@pytest.mark.parametrize("plain", [True, False])
def test_parse_trees_hold_nothing_of_the_statement(
    target: Any, told: Callable[[Server, str], bool], plain: bool
) -> None:
    login = [target.role()] if plain else []
    word = f"tree_{plain}"
    told(target.connect(*login, side=Side.TARGET), word)

    with target.connect(*login, side=Side.TARGET).transaction() as session:
        with quiet.unrecorded(session):
            session.execute(f"NOTIFY told, 'hushed_{word}'".encode())
        session.execute(f"NOTIFY told, 'plain_{word}'".encode())

    trees = "\n".join(line for line in target.server.log.read_text().splitlines() if ":payload" in line)
    assert f"plain_{word}" in trees
    assert f"hushed_{word}" not in trees


def test_login_that_may_not_is_warned_and_may_after_the_remedy(
    source: Any, target: Any, told: Callable[[Server, str], bool]
) -> None:
    server, dialled = target.connect(target.role(), side=Side.TARGET), source.connect().endpoint

    assert told(server, "of a plain login") is True
    (finding,) = recorded_password(server, dialled)
    assert finding.mark is Mark.WARN
    assert "log_statement = all, log_min_duration_statement = 0" in finding.text.replace(
        "log_min_duration_statement = 0, log_statement = all",
        "log_statement = all, log_min_duration_statement = 0",
    )
    remedy = (finding.remedy or "").partition("superuser: ")[2].partition(" Or change")[0]
    target.execute(*remedy.rstrip(";").split("; "))

    assert told(server, "of a granted login") is False
    assert list(recorded_password(server, dialled)) == []


def test_server_that_logs_nothing_is_no_news(source: Any, target: Any) -> None:
    server = target.connect(target.role(), side=Side.TARGET)

    assert list(recorded_password(server, source.connect().endpoint)) == []


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_password_file_that_others_may_read_is_warned_of(
    mode: int, warned: bool, source: Any, tmp_path: Path
) -> None:
    file = tmp_path / "pass word"
    file.write_text("hunter2")
    file.chmod(mode)
    ref = SecretRef(kind=SecretKind.FILE, locator=str(file))

    found = list(secret_files(replace(source.connect().endpoint, password=ref)))

    assert bool(found) is warned
    assert all(f"mode {mode:04o}" in f.text and "chmod 600 '" in (f.remedy or "") for f in found)
