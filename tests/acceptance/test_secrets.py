"""A migration full of secrets of every kind, and a search for each of them in everything that it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Each is found nowhere by chance. The passwords are kept with AWS and in a file.
SOURCE_PASSWORD = "Kp-manager-7f3a's"
TARGET_PASSWORD = 'Kp-file-91bc"x'
# Sensitive variables: from the environment, a command, a variable file, a reference to the environment, and SSM.
SOURCE_USER = "kv_environ_44d1"
TARGET_USER = "kv_command_8e20"
TENANT = "kv-varfile-c5/7%41"
REGION = "kv-refenv-33a9|q"
CHANNEL = "kv-ssm-6b1f"
PASSWORDS = (SOURCE_PASSWORD, TARGET_PASSWORD)
HIDDEN = (*PASSWORDS, SOURCE_USER, TARGET_USER, TENANT, REGION, CHANNEL)

PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: hush}}
vars:
  source_user: {{sensitive: true}}
  target_user: {{sensitive: true, secret: {{command: [cat, {folder}/target.user]}}}}
  tenant: {{sensitive: true}}
  region: {{sensitive: true, secret: {{env: REGION_KEPT}}}}
  channel: {{sensitive: true, secret: {{aws_ssm: /hush/channel}}}}
connections:
  source:
    dsn: postgresql://{{{{ vars.source_user }}}}@127.0.0.1:{source}/app?sslmode=disable
    password: {{secret: {{aws_secretsmanager: hush/source}}}}
  target:
    dsn: host=127.0.0.1 port={target} dbname=app user={{{{ vars.target_user }}}} sslmode=disable
    password: {{secret: {{file: ./target.password}}}}
steps:
  - {{id: check, uses: validate}}
  - id: copy
    uses: snapshot
    with:
      owners: login
      grants: skip
      filters:
        rows:
          public.orders: "tenant = '{{{{ vars.tenant }}}}'"
          public.sales: "channel = '{{{{ vars.channel }}}}'"
          public.visits: "region = '{{{{ vars.region }}}}'"
  - {{id: follow, uses: sync}}
  - {{id: cutover, uses: cutover_verify, with: {{reverse: true, write_pause_budget: 60s}}}}
"""
SCHEMA = """
CREATE TABLE orders (id int, tenant text, PRIMARY KEY (id, tenant));
CREATE TABLE sales (id int, channel text, PRIMARY KEY (id, channel));
CREATE TABLE visits (id int, region text, PRIMARY KEY (id, region));
-- Large enough for a psql of its own.
CREATE TABLE parcels (id int PRIMARY KEY, filler text);
ALTER TABLE parcels ALTER filler SET STORAGE EXTERNAL;
INSERT INTO parcels SELECT n, repeat(md5(n::text), 300) FROM generate_series(1, 500) n;
"""


