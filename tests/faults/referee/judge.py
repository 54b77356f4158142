"""Compares a database with the ledger: what was acknowledged is there once, what was refused is not."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from tests.faults.referee.deeds import COLLISION, Trace, traces
from tests.faults.referee.ledger import End, Entry, entries
from tests.faults.referee.tables import ACCOUNTS, DOCUMENTS, LISTS, OPENING_BALANCE, TOKENS, body

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Refusals that faults bring: a fence, a deadlock, a lock timeout, a server that starts or stops, too many sessions.
_EXPECTED = frozenset({"25006", "40P01", "40001", "55P03", "57P01", "57P02", "57P03", "53300"})
_SHOWN = 10
# Every row that bears a transaction's number, as ``deeds.traces`` names it.
_ROWS = """
SELECT tx, 'transfer', debit::text, credit::text, amount::text FROM referee.transfer
UNION ALL SELECT tx, 'list', id::text, NULL, NULL FROM referee.list, unnest(items) tx
UNION ALL SELECT tx, 'move', name::text, place::text, NULL FROM referee.move
UNION ALL SELECT tx, 'pile', note, NULL, NULL FROM referee.pile
UNION ALL SELECT tx, 'item', note, NULL, NULL FROM referee.item
"""
_BALANCES = f"""
SELECT a.id, a.balance, {OPENING_BALANCE} + coalesce(sum(CASE a.id WHEN t.credit THEN t.amount ELSE -t.amount END)
  FILTER (WHERE t.tx IS NOT NULL), 0) AS due
FROM referee.account a LEFT JOIN referee.transfer t ON a.id IN (t.debit, t.credit) GROUP BY a.id, a.balance
"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How many transactions there were of each kind of answer, and a sentence for everything that is wrong."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.changed)

    def __str__(self) -> str:
        counts = (
            f"{self.acknowledged} acknowledged, {self.refused} refused, {self.unknown} of unknown outcome"
        )
        lines = [
            f"{counts}: {len(self.lost)} lost, {len(self.duplicated)} duplicated, {len(self.changed)} changed"
        ]
        for what in ("lost", "duplicated", "changed"):
            found = getattr(self, what)
            lines += [f"  {what}: {sentence}" for sentence in found[:_SHOWN]]
            lines += [f"  {what}: and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return "\n".join(lines)


def judge(dsn: str, ledger: Path, *, former: str | None = None) -> Verdict:
    """What the ledger says, against what is in the database.

    ``former`` is where the writes went before: what is there of an unknown outcome has to have come along.
    """
    with psycopg.connect(dsn) as session:
        # One snapshot for all that is asked.
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return judged(session, ledger, former=former)


def judged(session: psycopg.Connection[Any], ledger: Path, *, former: str | None = None) -> Verdict:
    """The same, as a session sees it."""
    case = Case(entries(ledger))
    case.hear(session)
    if former is not None:
        with psycopg.connect(former) as other:
            case.hear_former(other)
    ends = Counter(entry.end for entry in case.entries.values())
    return Verdict(
        acknowledged=ends[End.ACKNOWLEDGED],
        refused=ends[End.REFUSED],
        unknown=ends[End.UNKNOWN],
        lost=case.lost,
        duplicated=case.duplicated,
        changed=case.changed,
    )


class Case:
    """The ledger's entries, and what is found to be wrong."""

    def __init__(self, told: Iterable[Entry]) -> None:
        self.entries = {entry.tx: entry for entry in told}
        self.lost: list[str] = []
        self.duplicated: list[str] = []
        self.changed: list[str] = []
        # Of unknown outcome, and there.
        self.happened: set[int] = set()
        # What was to be deleted, and was not refused.
        self.deleted = {entry.about["item"] for entry in self.of("delete") if self.may_be(entry)}

    def hear(self, session: psycopg.Connection[Any]) -> None:
        """Every question, each with its own SQL."""
        self._unexpected()
        found = _rows(session)
        for tx, entry in self.entries.items():
            self._weigh(entry, found.get(tx, Counter()))
        self.changed += [
            f"{tx}: nobody wrote {list(rows)}" for tx, rows in found.items() if tx not in self.entries
        ]
        for question in (_accounts, _lists, _tokens, _items, _documents, _scratch, _tickets):
            question(self, session)

    def hear_former(self, session: psycopg.Connection[Any]) -> None:
        """What had been written where the application was before has to be here too."""
        for tx in _rows(session):
            entry = self.entries.get(tx)
            if (
                entry is not None
                and entry.end is End.UNKNOWN
                and tx not in self.happened
                and not _deleted(self, tx)
            ):
                self.lost.append(
                    f"{_named(entry)}: its answer was lost, it is on the former side and not here"
                )

    def of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.kind in kinds]

    def may_be(self, entry: Entry) -> bool:
        return entry.end is not End.REFUSED

    def _unexpected(self) -> None:
        for entry in self.entries.values():
            expected = _EXPECTED | ({COLLISION} if entry.kind == "collide" else set())
            if entry.end is End.REFUSED and entry.why not in expected:
                self.changed.append(f"{_named(entry)}: refused with SQLSTATE {entry.why}")
            if entry.kind == "collide" and entry.end is End.ACKNOWLEDGED:
                self.changed.append(f"{_named(entry)}: acknowledged, though a unique index forbids it")

    def _weigh(self, entry: Entry, found: Counter[Trace]) -> None:
        due = traces(entry.kind, entry.about)
        if entry.end is End.UNKNOWN and found:
            self.happened.add(entry.tx)
        if entry.end is End.REFUSED:
            if found:
                self.changed.append(
                    f"{_named(entry)}: was refused with {entry.why}, and left {_listed(found)}"
                )
            return
        if found == due or (not found and (entry.end is End.UNKNOWN or _deleted(self, entry.tx))):
            return
        if more := found - due:
            kind = self.duplicated if set(more) <= set(due) else self.changed
            kind.append(f"{_named(entry)}: {_listed(more)} too many")
        if missing := due - found:
            half = bool(found)
            kind = self.changed if half else self.lost
            kind.append(f"{_named(entry)}: lacks {_listed(missing)}{', the rest is there' if half else ''}")


