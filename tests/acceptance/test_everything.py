"""A database that holds one of everything: after the migration both sides' dumps are the same, line by line."""

from __future__ import annotations

import json
import re
import subprocess
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents
from tests.acceptance.test_versions import PLAN, create, planrunner
from tests.servers import contrib_bin

if TYPE_CHECKING:
    from collections.abc import Sequence

EVERYTHING = (Path(__file__).parents[1] / "data" / "everything.sql").read_text("utf-8")
# The wheel's servers have one extension, contrib's many; a schema of their own, and what depends on them.
VECTOR = """
CREATE EXTENSION vector SCHEMA plain;
CREATE TABLE embedded (id int PRIMARY KEY, v plain.vector(3));
INSERT INTO embedded VALUES (1, '[1,2,3]');
"""
CONTRIB = """
CREATE EXTENSION citext; CREATE EXTENSION hstore SCHEMA plain; CREATE EXTENSION pg_trgm;
CREATE EXTENSION postgres_fdw; CREATE EXTENSION btree_gist;
COMMENT ON EXTENSION citext IS 'whatever the case';
CREATE TABLE extended (id citext PRIMARY KEY, h plain.hstore, t text);
CREATE INDEX extended_t ON extended USING gist (t gist_trgm_ops);
INSERT INTO extended VALUES ('Key', 'a=>1, b=>NULL', 'text');
CREATE SERVER real FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');
CREATE USER MAPPING FOR ev_app SERVER real OPTIONS (user 'u', password 'secret');
CREATE FOREIGN TABLE real_table (a int) SERVER real;
"""
OPTIONS = "{without_replica_identity: full, unlogged: schema_only, large_objects: copy}"
EVERY_PLAN = PLAN.replace("uses: snapshot}}", "uses: snapshot, with: {" + OPTIONS + "}}}")

DATABASE = """
SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'),
  ARRAY(SELECT concat_ws(' ', grantee::regrole, privilege_type, is_grantable)
        FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) ORDER BY 1)
FROM pg_database WHERE datname = current_database()
"""
SETTINGS = """
SELECT s.setrole::regrole::text, d.datname, s.setconfig FROM pg_db_role_setting s
LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE (s.setdatabase = 0 AND s.setrole::regrole::text <> 'ev_stranger') OR d.datname = current_database() ORDER BY 1, 2
"""
ROLES = """
SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
  rolconnlimit, rolvaliduntil, rolconfig, shobj_description(oid, 'pg_authid') FROM pg_roles
WHERE rolname LIKE 'ev%' AND rolname <> 'ev_stranger' ORDER BY 1
"""
MEMBERS = """
SELECT roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members
WHERE member::regrole::text LIKE '%ev%' ORDER BY 1, 2
"""
LARGE = """
SELECT oid::bigint, pg_get_userbyid(lomowner), obj_description(oid, 'pg_largeobject'), md5(lo_get(oid)),
  ARRAY(SELECT concat_ws(' ', grantor::regrole, grantee::regrole, privilege_type, is_grantable)
        FROM aclexplode(lomacl) ORDER BY 1) FROM pg_largeobject_metadata ORDER BY 1
"""
_NOISE = re.compile(r"^(\\(un)?restrict .*|-- Dumped .*)$")
_QUALIFIER = re.compile(r"\b(main|first_mat|second_mat|steps)\.")


def dump(dsn: str) -> list[str]:
    """The schema as the newest client writes it, without what is the client's own or names the version."""
    left_out = ["--no-publications", "--no-subscriptions", "--exclude-schema=planrunner"]
    made = subprocess.run(
        [wheel_bin(18) / "pg_dump", "--schema-only", *left_out, f"--dbname={dsn}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in made.splitlines() if line and not _NOISE.match(line)]
    return [_same_in_every_version(line) for line in lines]


def _same_in_every_version(line: str) -> str:
    # Since 16 the server leaves out a column's table where a view reads one table only; since 17 there is
    # one more privilege on tables, so a client that lists those of an older server does not say ALL.
    if line.startswith("REVOKE SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON"):
        return line.replace("SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE", "ALL")
    return _QUALIFIER.sub("", line) if line.startswith(" ") else line


def difference(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return [
        line
        for line in unified_diff(ours, theirs, lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]


def answers(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn) as session:
        queries = {
            "database": DATABASE,
            "settings": SETTINGS,
            "roles": ROLES,
            "members": MEMBERS,
            "large": LARGE,
        }
        return {name: session.execute(query).fetchall() for name, query in queries.items()}


def migrate(folder: Path, source: PostgresServer, target: PostgresServer) -> dict[str, Any]:
    plan = folder / "plan.yaml"
    plan.write_text(EVERY_PLAN.format(source=source.port, target=target.port))
    code, text = planrunner(folder, (source, target), "run", "plan.yaml", "--no-input")
    assert code == 0, text
    return dict(json.loads((folder / "plan.yaml.report.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("version", [15, 16])
def test_everything_arrives(version: int, tmp_path: Path) -> None:
    binaries = (contrib_bin(15), contrib_bin(18)) if version == 15 else (wheel_bin(16), wheel_bin(18))
    with (
        PostgresServer(binaries[0], settings={"wal_level": "logical"}) as source,
        PostgresServer(binaries[1]) as target,
    ):
        ours = create(source, EVERYTHING + (CONTRIB if version == 15 else VECTOR))
        theirs = create(target)
        schema, answered, rows = dump(ours), answers(ours), contents(ours)
        report = migrate(tmp_path, source, target)
        assert difference(schema, dump(theirs)) == []
        assert answers(theirs) == answered
        assert contents(theirs) == rows | {"public.fleeting": (0, "")}
        # Nor does the comparison of our own see a difference where there is none.
        code, text = planrunner(tmp_path, (source, target), "verify", "plan.yaml")
        assert code == 0, text
        decisions = "\n".join(report["decisions"])
        for told in (
            "others_pub",
            "others_sub",
            "public.fleeting",
            "public.far_table",
            "ev_app",
            "large objects",
        ):
            assert told in decisions
        assert "ev_stranger" not in decisions
        # Markdown has a backslash before what it would take for its own.
        lines = re.sub(r"\\(\W)", r"\1", (tmp_path / "plan.yaml.report.md").read_text()).splitlines()
        assert decisions.splitlines() == [
            line[2:] for line in lines if line[2:] in decisions and line.startswith("- ")
        ]
        planrunner(tmp_path, (source, target), "cleanup", "plan.yaml", "--yes")
        # The committed fence stays on the old side, beside what was there; nothing of it is lost.
        left = difference(schema, dump(ours))
        assert [line for line in left if line.startswith("-") or "REPLICA IDENTITY" in line] == []
