"""Repairs rows of the target: the statements that make them what the source holds, and their application.

The target's table is locked first, so that the apply worker waits; then the source's rows are read again, so
that no stale value is written over one that the stream has brought. A row that is not on the target is only
inserted while the source's is still the one that was found behind a barrier: otherwise its own insert may be
on the way, and the worker would meet it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import errors, sql

from planrunner.failpoints import failpoint
from planrunner.replication import keyed, multisets
from planrunner.replication.found import Found
from planrunner.replication.identities import table_name
from planrunner.replication.names import FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from planrunner.postgres.catalog import Column, Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.found import Texts
    from planrunner.replication.lanes import Ask, Lane
    from planrunner.replication.workspace import Workspace

MASK = "***"
FOREIGN_KEYS = "foreign keys"
_LOCK_TIMEOUT = "10s"
_ALWAYS = "a"
_GUARDS = frozenset({FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER})
# What gives a trigger its state back, by the catalogue's letter.
_ENABLE = {
    "O": sql.SQL("ENABLE TRIGGER"),
    "A": sql.SQL("ENABLE ALWAYS TRIGGER"),
    "R": sql.SQL("ENABLE REPLICA TRIGGER"),
}


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """``rows`` were written; ``loud`` names what of the target's own could not be kept still meanwhile."""

    rows: int
    loud: tuple[str, ...]


def statements(table: Table, found: Sequence[Found]) -> tuple[sql.Composed, ...]:
    """The exact SQL that repairs these rows, deletes first: what is inserted may need the room."""
    made = [_of_one(table, one) for one in found]
    return tuple(part for place in range(3) for parts in made for part in parts[place])


def replacing(table: Table, found: Sequence[Found]) -> tuple[sql.Composed, ...]:
    """The same by whole rows, all deletes before any insert: what one row gives up another may take."""
    if not table.key:
        return statements(table, found)
    there = [_delete(table, one) for one in found if one.target is not None]
    return (*there, *(_insert(table, one.source, 1) for one in found if one.source is not None))


def masked(table: Table, one: Found) -> Found:
    """The same with every value covered but the key's, which names the row."""

    def cover(texts: Texts | None, sign: str) -> Texts | None:
        if texts is None:
            return None
        pairs = zip(table.columns, texts, strict=True)
        return tuple(text if c.name in table.key else sign for c, text in pairs)

    if one.source is None or one.target is None or not table.key:
        return replace(one, source=cover(one.source, MASK), target=cover(one.target, MASK))
    # Which columns differ stays to be seen.
    same = [a == b for a, b in zip(one.source, one.target, strict=True)]
    target = tuple(MASK if equal else f"{MASK} (other)" for equal in same)
    source = cover(one.source, MASK)
    assert source is not None
    covered = tuple(
        s if c.name in table.key else t for c, s, t in zip(table.columns, source, target, strict=True)
    )
    return replace(one, source=source, target=covered)


def _of_one(
    table: Table, one: Found
) -> tuple[Sequence[sql.Composed], Sequence[sql.Composed], Sequence[sql.Composed]]:
    """The deletes, updates and inserts for one row."""
    if not table.key:
        more = one.copies[0] - one.copies[1]
        texts = one.source or one.target or ()
        return (
            ([_delete_some(table, texts, -more)], [], [])
            if more < 0
            else ([], [], [_insert(table, texts, more)])
        )
    if one.source is None:
        return [_delete(table, one)], [], []
    if one.target is None:
        return [], [], [_insert(table, one.source, 1)]
    update = _update(table, one, one.source, one.target)
    if update is None:
        return [_delete(table, one)], [], [_insert(table, one.source, 1)]
    return [], [update], []


def _delete(table: Table, one: Found) -> sql.Composed:
    return sql.SQL("DELETE FROM ONLY {} WHERE {}").format(
        table_name(table), keyed.key_condition(table, one.key)
    )


def _delete_some(table: Table, texts: Texts, count: int) -> sql.Composed:
    same = [keyed.same_text(c, text) for c, text in zip(table.columns, texts, strict=True)]
    return sql.SQL(
        "DELETE FROM ONLY {name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM ONLY {name} WHERE {same} LIMIT {count}))"
    ).format(
        name=table_name(table),
        same=sql.SQL(" AND ").join(same) if same else sql.SQL("true"),
        count=sql.Literal(count),
    )


def _insert(table: Table, texts: Texts, count: int) -> sql.Composed:
    values = [(c, text) for c, text in zip(table.columns, texts, strict=True) if not c.generated]
    if not values:
        return sql.SQL("INSERT INTO {} SELECT FROM generate_series(1, {})").format(
            table_name(table), sql.Literal(count)
        )
    literals = sql.SQL(", ").join([sql.Literal(text) for _, text in values])
    return sql.SQL("INSERT INTO {} ({}) {}{}").format(
        table_name(table),
        sql.SQL(", ").join([sql.Identifier(c.name) for c, _ in values]),
        sql.SQL("OVERRIDING SYSTEM VALUE " if any(c.identity for c, _ in values) else ""),
        sql.SQL("VALUES ({})").format(literals)
        if count == 1
        else sql.SQL("SELECT {} FROM generate_series(1, {})").format(literals, sql.Literal(count)),
    )


