"""Preflight of a source that is polled: what keeps rounds from being made, and what they find only late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors, sql

from planrunner.model import Side
from planrunner.postgres.preflight_remedy import run_on
from planrunner.postgres.preflight_section import FOLLOWING, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server

STILL = Check(
    code="PR1501",
    section=FOLLOWING,
    title="The login may keep the target's foreign keys still",
    why="Rounds bring one table after the other. Foreign keys that fire meanwhile refuse rows whose other side comes"
    " later, and their ON DELETE CASCADE would delete rows that are still on the source.",
    mend="Let the target's login set session_replication_role: GRANT SET ON PARAMETER session_replication_role TO it"
    " (PostgreSQL 15 and later), or make it a member of the service's administrator role.",
    never_ignored="a round stops at the first table with foreign keys",
)
KEYLESS = Check(
    code="PR1502",
    section=FOLLOWING,
    title="Every table has a primary key by which a changed row is put in place",
    why="Without one, nothing tells which row of the target a changed row was. Such a table is only compared whole, at"
    " each reconcile_interval and in the cutover's pause, and both sides read and sort all of it then.",
    mend="Add a primary key, raise reconcile_interval, or leave the table out by the snapshot step's filters.",
)
HELD = Check(
    code="PR1503",
    section=FOLLOWING,
    title="No transaction of the source has been open for long",
    why="Rounds go on from the oldest transaction that was running: as long as one stays open, every round reads again"
    " what has been written since it began.",
    mend="End it: COMMIT or ROLLBACK in its session, or SELECT pg_terminate_backend(pid); a prepared transaction by"
    " COMMIT PREPARED or ROLLBACK PREPARED.",
)
_LONG_SECONDS = 300
_BOUND = "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY (%s::bigint[]))"
_OPEN = """
SELECT format('process %%s (%%s), for %%s min', pid, usename, extract(epoch FROM now() - xact_start)::int / 60)
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start < now() - make_interval(secs => %(long)s)
UNION ALL
SELECT format('prepared transaction %%s (%%s), for %%s min', gid, owner, extract(epoch FROM now() - prepared)::int / 60)
FROM pg_prepared_xacts WHERE prepared < now() - make_interval(secs => %(long)s) ORDER BY 1
"""


def findings(source: Server, target: Server, tables: Sequence[Table]) -> Iterator[Finding]:
    """What a migration by rounds needs of both sides, for the ``tables`` that it carries."""
    yield _still(source, target, tables)
    keyless = [t.qualified for t in tables if not t.key]
    if keyless:
        yield KEYLESS.warned(
            f"{counted(len(keyless), 'table')} without a primary key, only compared whole: {some(keyless)}",
            "Add a primary key, or raise reconcile_interval in the sync step.",
        )
    else:
        yield KEYLESS.passed(f"All {counted(len(tables), 'table')} have a primary key")
    held = [str(row[0]) for row in source.rows(_OPEN, {"long": _LONG_SECONDS})]
    if held:
        yield HELD.warned(
            f"{counted(len(held), 'transaction')} open on the source for long: {some(held)}",
            "End them, or bear that every round reads again what has been written since they began.",
        )
    else:
        yield HELD.passed("No transaction of the source has been open for more than 5 minutes")


def _still(source: Server, target: Server, tables: Sequence[Table]) -> Finding:
    if not source.value(_BOUND, [[t.oid for t in tables]]):
        return STILL.passed("No foreign key has to be kept still")
    with target.session(read_only=True) as session:
        try:
            session.execute("SET session_replication_role = replica")
        except errors.InsufficientPrivilege:
            who = target.identity()
            giving = sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(
                sql.Identifier(who.user)
            )
            return STILL.failed(
                f'Target\'s login "{who.user}" may not set session_replication_role',
                run_on(
                    Side.TARGET, [giving], otherwise="It takes an administrator, and PostgreSQL 15 or later"
                ),
            )
    return STILL.passed("Can keep the target's foreign keys still")