_STRACE = (
    "strace",
    "-f",
    "-qq",
    "--seccomp-bpf",
    "--trace=execve",
    "--string-limit=100000",
    "--output-append-mode",
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    plan: Path
    source: PostgresServer
    target: PostgresServer
    environ: Mapping[str, str]

    @property
    def started(self) -> Path:
        """Every program that the runs started, with its arguments, as the kernel was told."""
        return self.plan.with_name("started.txt")

    def run(self, *words: str, expected: int = 0) -> str:
        """A verb's output, both streams."""
        watched = [*_STRACE, f"--output={self.started}", "--"]
        given = self.plan.with_name("prod.vars.yaml")
        ended = subprocess.run(
            [*watched, sys.executable, "-m", "planrunner", *words, str(self.plan), "--var-file", str(given)],
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        told = ended.stdout + ended.stderr
        assert ended.returncode == expected, told
        return told


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    logged = {"wal_level": "logical", "log_statement": "all", "log_min_duration_statement": "0"}
    with ExitStack() as stack:
        aws = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        aws.start()
        stack.callback(aws.stop)
        source = stack.enter_context(PostgresServer(wheel_bin(16), settings=logged, max_life=600))
        target = stack.enter_context(PostgresServer(wheel_bin(18), settings=logged, max_life=600))
        for server, user, password in (
            (source, SOURCE_USER, SOURCE_PASSWORD),
            (target, TARGET_USER, TARGET_PASSWORD),
        ):
            _furnish(server, user, password)
        plan = folder / "hush.yaml"
        plan.write_text(PLAN.format(folder=folder, source=source.port, target=target.port))
        _write(folder / "target.password", f"{TARGET_PASSWORD}\n")
        _write(folder / "target.user", f"{TARGET_USER}\n")
        _write(folder / "prod.vars.yaml", f"tenant: '{TENANT}'\n")
        host, port = aws.get_host_and_port()
        environ = {
            **os.environ,
            "PYTHONPATH": ":".join(filter(None, sys.path)),
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "PLANRUNNER_VAR_source_user": SOURCE_USER,
            "REGION_KEPT": REGION,
        }
        _keep_with_aws(environ)
        with psycopg.connect(source.dsn("postgres", "app", password=source.password)) as session:
            session.execute(SCHEMA)
            for table, value in (
                ("orders", TENANT),
                ("sales", CHANNEL),
                ("visits", REGION),
            ):
                session.execute(
                    sql.SQL(
                        "INSERT INTO {} SELECT n, CASE WHEN n % 2 = 0 THEN {} ELSE '-' END"
                        " FROM generate_series(1, 200) n"
                    ).format(sql.Identifier(table), sql.Literal(value))
                )
        yield Scene(plan=plan, source=source, target=target, environ=environ)


def _furnish(server: PostgresServer, user: str, password: str) -> None:
    server.start()
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        # What the test itself says is not what is searched for.
        session.execute("SET log_statement = 'none'; SET log_min_duration_statement = -1")
        session.execute("CREATE DATABASE app")
        session.execute(
            sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
                sql.Identifier(user), sql.Literal(password)
            )
        )


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def _keep_with_aws(environ: Mapping[str, str]) -> None:
    given = {"endpoint_url": environ["AWS_ENDPOINT_URL"], "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("secretsmanager", **given, **keys).create_secret(
        Name="hush/source", SecretString=json.dumps({"username": "x", "password": SOURCE_PASSWORD})
    )
    boto3.client("ssm", **given, **keys).put_parameter(
        Name="/hush/channel", Value=f"{CHANNEL}\n", Type="SecureString"
    )


def forms(secret: str) -> set[str]:
    """How a text may hold a secret."""
    escaped = json.dumps(secret)[1:-1]
    return {secret, escaped, json.dumps(escaped)[1:-1], secret.replace("'", "''"), secret.replace("%41", "A")}


def assert_free_of(secrets: tuple[str, ...], text: str, what: str) -> None:
    for secret in secrets:
        for form in forms(secret):
            at = text.find(form)
            assert at < 0, f"{what} tells {secret}: …{text[max(0, at - 200) : at + 80]}…"


@pytest.mark.timeout(600)
def test_no_secret_is_told_anywhere(tmp_path: Path) -> None:
    assert shutil.which("strace") is not None, "strace is missing: apt-get install strace"
    with scene(tmp_path) as stage:
        told = {"render": stage.run("render"), "render json": stage.run("render", "--output", "json")}
        for style in ("text", "json", "markdown"):
            told[f"preview {style}"] = stage.run("preview", "--format", style)
        assert "***" in told["render"]
        assert "WHERE" in told["preview text"]

        told["run json"] = stage.run("run", "--output", "json", "--until", "copy", "--yes")
        told["lint"] = stage.run("lint")
        told["status"] = stage.run("status", "--output", "json")
        told["run"] = stage.run("run", "--yes", "--no-input")
        told["state"] = stage.run("state", "show")
        for style in ("html", "markdown", "json"):
            told[f"report {style}"] = stage.run("report", "--format", style)
        (tmp_path / "target.password").write_text("Kp-wrong-password-000")
        told["a refused login"] = stage.run("preview", expected=1)
        with psycopg.connect(stage.target.dsn("postgres", "app", password=stage.target.password)) as session:
            counts = session.execute(
                "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM sales), (SELECT count(*) FROM visits)"
            ).fetchone()
        logs = {"source's log": stage.source.log.read_text(), "target's log": stage.target.log.read_text()}

    assert counts == (100, 100, 100), "the plan did what it says, with the values it hides"
    for what, text in told.items():
        assert_free_of((*HIDDEN, "Kp-wrong-password-000"), text, what)
    kept = {p.name: p.read_text("utf-8") for p in tmp_path.rglob("hush.yaml*") if p.is_file()}
    assert {"hush.yaml.state.json", "hush.yaml.events.jsonl", "hush.yaml.report.html"} <= kept.keys()
    for name, text in kept.items():
        assert_free_of(HIDDEN, text, name)
    started = (tmp_path / "started.txt").read_text()
    assert '/pg_dump", [' in started
    assert '/psql", [' in started
    assert_free_of(HIDDEN, started, "a command line")
    assert "CREATE PUBLICATION" in logs["source's log"]
    for name, text in logs.items():
        # Values of filters are part of statements, which a server may log; passwords never are.
        assert_free_of(PASSWORDS, text, name)
