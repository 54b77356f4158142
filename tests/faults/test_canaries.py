"""More than sixty secrets come into one migration by every door, and none comes out, however a command ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import conninfo, sql

from planrunner.sandbox.servers import PostgresServer
from tests.faults.canaries import SCHEMA, SHAPES, Canaries, unescaped
from tests.servers import contrib_bin, server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

# Minutes on a busy machine: only the soak runs it.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.soak]
# In our environment for other programs' use; the plan's own commands may have them, PostgreSQL's need none.
BYSTANDERS = (
    "GITHUB_TOKEN",
    "VAULT_TOKEN",
    "DATABASE_URL",
    "NPM_TOKEN",
    "PLANRUNNER_VAR_unused",
    "PGPASSWORD",
)
HOOK = """#!/bin/sh
printf '%s\\n' "$GIVEN" "$KEPT"
# Its end is shown: a secret must not be cut in two there.
printf '%s%0990d\\n' "$KEPT" 7
"""
BUG = """
def broken(plan, files, options, parts):
    world = parts.connect(plan, "x")
    print(open("/proc/self/limits").read())
    raise RuntimeError(f"odd: {world.source.password().reveal()} in a message")
launch.launch = broken
"""
STRACE = (
    "strace",
    "-f",
    "-qq",
    "--seccomp-bpf",
    "-v",
    "--trace=execve",
    "--string-limit=100000",
    "--output-append-mode",
)


@dataclass(kw_only=True)
class Place:
    """The servers, the plan and its secrets, and everything that was said so far, by what said it."""

    folder: Path
    source: PostgresServer
    target: PostgresServer
    canaries: Canaries
    environ: dict[str, str]
    commands: subprocess.Popen[str]
    said: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def run(self, name: str, *words: str, code: int | None = 0, script: str = "", **extra: str) -> str:
        """A command to its end; ``code`` None for any that is not a bug's."""
        out = self.folder.with_name("said.txt")
        order = {"words": words, "environment": extra, "out": str(out), "script": script}
        assert self.commands.stdin is not None
        assert self.commands.stdout is not None
        self.commands.stdin.write(f"{json.dumps(order)}\n")
        self.commands.stdin.flush()
        ended = int(self.commands.stdout.readline())
        told = self.said[name] = out.read_text()
        assert "Traceback" not in told, told
        assert ended == code if code is not None else ended not in {0, 3}, f"{name}: {ended}: {told}"
        return told

    def session(self, server: PostgresServer) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(server.dsn("postgres", "app", password=server.password), autocommit=True)

    def note_generated(self) -> None:
        """The passwords that planrunner made itself, as only a superuser can read them."""
        for server in (self.source, self.target):
            with self.session(server) as session:
                for (text,) in session.execute("SELECT subconninfo FROM pg_subscription").fetchall():
                    given = str(conninfo.conninfo_to_dict(str(text))["password"])
                    self.canaries.known[f"generated {len(given)} {given[:4]}"] = given


