"""A throw-away PostgreSQL server: its own folder, port and life, gone when its parent is."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.errors import UsageError
from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.binaries import readable_bin, wheel_bin
from planrunner.sandbox.local_ports import HOST, Claim

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUPERUSER = "postgres"
_BASE: Mapping[str, str] = {
    "listen_addresses": HOST,
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "512MB",
    "autovacuum_naptime": "10s",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
    "logging_collector": "off",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_worker_processes": "20",
    "max_logical_replication_workers": "12",
    "wal_level": "replica",
}
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_AGAIN_SECONDS = 0.1
_SOCKET_PATH_LIMIT = 100


class PostgresServer:
    """A server on a free port of 127.0.0.1 (and a socket in its folder), for at most ``max_life`` seconds.

    ``bin_dir`` holds the server's programs, ``settings`` go over ours. As root the server runs under
    an unprivileged account. A watchdog ends it and removes the folder when this process is gone.
    """

    def __init__(
        self,
        bin_dir: Path,
        *,
        parent: Path | None = None,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        superuser: str = SUPERUSER,
        max_life: float = 3600.0,
    ) -> None:
        self._clock = SystemClock()
        self._account = unprivileged()
        self._settings = {**_BASE, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._kept = False
        self._was_ready = False
        self.superuser = superuser
        self.password = password or secrets.token_urlsafe(12)
        self.folder = Path(tempfile.mkdtemp(prefix="planrunner-pg-", dir=parent))
        self._watchdog = _watchdog(self.folder, max_life)
        self._claim = Claim()
        try:
            self._account.own(self.folder)
            self.bin_dir = readable_bin(bin_dir, self._account, self.folder)
            self._initdb()
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._claim.port

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder / "server.log"

    @property
    def superuser_dsn(self) -> str:
        """A DSN of the superuser, password included, to the database ``postgres``."""
        return self.dsn(self.superuser, "postgres", password=self.password)

    @property
    def local_dsn(self) -> str:
        """The same over the socket in its folder; over TCP where that one's path would be too long."""
        return conninfo.make_conninfo(
            self.superuser_dsn, **({"host": str(self.folder)} if self._has_socket else {})
        )

    @property
    def _has_socket(self) -> bool:
        return len(str(self.folder)) + len("/.s.PGSQL.65535") < _SOCKET_PATH_LIMIT

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version of the programs: (16, 14); UsageError when they do not tell."""
        told = self._run("postgres", "--version")
        found = re.search(r"\) (\d+)\.(\d+)", told)
        if found is None:
            raise UsageError(f"{self.bin_dir}: not a release of PostgreSQL: {told}")
        return int(found[1]), int(found[2])

    @property
    def running(self) -> bool:
        """True while the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def dsn(self, user: str, database: str, *, password: str | None = None) -> str:
        """A DSN over TCP; without ``password`` none is in it."""
        given = {"host": HOST, "port": str(self.port), "user": user, "dbname": database}
        secret = {} if password is None else {"password": password}
        mode = "require" if self._settings.get("ssl") == "on" else "disable"
        return conninfo.make_conninfo("", **given, **secret, sslmode=mode)

    def start(self) -> None:
        """Start and wait until sessions are accepted; UsageError with the log's end when it does not.

        A server that has run before comes back on its port, or not at all: others know it by that.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        while not self.running:
            self._write_settings()
            self._spawn()
            if self._wait_ready(deadline):
                self._was_ready = True
                return
            if "in use" not in self._log_tail() or self._clock.monotonic() > deadline:
                raise UsageError(f"the sandbox server did not start: {self._log_tail()}")
            # By something that is no sandbox.
            if self._was_ready:
                self._clock.sleep(_AGAIN_SECONDS)
            else:
                self._claim.release()
                self._claim = Claim()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and wait until it has ended; nothing when it is not running."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(_SIGNALS[mode])
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)

    @property
    def settings(self) -> dict[str, str]:
        """The settings that it is started with."""
        return dict(self._settings)

    def restart(self, settings: Mapping[str, str] | None = None, without: Iterable[str] = ()) -> None:
        """Stop fast and start again, with ``settings`` laid over the present ones; the port stays.

        ``without`` names settings that are to be PostgreSQL's defaults again.
        """
        self.stop()
        self._lay(settings or {}, without)
        self.start()

    def reload(self, settings: Mapping[str, str], without: Iterable[str] = ()) -> None:
        """Lay settings over the present ones without a restart; those that need one wait for it."""
        self._lay(settings, without)
        self._write_settings()
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGHUP)

    def _lay(self, settings: Mapping[str, str], without: Iterable[str]) -> None:
        for name in without:
            self._settings.pop(name, None)
        self._settings |= settings

    def keep(self) -> None:
        """Let the server live on after the block and this process, until its life is over or ``close``."""
        self._kept = True
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.write(b"keep\n")
            self._watchdog.stdin.flush()

    def close(self) -> None:
        """Stop the server, remove its folder and end the watchdog; safe to call twice."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
            self._watchdog.stdin.close()
        self._watchdog.wait(_STOP_SECONDS)
        self._claim.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.close()

    def _initdb(self) -> None:
        secret = self.folder / "superuser"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        self._account.own(secret)
        options = ["-U", self.superuser, "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8"]
        try:
            self._run("initdb", "-D", str(self.data), *options, "--locale=C", "--no-sync")
        finally:
            secret.unlink()
        with (self.data / "postgresql.conf").open("a") as config:
            config.write("include = 'sandbox.conf'\n")

    def _run(self, program: str, *arguments: str) -> str:
        try:
            ended = subprocess.run(
                [self.bin_dir / program, *arguments],
                cwd=self.folder,
                env=_environment(),
                capture_output=True,
                check=False,
                **self._account.popen(),
            )
        except OSError as error:
            raise UsageError(
                f"{program} could not be started: {error}",
                remedy="As root the sandbox runs PostgreSQL under another account; try as an ordinary user.",
            ) from error
        if ended.returncode != 0:
            raise UsageError(f"{program} failed: {ended.stderr.decode('utf-8', 'replace').strip()}")
        return ended.stdout.decode("utf-8", "replace").strip()

    def _write_settings(self) -> None:
        sockets = str(self.folder) if self._has_socket else ""
        own = {"port": str(self.port), "unix_socket_directories": sockets}
        quoted = {k: v.replace("'", "''") for k, v in {**self._settings, **own}.items()}
        config = self.data / "sandbox.conf"
        config.write_text("".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
        self._account.own(config)

    def _spawn(self) -> None:
        # A pid file that a killed server left behind would look like a server that is ready.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # Its own session: Ctrl-C is for us, who then stop the server in order.
            self._process = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", self.data],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account.popen(),
            )

    def _wait_ready(self, deadline: float) -> bool:
        while self.running and self._clock.monotonic() < deadline:
            if self._says_ready():
                return True
            self._clock.sleep(0.01)
        return False

    def _says_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _log_tail(self) -> str:
        return "; ".join(self.log.read_text(errors="replace").splitlines()[-6:])


def _watchdog(folder: Path, life: float) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("watchdog.py")
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", script, folder, str(life)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UsageError(f"the sandbox's watchdog could not be started: {error}") from error


def _environment() -> dict[str, str]:
    # PGPORT, PGDATA and the like would override what we configure; TZ and LC_* would leak in.
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}


__all__ = ["HOST", "SUPERUSER", "PostgresServer", "wheel_bin"]
