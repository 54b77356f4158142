"""Two servers, a pooler, an AWS and a plan between them that is full of secrets; and how a command is run there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from moto.server import ThreadedMotoServer
from moto.sts.models import sts_backends
from psycopg import conninfo

from planrunner.sandbox.servers import PostgresServer
from tests.bouncer import Bouncer, entry
from tests.faults import canary_aws
from tests.faults.canaries import Canaries
from tests.faults.canary_plan import ACCOUNT, ONLOOKER, fill
from tests.servers import contrib_bin, server_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# In our environment for other programs' use; the plan's own commands may have them, PostgreSQL's need none.
BYSTANDERS = (
    *("GITHUB_TOKEN", "VAULT_TOKEN", "DATABASE_URL", "NPM_TOKEN"),
    *("PLANRUNNER_VAR_unused", "PGPASSWORD"),
)
# How long is waited for something to come about, on a slow machine.
PATIENCE_SECONDS = 120
SETTINGS = {
    "wal_level": "logical",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_min_error_statement": "debug5",
    "log_connections": "on",
    "log_replication_commands": "on",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
}
STRACE = (
    *("strace", "-f", "-qq", "--seccomp-bpf", "-v", "--trace=execve"),
    *("--string-limit=100000", "--output-append-mode"),
)
# Everything that a server shows to whoever logs in: all columns that may be read of what holds people's words.
SHOWN = (
    "SELECT string_agg(concat_ws(' ', usename, application_name, query), E'\\n') FROM pg_stat_activity",
    "SELECT string_agg(concat_ws(' ', usename, application_name), E'\\n') FROM pg_stat_replication",
    "SELECT string_agg(query, E'\\n') FROM pg_stat_statements",
    "SELECT string_agg(concat_ws(' ', subname, subslotname, subpublications), E'\\n') FROM pg_subscription",
    "SELECT string_agg(concat_ws(' ', slot_name, plugin), E'\\n') FROM pg_replication_slots",
    "SELECT string_agg(description, E'\\n') FROM pg_description WHERE objoid > 16383",
    "SELECT string_agg(description, E'\\n') FROM pg_shdescription",
    "SELECT string_agg(s::text, E'\\n') FROM pg_db_role_setting s",
    "SELECT string_agg(prosrc, E'\\n') FROM pg_proc WHERE oid > 16383",
    "SELECT string_agg(r::text, E'\\n') FROM pg_roles r",
)

_LEDGER = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = 'planrunner' AND relkind = 'r'
"""


@dataclass(kw_only=True)
class Place:
    """The servers, the plan and its secrets, and everything that was said so far, by what said it.

    ``placed`` are the files that the test has put there: all others are planrunner's. ``passwords`` are the places of
    those that no server may write down.
    """

    folder: Path
    source: PostgresServer
    target: PostgresServer
    bouncer: Bouncer
    canaries: Canaries
    environ: dict[str, str]
    refusing: str
    commands: subprocess.Popen[str]
    said: dict[str, str] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    notified: list[str] = field(default_factory=list)
    placed: set[Path] = field(default_factory=set)
    passwords: set[str] = field(default_factory=set)
    # What planrunner kept on the servers, as it was after each command.
    ledgers: dict[str, None] = field(default_factory=dict)
    # What a case's words stand for: {v0}.
    words: dict[str, str] = field(default_factory=dict)

    @property
    def started(self) -> str:
        """Every program that was started, with its arguments and its environment."""
        return (self.folder / "started.txt").read_text()

    def run(self, name: str, *words: str, code: int | None = 0, script: str = "", **extra: str) -> str:
        """A command to its end; ``code`` None for any failure that is not a bug's."""
        out = self.folder.with_name("said.txt")
        order = {"words": words, "environment": extra, "out": str(out), "script": script}
        assert self.commands.stdin is not None
        assert self.commands.stdout is not None
        self.commands.stdin.write(f"{json.dumps(order)}\n")
        self.commands.stdin.flush()
        ended = int(self.commands.stdout.readline())
        assert name not in self.said, f"{name} was run before"
        told = self.said[name] = out.read_text()
        assert "Traceback" not in told, told
        assert ended == code if code is not None else ended not in {0, 3}, f"{name}: {ended}: {told}"
        return told

    def write(self, name: str, content: object) -> Path:
        """A file of the test's own, with what it holds as text or as JSON."""
        path = self.folder / name
        path.write_text(
            content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)
        )
        path.chmod(0o700 if name.endswith(".sh") else 0o600)
        self.placed.add(path)
        return path

    def plan(self) -> dict[str, Any]:
        """The plan as a tree of its own, for another plan like it."""
        return dict(json.loads((self.folder / "plan.yaml").read_text()))

    def session(self, server: PostgresServer) -> psycopg.Connection[tuple[object, ...]]:
        """The superuser, who says nothing that would be found."""
        return psycopg.connect(
            server.dsn("postgres", "app", password=server.password),
            autocommit=True,
            options="-c log_statement=none -c log_min_duration_statement=-1 -c pg_stat_statements.track=none",
        )

    def note_made(self) -> None:
        """What was made meanwhile: the passwords of planrunner's own roles, as only a superuser can read them, and the
        credentials of the roles that it has assumed."""
        for server in (self.source, self.target):
            with self.session(server) as session:
                for (table,) in session.execute(_LEDGER).fetchall():
                    rows = session.execute(f"SELECT t::text FROM {table} t".encode()).fetchall()
                    self.ledgers.update(dict.fromkeys(f"{table}: {row[0]}" for row in rows))
                for (text,) in session.execute("SELECT subconninfo FROM pg_subscription").fetchall():
                    given = str(conninfo.conninfo_to_dict(str(text))["password"])
                    self.canaries.known[f"generated {len(given)} {given[:4]}"] = given
                    self.passwords.add(f"generated {len(given)} {given[:4]}")
        for number, role in enumerate(sts_backends[ACCOUNT]["aws"].assumed_roles):
            self.canaries.known[f"assumed role {number}, secret key"] = role.secret_access_key
            self.canaries.known[f"assumed role {number}, session token"] = role.session_token


