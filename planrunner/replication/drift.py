"""DDL on the source after the copy began: remembered at the snapshot, found by one number, told exactly.

ADD COLUMN, RENAME and a changed type stop apply with an error; DROP COLUMN and CREATE TABLE are silent, so
without this comparison the rows of a new table would be missing and nobody would know.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import QueryFailed, ServerError, StepFailed, ToolFailed
from planrunner.postgres import catalog
from planrunner.replication import logins, publications, relations, restore, shape
from planrunner.replication.shape_changes import CARRIED_ON, Change, Kind, changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.postgres.connection import Server
    from planrunner.replication.shape import Shape, TableShape
    from planrunner.replication.workspace import Workspace

STEP = "drift"
SOURCE_SHAPE = "source shape"
_SHOWN = 20
# The number of a part behind a table's name; a # in the name itself stands in quotes.
_PART = re.compile(r"#[0-9]+\Z")
_NEW = frozenset({Kind.TABLE_ADDED, Kind.TABLE_REPLACED})


def refuse(workspace: Workspace, *, following: bool = False) -> None:
    """StepFailed when the source differs from what the target's schema relies on; nothing before that is there.

    Call it before a further generation begins: what is there, rows and the target's schema, follows the
    earlier shape, so a difference must be settled before another slot keeps WAL.
    """
    known = recorded(workspace)
    built = restore.PRE_DATA in workspace.ledger.effects(restore.STEP)
    if known is not None and (built or workspace.ledger.generations()):
        check(workspace, known, following=following, records=True)


@contextmanager
def beginning(workspace: Workspace) -> Iterator[None]:
    """The same as ``explaining`` while nothing is on the target yet: the next snapshot sees the change."""
    try:
        yield
    except (QueryFailed, ToolFailed) as error:
        known = recorded(workspace)
        if known is None:
            raise
        try:
            found = changes(known, shape.read(workspace.source))
        except ServerError:
            found = ()
        if not found:
            raise
        raise StepFailed(
            f"source: {_shown(found)}",
            remedy="Nothing of it is on the target yet. Run again: it begins with a snapshot of what is there now.",
        ) from error


@contextmanager
def explaining(workspace: Workspace, *, following: bool = False) -> Iterator[None]:
    """Raise, instead of what a server or tool refused inside the block, the DDL on the source that explains it."""
    try:
        yield
    except (QueryFailed, ToolFailed) as error:
        try:
            refuse(workspace, following=following)
        except StepFailed as drifted:
            raise drifted from error
        except ServerError:
            pass  # what was refused is the news, not that a server is away now
        raise


def remember(workspace: Workspace) -> None:
    """Record the source's shape as of the round's instant; call it when a generation was captured."""
    assert workspace.round is not None
    held = next(iter(workspace.round.snapshots.values()))
    session = held.begin()
    try:
        with held.server.translated("read the catalogue"):
            found = shape.read_in(session)
        held.confirm()
    finally:
        session.close()
    workspace.done(STEP, SOURCE_SHAPE, shape.to_json(found))


def recorded(workspace: Workspace) -> Shape | None:
    """The source's shape as the copy relies on it; None before a snapshot was captured."""
    found = workspace.ledger.effects(STEP).get(SOURCE_SHAPE)
    return None if found is None else shape.from_json(found)


def check(workspace: Workspace, known: Shape, *, following: bool, records: bool) -> Shape:
    """Compare the source with ``known``; returns the shape that is relied on from now on.

    One query while nothing changed. A change that the target has too (both sides agree) is accepted and,
    with ``records``, recorded. Any other raises StepFailed with each difference; tables and columns that
    were dropped stop the run once and are then left to the cutover's comparison, for replication goes on
    without them. ``following``: the subscriptions are there.
    """
    if shape.digest(workspace.source) == known.digest:
        return known
    now = shape.read(workspace.source)
    found = _carried_ones(workspace, changes(known, now))
    target = shape.read(workspace.target) if found else now
    carried = _carried(workspace, found, following=following)
    open_ones = [change for change in found if not _settled(change, now, target, carried)]
    carried_on = all(change.kind in CARRIED_ON for change in open_ones)
    if not open_ones and found:
        workspace.tell("the target has the source's change too; going on", {"changes": _texts(found)})
    if carried_on and records:
        workspace.done(STEP, SOURCE_SHAPE, shape.to_json(now))
    if open_ones and (records or not carried_on):
        raise _drifted(open_ones, _last_stream(workspace) if following else None, _reader(workspace))
    return now


def left_behind(workspace: Workspace) -> tuple[str, ...]:
    """The tables that were copied and that the source has dropped and the target has not, each with what to do.

    A run goes on without them, and the shape that is on record may be without them: the cutover asks for them.
    """
    copied = sorted({_PART.sub("", unit) for unit in workspace.ledger.units()})
    gone = _among(workspace.target, copied) - _among(workspace.source, copied)
    return tuple(
        f"table {name} was dropped on the source; execute on the target:"
        f" DROP TABLE {sql.Identifier(*catalog.parted(name)).as_string()};"
        for name in sorted(gone)
    )


def _among(server: Server, tables: Sequence[str]) -> frozenset[str]:
    """Those of the tables that the server has."""
    parted = [catalog.parted(name) for name in tables]
    rows = server.rows(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN unnest(%s::text[], %s::text[]) AS t(nspname, relname)"
        " ON n.nspname = t.nspname AND c.relname = t.relname",
        [[schema for schema, _ in parted], [name for _, name in parted]],
    )
    return frozenset(catalog.qualified(schema, name) for schema, name in rows)


