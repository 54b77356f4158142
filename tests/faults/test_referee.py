"""The referee itself: it writes fast enough, finds nothing where all is well, and finds each thing that is planted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.referee.judge import Verdict, judge, judged
from tests.faults.referee.ledger import End, Entry, entries
from tests.faults.referee.tables import digests, prepare
from tests.faults.writing import PATIENCE_SECONDS, ROOT, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=900) as one:
        yield one


@dataclass(frozen=True, kw_only=True)
class Written:
    """A database with what the client wrote, and its ledger."""

    server: PostgresServer
    ledger: Path

    def dsn(self, database: str = "written") -> str:
        return self.server.dsn("postgres", database, password=self.server.password)


# What was written once is judged by all of them.
pytestmark = pytest.mark.xdist_group("referee")


@pytest.fixture(scope="module")
def written(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Some thousand transactions, through two crashes of the server and ended sessions."""
    one = Written(server=server, ledger=tmp_path_factory.mktemp("referee") / "ledger")
    _execute(one.dsn("postgres"), "CREATE DATABASE written")
    prepare(one.dsn())
    with writing(one.ledger, one.dsn(), rate=900) as client:
        for fault in range(6):
            client.until(400)
            if fault % 3 == 0:
                server.stop("immediate")
                server.start()
            else:
                _execute(one.dsn("postgres"), _END_SESSIONS)
        client.until(400)
        client.stop()
    return one


_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'written'"


def _execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


@pytest.fixture
def spoilt(written: Written) -> Iterator[psycopg.Connection[Any]]:
    """A session that plants something, and takes it back at the end."""
    with psycopg.connect(written.dsn()) as session:
        yield session
        session.rollback()


def test_what_crashes_and_lost_lines_leave_is_whole_by_the_ledger(written: Written) -> None:
    verdict = judge(written.dsn(), written.ledger)

    assert verdict.clean, verdict
    assert verdict.acknowledged > 2000
    assert verdict.unknown > 0
    assert {entry.kind for entry in entries(written.ledger)} >= {
        "several",
        "savepoint",
        "document",
        "scratch",
    }


def test_the_judge_is_a_program_of_its_own(written: Written) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.referee", "judge", str(written.ledger)],
        cwd=ROOT,
        env={**os.environ, "REFEREE_TARGET": written.dsn()},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    assert Verdict(**json.loads(ended.stdout)) == judge(written.dsn(), written.ledger)


def test_nothing_of_planrunner_is_in_the_referee() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, tests.faults.referee.client, tests.faults.referee.judge; print(*sys.modules)",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [name for name in told if name.partition(".")[0] == "planrunner"] == []


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]) -> None:
    # What is planted for the judge is no fault of a run; the crashes of the client's server are.
    record_property("faults", 6 if "crashes" in request.node.name else 0)


# What is planted, and as what it has to be found; what stands in braces is chosen by ``chosen``.
PLANTED = {
    "lost transfer": (
        "WITH gone AS (DELETE FROM referee.transfer WHERE tx = {transfer} RETURNING *)"
        " UPDATE referee.account a SET balance = balance + CASE a.id WHEN g.debit THEN g.amount ELSE -g.amount END"
        " FROM gone g WHERE a.id IN (g.debit, g.credit)",
        {"lost"},
    ),
    "half a transfer": (
        "UPDATE referee.account SET balance = balance - 5 WHERE id = 7",
        {"changed"},
    ),
    "transfer without its balances": (
        "DELETE FROM referee.transfer WHERE tx = {transfer}",
        {"lost", "changed"},
    ),
    "changed transfer": (
        "UPDATE referee.transfer SET amount = amount + 1 WHERE tx = {transfer}",
        {"changed"},
    ),
    "lost append": (
        "UPDATE referee.list SET items = trim_array(items, 1) WHERE id = {ended}",
        {"lost"},
    ),
    "doubled append": (
        "UPDATE referee.list SET items = items || items[cardinality(items)] WHERE id = {ended}",
        {"duplicated"},
    ),
    "reordered append": (
        "UPDATE referee.list SET items = items[2:2] || items[1:1] || items[3:] WHERE id = {begun}",
        {"changed"},
    ),
    "lost row without a key": (
        "DELETE FROM referee.pile WHERE ctid = (SELECT ctid FROM referee.pile LIMIT 1)",
        {"changed"},
    ),
    "lost rows without a key": (
        "DELETE FROM referee.pile WHERE tx = {pile}",
        {"lost"},
    ),
    "doubled row without a key": (
        "INSERT INTO referee.pile SELECT * FROM referee.pile LIMIT 1",
        {"duplicated"},
    ),
    "changed row without a key": ("UPDATE referee.pile SET note = 'new' WHERE note = 'other'", {"changed"}),
    "half of several": (
        "DELETE FROM referee.pile WHERE tx = (SELECT p.tx FROM referee.pile p JOIN referee.move USING (tx) LIMIT 1)",
        {"changed"},
    ),
    "undone savepoint": (
        "INSERT INTO referee.pile SELECT tx, 'undone' FROM referee.item WHERE note = 'kept' LIMIT 1",
        {"changed"},
    ),
    "token twice": ("INSERT INTO referee.token VALUES (-1000, {token})", {"duplicated"}),
    "token gone": ("DELETE FROM referee.token WHERE name = {token}", {"lost"}),
    "token elsewhere": ("UPDATE referee.token SET place = -77 WHERE name = {token}", {"changed"}),
    "deleted row again": ("INSERT INTO referee.item VALUES ({deleted}, -1, 'item')", {"changed"}),
    "lost item": (
        "DELETE FROM referee.item WHERE id = {item}",
        {"lost"},
    ),
    "document of before": (
        "UPDATE referee.document SET tx = 0, changes = 0, edition = 0 WHERE id = {document}",
        {"changed", "lost"},
    ),
    "document without its text": (
        "UPDATE referee.document SET body = NULLIF(body, '') || ' ' WHERE id = {document}",
        {"changed"},
    ),
    "change of a document twice": (
        "UPDATE referee.document SET changes = changes + 1000 WHERE id = {document}",
        {"duplicated"},
    ),
    "scratch emptied": ("TRUNCATE referee.scratch", {"lost", "changed"}),
    "scratch not emptied": ("INSERT INTO referee.scratch VALUES (0, false)", {"changed"}),
    "stranger's row": ("INSERT INTO referee.item (tx, note) VALUES (-1, 'stranger')", {"changed"}),
}