@contextmanager
def watched(place: Place) -> Iterator[None]:
    """Ordinary logins look at both servers all the while; what they see is kept."""
    over = threading.Event()

    def look(server: PostgresServer) -> None:
        with psycopg.connect(server.dsn("onlooker", "app", password="on-looker"), autocommit=True) as session:
            while not over.is_set():
                for query in (
                    "SELECT string_agg(query, E'\\n') FROM pg_stat_activity",
                    "SELECT string_agg(query, E'\\n') FROM pg_stat_statements",
                    "SELECT string_agg(subname, ',') FROM pg_subscription",
                ):
                    place.seen.append(str(session.execute(query).fetchone()))  # type: ignore[arg-type]
                over.wait(0.05)

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
def listener() -> Iterator[int]:
    """A webhook that answers with what it was sent, and refuses it."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403, str(self.headers.get("Authorization", "")))
            self.end_headers()
            self.wfile.write(self.path.encode() + body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    assert shutil.which("strace") is not None, "strace is missing: apt-get install strace"
    folder = tmp_path_factory.mktemp("canaries")
    for name in ("tmp", "home"):
        (folder / name).mkdir()
    settings = {
        "wal_level": "logical",
        "log_statement": "all",
        "log_min_duration_statement": "0",
        "log_min_error_statement": "debug5",
        "shared_preload_libraries": "pg_stat_statements",
        "pg_stat_statements.track": "all",
    }
    with ExitStack() as stack:
        aws = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        aws.start()
        stack.callback(aws.stop)
        hook = stack.enter_context(listener())
        source = stack.enter_context(PostgresServer(server_bin(15), settings=settings, max_life=900))
        target = stack.enter_context(PostgresServer(contrib_bin(18), settings=settings, max_life=900))
        host, port = aws.get_host_and_port()
        canaries = Canaries()
        passwords = (
            canaries.new("source password", "single quote"),
            canaries.new("target password", "colon"),
        )
        environ = _furnished(folder, canaries, passwords, f"http://{host}:{port}", hook)
        commands = stack.enter_context(_commands(folder, environ))
        made = Place(
            folder=folder, source=source, target=target, canaries=canaries, environ=environ, commands=commands
        )
        for server, password in zip((source, target), passwords, strict=True):
            _prepare(made, server, password)
        plan = _plan(made, [*json.loads((folder / "values.yaml").read_text())])
        (folder / "plan.yaml").write_text(json.dumps(plan, ensure_ascii=False, indent=1))
        yield made


@contextmanager
def _commands(folder: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
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


def _furnished(
    folder: Path, canaries: Canaries, passwords: tuple[str, str], endpoint: str, hook: int
) -> dict[str, str]:
    """Put the secrets where they come from; the environment that names them."""
    new = canaries.new
    source, target = passwords
    environ = {
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
    given = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    members = {
        "username": new("other member, a name"),
        "password": source,
        "token": new("other member, a token", "json"),
    }
    boto3.client("secretsmanager", **given, **keys).create_secret(
        Name="app/source", SecretString=json.dumps(members)
    )
    boto3.client("ssm", **given, **keys).put_parameter(
        Name="/app/ssm", Value=new("variable ssm", "comment"), Type="SecureString"
    )
    _write(folder / "target.password", target)
    _write(folder / "home" / ".pgpass", f"*:*:*:nobody:{new('password file')}\n")
    _write(folder / "home" / ".pg_service.conf", f"[other]\npassword={new('service file')}\n")
    noisy = folder / "noisy.sh"
    noisy.write_text(
        f"#!/bin/sh\necho '{new('what a command says besides')}' >&2\ncat {folder}/command.txt\n"
    )
    (folder / "hook.sh").write_text(HOOK)
    for script in (noisy, folder / "hook.sh"):
        script.chmod(0o755)
    _write(folder / "command.txt", new("variable command", "pipe"))
    values = {}
    for number, shape in enumerate(SHAPES):
        values[f"v{number}"] = new(f"variable {shape}", shape)
        _write(folder / f"kept{number}.txt", new(f"hook's secret {shape}", shape))
    # One is the beginning of another.
    canaries.known["variable prefix"] = values["v_prefix"] = values["v0"] + "-and-more"
    _write(folder / "values.yaml", json.dumps(values, ensure_ascii=False))
    return environ


def _plan(place: Place, names: list[str]) -> dict[str, object]:
    variables: dict[str, object] = {name: {"sensitive": True} for name in (*names, "environ")}
    variables["ssm"] = {"sensitive": True, "secret": {"aws_ssm": "/app/ssm"}}
    variables["command"] = {"sensitive": True, "secret": {"command": [str(place.folder / "noisy.sh")]}}
    hooks: list[dict[str, object]] = [
        {
            "command": ["./hook.sh"],
            "env": {"GIVEN": f"{{{{ vars.{name} }}}}", "KEPT": {"secret": {"file": f"kept{number}.txt"}}},
        }
        for number, name in enumerate(names[: len(SHAPES)])
    ]
    last = [
        {
            "command": ["./hook.sh"],
            "env": {"GIVEN": f"{{{{ vars.{n} }}}}", "KEPT": {"secret": {"env": "KEPT_ENV"}}},
        }
        for n in ("v_prefix", "environ", "ssm", "command")
    ]
    header = {"name": "Authorization", "secret": {"env": "HOOK_HEADER"}}
    plain = "postgresql://mover@127.0.0.1:{}/app?sslmode=disable"
    return {
        "apiVersion": "planrunner/v1",
        "kind": "MigrationPlan",
        "metadata": {"name": "canaries"},
        "vars": variables,
        "connections": {
            "source": {
                "dsn": plain.format(place.source.port),
                "password": {"secret": {"aws_secretsmanager": "app/source", "key": "password"}},
            },
            "target": {
                "dsn": plain.format(place.target.port),
                "password": {"secret": {"file": "target.password"}},
            },
        },
        "notifications": [
            {
                "on": ["started", "failed"],
                "webhook": {"url": {"secret": {"env": "HOOK_URL"}}, "header": header},
            }
        ],
        "steps": [
            {"id": "check", "uses": "validate"},
            {
                "id": "mark",
                "uses": "sql",
                "with": {
                    "side": "source",
                    "statements": ["UPDATE orders SET tenant = '{{ vars.v0 }}' WHERE id = 1"],
                },
                "before": hooks,
                "after": last,
            },
            {"id": "copy", "uses": "snapshot", "with": {"owners": "login", "grants": "skip"}},
            {"id": "follow", "uses": "sync"},
            {"id": "over", "uses": "cutover_verify", "with": {"reverse": True, "write_pause_budget": "60s"}},
        ],
    }


def _prepare(place: Place, server: PostgresServer, password: str) -> None:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        # What the test itself says is not what is searched for.
        session.execute("SET log_statement = 'none'; SET log_min_duration_statement = -1")
        session.execute("SET pg_stat_statements.track = 'none'")
        session.execute("CREATE DATABASE app")
        session.execute(
            sql.SQL("CREATE ROLE mover SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(password))
        )
        session.execute("CREATE ROLE onlooker LOGIN PASSWORD 'on-looker'")
    with place.session(server) as session:
        session.execute(SCHEMA if server is place.source else "CREATE EXTENSION pg_stat_statements")


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


PLAN = ("plan.yaml", "--var-file", "values.yaml")


@pytest.fixture(scope="module")
def migrated(place: Place) -> Place:
    """Every command went well."""
    with watched(place):
        _looked(place)
        _moved(place)
        _judged(place)
    return place


def _looked(place: Place) -> None:
    place.run("lint", "lint", *PLAN)
    place.run("explain", "explain", "snapshot")
    place.run("render json", "render", *PLAN, "--output", "json")
    place.run("preview offline", "preview", *PLAN, "--offline")
    for style in ("text", "markdown"):
        place.run(f"preview {style}", "preview", *PLAN, "--format", style, "--out", f"saved.{style}")
    place.run("privileges", "preview", *PLAN, "--privileges")
    place.run("validate", "validate", *PLAN)
    place.run("doctor", "doctor", *PLAN)


def _moved(place: Place) -> None:
    place.run("run json", "run", *PLAN, "--output", "json", "--until", "follow", "--yes")
    place.note_generated()
    for verb in ("pause", "resume"):
        place.run(verb, verb, *PLAN)
    place.run("throttle", "throttle", *PLAN, "jobs=plan")
    place.run("status", "status", *PLAN, "--drift")
    place.run("status json", "status", *PLAN, "--output", "json")
    place.run("verify", "verify", *PLAN)
    place.run("rehearse", "cutover", *PLAN, "--rehearse")
    place.run("run", "run", *PLAN, "--yes", "--no-input")
    place.note_generated()


def _judged(place: Place) -> None:
    place.run("rollback", "rollback", *PLAN, "--yes", "--no-input")
    place.note_generated()
    place.run("report", "report", *PLAN, "--format", "html")
    place.run("state", "state", "show", *PLAN)
    place.run("state history", "state", "history", *PLAN)
    place.run("cleanup", "cleanup", *PLAN, "--yes", "--no-input")


def test_nothing_that_a_command_says_or_writes_holds_a_secret(migrated: Place) -> None:
    assert len(migrated.canaries.known) >= 60
    assert sum(1 for name in migrated.canaries.known if name.startswith("generated")) >= 2
    for name, text in migrated.said.items():
        assert not migrated.canaries.met(text), name
    written = [
        path
        for path in migrated.folder.rglob("*")
        if path.is_file() and path.name.startswith(("plan.yaml.", "saved."))
    ]
    assert len(written) >= 7, written
    for path in written:
        assert not migrated.canaries.met(path.read_text("utf-8")), path
    assert list((migrated.folder / "tmp").iterdir()) == []


def test_programs_of_postgresql_are_given_no_secret(migrated: Place) -> None:
    started = [
        line for line in (migrated.folder / "started.txt").read_text().splitlines() if "execve(" in line
    ]
    programs = ("psql", "pg_dump", "pg_restore")
    for program in programs:
        calls = [line for line in started if re.search(rf'execve\("[^"]*/{program}"', line)]
        assert calls, program
        for line in calls:
            assert not migrated.canaries.met(line)
            assert not migrated.canaries.met(unescaped(line))
    # Whatever was started: the arguments of a program can be read by everybody.
    for line in started:
        words = line.partition('", [')[2].partition("], [")[0]
        assert not migrated.canaries.met(words)
        assert not migrated.canaries.met(unescaped(words))


def test_what_came_from_elsewhere_is_in_no_childs_environment(migrated: Place) -> None:
    ours = {
        place
        for place, value in migrated.canaries.known.items()
        if value in "\n".join(migrated.environ.values())
    }
    handed = {name for name in migrated.canaries.known if name.startswith(("variable", "hook's secret"))}
    others = migrated.canaries.known.keys() - ours - handed
    assert {"source password", "target password", "other member, a token"} <= others
    text = (migrated.folder / "started.txt").read_text()
    assert not migrated.canaries.met(text, others)
    assert not migrated.canaries.met(unescaped(text), others)


def test_the_servers_write_no_password_down_and_show_none_to_others(migrated: Place) -> None:
    passwords = [
        name for name in migrated.canaries.known if "password" in name or name.startswith("generated")
    ]
    for server in (migrated.source, migrated.target):
        log = server.log.read_text("utf-8", "replace")
        assert "CREATE SUBSCRIPTION" in log or "CREATE PUBLICATION" in log
        assert not migrated.canaries.met(log, passwords)
        with migrated.session(server) as session:
            rows = session.execute("SELECT query FROM pg_stat_statements").fetchall()
            assert len(rows) > 20
            assert not migrated.canaries.met("\n".join(str(row[0]) for row in rows), passwords)
    assert len(migrated.seen) > 30
    assert not migrated.canaries.met("\n".join(migrated.seen))


def test_others_can_not_read_what_a_subscription_dials(migrated: Place) -> None:
    for server in (migrated.source, migrated.target):
        with (
            psycopg.connect(server.dsn("onlooker", "app", password="on-looker")) as session,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            session.execute("SELECT subconninfo FROM pg_subscription")


VERBS: dict[str, tuple[str, ...]] = {
    "preview": (),
    "validate": (),
    "doctor": (),
    "run": ("--yes", "--no-input"),
    "status": ("--drift",),
    "verify": (),
    "cutover": ("--rehearse",),
    "rollback": ("--yes", "--no-input"),
    "cleanup": ("--yes", "--no-input"),
}
WRONG = {
    "a wrong password": (("connections", "source", "password"), {"secret": {"file": "wrong.password"}}),
    "no such server": (
        ("connections", "source", "dsn"),
        "postgresql://mover@127.0.0.1:1/app?sslmode=disable",
    ),
    "no such secret": (("connections", "target", "password"), {"secret": {"aws_secretsmanager": "app/none"}}),
    "a command that fails": (
        ("connections", "target", "password"),
        {"secret": {"command": ["./failing.sh"]}},
    ),
    "no TLS there": (("connections", "target", "allow_self_signed_certs"), True),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_no_command_that_fails_tells_a_secret(migrated: Place, wrong: str) -> None:
    place = migrated
    _write(place.folder / "wrong.password", place.canaries.new(f"wrong {wrong}", "double quote"))
    failing = place.folder / "failing.sh"
    failing.write_text(
        f"#!/bin/sh\necho '{place.canaries.new('of a failing command')}' | tee /dev/stderr; exit 3\n"
    )
    failing.chmod(0o755)
    plan = json.loads((place.folder / "plan.yaml").read_text())
    keys, value = WRONG[wrong]
    holder = plan
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    if wrong == "no TLS there":
        holder["dsn"] = holder["dsn"].partition("?")[0]
    name = f"{wrong.replace(' ', '-')}.yaml"
    (place.folder / name).write_text(json.dumps(plan))
    verbs = (
        VERBS
        if wrong == "a wrong password"
        else {verb: VERBS[verb] for verb in ("run", "validate", "cleanup")}
    )
    for verb, options in verbs.items():
        told = place.run(f"{wrong}: {verb}", verb, name, "--var-file", "values.yaml", *options, code=None)
        assert not place.canaries.met(told), f"{wrong}: {verb}"
    _assert_clean(place)


def test_statements_hooks_and_states_that_fail_tell_no_secret(migrated: Place) -> None:
    place = migrated
    plan = json.loads((place.folder / "plan.yaml").read_text())
    plan["metadata"]["name"] = "failing"
    plan["steps"] = [
        {
            "id": "bad",
            "uses": "sql",
            "with": {"statements": ["SELECT '{{ vars.v1 }}'::int"]},
            "retries": {"on": [], "attempts": 1},
        }
    ]
    for number, statement in enumerate(
        ("SELECT $${{ vars.v2 }}$$::int", "DO $$BEGIN RAISE '{{ vars.v0 }}'; END$$", "{{ vars.v0 }}")
    ):
        plan["steps"] = [{"id": "bad", "uses": "sql", "with": {"statements": [statement]}}]
        (place.folder / f"failing{number}.yaml").write_text(json.dumps(plan))
        place.run(
            f"a statement {number}",
            "run",
            f"failing{number}.yaml",
            "--var-file",
            "values.yaml",
            "--yes",
            code=None,
        )
    plan["steps"] = [
        {
            "id": "bad",
            "uses": "validate",
            "before": [
                {
                    "command": ["sh", "-c", "echo $KEPT; exit 3"],
                    "env": {"KEPT": {"secret": {"file": "kept2.txt"}}},
                }
            ],
        }
    ]
    (place.folder / "failing3.yaml").write_text(json.dumps(plan))
    place.run("a hook", "run", "failing3.yaml", "--var-file", "values.yaml", "--yes", code=1)
    for name in ("failing0", "failing3"):
        for style in ("html",):
            place.run(
                f"report of {name} {style}",
                "report",
                f"{name}.yaml",
                "--var-file",
                "values.yaml",
                "--format",
                style,
            )
    _assert_clean(place)


def test_what_is_given_in_the_wrong_place_is_not_repeated(migrated: Place) -> None:
    place, new = migrated, migrated.canaries.new
    value = new("a sensitive --var", "plain")
    place.run("--var of a sensitive variable", "render", *PLAN, "--var", f"v0={value}", code=2)
    for shape in ("plain", "percent"):
        value = new(f"--state with a password {shape}", shape)
        place.run(
            f"--state {shape}", "status", *PLAN, "--state", f"postgresql://a:{value}@127.0.0.1:1/x", code=2
        )
    place.run(
        "--state by pairs",
        "status",
        *PLAN,
        "--state",
        f"postgresql://127.0.0.1:1/x?pass%77ord={new('--state coded')}",
        code=None,
    )
    (place.folder / "odd.yaml").write_text(
        json.dumps(
            {
                "connections": {
                    "source": {"dsn": f"postgresql://a:{new('a DSN of a plan', 'at')}@h/d"},
                    "target": {"dsn": f"host=h password={new('pairs of a plan')}"},
                }
            },
            indent=1,
        )
    )
    place.run("lint of a plan with passwords", "lint", "odd.yaml", code=2)
    place.run("run of a plan with passwords", "run", "odd.yaml", code=2)
    started = (place.folder / "started.txt").read_text()
    assert "odd.yaml" in started
    for name, text in place.said.items():
        assert not place.canaries.met(text), name


def test_a_bug_is_told_and_kept_without_a_secret_and_without_a_core_file(migrated: Place) -> None:
    told = migrated.run("a bug", "run", *PLAN, "--yes", code=3, script=BUG)
    found = re.search(r"the details are in (\S+)", told)
    assert found is not None
    kept = Path(found[1])
    assert "odd: " in kept.read_text()
    assert not migrated.canaries.met(told + kept.read_text())
    kept.unlink()
    assert re.search(r"Max core file size +0 ", told)


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_run_that_ends_in_the_middle_leaves_no_secret(migrated: Place, how: str) -> None:
    place = migrated
    plan = json.loads((place.folder / "plan.yaml").read_text())
    plan["metadata"]["name"] = f"ended_{how}"
    (place.folder / f"ended_{how}.yaml").write_text(json.dumps(plan))
    words = (f"ended_{how}.yaml", "--var-file", "values.yaml")
    place.run(
        f"ended by {how}",
        "run",
        *words,
        "--yes",
        "--only",
        "mark",
        code=None,
        PLANRUNNER_FAILPOINTS=f"sql.statement:{how}",
    )
    place.run(f"status after {how}", "status", *words, code=0)
    _assert_clean(place)


def _assert_clean(place: Place) -> None:
    for name, text in place.said.items():
        assert not place.canaries.met(text), name
    for path in place.folder.glob("*.*.*"):
        assert not place.canaries.met(path.read_text("utf-8")), path
    assert list((place.folder / "tmp").iterdir()) == []
