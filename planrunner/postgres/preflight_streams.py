"""Preflight of publications and subscriptions of others, on either side: streams that cross the plan's."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres.preflight_remedy import run_on
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Needs

PUBLISHING_ALL = Check(
    code="PR0621",
    section=SCHEMA,
    title="publications FOR ALL TABLES on the source",
    why="They publish the plan's own tables (schema planrunner) as well: a subscriber of theirs that has no such table"
    " stops with an error as soon as the migration writes to one.",
)
FOREIGN_NAMES = Check(
    code="PR0622",
    section=SCHEMA,
    title="names of the plan that belong to something else",
    why="The plan's publications, slots and subscriptions have names of their own; what has such a name and no mark of"
    " the plan is never touched, so the step that needs the name stops.",
    never_ignored="what belongs to somebody else is never touched",
)
FED_TABLES = Check(
    code="PR0623",
    section=SCHEMA,
    title="tables of the source that a subscription feeds",
    why="What arrives there is sent on to the target. The cutover closes the source's tables to this subscription, too:"
    " it stops with an error, keeps WAL on its publisher, and nothing brings its rows to the target.",
)
FEEDING_TARGET = Check(
    code="PR0624",
    section=SCHEMA,
    title="subscriptions of others on the target",
    why="They write to the target's tables beside the plan: rows collide, and the verification finds differences.",
)
PUBLISHING_TARGET = Check(
    code="PR0625",
    section=SCHEMA,
    title="publications FOR ALL TABLES on the target",
    why="There an update or delete of a table without replica identity is refused, also one that is only being applied:"
    " the plan's subscription would stop.",
)

_PUBLICATIONS = """
SELECT pubname::text, puballtables, coalesce(obj_description(oid, 'pg_publication'), '')
FROM pg_publication ORDER BY 1
"""
# Column by column: the conninfo is not for everyone to read.
_SUBSCRIPTIONS: LiteralString = """
SELECT s.subname::text, s.subenabled, coalesce(obj_description({oid}, 'pg_subscription'), ''),
       (SELECT array_agg(format('%s.%s', n.nspname, c.relname) ORDER BY n.nspname, c.relname)
        FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE r.srsubid = {oid})
FROM pg_subscription s WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1
"""
# Before 14 the oid itself is not for everyone; a view tells it, of the subscriptions of every database.
_OID_BEFORE_14 = "(SELECT max(t.subid) FROM pg_stat_subscription t WHERE t.subname = s.subname)"
_MARK = "planrunner plan "


def of_source(source: Server, needs: Needs) -> Iterator[Finding]:
    """Publications of all tables, names of ours that are not, and subscriptions that feed the source."""
    publications = source.rows(_PUBLICATIONS)
    strange = [row[0] for row in publications if _strange(row, needs)]
    if strange:
        yield FOREIGN_NAMES.failed(
            f"{counted(len(strange), 'publication')} on the source with the plan's name and not its mark:"
            f" {some(strange)}",
            run_on(Side.SOURCE, _dropping(sql.SQL("PUBLICATION"), strange), otherwise=_RENAMED),
        )
    everything = [row[0] for row in publications if row[1]]
    if everything:
        yield PUBLISHING_ALL.warned(
            f"{counted(len(everything), 'publication')} FOR ALL TABLES on the source: {some(everything)}",
            "If anything subscribes to it, make the same tables there first (CREATE SCHEMA planrunner, and what"
            " preview shows in it), or let it subscribe to a publication that lists its tables: CREATE PUBLICATION"
            " … FOR TABLE …;",
        )
    yield from _feeding_source(source.rows(_subscriptions(source)), needs)


def _subscriptions(server: Server) -> sql.Composed:
    known = sql.SQL("s.oid" if server.version() >= 140000 else _OID_BEFORE_14)
    return sql.SQL(_SUBSCRIPTIONS).format(oid=known)


def _feeding_source(rows: Sequence[Row], needs: Needs) -> Iterator[Finding]:
    feeding = [row for row in rows if not _ours(row, needs)]
    if feeding:
        names = [row[0] for row in feeding]
        tables = sorted({name for row in feeding for name in row[3] or ()})
        yield FED_TABLES.warned(
            f"{counted(len(feeding), 'subscription')} on the source: {some(names)}, into"
            f" {counted(len(tables), 'table')}: {some(tables) or 'none'}",
            run_on(
                Side.SOURCE,
                _disabling(names),
                otherwise="Do that before the cutover, and subscribe the target to the same publisher afterwards.",
            ),
        )


def of_target(target: Server, needs: Needs) -> Iterator[Finding]:
    """What would write to the target's tables, or refuse what is written to them."""
    subscriptions = target.rows(_subscriptions(target))
    strange = [row[0] for row in subscriptions if _strange(row, needs)]
    others = [row for row in subscriptions if row[1] and not _ours(row, needs)]
    if strange:
        yield FOREIGN_NAMES.failed(
            f"{counted(len(strange), 'subscription')} on the target with the plan's name and not its mark:"
            f" {some(strange)}",
            run_on(Side.TARGET, _dropping(sql.SQL("SUBSCRIPTION"), strange)),
        )
    if others:
        names = [row[0] for row in others]
        yield FEEDING_TARGET.warned(
            f"{counted(len(others), 'enabled subscription')} of others in the target's database: {some(names)}",
            run_on(Side.TARGET, _disabling(names), otherwise="Or give the plan a database of its own."),
        )
    everything = [
        row[0] for row in target.rows(_PUBLICATIONS) if row[1] and not row[0].startswith(needs.owned)
    ]
    if everything:
        yield PUBLISHING_TARGET.warned(
            f"{counted(len(everything), 'publication')} FOR ALL TABLES on the target: {some(everything)}",
            run_on(
                Side.TARGET,
                _dropping(sql.SQL("PUBLICATION"), everything),
                otherwise="Make it again after the cutover, or see that every table has a primary key.",
            ),
        )


_RENAMED = "Or rename it, where something else uses it: ALTER PUBLICATION … RENAME TO …."


def _strange(row: Row, needs: Needs) -> bool:
    return str(row[0]).startswith(needs.owned) and row[2] != _MARK + needs.plan_id


def _ours(row: Row, needs: Needs) -> bool:
    return str(row[0]).startswith(needs.owned) or row[2] == _MARK + needs.plan_id


def _dropping(kind: sql.SQL, names: Sequence[str]) -> list[sql.Composed]:
    return [sql.SQL("DROP {} {}").format(kind, sql.Identifier(name)) for name in names]


def _disabling(names: Sequence[str]) -> list[sql.Composed]:
    return [sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(name)) for name in names]
