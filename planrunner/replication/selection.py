"""What of the source the plan selects: tables left out, tables without their rows, and filters of rows.

One selection rules copy, stream, fence and verification. A table stands with its partitions: what is
said of a partitioned table holds for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from planrunner.errors import StepFailed
from planrunner.replication import row_filters
from planrunner.replication.patterns import Pattern
from planrunner.units import span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from planrunner.model import Json
    from planrunner.postgres.catalog import Table


class Named(Protocol):
    """What a pattern can match: a table, or another relation of the catalogue."""

    @property
    def oid(self) -> int:
        """Its oid on the source."""
        ...

    @property
    def schema(self) -> str:
        """The schema's name."""
        ...

    @property
    def name(self) -> str:
        """Its own name."""
        ...

    @property
    def parent(self) -> int | None:
        """The oid of the table it is a partition of."""
        ...


N = TypeVar("N", bound=Named)


class Fate(Enum):
    """What becomes of a relation."""

    FOLLOWED = "followed"
    SCHEMA_ONLY = "schema_only"
    LEFT_OUT = "left_out"


class ForeignKeys(Enum):
    """What to do about foreign keys to tables whose rows don't all come."""

    REFUSE = "refuse"
    LEAVE_OUT = "leave_out"
    KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """An expression that says which rows of the tables of a pattern come."""

    tables: Pattern
    where: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """Rows of the last while, by the plan's words: ``length`` before the instant it is first run."""

    tables: Pattern
    column: str
    length: str

    def begins(self, now: datetime) -> datetime:
        """The instant, in whole seconds."""
        return (now - span(self.length)).replace(microsecond=0)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the plan selects.

    ``wish`` is what it says, as a plain tree. ``instants`` holds when each window begins, by its pattern;
    ``recorded`` tells that they are on record and will not move any more.
    """

    include: tuple[Pattern, ...] = (Pattern("*.*"),)
    exclude: tuple[Pattern, ...] = ()
    schema_only: tuple[Pattern, ...] = ()
    rows: tuple[RowFilter, ...] = ()
    since: tuple[Window, ...] = ()
    foreign_keys: ForeignKeys = ForeignKeys.REFUSE
    identity_full: bool = False
    wish: Mapping[str, Json] = field(default_factory=dict)
    instants: Mapping[str, datetime] = field(default_factory=dict)
    recorded: bool = False

    @classmethod
    def of(cls, wish: Mapping[str, Json]) -> Selection:
        """The selection that a plan's ``filters`` ask for; StepFailed names every expression that is none."""
        given = cast("Mapping[str, Any]", wish)
        rows = tuple(
            RowFilter(tables=Pattern(text), where=where) for text, where in given.get("rows", {}).items()
        )
        since = tuple(
            Window(tables=Pattern(text), column=window["column"], length=window["window"])
            for text, window in given.get("since", {}).items()
        )
        faults = {r.tables.text: row_filters.fault(r.where) for r in rows}
        told = [f"the row filter of {name}: {fault}" for name, fault in faults.items() if fault]
        if told:
            raise StepFailed(
                f"filters: {'; '.join(told)}",
                remedy="Write one expression as it stands after WHERE, of columns, constants and built-in operators.",
            )
        return cls(
            include=_patterns(given.get("include", ["*.*"])),
            exclude=_patterns(given.get("exclude", [])),
            schema_only=_patterns(given.get("schema_only", [])),
            rows=rows,
            since=since,
            foreign_keys=ForeignKeys(given.get("foreign_keys", "refuse")),
            identity_full=given.get("replica_identity", "refuse") == "full",
            wish=wish,
        )

    @property
    def everything(self) -> bool:
        """True when the plan filters nothing."""
        return not self.wish

    def beginning(self, instants: Mapping[str, datetime], *, recorded: bool) -> Selection:
        """The same with the instants at which its windows begin."""
        return replace(self, instants=dict(instants), recorded=recorded)

    def fates(self, relations: Iterable[Named]) -> dict[int, Fate]:
        """What becomes of each relation, by oid; partitions need their parents among ``relations``."""
        found = {relation.oid: relation for relation in relations}
        return {oid: self._fate(_lineage(relation, found)) for oid, relation in found.items()}

    def carried(self, tables: Sequence[N]) -> tuple[N, ...]:
        """Those that are made on the target, with their rows or without."""
        fates = self.fates(tables)
        return tuple(table for table in tables if fates[table.oid] is not Fate.LEFT_OUT)

    def followed(self, tables: Sequence[Table]) -> tuple[Table, ...]:
        """The tables whose rows come, each with the filter of its rows; partitioned parents hold none.

        ``tables`` are all of the source's. StepFailed when a window names a column that has no time.
        """
        fates = self.fates(tables)
        known = {table.oid: table for table in tables}
        wanted = (t for t in tables if fates[t.oid] is Fate.FOLLOWED and not (t.partitioned or t.unlogged))
        try:
            return tuple(self._filtered(table, known) for table in wanted)
        except ValueError as error:
            raise StepFailed(
                f"filters.since: {error}", remedy="Name a column of type timestamptz, timestamp or date."
            ) from error

    def filtered(self, relations: Iterable[Named]) -> frozenset[int]:
        """Those whose rows a filter or window picks, by oid, whether they are carried or not."""
        patterns = [*(r.tables for r in self.rows), *(w.tables for w in self.since)]
        found = {relation.oid: relation for relation in relations}
        return frozenset(oid for oid, r in found.items() if _any(patterns, _lineage(r, found)))

    def _fate(self, lineage: Sequence[Named]) -> Fate:
        if not _any(self.include, lineage) or _any(self.exclude, lineage):
            return Fate.LEFT_OUT
        return Fate.SCHEMA_ONLY if _any(self.schema_only, lineage) else Fate.FOLLOWED

    def _filtered(self, table: Table, known: Mapping[int, Table]) -> Table:
        if not (self.rows or self.since):
            return table
        lineage = _lineage(table, known)
        where: str | None = None
        for row_filter in self.rows:
            if _any([row_filter.tables], lineage):
                where = row_filters.both(where, row_filter.where)
        for window in self.since:
            if _any([window.tables], lineage):
                begins = self.instants[window.tables.text]
                where = row_filters.both(where, row_filters.since(table, window.column, begins))
        return replace(table, where=where)


EVERYTHING = Selection()


def _patterns(texts: Iterable[str]) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, texts))


def _lineage(relation: N, known: Mapping[int, N]) -> list[N]:
    found = [relation]
    while (parent := found[-1].parent) is not None and parent in known:
        found.append(known[parent])
    return found


def _any(patterns: Iterable[Pattern], lineage: Sequence[Named]) -> bool:
    return any(p.matches(r.schema, r.name) for p in patterns for r in lineage)
