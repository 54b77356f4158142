"""A real PgBouncer on a free port, for as long as a block lasts; and pgbench, its client."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.local_ports import HOST, Claim

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.sandbox.servers import PostgresServer

ADMIN_PASSWORD = "admin's secret"
_PLACES = ("/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer")
# Whoever holds the pipe's other end is gone: so is the pooler, however that came about.
_LEASH = """
import json, signal, subprocess, sys
child = subprocess.Popen(sys.argv[2:], **json.loads(sys.argv[1]))
sys.stdin.buffer.read()
child.send_signal(signal.SIGINT)
child.wait()
"""


def pgbouncer() -> str:
    """The program; where there is none the test is skipped, in CI it fails."""
    found = shutil.which("pgbouncer") or next((p for p in _PLACES if Path(p).exists()), None)
    if found is None:
        reason = "needs pgbouncer (apt-get install pgbouncer)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def entry(server: PostgresServer, database: str, **more: str) -> str:
    """An entry's connection string that leads to a database as its superuser."""
    given = {"host": HOST, "port": str(server.port), "dbname": database, "user": "postgres", **more}
    return " ".join(f"{k}='{v}'" for k, v in {**given, "password": server.password}.items())


class Bouncer:
    """PgBouncer in a folder of its own. ``databases`` holds the connection string of each entry."""

    def __init__(
        self,
        databases: Mapping[str, str],
        *,
        settings: Mapping[str, str] | None = None,
        admin_password: str = ADMIN_PASSWORD,
    ) -> None:
        self._account = unprivileged()
        self._admin_password = admin_password
        self.folder = Path(tempfile.mkdtemp(prefix="planrunner-bouncer-"))
        self._claim = Claim()
        self.port = self._claim.port
        self.config = self.folder / "pgbouncer.ini"
        self.config.write_text(_config(self.folder, self.port, databases, settings or {}))
        admin = admin_password.replace('"', '""')
        users = f'"admin" "{admin}"\n"app" "app"\n"postgres" "app"\n"watcher" "watcher"\n'
        (self.folder / "users.txt").write_text(users)
        for path in (self.folder, *self.folder.iterdir()):
            self._account.own(path)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        log = (self.folder / "output").open("wb")
        account = json.dumps(self._account.popen())
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LEASH, account, pgbouncer(), str(self.config)],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while not _answers(self.port):
            assert time.monotonic() < deadline, self.log()
            assert self._process.poll() is None, self.log()
            SystemClock().sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._claim.release()

    def log(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-3000:]

    @property
    def admin(self) -> str:
        """The console's DSN, without the password."""
        return f"postgresql://admin@{HOST}:{self.port}/pgbouncer?sslmode=disable"

    def dsn(self, database: str) -> str:
        """How an application connects."""
        return conninfo.make_conninfo(
            host=HOST, port=self.port, dbname=database, user="app", password="app", sslmode="disable"
        )

    def ask(self, command: str, *names: str) -> list[dict[str, Any]]:
        """A command at the console, as its rows."""
        query = sql.SQL(command).format(*map(sql.Identifier, names))  # type: ignore[arg-type]
        with psycopg.connect(self.admin, password=self._admin_password, autocommit=True) as session:
            cursor = session.execute(query)
            if cursor.description is None:
                return []
            heads = [column.name for column in cursor.description]
            return [dict(zip(heads, row, strict=True)) for row in cursor.fetchall()]

    def database(self, name: str) -> dict[str, Any]:
        """What the console tells of an entry."""
        return next(row for row in self.ask("SHOW DATABASES") if row["name"] == name)

    def paused(self, name: str) -> bool:
        return int(self.database(name)["paused"]) == 1


def _config(folder: Path, port: int, databases: Mapping[str, str], settings: Mapping[str, str]) -> str:
    entries = "".join(f"{name} = {value}\n" for name, value in databases.items())
    own = {
        "listen_addr": HOST,
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "plain",
        "auth_file": str(folder / "users.txt"),
        "admin_users": "admin",
        "stats_users": "watcher",
        "pool_mode": "transaction",
        "default_pool_size": "10",
        "max_client_conn": "100",
        "ignore_startup_parameters": "extra_float_digits",
        "logfile": "",
        **settings,
    }
    rest = "".join(f"{name} = {value}\n" for name, value in own.items())
    return f"; written for a test\n[databases]\n{entries}\n[pgbouncer]\n{rest}"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Bench:
    """pgbench, running through a pooler until the block ends; ``acknowledged`` and ``failed`` are told then."""

    def __init__(
        self,
        bouncer: Bouncer,
        script: str,
        folder: Path,
        *,
        rate: int,
        clients: int,
        protocol: str = "simple",
    ) -> None:
        self._bouncer, self._folder, self._clients = bouncer, folder, clients
        (folder / "script.sql").write_text(script)
        own = ["-n", "-c", str(clients), "-j", "1", "-R", str(rate), "-T", "600", "-M", protocol]
        log = ["-l", "--log-prefix", str(folder / "bench"), "-f", str(folder / "script.sql")]
        self._command = [str(_pgbench()), *own, *log, bouncer.dsn("app")]
        self._told = folder / "pgbench.output"
        self._process: subprocess.Popen[bytes] | None = None
        self.output = ""
        self.failed = 0
        self.finished: list[float] = []

    @property
    def acknowledged(self) -> int:
        """How many transactions the server said were committed."""
        return len(self.finished)

    def __enter__(self) -> Self:
        with self._told.open("w") as told:
            self._process = subprocess.Popen(
                self._command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._process is not None
        if kind is not None:
            self._process.kill()
            self._process.wait()
            return
        # Between two transactions: none is on its way. Turned away, it ends in order and tells its figures; what it
        # says of that end, in whatever words, is of our making.
        self._bouncer.ask("PAUSE {}", "app")
        self.failed = sum(_is_failure(line) for line in self._told.read_text().splitlines())
        self._bouncer.ask("KILL {}", "app")
        self._process.wait(60)
        self._bouncer.ask("RESUME {}", "app")
        self.output = self._told.read_text()
        self.finished = sorted(self._finished())
        self.failed += "number of failed transactions: 0 " not in self.output
        told = re.search(r"transactions actually processed: (\d+)", self.output)
        assert told is not None, self.output
        assert int(told[1]) == self.acknowledged

    def wait_for(self, more: int) -> None:
        """Wait until that many more transactions are acknowledged."""
        wanted = len(self._finished()) + more
        deadline = time.monotonic() + 60
        while len(self._finished()) < wanted:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"pgbench has ended: {self._told.read_text()}")
            assert time.monotonic() < deadline, f"no {more} transactions within a minute"
            SystemClock().sleep(0.1)

    def longest_gap(self, begin: float, end: float) -> float:
        """The longest time without an acknowledged transaction, in seconds."""
        within = [begin, *(t for t in self.finished if begin <= t <= end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(within))

    def _finished(self) -> list[float]:
        """When each transaction was acknowledged, as the log has it: client, number, µs, script, s, µs, lag."""
        found = []
        for log in self._folder.glob("bench.*"):
            for line in log.read_text().splitlines():
                words = line.split()
                if len(words) >= 6 and words[2].isdigit():
                    found.append(int(words[4]) + int(words[5]) / 1e6)
        return found


def _is_failure(line: str) -> bool:
    return any(word in line for word in ("error", "FATAL", "aborted", "failed"))


def _pgbench() -> Path:
    places = [Path("/usr/lib/postgresql/15/bin/pgbench"), Path(shutil.which("pgbench") or "/nowhere")]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        reason = "needs pgbench (apt-get install postgresql-15)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