def chosen(session: psycopg.Connection[Any], ledger: Path) -> dict[str, int]:
    """Rows of which the ledger promises what is planted to be found.

    What another kind of transaction has touched, or one of unknown outcome, may rightly be told as something else,
    and which came last hangs on how busy the machine was.
    """
    sure = [entry for entry in entries(ledger) if entry.end is End.ACKNOWLEDGED]
    last = {entry.kind: entry for entry in sure}
    appends = {entry.tx for entry in sure if entry.kind == "append"}
    gone = {entry.about["item"] for entry in entries(ledger) if entry.kind == "delete"}
    lists = session.execute("SELECT id, items FROM referee.list").fetchall()
    return {
        "transfer": last["transfer"].tx,
        "pile": last["pile"].tx,
        "ended": next(number for number, items in lists if items[-1:] and items[-1] in appends),
        "begun": next(number for number, items in lists if len(items) > 1 and appends >= set(items[:2])),
        "token": last["move"].about["name"],
        "document": last["document"].about["id"],
        "deleted": last["delete"].about["item"],
        "item": next(e.saw for e in sure if e.kind == "item" and e.saw is not None and e.saw not in gone),
    }


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(written: Written, spoilt: psycopg.Connection[Any], planted: str) -> None:
    statement, kinds = PLANTED[planted]
    spoilt.execute(statement.format(**chosen(spoilt, written.ledger)).encode())

    verdict = judged(spoilt, written.ledger)

    found = {kind for kind in ("lost", "duplicated", "changed") if getattr(verdict, kind)}
    assert found & kinds, verdict
    assert found <= {*kinds, "changed"}, verdict


def test_a_sequence_that_was_set_back_is_found(written: Written, spoilt: psycopg.Connection[Any]) -> None:
    # No transaction takes setval() back, but it does a sequence that was made anew.
    spoilt.execute("DROP SEQUENCE referee.ticket")
    spoilt.execute("CREATE SEQUENCE referee.ticket")

    assert any("stands at 1" in sentence for sentence in judged(spoilt, written.ledger).changed)


def test_a_digest_tells_of_every_row(written: Written) -> None:
    found = [digests(written.dsn())]
    for _ in range(2):
        _execute(written.dsn(), "INSERT INTO referee.pile VALUES (0, 'same')")
        found.append(digests(written.dsn()))
    _execute(written.dsn(), "DELETE FROM referee.pile WHERE tx = 0")

    assert len({one["referee.pile"] for one in found}) == 3
    assert {table for table in found[0] if found[0][table] != found[2][table]} == {"referee.pile"}
    assert digests(written.dsn()) == found[0]


def test_a_refused_transaction_that_is_there_is_found(written: Written, tmp_path: Path) -> None:
    ledger = shutil.copy(written.ledger, tmp_path / "ledger")
    one = next(e for e in entries(ledger) if e.kind == "pile" and e.end is End.ACKNOWLEDGED)
    _note(ledger, one, End.REFUSED)

    assert any("was refused" in sentence for sentence in judge(written.dsn(), ledger).changed)


def test_an_unknown_one_may_be_there_or_not_but_not_half(
    written: Written, spoilt: psycopg.Connection[Any], tmp_path: Path
) -> None:
    ledger = shutil.copy(written.ledger, tmp_path / "ledger")
    several = next(e for e in entries(ledger) if e.kind == "several" and e.end is End.ACKNOWLEDGED)
    there, gone = [e for e in entries(ledger) if e.kind == "pile" and e.end is End.ACKNOWLEDGED][:2]
    _note(ledger, several, End.UNKNOWN)
    _note(ledger, there, End.UNKNOWN)
    _note(ledger, gone, End.UNKNOWN)
    spoilt.execute("DELETE FROM referee.pile WHERE tx = %s", [gone.tx])
    assert judged(spoilt, ledger).clean
    # Where it was before it can be seen that it happened.
    assert len(judged(spoilt, ledger, former=written.dsn()).lost) == 1

    spoilt.execute("DELETE FROM referee.pile WHERE tx = %s", [several.tx])
    assert len(judged(spoilt, ledger).changed) == 1


def _note(ledger: Path, entry: Entry, end: End) -> None:
    with ledger.open("a") as file:
        file.write(json.dumps([entry.tx, end, entry.saw, "08000"]) + "\n")
