"""Checks the plan's filters against the source, before anything is built, and tells what they leave behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import catalog
from planrunner.postgres.preflight_section import FILTERS, Check
from planrunner.replication import filter_trial, relations
from planrunner.replication.identities import table_name
from planrunner.replication.patterns import written
from planrunner.replication.row_filters import predicate
from planrunner.replication.selection import Fate, ForeignKeys
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.filter_trial import Trial
    from planrunner.replication.patterns import Pattern
    from planrunner.replication.relations import Relation
    from planrunner.replication.selection import Selection
    from planrunner.replication.workspace import Workspace

ROW_FILTERS_SINCE = 15
_SHOWN = 6
MATCHING = Check(
    code="PR1101",
    section=FILTERS,
    title="Every pattern of the filters matches a table",
    why="A pattern that matches nothing is misspelt: what it should have left out would be copied, or the other way"
    " round.",
    mend="Write schema.table as the catalogue spells it, or take the pattern out.",
)
DEPENDENCIES = Check(
    code="PR1102",
    section=FILTERS,
    title="Nothing that is carried needs what is left out",
    why="The target refuses a view, a default or a table whose type, function or parent is not there.",
    mend="Leave that out as well, or carry what it needs (schema_only carries a table without its rows).",
)
FOREIGN_KEYS = Check(
    code="PR1103",
    section=FILTERS,
    title="Foreign keys lead to rows that come",
    why="A foreign key to rows that are left out can't be made on the target: its check would fail.",
    mend="Carry those tables whole, leave out the tables that point to them, or set filters.foreign_keys.",
)
LEFT_BEHIND = Check(
    code="PR1104",
    section=FILTERS,
    title="What the filters leave behind is told",
    why="Whoever approves the plan should see which tables the target will lack, and how much of the data that is.",
    mend="Nothing has to be mended; change filters where it is more than was meant.",
)
SOME_ROWS = Check(
    code="PR1105",
    section=FILTERS,
    title="The rows of some table are copied",
    why="A plan whose filters leave no rows moves nothing.",
    mend="Widen filters.include.",
    never_ignored="nothing would be migrated",
)
ROW_FILTERS = Check(
    code="PR1106",
    section=FILTERS,
    title="The source takes row filters",
    why="A publication filters rows from PostgreSQL 15 on; an older one would send every row.",
    mend="Select whole tables and delete the rows on the target after the cutover.",
    never_ignored="an older source can't make such a publication",
)
ACCEPTED = Check(
    code="PR1107",
    section=FILTERS,
    title="The source accepts every row filter",
    why="A row filter may use little more than the row's own columns; PostgreSQL refuses the publication otherwise.",
    mend="Use columns of the table, constants, and built-in immutable functions and operators only.",
    never_ignored="the source refuses such a publication",
)
TRIED = Check(
    code="PR1108",
    section=FILTERS,
    title="Every row filter can be tried",
    why="Only the source can tell whether it accepts a filter; one that was not tried may fail when the copy begins.",
    mend="Give the login the owner's rights on the table and CREATE on the database, as the grant step does.",
)
IDENTITY = Check(
    code="PR1109",
    section=FILTERS,
    title="Row filters use columns of the replica identity",
    why="A publication whose filter uses other columns makes every UPDATE and DELETE of the application fail on the"
    " source.",
    mend="Set filters.replica_identity: full, or choose a unique index that has these columns as identity.",
    never_ignored="the application's own writes would fail",
)
OUT_OF_LINE = Check(
    code="PR1110",
    section=FILTERS,
    title="Rows that come into a filter later come whole",
    why="Of a value that is kept out of line (TOAST) and did not change the server sends nothing; a row that an UPDATE"
    " brings into the filter would arrive without it.",
    mend="Set filters.replica_identity: full, which cleanup undoes.",
    never_ignored="values would be lost",
)
LET_THROUGH = Check(
    code="PR1111",
    section=FILTERS,
    title="How much the row filters let through is told",
    why="A filter that lets through far more or less than expected is wrong, or the statistics are old.",
    mend="Nothing has to be mended; ANALYZE on the source makes the estimate better.",
)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What the checks look at: read once."""

    selection: Selection
    relations: tuple[Relation, ...]
    fates: Mapping[int, Fate]
    tables: tuple[Table, ...]

    def of(self, fate: Fate) -> list[Relation]:
        return [r for r in self.relations if self.fates[r.oid] is fate]


