"""Big tables cut into primary-key ranges, so that a lost snapshot costs a range and not the table.

Each range has a publication with a row filter (source ≥ 15), made before the first slot; a generation's
subscription names those of the ranges it copied. A row whose key moves between ranges arrives as a delete on
one stream and an insert on the other. A TRUNCATE passes no row filter: it would reach every stream and take rows
of the others with it, so the ranges' publications leave it out, and a trigger on the source writes a marker into
every generation's barrier table instead, at whose sight the target takes away that generation's own ranges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.failpoints import failpoint
from planrunner.replication import publications
from planrunner.replication.identities import table_name
from planrunner.replication.names import SCHEMA, TRUNCATE_TRIGGER
from planrunner.replication.units import KEY_TYPES, KeyRange, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

STEP = "ranges"
MOST_PARTS = 64
# Read through an index whose order is not the heap's, each range would touch most of the table's pages.
LEAST_CORRELATION = 0.8
_SAMPLE_PAGES = 3000
_RECORDED_AT_ONCE = 100
_DROPPED_AT_ONCE = 500
_SAMPLE = """
SELECT percentile_disc(%s::float8[]) WITHIN GROUP (ORDER BY k)::text[], abs(corr(place, page))
FROM (SELECT k, page, row_number() OVER (ORDER BY k) AS place
      FROM (SELECT {column} AS k, (ctid::text::point)[0] AS page FROM ONLY {table} TABLESAMPLE SYSTEM (%s)) rows) s
"""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a table was cut: ``bounds`` between the ranges of ``column``, in order; ``number`` counts splits."""

    number: int
    column: str
    type: str
    bounds: tuple[str, ...]

    def ranges(self) -> tuple[KeyRange, ...]:
        """The ranges, the first and the last open."""
        ends = (None, *self.bounds, None)
        return tuple(
            KeyRange(number=n, column=self.column, type=self.type, low=low, high=high)
            for n, (low, high) in enumerate(pairwise(ends), 1)
        )

    def to_json(self) -> dict[str, Json]:
        """The split as the ledger has it."""
        bounds: list[Json] = list(self.bounds)
        return {"number": self.number, "column": self.column, "type": self.type, "bounds": bounds}

    def units(self, table: Table) -> tuple[Unit, ...]:
        """The units of ``table``."""
        ranges = self.ranges()
        return tuple(Unit(table=table, part=part, parts=len(ranges)) for part in ranges)


def recorded(workspace: Workspace) -> dict[str, Split]:
    """The splits on record, by table."""
    return {
        name: Split(
            number=detail["number"],
            column=detail["column"],
            type=detail["type"],
            bounds=tuple(detail["bounds"]),
        )
        for name, detail in workspace.ledger.effects(STEP).items()
    }


def units(workspace: Workspace, tables: Iterable[Table]) -> tuple[Unit, ...]:
    """Every unit of ``tables``: the ranges of those that were split, the others whole."""
    splits = recorded(workspace)
    return tuple(
        unit
        for table in tables
        for unit in (
            splits[table.qualified].units(table) if table.qualified in splits else [Unit(table=table)]
        )
    )


def counts(workspace: Workspace) -> dict[str, int]:
    """How many ranges each split table has."""
    if not workspace.ledger.exists():
        return {}
    rows = workspace.target.rows(
        "SELECT name, jsonb_array_length(detail -> 'bounds') + 1 FROM planrunner.effect"
        " WHERE plan_id = %s AND step = %s",
        [workspace.names.plan_id, STEP],
    )
    return {row[0]: row[1] for row in rows}


def splittable(tables: Iterable[Table], *, above: int, version: int) -> tuple[Table, ...]:
    """The tables big enough to be cut, whose primary key can be a row filter and is what tells their rows.

    Of a table with values out of line only if its replica identity is FULL: an update that moves a row into
    another stream's range is sent there as an insert, without the values it did not change.
    """
    if version < 150000:
        return ()
    return tuple(t for t in tables if t.data_bytes > above and _followable(t) and _key_type(t))


def _followable(table: Table) -> bool:
    return table.replica_identity == "f" or (table.replica_identity == "d" and not table.toasted)


def _key_type(table: Table) -> str | None:
    if not table.key:
        return None
    base = next((c.base for c in table.columns if c.name == table.key[0] and c.kind == "b"), None)
    return base if base in KEY_TYPES else None