@contextmanager
def watched(place: Place) -> Iterator[None]:
    """Ordinary logins look at both servers all the while; what they see is kept."""
    over = threading.Event()

    def look(server: PostgresServer) -> None:
        with psycopg.connect(server.dsn("onlooker", "app", password=ONLOOKER), autocommit=True) as session:
            last = False
            while not last:
                # Once more at the end: what stays is seen, however short the block was.
                last = over.wait(0.05)
                for query in SHOWN:
                    told = session.execute(query).fetchone()
                    place.seen.update(dict.fromkeys(str(told and told[0]).splitlines()))

    threads = [threading.Thread(target=look, args=[server]) for server in (place.source, place.target)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def furnished(folder: Path, configure: Callable[[PostgresServer], None] = lambda _: None) -> Iterator[Place]:
    """The place, with every secret where it comes from; gone with the block.

    ``configure`` is given the source before it is started.
    """
    assert shutil.which("strace") is not None, "strace is missing: apt-get install strace"
    canaries, notified = Canaries(), list[str]()
    superuser, admin = canaries.new("password of the pooler's entry"), canaries.new("pooler's console", "at")
    given: dict[str, Any] = {"settings": SETTINGS, "max_life": 1500, "password": superuser}
    with ExitStack() as stack:
        aws = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        aws.start()
        stack.callback(aws.stop)
        hook, refusing = (
            stack.enter_context(canary_aws.webhook(notified)),
            stack.enter_context(canary_aws.refusing()),
        )
        source = PostgresServer(server_bin(15), **given)
        stack.callback(source.close)
        configure(source)
        stack.enter_context(source)
        target = stack.enter_context(PostgresServer(contrib_bin(18), **given))
        bouncer = _pooler(stack, source, target, canaries, superuser, admin)
        host, port = aws.get_host_and_port()
        environ = _environment(folder, canaries, f"http://{host}:{port}", hook)
        commands = stack.enter_context(_commands(folder, environ))
        place = Place(
            folder=folder,
            source=source,
            target=target,
            bouncer=bouncer,
            canaries=canaries,
            environ=environ,
            refusing=refusing,
            commands=commands,
            notified=notified,
        )
        fill(place, admin)
        yield place


def _pooler(
    stack: ExitStack,
    source: PostgresServer,
    target: PostgresServer,
    canaries: Canaries,
    superuser: str,
    admin: str,
) -> Bouncer:
    for server in (source, target):
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE DATABASE app")
    return stack.enter_context(Bouncer({"app": entry(source, "app")}, admin_password=admin))


@contextmanager
def _commands(folder: Path, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The process that runs the commands, and all that it starts, traced."""
    script = Path(__file__).with_name("commands.py")
    traced = [*STRACE, f"--output={folder / 'started.txt'}", "--", sys.executable, str(script)]
    with subprocess.Popen(
        traced, cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()


def _environment(folder: Path, canaries: Canaries, endpoint: str, hook: int) -> dict[str, str]:
    new = canaries.new
    for name in ("tmp", "home"):
        (folder / name).mkdir()
    return {
        **os.environ,
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": new("AWS access key"),
        "AWS_SECRET_ACCESS_KEY": new("AWS secret key", "at"),
        "AWS_SESSION_TOKEN": new("AWS session token", "equals"),
        **{name: new(f"bystander {name}") for name in BYSTANDERS},
        "KEPT_ENV": new("hook's secret by environment", "backslash"),
        "PLANRUNNER_VAR_environ": new("variable environ", "unicode"),
        "HOOK_URL": f"http://127.0.0.1:{hook}/{new('webhook token')}",
        "HOOK_HEADER": new("webhook header", "base64"),
    }