def findings(workspace: Workspace) -> tuple[Finding, ...]:
    """Every check of the filters, and what they leave behind with its size; nothing when there are none.

    StepFailed when a time window names a column that has no time.
    """
    selection = workspace.selection
    if selection.everything:
        return ()
    found = relations.read(workspace.source)
    scene = _Scene(
        selection=selection,
        relations=found,
        fates=relations.fates(selection, found),
        tables=selection.followed(catalog.tables(workspace.source)),
    )
    return (
        *_unmatched(scene),
        *_dependants(workspace.source, scene),
        *_foreign_keys(workspace.source, scene),
        *_left_behind(scene),
        *_row_filters(workspace, scene),
    )


def _unmatched(scene: _Scene) -> Iterator[Finding]:
    selection = scene.selection
    tables = [r for r in scene.relations if r.table]
    kept = [r for r in tables if scene.fates[r.oid] is not Fate.LEFT_OUT]
    with_rows = [r for r in tables if scene.fates[r.oid] is Fate.FOLLOWED]
    asked: list[tuple[str, Sequence[Pattern], Sequence[Relation], str]] = [
        ("include", selection.include, scene.relations, "matches no table"),
        ("exclude", selection.exclude, scene.relations, "matches no table"),
        ("schema_only", selection.schema_only, kept, "matches no table that is carried"),
        ("rows", [f.tables for f in selection.rows], with_rows, "matches no table whose rows are copied"),
        ("since", [w.tables for w in selection.since], with_rows, "matches no table whose rows are copied"),
    ]
    for key, patterns, among, complaint in asked:
        for pattern in patterns:
            if not any(pattern.matches(r.schema, r.name) for r in among):
                yield MATCHING.failed(
                    f"filters.{key}: {pattern.text} {complaint}", _suggestion(pattern, among)
                )


def _suggestion(pattern: Pattern, among: Sequence[Relation]) -> str:
    names = [written(r.schema, r.name) for r in among]
    near = get_close_matches(pattern.text, names, n=1, cutoff=0.6)
    lead = f"Did you mean {near[0]}? " if near else ""
    return f"{lead}Write schema.table as the catalogue spells it; names with dots or quotes in double quotes."


def _dependants(source: Server, scene: _Scene) -> Iterator[Finding]:
    pairs = relations.dependants(source, scene.of(Fate.LEFT_OUT))
    if pairs:
        yield DEPENDENCIES.failed(
            f"what is carried needs what is left out: {_some([f'{thing} needs {needed}' for thing, needed in pairs])}",
            "Leave that out too, where it is a table or a view; or carry what it needs (schema_only carries a"
            " table without its rows); or drop it on the source.",
        )


def _foreign_keys(source: Server, scene: _Scene) -> Iterator[Finding]:
    selection = scene.selection
    keys = [k for k in relations.foreign_keys(source, selection, scene.relations, scene.fates) if k.top]
    if selection.foreign_keys is ForeignKeys.KEEP:
        keys = [k for k in keys if not k.possible]
    if not keys:
        return
    told = _some([f"{k.name} of {k.table} to {k.points_to}" for k in keys])
    if selection.foreign_keys is ForeignKeys.LEAVE_OUT:
        yield FOREIGN_KEYS.warned(f"{len(keys)} foreign keys are not made on the target: {told}")
        return
    yield FOREIGN_KEYS.failed(
        f"{len(keys)} foreign keys point to tables whose rows don't all come: {told}",
        "Carry those tables whole, or leave out the tables that point to them; or set filters.foreign_keys:"
        " leave_out to do without the constraints"
        + (
            ", or keep to have them made, which fails where a row is missing."
            if all(k.possible for k in keys)
            else "."
        ),
    )


def _left_behind(scene: _Scene) -> Iterator[Finding]:
    gone = [r for r in scene.of(Fate.LEFT_OUT) if r.kind != relations.SEQUENCE]
    empty = [r for r in scene.of(Fate.SCHEMA_ONLY) if r.table]
    for found, words in ((gone, "left out"), (empty, "made without their rows")):
        if found:
            size = human_bytes(sum(r.bytes for r in found))
            largest = sorted(found, key=lambda r: (-r.bytes, r.qualified))
            names = _some([f"{r.qualified} ({human_bytes(r.bytes)})" for r in largest])
            yield LEFT_BEHIND.warned(
                f"{len(found)} tables and views are {words}, {size} with indexes: {names}"
            )
    if not any(t for t in scene.tables):
        yield SOME_ROWS.failed("no table's rows are copied", "Widen filters.include.")


def _row_filters(workspace: Workspace, scene: _Scene) -> Iterator[Finding]:
    filtered = [t for t in scene.tables if t.where]
    if not filtered:
        return
    version = workspace.source.identity().major
    if version < ROW_FILTERS_SINCE:
        yield ROW_FILTERS.failed(
            f"the source is PostgreSQL {version}; its publications take row filters (filters.rows, filters.since)"
            f" from {ROW_FILTERS_SINCE} on",
            "Select whole tables, and delete the rows on the target after the cutover.",
        )
        return
    tried = filter_trial.trials(workspace.source, workspace.names, filtered)
    for trial in tried:
        yield from _verdict(trial, scene.selection)
    good = [t.table for t in tried if t.refusal is None and t.undecided is None]
    yield from _effects(workspace.source, good, scene.selection)


