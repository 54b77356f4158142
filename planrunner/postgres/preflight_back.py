"""Preflight of the way back: may the target publish, may the source subscribe to it, and does it reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Mark
from planrunner.postgres import privileges
from planrunner.postgres.grants import Kind
from planrunner.postgres.preflight_line import Line, LineChecks, dialled, same_level
from planrunner.postgres.preflight_log import recorded_password
from planrunner.postgres.preflight_section import WAY_BACK, Check
from planrunner.postgres.preflight_target import may_subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

WAL_LEVEL = Check(
    code="PR0901",
    section=WAY_BACK,
    title="The target decodes its WAL",
    why="The way back follows the target's own WAL. With another wal_level nothing that is written there after the"
    " cutover could be brought back to the source.",
    mend="Set wal_level = logical on the target and restart it; a managed service has a switch of its own for it.",
)
ROOM = Check(
    code="PR0902",
    section=WAY_BACK,
    title="The target has a free slot and sender for the way back",
    why="The source follows the target by a replication slot and a WAL sender of the target; without a free one the way"
    " back can't be built at the cutover.",
    mend="Raise max_replication_slots or max_wal_senders on the target and restart it.",
)
MAY_REPLICATE = Check(
    code="PR0903",
    section=WAY_BACK,
    title="The target's login may replicate",
    why="The slot of the way back is made by the target's login, which needs the attribute REPLICATION or the service's"
    " role for it.",
    mend="ALTER ROLE … REPLICATION as an administrator of the target; on RDS: GRANT rds_replication TO ….",
)
MAY_SUBSCRIBE = Check(
    code="PR0904",
    section=WAY_BACK,
    title="The source's login may create subscriptions",
    why="The way back is a subscription on the source, made by the source's login.",
    mend="Grant pg_create_subscription (PostgreSQL 16 and later), or use a superuser of the source.",
    can=(Mark.FAIL,),
)
MAY_CREATE = Check(
    code="PR0905",
    section=WAY_BACK,
    title="The source's login may create in its database",
    why="PostgreSQL asks CREATE on the database of whoever creates a subscription there.",
    mend="GRANT CREATE ON DATABASE … TO … as the database's owner.",
)
WORKERS = Check(
    code="PR0906",
    section=WAY_BACK,
    title="The source runs apply workers",
    why="A subscription without a worker applies nothing: the way back would stand still from the cutover on.",
    mend="Raise max_logical_replication_workers on the source (4 is its default) and restart it.",
)
RECORDED = Check(
    code="PR0908",
    section=WAY_BACK,
    title="The target's password stays out of the source's log",
    why="CREATE SUBSCRIPTION holds the password in plain text; a server that logs statements keeps it in its log.",
    mend="Grant the login the settings that keep this one statement out of the log, or change the password afterwards.",
    can=(Mark.WARN,),
)
REACHED = Check(
    code="PR0911",
    section=WAY_BACK,
    title="The source reaches the target",
    why="The way back's subscription is dialled by the source's server, from its own host, not from this machine.",
    mend="Let the source's address through the target's firewall or security group and pg_hba.conf, and give"
    " connections.source.target_as_seen_from_source the host by which the source reaches the target.",
    can=(Mark.FAIL,),
)
UNPROBED = Check(
    code="PR0912",
    section=WAY_BACK,
    title="The source's line to the target can be probed",
    why="What is not dialled now is dialled for the first time at the cutover.",
    mend="Have CREATE EXTENSION dblink run on the source, or see yourself that the firewall lets the source in.",
    can=(Mark.WARN,),
)
ELSEWHERE = Check(
    code="PR0913",
    section=WAY_BACK,
    title="The target's address leads from the source to the target",
    why="localhost, on the source's host, is the source itself.",
    mend="Give connections.source.target_as_seen_from_source the host by which the source reaches the target.",
    can=(Mark.FAIL,),
)
PASSWORD_ASKED = Check(
    code="PR0914",
    section=WAY_BACK,
    title="The target asks the source for a password",
    why="A subscription of a role that is no superuser must log in by a password, or PostgreSQL refuses it.",
    mend="Let the target's pg_hba.conf ask the source's address for scram-sha-256.",
    can=(Mark.FAIL,),
)
LEVEL = Check(
    code="PR0915",
    section=WAY_BACK,
    title="The way back's line is secured as ours is",
    why="The subscription carries every row that is written after the cutover; its line should prove as much as ours.",
    mend="Leave sslmode out of connections.source.target_as_seen_from_source.",
    can=(Mark.WARN,),
)
CERTIFICATES = Check(
    code="PR0916",
    section=WAY_BACK,
    title="The source's host has the certificates to verify the target",
    why="The source's server verifies by files of its own host; where they are missing the subscription can't connect.",
    mend="Put the certificates onto the source's host and name them as"
    " connections.source.target_as_seen_from_source.sslrootcert.",
)
_LINE = LineChecks(
    reached=REACHED,
    unprobed=UNPROBED,
    elsewhere=ELSEWHERE,
    password_asked=PASSWORD_ASKED,
    level=LEVEL,
    certificates=CERTIFICATES,
)
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
    line = Line(subscriber=source, dial=dial, checks=_LINE)
    return (
        *_publishing(target),
        *_subscribing(source),
        *recorded_password(source, target.endpoint, RECORDED),
        *same_level(target, line),
        dialled(line, source.identity()),
    )


def _publishing(target: Server) -> Iterator[Finding]:
    row = target.row(_PUBLISHING)
    assert row is not None
    level, slots, used_slots, senders, used_senders, name, may = row
    if level == "logical":
        yield WAL_LEVEL.passed("Target decodes its WAL (wal_level is logical)")
    else:
        yield WAL_LEVEL.failed(
            f"Target's wal_level is {level}: nothing written there could be brought back",
            "Set wal_level = logical on the target and restart it (a managed service has a switch for it), or leave"
            " reverse out of the cutover_verify step.",
        )
    for setting, limit, used in (
        ("max_replication_slots", slots, used_slots),
        ("max_wal_senders", senders, used_senders),
    ):
        if used >= limit:
            yield ROOM.failed(
                f"Target has no place for the way back: {setting} is {limit}, {used} are taken",
                f"Raise {setting} on the target and restart it.",
            )
    if may:
        yield MAY_REPLICATE.passed("Target's login may replicate")
    else:
        role = sql.Identifier(name).as_string()
        yield MAY_REPLICATE.failed(
            f"Target's login {role} may not replicate",
            f"Run on the target as an administrator: ALTER ROLE {role} REPLICATION; (on RDS: GRANT rds_replication TO"
            f" {role};)",
        )


def _subscribing(source: Server) -> Iterator[Finding]:
    row = source.row(_SUBSCRIBING)
    assert row is not None
    workers, may_create, database, name = row
    yield may_subscribe(source, MAY_SUBSCRIBE)
    if not may_create:
        shown, role = sql.Identifier(database).as_string(), sql.Identifier(name).as_string()
        yield MAY_CREATE.failed(
            f"Source's login lacks CREATE on database {shown}, which a subscription there needs",
            f"Run on the source as its owner: GRANT CREATE ON DATABASE {shown} TO {role};",
            mended_by=_mender(source),
        )
    if not workers:
        yield WORKERS.failed(
            "Source runs no apply workers: max_logical_replication_workers is 0",
            "Raise it on the source (4 is its default) and restart it.",
        )


def _mender(source: Server) -> str | None:
    """The step that brings CREATE on the database: by a membership in its owner, or by the grant itself."""
    gaps = privileges.access_gaps(privileges.rights(source), [Kind.DATABASE])
    return "grant" if all(grant.possible for grant in gaps) else None
