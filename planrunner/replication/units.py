"""Units of the copy: a table, or one primary-key range of a big one; each is copied under one snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres.catalog import ANY_TABLE
from planrunner.replication.identities import table_name

if TYPE_CHECKING:
    from planrunner.postgres.catalog import Table

# Key types that can be cut into ranges, and how a bound of each is written: every one of them has an
# immutable order, as a publication's row filter demands.
KEY_TYPES = {
    "smallint": sql.SQL("smallint"),
    "integer": sql.SQL("integer"),
    "bigint": sql.SQL("bigint"),
    "numeric": sql.SQL("numeric"),
    "uuid": sql.SQL("uuid"),
    "date": sql.SQL("date"),
    "timestamp without time zone": sql.SQL("timestamp"),
    "timestamp with time zone": sql.SQL("timestamptz"),
    "text": sql.SQL("text"),
    "character varying": sql.SQL("text"),
}


@dataclass(frozen=True, kw_only=True)
class KeyRange:
    """One range of a key column, ``low`` included and ``high`` not; None is open. Numbers count from 1."""

    number: int
    column: str
    type: str
    low: str | None
    high: str | None

    def predicate(self) -> sql.Composed:
        """The range as an SQL condition; on one open at both ends it holds for every row."""
        column = sql.Identifier(self.column)
        kind = KEY_TYPES[self.type]
        parts = [
            bound.format(column, sql.Literal(value), kind)
            for bound, value in ((sql.SQL("{} >= {}::{}"), self.low), (sql.SQL("{} < {}::{}"), self.high))
            if value is not None
        ]
        return sql.SQL(" AND ").join(parts) if parts else sql.Composed([sql.SQL("true")])


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A table, or the range ``part`` of one; ``parts`` is how many ranges the table has."""

    table: Table
    part: KeyRange | None = None
    parts: int = 1

    @property
    def id(self) -> str:
        """The unit's name in the ledger: ``schema.table``, or ``schema.table#3``."""
        return self.table.qualified if self.part is None else f"{self.table.qualified}#{self.part.number}"

    @property
    def bytes(self) -> int:
        """What there is to copy, estimated: heap and toast."""
        return self.table.data_bytes // self.parts

    def condition(self) -> sql.Composed | None:
        """Range and row filter together; None when every row of the table belongs to the unit."""
        parts: list[sql.Composable] = [] if self.part is None else [self.part.predicate()]
        if self.table.where is not None:
            # The plan's own words; what they may be was checked before anything was built.
            parts.append(sql.SQL("({})").format(sql.SQL(self.table.where)))  # pyright: ignore[reportArgumentType]
        return sql.SQL(" AND ").join(parts) if parts else None


# For outlines: a table of which nothing is known.
ANY_UNIT = Unit(table=ANY_TABLE)


def published(unit: Unit) -> sql.Composed:
    """The unit as a member of a publication."""
    condition = unit.condition()
    name = sql.SQL("ONLY {}").format(table_name(unit.table))
    return name if condition is None else sql.SQL("{} WHERE ({})").format(name, condition)