def _carried_ones(workspace: Workspace, found: Sequence[Change]) -> Sequence[Change]:
    """Without the changes of what the plan leaves out."""
    left_out = {r.qualified for r in relations.omitted(workspace.source, workspace.selection).relations}
    return [change for change in found if change.subject not in left_out]


def _reader(workspace: Workspace) -> str | None:
    """The role by which subscriptions log in and which so far reads no table, None where they use another login."""
    return workspace.names.login if logins.there(workspace, workspace.source) else None


def _last_stream(workspace: Workspace) -> str:
    return workspace.names.stream(max(workspace.ledger.generations(), default=1))


def _texts(found: Sequence[Change]) -> list[str]:
    return [change.text for change in found]


def _settled(change: Change, now: Shape, target: Shape, carried: frozenset[str]) -> bool:
    """True when the target has the same change, so that both sides agree again.

    ``carried`` are the new tables whose rows will be there, or are.
    """
    there = target.by_name.get(change.subject)
    if change.kind is Kind.ENUM_CHANGED:
        return target.enums.get(change.subject) == now.enums.get(change.subject)
    if change.kind is Kind.TABLE_DROPPED:
        return there is None
    ours = now.by_name[change.subject]
    if there is None or ours.by_name != there.by_name:
        return False
    if change.kind in _NEW:
        return change.subject in carried
    if change.kind is Kind.KEY_CHANGED:
        return _identifiable(ours) and ours.key == there.key
    return change.kind is not Kind.TABLE_RENAMED or change.formerly not in target.by_name


def _identifiable(table: TableShape) -> bool:
    return table.identity == "f" or (table.identity != "n" and bool(table.key))


def _carried(workspace: Workspace, found: Sequence[Change], *, following: bool) -> frozenset[str]:
    """The new tables that the next generation copies or that a subscription of ours has fetched and follows."""
    fresh = frozenset(change.subject for change in found if change.kind in _NEW)
    if not fresh or not following:
        return fresh - workspace.ledger.units().keys()
    published = publications.existing(workspace.source, workspace.names).values()
    # srsublsn: a table that its own worker has copied; those of our copy have none.
    rows = workspace.target.rows(
        "SELECT n.nspname::text, c.relname::text FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid"
        " JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()"
        " WHERE starts_with(s.subname::text, %s) AND r.srsubstate = 'r' AND r.srsublsn IS NOT NULL",
        [workspace.names.prefix],
    )
    fetched = frozenset(catalog.qualified(row[0], row[1]) for row in rows)
    return fresh & fetched & frozenset().union(*published)


def _drifted(found: Sequence[Change], stream: str | None, reader: str | None) -> StepFailed:
    """``stream`` is the publication that a new table goes to; None while rows are copied."""
    remedies = dict.fromkeys(_remedy(change, stream, reader) for change in found[:_SHOWN])
    return StepFailed(
        f"source: {_shown(found)}",
        remedy="\n".join((*remedies, "Then run `planrunner run` again.")),
    )


def _shown(found: Sequence[Change]) -> str:
    shown = [change.text for change in found[:_SHOWN]]
    return "; ".join(shown + ([f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []))


def _remedy(change: Change, stream: str | None, reader: str | None) -> str:
    """What to do about one change. While rows are copied, the slot still holds changes in the old names."""
    later = "once it has applied all that came before (`planrunner status`: no bytes behind)"
    back = f"take it back on the source: {change.undo}" if change.undo else None
    anew = "begin anew (`planrunner cleanup`, empty the target)"
    if change.kind is Kind.KEY_CHANGED:
        # Without a replica identity the source refuses updates and deletes: the application fails now.
        return (
            f"At once {back or 'give the table its replica identity back'} Or make {change.do} on the target."
        )
    if change.kind in _NEW:
        return _follow(change, stream, reader)
    if change.kind in CARRIED_ON:
        return (
            f"Execute on the target, {later}: {change.do} The run goes on without; the cutover insists on it."
        )
    if change.kind in {Kind.TABLE_RENAMED, Kind.COLUMN_RENAMED}:
        if stream is not None:
            return f"Execute on the target, {later}: {change.do} The worker waits for it. Or {back}"
        return f"The slot holds changes under the old name, others come under the new one: {back} Or {anew}."
    return f"Execute on the target: {change.do}" + (f" Or {back}" if back else "")


def _follow(change: Change, stream: str | None, reader: str | None) -> str:
    schema, name = catalog.parted(change.subject)
    table = sql.Identifier(schema, name).as_string()
    unneeded = f" Or, if it is not needed, on the source: {change.undo}" if change.undo else ""
    if stream is None and change.kind is Kind.TABLE_REPLACED:
        return f"If table {change.subject} was copied before, begin anew (`planrunner cleanup`, empty the target)."
    if stream is None:
        return f"Execute on the target: {change.do} The next generation copies and follows it.{unneeded}"
    # Its first rows are read by the login of the subscription; those of the other tables we have read ourselves.
    role, place = sql.Identifier(reader or "").as_string(), sql.Identifier(schema).as_string()
    reading = (
        f" GRANT USAGE ON SCHEMA {place} TO {role}; GRANT SELECT ON TABLE {table} TO {role};"
        if reader
        else ""
    )
    return (
        f"Execute on the target: {change.do} Then on the source: ALTER PUBLICATION {stream} ADD TABLE ONLY {table};"
        f"{reading} and on the target: ALTER SUBSCRIPTION {stream} REFRESH PUBLICATION; which copies and follows"
        f" it.{unneeded}"
    )