def prepare(workspace: Workspace, tables: Sequence[Table], *, above: int) -> None:
    """Cut what is to be cut, record it, and make the publications and triggers; before the first slot.

    Nothing happens when it was done before: the ranges stay what they were at the first capture. What was broken off
    is made anew.
    """
    if "prepared" not in workspace.ledger.effects(f"{STEP} made"):
        known = recorded(workspace)
        big = splittable(tables, above=above, version=workspace.source.identity().version)
        fresh = [table for table in big if table.qualified not in known]
        for place in range(0, len(fresh), _RECORDED_AT_ONCE):
            known |= _recorded(workspace, fresh[place : place + _RECORDED_AT_ONCE], len(known), above=above)
        drop(workspace)
        _publish(workspace, [(table, known[table.qualified]) for table in tables if table.qualified in known])
        workspace.done(f"{STEP} made", "prepared", {"tables": len(known)})


def _recorded(workspace: Workspace, tables: Sequence[Table], before: int, *, above: int) -> dict[str, Split]:
    """Cut ``tables``, after ``before`` others, and put down how; without those that can't be cut."""
    made: dict[str, Split] = {}
    for table in tables:
        split = _cut(workspace, table, number=before + len(made) + 1, above=above)
        if split is not None:
            made[table.qualified] = split
    workspace.all_done(STEP, {name: split.to_json() for name, split in made.items()})
    for name, split in made.items():
        parts = len(split.bounds) + 1
        # The bounds are in the ledger: with many tables they would be most of the journal.
        told: Mapping[str, Json] = {"number": split.number, "column": split.column, "ranges": parts}
        workspace.tell(f"{name} is copied in {parts} ranges of its key", told)
    return made


def _publish(workspace: Workspace, splits: Sequence[tuple[Table, Split]]) -> None:
    """Make what ``splits`` need on the source, a transaction each: a trigger holds writes to its table up till then."""
    if not splits:
        return
    names = workspace.names
    with workspace.source.session() as session:
        session.execute("SET client_min_messages = warning")
        schema = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA))
        _make(session, (schema, truncate_function(names, ())))
        for table, split in splits:
            _make(session, _publishing(names, table, split))


def _make(session: Session, statements: Iterable[sql.Composed]) -> None:
    with session.transaction():
        # One way over the line for all of them.
        session.execute(sql.SQL("; ").join(statements))
        failpoint("ranges.before_publish")
    failpoint("ranges.published")


def _cut(workspace: Workspace, table: Table, *, number: int, above: int) -> Split | None:
    parts = max(2, min(MOST_PARTS, -(-table.data_bytes // above)))
    kind = _key_type(table)
    assert kind is not None
    percent = min(100.0, 100.0 * _SAMPLE_PAGES / max(table.pages, 1))
    query = sql.SQL(_SAMPLE).format(column=sql.Identifier(table.key[0]), table=table_name(table))
    row = workspace.source.row(query, [[n / parts for n in range(1, parts)], percent])
    if row is None or row[0] is None or (row[1] or 0) < LEAST_CORRELATION:
        return None
    bounds = tuple(dict.fromkeys(row[0]))
    return Split(number=number, column=table.key[0], type=kind, bounds=bounds)


def _split_tables(workspace: Workspace, tables: Sequence[Table]) -> list[tuple[Table, Split]]:
    splits = recorded(workspace)
    return [(t, splits[t.qualified]) for t in tables if t.qualified in splits]


def _publishing(names: Names, table: Table, split: Split) -> Iterator[sql.Composed]:
    """What the source gets for a split table: publications of the whole and of the ranges, the truncate trigger."""
    yield from publications.named(names, names.whole(split.number), [Unit(table=table)], truncate=True)
    for unit in split.units(table):
        assert unit.part is not None
        name = names.part(split.number, unit.part.number)
        yield from publications.named(names, name, [unit], truncate=False)
    # Last: from here on writes to the table wait for the end of the transaction.
    yield sql.SQL(
        "CREATE TRIGGER {trigger} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION"
        " {function}({number}); ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger}"
    ).format(
        trigger=sql.Identifier(TRUNCATE_TRIGGER),
        table=table_name(table),
        function=sql.Identifier(SCHEMA, names.truncate_function),
        number=sql.Literal(str(split.number)),
    )


def truncate_function(names: Names, generations: Sequence[int]) -> sql.Composed:
    """The source's trigger function: a marker for each of ``generations``, in the truncating transaction.

    It is replaced before the slot of a further generation is made; that slot's stream begins after every
    transaction that still ran the former text.
    """
    marks = [
        sql.SQL("INSERT INTO {} (token, truncated) VALUES (gen_random_uuid(), TG_ARGV[0]::int); ").format(
            sql.Identifier(SCHEMA, names.barrier(generation))
        )
        for generation in generations
    ]
    body = sql.SQL("BEGIN {}RETURN NULL; END").format(sql.Composed(marks)).as_string()
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = pg_catalog AS {}"
    ).format(sql.Identifier(SCHEMA, names.truncate_function), sql.Literal(body))


def tell_truncates_to(workspace: Workspace, generations: Sequence[int]) -> None:
    """Make the source's trigger function write its marker for ``generations``, and no others any more.

    Before a generation's barrier table goes, the function must know it: else the application's TRUNCATE fails.
    """
    if made(workspace):
        workspace.source.execute(truncate_function(workspace.names, sorted(set(generations))))
        failpoint("ranges.truncates_told")


def owned(workspace: Workspace, tables: Sequence[Table], generation: int) -> Owned:
    """What of the split tables ``generation`` has copied, and so follows."""
    copied = workspace.ledger.units()
    wholes: list[int] = []
    parts: list[tuple[Split, Unit]] = []
    for table, split in _split_tables(workspace, tables):
        mine = [u for u in split.units(table) if u.id in copied and copied[u.id].generation == generation]
        if len(mine) == len(split.bounds) + 1:
            wholes.append(split.number)
        else:
            parts += [(split, unit) for unit in mine]
    return Owned(wholes=tuple(wholes), parts=tuple(parts))


@dataclass(frozen=True, kw_only=True)
class Owned:
    """What a generation follows of split tables: whole ones by number, and ranges of others."""

    wholes: tuple[int, ...]
    parts: tuple[tuple[Split, Unit], ...]

    def publications(self, names: Names) -> tuple[str, ...]:
        """The publications its subscription names besides its own."""
        ranges = [names.part(s.number, u.part.number) for s, u in self.parts if u.part is not None]
        return (*(names.whole(number) for number in self.wholes), *ranges)

    def truncating(self, names: Names, generation: int) -> tuple[sql.Composed, ...]:
        """What makes the target take this generation's ranges away when a marker says the table was truncated."""
        if not self.parts:
            return ()
        deletes = [
            sql.SQL("IF NEW.truncated = {} THEN DELETE FROM ONLY {} WHERE {}; END IF; ").format(
                sql.Literal(split.number), table_name(unit.table), _own_rows(unit)
            )
            for split, unit in self.parts
        ]
        body = sql.SQL("BEGIN {}RETURN NULL; END").format(sql.Composed(deletes)).as_string()
        function = sql.Identifier(SCHEMA, names.truncate_part_function(generation))
        barrier = sql.Identifier(SCHEMA, names.barrier(generation))
        return (
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS {}"
            ).format(function, sql.Literal(body)),
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW"
                " WHEN (NEW.truncated IS NOT NULL) EXECUTE FUNCTION {function}();"
                " ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"
            ).format(trigger=sql.Identifier(TRUNCATE_TRIGGER), table=barrier, function=function),
        )