def _rows(session: psycopg.Connection[Any]) -> dict[int, Counter[Trace]]:
    found: dict[int, Counter[Trace]] = defaultdict(Counter)
    for tx, table, *values in session.execute(_ROWS.encode()):
        found[tx][(table, *(_value(value) for value in values if value is not None))] += 1
    return found


def _value(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _accounts(case: Case, session: psycopg.Connection[Any]) -> None:
    found = session.execute(_BALANCES.encode()).fetchall()
    for number, balance, due in found:
        if balance != due:
            case.changed.append(f"account {number}: has {balance}, by its transfers it has {due}")
    whole = sum(balance for _, balance, _ in found)
    if (len(found), whole) != (ACCOUNTS, ACCOUNTS * OPENING_BALANCE):
        case.changed.append(f"accounts: {len(found)} with {whole} in all, not {ACCOUNTS * OPENING_BALANCE}")


def _lists(case: Case, session: psycopg.Connection[Any]) -> None:
    """Everyone who appended was told how long the list then was: that is the element's place for good."""
    lists = dict(session.execute("SELECT id, items FROM referee.list").fetchall())
    if set(lists) != set(range(1, LISTS + 1)):
        case.changed.append(f"lists: there are {sorted(lists)}")
    for entry in case.of("append", "several"):
        items = lists.get(entry.about["list"], [])
        if entry.end is not End.ACKNOWLEDGED or entry.saw is None or entry.tx not in items:
            continue
        if len(items) < entry.saw or items[entry.saw - 1] != entry.tx:
            case.changed.append(f"{_named(entry)}: was element {entry.saw}, is {items.index(entry.tx) + 1}")


def _tokens(case: Case, session: psycopg.Connection[Any]) -> None:
    places: dict[int, list[int]] = defaultdict(list)
    for name, place in session.execute("SELECT name, place FROM referee.token"):
        places[name].append(place)
    moves: dict[int, list[Entry]] = defaultdict(list)
    for entry in case.of("move", "several"):
        moves[entry.about["name"]].append(entry)
    for name in range(1, TOKENS + 1):
        found = places.pop(name, [])
        if len(found) != 1:
            kind = case.duplicated if found else case.lost
            kind.append(f"token {name}: is at {found}")
        elif not _fits(case, moves[name], found[0] if found[0] > 0 else None):
            case.changed.append(f"token {name}: is at {found[0]}, where its last move did not bring it")
    case.changed += [f"token {name}: nobody made it" for name in places]


def _fits(case: Case, deeds: list[Entry], last: int | None) -> bool:
    """Whether one of the deeds can be the last that happened: the last acknowledged, or an unknown one after it.

    One of unknown outcome that is known to have happened counts as acknowledged.
    """
    for entry in reversed(deeds):
        if not case.may_be(entry):
            continue
        if entry.tx == last:
            return True
        if entry.end is End.ACKNOWLEDGED or entry.tx in case.happened:
            return False
    return last is None


def _deleted(case: Case, tx: int) -> bool:
    """Whether a transaction's row may rightly be gone."""
    entry = case.entries[tx]
    return entry.kind == "item" and entry.saw in case.deleted


def _items(case: Case, session: psycopg.Connection[Any]) -> None:
    there = dict(session.execute("SELECT id, tx FROM referee.item").fetchall())
    for entry in case.of("delete"):
        if entry.end is End.ACKNOWLEDGED and entry.about["item"] in there:
            case.changed.append(f"{_named(entry)}: the item that it deleted is there")
    for entry in case.of("item"):
        if entry.saw in there and there[entry.saw] != entry.tx:
            case.changed.append(
                f"{_named(entry)}: item {entry.saw} bears another's number, {there[entry.saw]}"
            )


def _documents(case: Case, session: psycopg.Connection[Any]) -> None:
    deeds: dict[int, list[Entry]] = defaultdict(list)
    for entry in case.of("document"):
        deeds[entry.about["id"]].append(entry)
    found = session.execute(
        "SELECT id, tx, changes, edition, md5(body) FROM referee.document ORDER BY id"
    ).fetchall()
    if [row[0] for row in found] != list(range(1, DOCUMENTS + 1)):
        case.changed.append(f"documents: there are {[row[0] for row in found]}")
    for number, tx, changes, edition, digest in found:
        its = deeds[number]
        if hashlib.md5(body(number, edition).encode()).hexdigest() != digest:
            case.changed.append(f"document {number}: its text is not that of edition {edition}")
        if not _fits(case, its, tx or None):
            case.changed.append(f"document {number}: was last changed by {tx}, which was not the last")
        editions = [entry for entry in its if entry.about["new_text"]]
        if not _fits(case, editions, edition or None):
            case.changed.append(f"document {number}: has edition {edition}, which is not its last")
        least = sum(entry.end is End.ACKNOWLEDGED for entry in its)
        most = sum(case.may_be(entry) for entry in its)
        if not least <= changes <= most:
            kind = case.lost if changes < least else case.duplicated
            kind.append(f"document {number}: {changes} changes, {least} to {most} were made")


def _scratch(case: Case, session: psycopg.Connection[Any]) -> None:
    """What was inserted since the table was last emptied; the transaction that emptied it left a row that says so."""
    found = Counter(session.execute("SELECT tx, first FROM referee.scratch").fetchall())
    case.duplicated += [f"scratch: {row} is there {many} times" for row, many in found.items() if many > 1]
    firsts = [tx for tx, first in found if first]
    truncations = [entry for entry in case.of("truncate") if case.may_be(entry)]
    if len(firsts) > 1 or not _fits(case, truncations, firsts[0] if firsts else None):
        case.changed.append(f"scratch: was last emptied by {firsts}, which was not the last")
        return
    there = {tx for tx, first in found if not first}
    since = [e for e in case.of("scratch") if case.may_be(e) and (not firsts or e.tx > firsts[0])]
    acknowledged = {entry.tx for entry in since if entry.end is End.ACKNOWLEDGED}
    case.lost += [f"scratch: lacks {tx}" for tx in sorted(acknowledged - there)]
    case.changed += [
        f"scratch: has {tx}, which should be gone" for tx in sorted(there - {e.tx for e in since})
    ]


def _tickets(case: Case, session: psycopg.Connection[Any]) -> None:
    drawn = Counter(entry.saw for entry in case.of("ticket") if entry.end is End.ACKNOWLEDGED)
    case.duplicated += [
        f"ticket {number}: was given {many} times" for number, many in drawn.items() if many > 1
    ]
    row = session.execute("SELECT last_value FROM referee.ticket").fetchone()
    assert row is not None
    if row[0] < max((number for number in drawn if number is not None), default=0):
        case.changed.append(
            f"sequence ticket: stands at {row[0]}, {max(n for n in drawn if n)} was given already"
        )


def _named(entry: Entry) -> str:
    return f"{entry.kind} {entry.tx} ({entry.end} by the {entry.side})"


def _listed(rows: Counter[Trace]) -> str:
    return ", ".join(f"{many} x {row}" if many > 1 else str(row) for row, many in rows.items())