def _update(table: Table, one: Found, source: Texts, target: Texts) -> sql.Composed | None:
    """None where only a new row will do: nobody may write a column that is always generated as identity."""
    wrong = [(c, s) for c, s, t in zip(table.columns, source, target, strict=True) if s != t]
    if any(c.identity == _ALWAYS for c, _ in wrong):
        return None
    # A generated column is computed again when the columns it is made of are written.
    if all(c.generated for c, _ in wrong):
        wrong = list(zip(table.columns, source, strict=True))
    settable = [(c, s) for c, s in wrong if _settable(table, c)]
    if not settable:
        return None
    values = [sql.SQL("{} = {}").format(sql.Identifier(c.name), sql.Literal(s)) for c, s in settable]
    return sql.SQL("UPDATE ONLY {} SET {} WHERE {}").format(
        table_name(table), sql.SQL(", ").join(values), keyed.key_condition(table, one.key)
    )


def _settable(table: Table, column: Column) -> bool:
    return not column.generated and column.identity != _ALWAYS and column.name not in table.key


def apply(
    workspace: Workspace, lane: Lane, table: Table, found: Sequence[Found], *, streaming: bool
) -> Repaired:
    """Repair these rows in one transaction on the target that holds the lease.

    ``streaming``: a subscription brings changes meanwhile. What has changed since is repaired as it is now,
    or left to the stream. QueryFailed leaves the table as it was.
    """
    with workspace.writing() as session:
        session.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
        name = table_name(table)
        session.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(name))
        with stillness(session, table) as loud:
            wanted = list(_still(lane, session, table, found, streaming=streaming))
            for statement in statements(table, wanted):
                session.execute(statement)
        failpoint("repair.before_commit")
    failpoint("repair.after_commit")
    return Repaired(rows=len(wanted), loud=loud)


@contextmanager
def stillness(session: Session, table: Table) -> Iterator[tuple[str, ...]]:
    """Keep triggers and foreign keys from what the block writes in the session's transaction, a guard of ours too.

    Gives what could not be kept still. After an error the transaction is to be rolled back.
    """
    silent = _silenced(session)
    stilled = _stilled(session, table, silent=silent)
    fired = _firing(session, table, silent=silent)
    yield (*(f"trigger {trigger}" for trigger in sorted(fired)), *(() if silent else (FOREIGN_KEYS,)))
    for trigger, state in stilled.items():
        session.execute(
            sql.SQL("ALTER TABLE ONLY {} {} {}").format(
                table_name(table), _ENABLE[state], sql.Identifier(trigger)
            )
        )


def _silenced(session: Session) -> bool:
    try:
        with session.transaction():
            session.execute("SET LOCAL session_replication_role = replica")
    except errors.InsufficientPrivilege:
        return False
    return True


def _firing(session: Session, table: Table, *, silent: bool) -> dict[str, str]:
    """The table's triggers that fire in this session, each with the catalogue's letter for its state."""
    asked = sql.SQL(
        "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = to_regclass({})"
        " AND NOT tgisinternal AND tgenabled IN ({}) ORDER BY 1"
    ).format(
        sql.Literal(table_name(table).as_string()),
        sql.SQL(", ").join(map(sql.Literal, ("A", "R") if silent else ("A", "O"))),
    )
    # In replica role the guard of TRUNCATE does not fire; it stands as it is, and nothing is truncated.
    return {str(row[0]): str(row[1]) for row in session.execute(asked).fetchall()}


def _stilled(session: Session, table: Table, *, silent: bool) -> dict[str, str]:
    """Disable those triggers, and return them: only the owner may, but a guard of ours has to go."""
    firing = _firing(session, table, silent=silent)

    def disable(names: Iterable[str]) -> None:
        for trigger in names:
            session.execute(
                sql.SQL("ALTER TABLE ONLY {} DISABLE TRIGGER {}").format(
                    table_name(table), sql.Identifier(trigger)
                )
            )

    disable(sorted(firing.keys() & _GUARDS))
    try:
        with session.transaction():
            disable(sorted(firing.keys() - _GUARDS))
    except errors.InsufficientPrivilege:
        return {trigger: state for trigger, state in firing.items() if trigger in _GUARDS}
    return firing


def _still(
    lane: Lane, session: Session, table: Table, found: Sequence[Found], *, streaming: bool
) -> Iterator[Found]:
    """What of it is still to be repaired, with the source's rows as they are now."""
    now = _multiset_now if not table.key else _keyed_now
    for before, after in now(lane, session, table, found):
        if after.source == after.target and after.copies[0] == after.copies[1]:
            continue
        moved = before.source != after.source or before.copies[0] != after.copies[0]
        # Only a row that is on both sides can take a newer value ahead of the stream.
        if streaming and moved and (after.target is None or not table.key):
            continue
        yield after


def _keyed_now(
    lane: Lane, session: Session, table: Table, found: Sequence[Found]
) -> Iterator[tuple[Found, Found]]:
    keys = [one.key for one in found]
    ours = keyed.rows_of(lane.asking(lane.source), table, lane.source, keys)
    theirs = keyed.rows_of(_asking(session), table, lane.target, keys)
    for one in found:
        yield one, Found(key=one.key, source=ours.get(one.key), target=theirs.get(one.key))


def _multiset_now(
    lane: Lane, session: Session, table: Table, found: Sequence[Found]
) -> Iterator[tuple[Found, Found]]:
    hashes = [one.hash for one in found]
    ours = multisets.counts(lane.asking(lane.source), table, lane.source, hashes)
    theirs = multisets.counts(_asking(session), table, lane.target, hashes)
    for one in found:
        row = (one.hash, one.source or one.target or ())
        yield one, multisets.compared(*row, ours.get(row, 0), theirs.get(row, 0))


def _asking(session: Session) -> Ask:
    """The transaction's own session: it sees the rows that it has locked."""
    return lambda query: session.execute(query).fetchall()