NOTHING = Owned(wholes=(), parts=())


def _own_rows(unit: Unit) -> sql.Composed:
    # Only the range: a row on the target has passed the row filter already.
    condition = replace(unit, table=replace(unit.table, where=None)).condition()
    assert condition is not None
    return condition


def made(workspace: Workspace) -> bool:
    """True while the source still shows something that was made for split tables."""
    names = workspace.names
    return bool(
        workspace.source.value(
            "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname ~ %s)"
            " OR EXISTS (SELECT FROM pg_proc WHERE proname = %s)",
            [f"^{names.plan_prefix}[rs][0-9]", names.truncate_function],
        )
    )


def drop(workspace: Workspace) -> None:
    """Remove the ranges' publications and the triggers from the source; nothing happens when there are none.

    Some publications at a time: each that is dropped takes a lock, of which a server has a number.
    """
    if not made(workspace):
        return
    names = workspace.names
    found = workspace.source.rows(
        "SELECT pubname::text FROM pg_publication WHERE pubname ~ %s ORDER BY 1",
        [f"^{names.plan_prefix}[rs][0-9]"],
    )
    drops = [sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(row[0])) for row in found]
    # One session for all: whoever takes over ends it, and nothing more is dropped.
    with workspace.source.session() as session:
        for place in range(0, len(drops), _DROPPED_AT_ONCE):
            session.execute(sql.SQL("; ").join(drops[place : place + _DROPPED_AT_ONCE]))
            failpoint("ranges.some_dropped")
        # Last, for by it the rest is found again where this is broken off.
        session.execute(dropping_function(names))
    failpoint("ranges.dropped")


def dropping_function(names: Names) -> sql.Composed:
    """What drops the trigger function of split tables, and their triggers with it."""
    # CASCADE takes the triggers, which are the only things that can depend on it.
    return sql.SQL("DROP FUNCTION IF EXISTS {}() CASCADE").format(
        sql.Identifier(SCHEMA, names.truncate_function)
    )


def generations_of(workspace: Workspace, name: str) -> frozenset[int]:
    """The generations that have copied ranges of the table ``name``; empty for a table that was not split."""
    return workspace.ledger.generations_of([f"{name}#{number}" for number in range(1, MOST_PARTS + 1)])
