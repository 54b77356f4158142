"""Whole plans under what RDS denies: there, back by the way back, and cleaned up, by a master user and no superuser."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.demo import PLAN, Stage
from planrunner.sandbox.rds_api import RdsApi
from planrunner.sandbox.rds_like import (
    ReplicationRights,
    prepare_rds_target,
    prepare_source,
    prepare_target,
)
from planrunner.sandbox.rds_limits import RDS_ADMIN
from planrunner.sandbox.servers import PostgresServer
from planrunner.sandbox.shop import load_shop
from planrunner.sandbox.writer import Writer
from tests.acceptance.helpers import contents, run, slots
from tests.integration.tls.certificates import Authority
from tests.integration.tls.conftest import DEBIAN, needs_debian
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server
SCALE = 0.02
# Before that stock PostgreSQL lets only superusers subscribe, so the way back to such a source can't be shown.
SUBSCRIBING = 16
LARGE_OBJECTS = ("identity: full}", "identity: full, large_objects: copy}")
DEMO_PLAN = Path(__file__).parents[2] / "plans" / PLAN
# What RDS itself puts into a database, or makes its own of what the master user makes there.
FURNITURE = """
CREATE SCHEMA rds_tools;
CREATE FUNCTION rds_tools.role_password_encryption_type() RETURNS text LANGUAGE sql RETURN 'scram-sha-256';
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
SELECT 4100100100, 'rds_tools', 10, 'rds_tools'::regnamespace, false, '1.7';
INSERT INTO pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
SELECT 'pg_proc'::regclass, p.oid, 0, 'pg_extension'::regclass, 4100100100, 0, 'e'
FROM pg_proc p WHERE p.pronamespace = 'rds_tools'::regnamespace;
RESET allow_system_table_mods;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO rds_superuser;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO migrator;
CREATE FUNCTION public.watch_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NULL; END';
ALTER FUNCTION public.watch_ddl() OWNER TO shop_owner;
CREATE EVENT TRIGGER watched ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.watch_ddl();
GRANT USAGE ON SCHEMA public TO rds_superuser;
GRANT SELECT ON public.orders TO rds_superuser;
SET ROLE shop_owner;
SELECT lo_from_bytea(70001, 'a picture'), lo_from_bytea(70002, 'another');
"""
WRITTEN_AFTERWARDS = """
INSERT INTO customers (email, name) VALUES ('back@example.com', 'written on the target');
UPDATE products SET title = title || '!' WHERE id % 3 = 0;
DELETE FROM "Ware House".stock WHERE amount = 7;
INSERT INTO "Ware House".returns (reason) VALUES ('too late');
"""


@contextmanager
def rds_stage(older: int, newer: int, *, rds_target: bool) -> Iterator[Stage]:
    """An RDS-like source with the shop and RDS's own things in it, and a target, RDS-like or with a plain login."""
    folder = Path(tempfile.mkdtemp(prefix="planrunner-rds-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        source = stack.enter_context(PostgresServer(server_bin(older), superuser=RDS_ADMIN, max_life=600))
        name = RDS_ADMIN if rds_target else "postgres"
        settings = {"wal_level": "logical"}
        target = stack.enter_context(
            PostgresServer(server_bin(newer), superuser=name, settings=settings, max_life=600)
        )
        databases = prepare_source(source), (prepare_rds_target if rds_target else prepare_target)(target)
        load_shop(databases[0].superuser_dsn, scale=SCALE)
        execute(databases[0].superuser_dsn, FURNITURE)
        stack.enter_context(ReplicationRights(source))
        if rds_target:
            stack.enter_context(ReplicationRights(target))
            read_everything(source, target)
        else:
            execute(databases[1].superuser_dsn, "ALTER ROLE migrator REPLICATION")
        api = stack.enter_context(RdsApi(source))
        text = DEMO_PLAN.read_text("utf-8")
        if older >= SUBSCRIBING:
            text = text.replace("approval: manual", "approval: manual\n    with: {reverse: true}")
        text = text.replace(*LARGE_OBJECTS)
        (folder / PLAN).write_text(text, "utf-8")
        yield Stage(
            source=source,
            target=target,
            source_database=databases[0],
            target_database=databases[1],
            api=api,
            folder=folder,
        )


def read_everything(*servers: PostgresServer) -> None:
    """Give what RDS gives since 15, and the stand-in does not: on a stock server it opens pg_authid, too."""
    for server in servers:
        execute(server.superuser_dsn, "GRANT pg_read_all_data, pg_write_all_data TO rds_superuser")


def execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(statements.encode())


def value(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as session:
        row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def succeeds(scene: Stage, verb: str, *options: str) -> str:
    ended = run(scene, *options, verb=verb)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr
    return ended.stdout


def there_and_back(scene: Stage, ours: str, theirs: str) -> None:
    """What was written on the target comes along when the source takes over again."""
    execute(theirs, WRITTEN_AFTERWARDS)
    succeeds(scene, "rollback", "--yes")
    assert contents(ours) == contents(theirs)
    assert value(ours, "SELECT count(*) FROM customers WHERE email = 'back@example.com'") == 1
    execute(ours, "UPDATE customers SET name = 'open again' WHERE id = 1")


@pytest.mark.parametrize(
    ("older", "newer", "rds_target"),
    [pytest.param(16, 18, False, marks=pytest.mark.soak), (16, 18, True), (14, 16, True)],
)
def test_a_master_user_carries_a_busy_shop_there_and_back(older: int, newer: int, rds_target: bool) -> None:
    with rds_stage(older, newer, rds_target=rds_target) as scene:
        ours, theirs = scene.source_database.superuser_dsn, scene.target_database.superuser_dsn
        login = conninfo.make_conninfo(
            scene.source_database.application_dsn or "", password=scene.source_database.password
        )
        with Writer(login) as writer:
            succeeds(scene, "run", "--yes", "--no-input")
            counts = writer.stop()
            assert counts.acknowledged > 0
            assert writer.check(theirs) == []
        assert contents(ours) == contents(theirs)
        assert value(theirs, "SELECT convert_from(lo_get(70001), 'UTF8')") == "a picture"
        assert value(theirs, "SELECT count(*) FROM pg_event_trigger") == 0
        assert value(theirs, "SELECT to_regnamespace('rds_tools') IS NULL") is True
        assert value(theirs, "SELECT count(*) FROM pg_default_acl") == 0

        if older >= SUBSCRIBING:
            there_and_back(scene, ours, theirs)
        succeeds(scene, "cleanup", "--yes")
        assert (slots(ours), slots(theirs)) == ([], [])
        assert value(ours, "SELECT count(*) FROM pg_publication") == 0


def certified(authority: Authority, server: PostgresServer) -> Path:
    """Give a server that does not run yet a certificate for ``localhost``; the authority's own, where it reads it."""
    pair = authority.pair("server")
    for name, made in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("root.crt", authority.root)):
        shutil.copyfile(made, server.data / name)
        (server.data / name).chmod(0o600)
        unprivileged().own(server.data / name)
    return server.data / "root.crt"


def test_a_source_that_forces_ssl_is_left_over_verified_tls(tmp_path: Path) -> None:
    """Between servers of Debian: the wheels' are built without TLS."""
    needs_debian()
    authority = Authority(tmp_path, "rds")
    tls = {"ssl": "on", "ssl_cert_file": "tls.crt", "ssl_key_file": "tls.key", "wal_level": "logical"}
    with ExitStack() as stack:
        source = PostgresServer(DEBIAN, settings=tls, superuser=RDS_ADMIN, max_life=600)
        stack.callback(source.close)
        root = certified(authority, source)
        source.start()
        target = stack.enter_context(PostgresServer(DEBIAN, max_life=600))
        shutil.copyfile(root, target.folder / "root.crt")
        unprivileged().own(target.folder / "root.crt")
        databases = prepare_source(source, force_ssl=True), prepare_target(target)
        load_shop(databases[0].superuser_dsn, scale=SCALE)
        execute(databases[0].superuser_dsn, FURNITURE)
        stack.enter_context(ReplicationRights(source))
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry .* no encryption"):
            psycopg.connect(databases[0].dsn, password=databases[0].password, sslmode="disable")
        api = stack.enter_context(RdsApi(source))
        scene = Stage(
            source=source,
            target=target,
            source_database=databases[0],
            target_database=databases[1],
            api=api,
            folder=tmp_path,
        )
        plain = DEMO_PLAN.read_text("utf-8").replace(*LARGE_OBJECTS)
        scene.plan.write_text(plain, "utf-8")
        refused = run(scene, "--yes", "--no-input")
        assert refused.returncode == 1
        assert (
            "takes no unencrypted connection from here (on RDS: rds.force_ssl)"
            in refused.stdout + refused.stderr
        )

        there = target.folder / "root.crt"
        verified = plain.replace("sslmode=disable", f"sslmode=verify-full&sslrootcert={authority.root}", 1)
        # The certificate is localhost's; the stand-in listens at its IPv4 address alone.
        verified = verified.replace("{{ vars.source_host }}", "localhost").replace(
            "root.crt", "root.crt&hostaddr=127.0.0.1", 1
        )
        verified = verified.replace(
            "/shop?sslmode=disable\n    password: {secret: {env: TARGET_PASSWORD}}",
            "/shop?sslmode=disable\n    password: {secret: {env: TARGET_PASSWORD}}\n"
            f"    source_as_seen_from_target: {{host: localhost, sslrootcert: {there}}}",
        )
        scene.plan.write_text(verified, "utf-8")
        succeeds(scene, "run", "--yes", "--no-input")
        assert contents(databases[0].superuser_dsn) == contents(databases[1].superuser_dsn)
        # The target's login is a superuser here, so the event trigger comes, and belongs to it.
        owner = "SELECT pg_get_userbyid(evtowner) FROM pg_event_trigger WHERE evtname = 'watched'"
        assert value(databases[1].superuser_dsn, owner) == "migrator"