def _verdict(trial: Trial, selection: Selection) -> Iterator[Finding]:
    table = trial.table
    if trial.refusal is not None:
        yield ACCEPTED.failed(
            f"the source refuses the row filter of {table.qualified}: {trial.refusal}",
            "Use columns of this table, constants, and built-in immutable functions and operators only: no"
            f" subquery, no now(), no type or function of your own. It reads: {table.where}",
        )
    elif trial.undecided is not None:
        # Before the grants the login may not even try; once they are given it is asked again.
        by_grant = trial.sqlstate == filter_trial.PRIVILEGE
        yield TRIED.failed(
            f"the row filter of {table.qualified} can't be tried: {trial.undecided}",
            "Publications need the owner's rights on the table and CREATE on the database."
            if by_grant
            else None,
            mended_by="grant" if by_grant else None,
        )
    elif _will_be_full(table, selection) or table.replica_identity == "f":
        return
    elif trial.outside:
        yield _outside(trial)
    elif table.toasted:
        yield _out_of_line(trial)


def _will_be_full(table: Table, selection: Selection) -> bool:
    return not table.identifiable or (selection.identity_full and table.replica_identity == "d")


def _outside(trial: Trial) -> Finding:
    table = trial.table
    full = sql.SQL("ALTER TABLE ONLY {} REPLICA IDENTITY FULL").format(table_name(table)).as_string()
    return IDENTITY.failed(
        f"the row filter of {table.qualified} uses {', '.join(trial.outside)}, not of its replica identity"
        f" ({', '.join(trial.identity)}): every UPDATE and DELETE of the application on it would fail",
        "Set filters.replica_identity: full, which cleanup undoes; or run on the source:"
        f" {full}; or choose as identity a unique index that has these columns."
        if table.replica_identity == "d"
        else f"Run on the source: {full}; or choose as identity a unique index that has these columns.",
    )


def _out_of_line(trial: Trial) -> Finding:
    # The server turns such an update into an insert, and sends of an unchanged value out of line only that it is one.
    table = trial.table
    return OUT_OF_LINE.failed(
        f"{table.qualified} has values out of line (TOAST): a row that an UPDATE of its key brings into the filter"
        " would arrive without them",
        "Set filters.replica_identity: full, which cleanup undoes.",
    )


def _effects(source: Server, tables: Sequence[Table], selection: Selection) -> Iterator[Finding]:
    kept = kept_rows(source, tables)
    for table in tables:
        whole = max(table.rows, kept.get(table.oid, 0))
        estimate = f"about {kept[table.oid]} of {whole} rows come" if table.oid in kept else "not estimated"
        yield LET_THROUGH.warned(
            f"{table.qualified}: {estimate} by the planner's estimate, WHERE {table.where}"
        )
    for window in selection.since:
        when = selection.instants[window.tables.text].isoformat(sep=" ")
        how = "on record" if selection.recorded else "were the run begun now; fixed when it begins"
        yield LET_THROUGH.passed(
            f"{window.tables.text}: rows since {when} ({window.column}, {window.length}; {how})"
        )


def kept_rows(source: Server, tables: Sequence[Table]) -> dict[int, int]:
    """The planner's estimate of the rows that pass each table's filter, by oid; in one query."""
    if not tables:
        return {}
    parts = [
        sql.SQL("(SELECT 1 FROM ONLY {} WHERE {})").format(table_name(t), predicate(t.where or "true"))
        for t in tables
    ]
    query = sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) {}").format(sql.SQL(" UNION ALL ").join(parts))
    with source.session(read_only=True) as session:
        # A parallel plan's figures would be per worker.
        session.execute("SELECT set_config('max_parallel_workers_per_gather', '0', false)")
        row = session.execute(query).fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    counted: dict[tuple[str, str], int] = {}
    _count(plan[0]["Plan"], counted)
    # A filter that can't be true leaves its table out of the plan.
    return {t.oid: counted.get((t.schema, t.name), 0) for t in tables}


def _count(node: Mapping[str, object], counted: dict[tuple[str, str], int]) -> None:
    if "Relation Name" in node:
        counted[str(node["Schema"]), str(node["Relation Name"])] = int(str(node["Plan Rows"]))
        return
    children = node.get("Plans", [])
    assert isinstance(children, list)
    for child in children:
        _count(child, counted)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
