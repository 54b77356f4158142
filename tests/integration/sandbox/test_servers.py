"""A sandbox server's life, and that nothing of it is left however its parent ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.errors import UsageError
from planrunner.sandbox.servers import PostgresServer, wheel_bin

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.server
CLOCK = SystemClock()
DEBIAN = Path("/usr/lib/postgresql/15/bin")
PARENT = """
import sys, time
from planrunner.sandbox.servers import PostgresServer, wheel_bin
server = PostgresServer(wheel_bin(18), max_life=float(sys.argv[2]))
try:
    if sys.argv[1] != "initdb":
        server.start()
    if sys.argv[1] == "keep":
        server.keep()
    print(server.folder, server.superuser_dsn, sep="\\n", flush=True)
    time.sleep(60)
finally:
    server.close()
"""


def _bins() -> list[Any]:
    missing = pytest.mark.skipif(not DEBIAN.exists(), reason="needs Debian's postgresql-15")
    return [wheel_bin(16), wheel_bin(18), pytest.param(DEBIAN, marks=missing)]


def _gone(folder: Path, seconds: float = 20.0) -> bool:
    deadline = CLOCK.monotonic() + seconds
    while folder.exists() and CLOCK.monotonic() < deadline:
        CLOCK.sleep(0.05)
    return not folder.exists()


def _answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn, connect_timeout=5):
            return True
    except psycopg.OperationalError:
        return False


def _value(server: PostgresServer, query: str) -> Any:
    with psycopg.connect(server.superuser_dsn) as session:
        row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _parent(mode: str, life: float = 120.0) -> tuple[subprocess.Popen[str], Path, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", PARENT, mode, str(life)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip()), child.stdout.readline().strip()


@pytest.mark.parametrize("bin_dir", _bins(), ids=str)
def test_server_starts_from_any_folder_of_programs_and_leaves_nothing(bin_dir: Path) -> None:
    with PostgresServer(bin_dir) as server:
        assert _value(server, "SHOW wal_level") == "replica"
        assert _value(server, "SHOW server_encoding") == "UTF8"
        dsn, folder = server.superuser_dsn, server.folder
    assert not _answers(dsn)
    assert not folder.exists()


def test_passwords_are_checked(server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn("postgres", "postgres", password="wrong"))


def test_socket_in_the_folder_answers_too(server: PostgresServer) -> None:
    with psycopg.connect(server.superuser_dsn, host=str(server.folder)) as session:
        assert session.info.host == str(server.folder)


def test_restart_changes_settings_and_keeps_port_and_data() -> None:
    with PostgresServer(wheel_bin(18)) as server:
        port = server.port
        with psycopg.connect(server.superuser_dsn) as session:
            session.execute("CREATE TABLE kept AS SELECT 42 AS n")
        server.restart({"wal_level": "logical"})

        assert server.port == port
        assert _value(server, "SHOW wal_level") == "logical"
        assert _value(server, "SELECT n FROM kept") == 42


def test_immediate_stop_is_a_crash_that_recovers() -> None:
    with PostgresServer(wheel_bin(16)) as server:
        with psycopg.connect(server.superuser_dsn) as session:
            session.execute("CREATE TABLE kept AS SELECT 42 AS n")
        server.stop("immediate")
        server.start()

        assert _value(server, "SELECT n FROM kept") == 42
        assert "not properly shut down" in server.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up rights")
def test_a_server_comes_back_on_its_port_although_somebody_had_it_meanwhile() -> None:
    with PostgresServer(wheel_bin(16)) as server, socket.socket() as stranger:
        port = server.port
        server.stop("immediate")
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        leaves = threading.Timer(0.5, stranger.close)
        leaves.start()
        server.start()
        leaves.join()
        assert "in use" in server.log.read_text()
        assert server.port == port
        with psycopg.connect(server.superuser_dsn) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)


def test_root_runs_it_as_somebody_else(server: PostgresServer) -> None:
    assert server.data.stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that its server can't read")
def test_programs_that_the_server_cannot_read_are_copied(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    package = wheel_bin(16).parent.parent
    shutil.copytree(package / "pginstall", hidden / package.name / "pginstall", symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")

    with PostgresServer(hidden / package.name / "pginstall" / "bin") as server:
        assert server.bin_dir.is_relative_to(server.folder)
        assert _value(server, "SELECT 1") == 1


@pytest.mark.parametrize("mode", ["initdb", "run"])
def test_kill_of_the_parent_leaves_nothing(mode: str) -> None:
    child, folder, dsn = _parent(mode)
    assert folder.exists()
    assert _answers(dsn) == (mode == "run")

    child.kill()
    child.wait()

    assert _gone(folder)
    assert not _answers(dsn)


def test_ctrl_c_leaves_nothing() -> None:
    child, folder, dsn = _parent("run")

    os.killpg(child.pid, signal.SIGINT)

    assert child.wait(30) != 0
    assert not folder.exists()
    assert not _answers(dsn)


def test_life_is_bounded_while_the_parent_lives() -> None:
    # Long enough for initdb on a machine that is busy with others.
    child, folder, dsn = _parent("run", life=8.0)
    try:
        assert _gone(folder)
        assert not _answers(dsn)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_kept_server_outlives_its_parent_but_not_its_time() -> None:
    child, folder, dsn = _parent("keep", life=8.0)
    child.kill()
    child.wait()
    CLOCK.sleep(0.5)

    assert _answers(dsn)
    assert _gone(folder)
    assert not _answers(dsn)


@pytest.mark.parametrize("make", [lambda _: wheel_bin(17), PostgresServer], ids=["major", "folder"])
def test_missing_programs_are_a_usage_error(make: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make(tmp_path)
    assert caught.value.remedy
