"""Preflight of the way back: may the target publish, may the source subscribe to it, and does it reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import privileges
from planrunner.postgres.grants import Kind
from planrunner.postgres.preflight_log import recorded_password
from planrunner.postgres.preflight_network import Line, dialled, same_level
from planrunner.postgres.preflight_section import Section
from planrunner.postgres.preflight_target import may_subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

WAY_BACK = Section("Way Back")
_PUBLISHING = """
SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_replication_slots)::int, current_setting('max_wal_senders')::int,
       (SELECT count(*) FROM pg_stat_replication)::int, me.rolname::text,
       me.rolsuper OR me.rolreplication OR EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(r.oid, 'USAGE')
         AND r.rolname IN ('rds_replication', 'rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser'))
FROM pg_roles me WHERE me.rolname = current_user
"""
_SUBSCRIBING = """
SELECT current_setting('max_logical_replication_workers')::int, has_database_privilege(current_database(), 'CREATE'),
       current_database()::text, current_user::text
"""


def way_back(source: Server, target: Server, dial: Mapping[str, str]) -> tuple[Finding, ...]:
    """Every check of ``reverse: true``; ``dial`` is how the source dials the target, without the password."""
    return (
        *_publishing(target),
        *_subscribing(source),
        *recorded_password(source, target.endpoint, WAY_BACK),
        *same_level(target, Line(subscriber=source, dial=dial)),
        dialled(Line(subscriber=source, dial=dial), source.identity()),
    )


def _publishing(target: Server) -> Iterator[Finding]:
    row = target.row(_PUBLISHING)
    assert row is not None
    level, slots, used_slots, senders, used_senders, name, may = row
    if level == "logical":
        yield WAY_BACK.passed("Target decodes its WAL (wal_level is logical)")
    else:
        yield WAY_BACK.failed(
            f"Target's wal_level is {level}: nothing written there could be brought back",
            "Set wal_level = logical on the target and restart it (a managed service has a switch for it), or leave"
            " reverse out of the cutover_verify step.",
        )
    for setting, limit, used in (
        ("max_replication_slots", slots, used_slots),
        ("max_wal_senders", senders, used_senders),
    ):
        if used >= limit:
            yield WAY_BACK.failed(
                f"Target has no place for the way back: {setting} is {limit}, {used} are taken",
                f"Raise {setting} on the target and restart it.",
            )
    if may:
        yield WAY_BACK.passed("Target's login may replicate")
    else:
        role = sql.Identifier(name).as_string()
        yield WAY_BACK.failed(
            f"Target's login {role} may not replicate",
            f"Run on the target as an administrator: ALTER ROLE {role} REPLICATION; (on RDS: GRANT rds_replication TO"
            f" {role};)",
        )


def _subscribing(source: Server) -> Iterator[Finding]:
    row = source.row(_SUBSCRIBING)
    assert row is not None
    workers, may_create, database, name = row
    yield may_subscribe(source, WAY_BACK)
    if not may_create:
        shown, role = sql.Identifier(database).as_string(), sql.Identifier(name).as_string()
        yield WAY_BACK.failed(
            f"Source's login lacks CREATE on database {shown}, which a subscription there needs",
            f"Run on the source as its owner: GRANT CREATE ON DATABASE {shown} TO {role};",
            mended_by=_mender(source),
        )
    if not workers:
        yield WAY_BACK.failed(
            "Source runs no apply workers: max_logical_replication_workers is 0",
            "Raise it on the source (4 is its default) and restart it.",
        )


def _mender(source: Server) -> str | None:
    """The step that brings CREATE on the database: by a membership in its owner, or by the grant itself."""
    gaps = privileges.access_gaps(privileges.rights(source), [Kind.DATABASE])
    return "grant" if all(grant.possible for grant in gaps) else None
