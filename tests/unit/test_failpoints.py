"""Every side effect of planrunner passes a named point, told from the syntax tree by rule."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import planrunner
from tests.side_effects import Sources

# What passes no point, and why none is needed. A whole module ends with ``.*``.
EXCEPTIONS = {
    "planrunner.failpoints.failpoint": "it is the point: the signal goes to ourselves",
    "planrunner.check_pages.*": "writes a page of the docs in the repository; part of no run",
    "planrunner.fleet.reference.*": "writes schema and page of the docs in the repository; part of no run",
    "planrunner.linting.page.*": "writes a page of the docs in the repository; part of no run",
    "planrunner.loading.reference.*": "writes schema and pages of the docs in the repository; part of no run",
    "planrunner.cli.init._create": "a new plan, written under another name and renamed; no server is touched",
    "planrunner.cli.screen.out": "what was asked for with --out; printed otherwise, read by no run",
    "planrunner.engine.interrupts.Interruption._stop_at_once": "the process ends at once, and our tools with it",
    "planrunner.postgres.connection.Server._asked": "a session that the server holds read-only",
    "planrunner.postgres.connection.Server.execute": "each call of it is judged by what it is given",
    "planrunner.postgres.preflight_line._probe_by_subscription": "always rolled back",
    "planrunner.postgres.scripts.holds": "a session and a transaction that the server holds read-only",
    "planrunner.postgres.tools._handed_over": "lies in memory, or goes with the block; nobody but the child reads it",
    "planrunner.postgres.tools._speaks_tls": "asks a program of its libraries; it changes nothing",
    "planrunner.postgres.tools._version": "asks a program for its version; it changes nothing",
    "planrunner.authorities._fetched": "a GET",
    "planrunner.replication.apply_error._apply": "always rolled back",
    "planrunner.replication.apply_error._tried": "always rolled back",
    "planrunner.replication.apply_error._next_transaction": "moves a copy of the slot, gone with its session",
    "planrunner.replication.filter_trial._tried": "always rolled back",
    "planrunner.replication.lanes.Lane.both": "sessions that the server holds read-only",
    "planrunner.replication.lanes.Lane.asking.ask": "sessions that the server holds read-only",
    "planrunner.replication.lanes.Lane.streams": "sessions that the server holds read-only",
    "planrunner.replication.pieces.Readers.read.lane": "ends a transaction of a session that is held read-only",
    "planrunner.replication.polling._Going.run": "ends a transaction of a session that is held read-only",
    "planrunner.replication.schema_dump._section": "in a temporary folder, gone with the process",
    "planrunner.secrets._end": "the end of a child that only prints a secret",
    "planrunner.switching.guard.Line.ask": "a process of its own, which has to live on when the runner dies",
}
# Who calls a method that is known behind a Protocol, or handed over.
CALLED_FROM = {
    "planrunner.aws.bucket.Bucket.put": (
        "planrunner.state.remote.RemoteHome.set_aside",
        "planrunner.state.remote.RemoteHome.steer",
        "planrunner.state.remote.RemoteHome.push_events",
        "planrunner.state.remote.RemoteHome._keep_previous",
    ),
    "planrunner.aws.bucket.Bucket.write": (
        "planrunner.state.remote.RemoteHome.save",
        "planrunner.state.lease.Lease._taken",
        "planrunner.state.lease.Lease._written",
    ),
    "planrunner.aws.bucket.Bucket.remove": ("planrunner.state.remote.RemoteHome._keep_previous",),
    "planrunner.aws.carrier.Carrier.attach": (
        "planrunner.enabling.actions._attach",
        "planrunner.enabling.undoing._reattaching.perform",
    ),
    "planrunner.aws.carrier.Carrier.reboot": ("planrunner.enabling.reboot._reboot",),
    "planrunner.aws.ec2.Network.authorize": ("planrunner.ingress.Ingress._authorizing.perform",),
    "planrunner.aws.ec2.Network.revoke": ("planrunner.ingress.Ingress._revoking.perform",),
    "planrunner.aws.parameters.ParameterGroups._call": (
        "planrunner.enabling.actions._create",
        "planrunner.enabling.actions._set",
        "planrunner.enabling.undoing._set_back",
        "planrunner.enabling.undoing._deleting.perform",
    ),
    "planrunner.aws.route53.Zone.lead": ("planrunner.switching.cloud.Route53.after_commit",),
    "planrunner.replication.rollback._keep": ("planrunner.replication.crossing._fenced",),
    "planrunner.switching.console.Console._rows": (
        "planrunner.switching.pgbouncer.PgBouncer.before_fence",
        "planrunner.switching.pgbouncer.PgBouncer.after_commit",
    ),
}
CALLED_FROM["planrunner.postgres.cabinet.Table.put"] = (
    *CALLED_FROM["planrunner.aws.bucket.Bucket.put"],
    "planrunner.postgres.cabinet.AdvisoryLock.held",
)
CALLED_FROM["planrunner.postgres.cabinet.Table.write"] = ("planrunner.state.remote.RemoteHome.save",)
CALLED_FROM["planrunner.postgres.cabinet.Table.remove"] = CALLED_FROM["planrunner.aws.bucket.Bucket.remove"]
CALLED_FROM["planrunner.postgres.cabinet.Table._make"] = CALLED_FROM["planrunner.postgres.cabinet.Table.put"]

# One name for one occasion at several places.
FAMILIES = {
    "fix.before": "a repair of the preflight: an SQL one, or a command",
    "fix.after": "a repair of the preflight: an SQL one, or a command",
    "finding|journal": "every event; a check that was made is one of hundreds, and nothing hangs on it",
    "*.*.before": "every action of a plan, by its step's id and its own name",
    "*.*.after": "every action of a plan, by its step's id and its own name",
}
NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\Z")


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources.of(Path(planrunner.__file__).parent, CALLED_FROM)


def excepted(sources: Sources) -> set[str]:
    found = {f"{effect.module}.{effect.function}" for effect in sources.effects()}
    return {one for one in found if one in EXCEPTIONS or any(one.startswith(m) for m in _modules())}


def _modules() -> list[str]:
    return [name.removesuffix("*") for name in EXCEPTIONS if name.endswith(".*")]


def test_every_side_effect_passes_a_named_point(sources: Sources) -> None:
    assert len(sources.effects()) > 150
    assert [str(effect) for effect in sources.uncovered(excepted(sources))] == []


def test_no_exception_is_left_over(sources: Sources) -> None:
    bare = {f"{e.module}.{e.function}" for e in sources.effects()}
    unused = [
        name
        for name in EXCEPTIONS
        if not any(one == name or one.startswith(name.rstrip("*")) for one in bare)
    ]
    assert unused == []
    known = {f"{m.name}.{name}" for m in sources.modules.values() for name in m.functions}
    named = {*CALLED_FROM, *(caller for callers in CALLED_FROM.values() for caller in callers)}
    assert named - known == set()


def test_a_name_stands_for_one_place(sources: Sources) -> None:
    names = Counter(point.name for point in sources.points())
    assert {name for name, count in names.items() if count > 1} <= set(FAMILIES)
    assert [n for n in names if not NAME.match(n) and n not in FAMILIES] == []
    assert set(FAMILIES) <= set(names)


HEAD = """
from planrunner.failpoints import failpoint
import os, shutil, subprocess, urllib.request
from psycopg import sql
READ = "SELECT 1"
DROP = "DROP TABLE t"
def made(name):
    return sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(name))
"""
BARE = {
    "a literal": "def f(s):\n    s.execute('INSERT INTO t VALUES (1)')",
    "a constant": "def f(s):\n    s.execute(DROP)",
    "a builder": "def f(s):\n    s.execute(made('t'))",
    "one of several": "def f(s):\n    for one in (READ, DROP):\n        s.execute(one)",
    "put together": "def f(s):\n    s.execute(sql.SQL('TRUNCATE {}').format(sql.Identifier('t')))",
    "a second statement": "def f(s):\n    s.execute('SELECT 1; DELETE FROM t')",
    "what can't be told": "def f(s, query):\n    s.execute(query)",
    "a reading that changes": "def f(s):\n    s.rows('SELECT pg_terminate_backend(1)')",
    "a slot": "def f(s):\n    s.execute('SELECT pg_create_logical_replication_slot(1)')",
    "a sequence": "def f(s):\n    s.value('SELECT setval(1, 2)')",
    "a change within a WITH": "def f(s):\n    s.execute('WITH x AS (DELETE FROM t RETURNING 1) SELECT 1')",
    "a commit": "def f(s):\n    s.execute('COMMIT')",
    "many rows": "def f(s):\n    s.executemany('INSERT INTO t VALUES (%s)', [])",
    "a copy": "def f(s):\n    s.copy('COPY t FROM STDIN')",
    "a child": "def f():\n    subprocess.run(['true'])",
    "a child in the background": "def f():\n    subprocess.Popen(['true'])",
    "a signal": "def f(p):\n    os.kill(p, 9)",
    "a file": "def f(path):\n    path.write_text('x')",
    "a file that is opened": "def f():\n    open('x', 'w')",
    "a rename": "def f(path, new):\n    path.replace(new)",
    "a rename by os": "def f():\n    os.replace('a', 'b')",
    "a removal": "def f(path):\n    path.unlink()",
    "a flush": "def f(fd):\n    os.fsync(fd)",
    "a copied file": "def f():\n    shutil.copy2('a', 'b')",
    "a request": "def f(opener):\n    opener.open('https://example.org')",
    "a session that is borrowed": "def f(session: Session):\n    session.execute(DROP)\ndef g(s):\n    f(s)",
    "a helper one level up": "def _f(s):\n    s.execute(DROP)\ndef g(s):\n    _f(s)",
    "one caller of two": "def _f(s):\n    s.execute(DROP)\ndef g(s):\n    failpoint('a.b')\n    _f(s)\n"
    "def h(s):\n    _f(s)",
}
SOUND = {
    "a point": "def f(s):\n    failpoint('a.b')\n    s.execute(DROP)",
    "a read": "def f(s):\n    s.execute(READ)",
    "a read that was put together": "def f(s):\n    s.execute(sql.SQL('SELECT * FROM {}').format(sql.Identifier('t')))",
    "a lock": "def f(s):\n    s.execute('SELECT 1 FROM t FOR UPDATE')",
    "the own session": "def f(s):\n    s.execute('SET x = 1; BEGIN; LOCK TABLE t')",
    "a copy out": "def f(s):\n    s.copy('COPY t TO STDOUT')",
    "a helper of one that passes": "def _f(s):\n    s.execute(DROP)\ndef g(s):\n    failpoint('a.b')\n    _f(s)",
    "a lent session": "def f(session: Session):\n    session.execute(DROP)\ndef g(s):\n    failpoint('a.b')\n    f(s)",
    "a file that is read": "def f(path):\n    path.open('rb'); open('x')",
    "a text": "def f(text):\n    text.replace('a', 'b')",
}


def bare(source: str, module: str = "planrunner.module") -> list[str]:
    return [str(effect) for effect in Sources({module: HEAD + source}).uncovered()]


@pytest.mark.parametrize("kind", BARE)
def test_a_side_effect_without_a_point_is_found(kind: str) -> None:
    assert len(bare(BARE[kind])) == 1, kind


@pytest.mark.parametrize("kind", SOUND)
def test_what_changes_nothing_or_passes_a_point_is_left_alone(kind: str) -> None:
    assert bare(SOUND[kind]) == [], kind


@pytest.mark.parametrize(
    "call",
    [
        "self.client.modify_db_instance(DBInstanceIdentifier='a')",
        "self.client.put_object(Key='a')",
        "self.client.authorize_security_group_ingress(GroupId='a')",
        "self.client.reboot_db_cluster(DBClusterIdentifier='a')",
        "self.client.change_resource_record_sets(HostedZoneId='a')",
        "self.client.delete_db_parameter_group(Name='a')",
    ],
)
def test_a_changing_request_to_aws_needs_a_point(call: str) -> None:
    source = f"class A:\n    def f(self):\n        {call}"
    assert len(bare(source, "planrunner.aws.module")) == 1
    assert bare(source.replace("self.client", "failpoint('a.b'); self.client"), "planrunner.aws.module") == []
    assert (
        bare(
            "class A:\n    def f(self):\n        self.client.describe_db_instances(A='a')", "planrunner.aws.m"
        )
        == []
    )


def test_a_request_whose_name_is_put_together_counts_as_a_change() -> None:
    source = "def f(client, verb):\n    call = getattr(client, f'{verb}_group')\n    call(a=1)"
    assert len(bare(source, "planrunner.aws.module")) == 1


def test_a_point_that_is_removed_is_missed(sources: Sources) -> None:
    # Each point in turn is taken out: those that guard an effect by themselves must show it.
    texts = {
        f"planrunner.{path.stem}": path.read_text()
        for path in (Path(planrunner.__file__).parent / "state").glob("*.py")
    }
    assert any("failpoint(" in text for text in texts.values())
    call = re.compile(r"^( *)failpoint\(.*\)$", re.MULTILINE)
    without = {name: call.sub(r"\1pass", text) for name, text in texts.items()}
    assert len(Sources(without).uncovered()) > len(Sources(texts).uncovered())
