"""Checks of the standby that rows are to be read from: is it one of the source, and may the login freeze it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import ServerError
from planrunner.postgres.preflight_section import REPLICA, Check
from planrunner.replication import freezing, origins, standby
from planrunner.replication.workspace import Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Freezing, Workspace

REACHED = Check(
    code="PR1601",
    section=REPLICA,
    title="The replica can be reached",
    why="The rows are read there: without it nothing of the copy can be done.",
    mend="Correct connections.replica.",
    never_ignored="nothing could be copied",
)
STANDBY = Check(
    code="PR1602",
    section=REPLICA,
    title="The replica is a standby of the source",
    why="Where its replay ends, the stream from the source goes on: that holds for a physical copy of the same cluster"
    " only, and one that still follows when the slot is made.",
    mend="Name a streaming standby of connections.source, and the same database, as connections.replica.",
    never_ignored="rows would be missing or there twice",
)
PAUSABLE = Check(
    code="PR1603",
    section=REPLICA,
    title="The standby tells when its replay stands still",
    why="Before PostgreSQL 14 a standby tells only that it was asked to pause, not where it stopped.",
    mend="Write freeze: promote, for a standby that is not needed any more.",
    never_ignored="nobody would know what is in the copy",
)
ALLOWED = Check(
    code="PR1604",
    section=REPLICA,
    title="The login may freeze the standby",
    why="The functions that pause, resume and promote are the superuser's unless they are granted.",
    mend="Grant them on the source; the standby replays the grant.",
    never_ignored="the standby could not be frozen",
)
UNPAUSED = Check(
    code="PR1605",
    section=REPLICA,
    title="Nobody else has paused the standby",
    why="It has to replay past the slot before it is frozen, and whoever paused it needs it where it is.",
    mend="Let it go on: SELECT pg_wal_replay_resume();",
    never_ignored="it would never reach the slot",
)
FEEDBACK = Check(
    code="PR1606",
    section=REPLICA,
    title="The standby holds nothing back on the source",
    why="With hot_standby_feedback a standby that is paused keeps the source from removing dead rows for as long as it"
    " stands still.",
    mend="Set hot_standby_feedback = off on the standby for the time of the copy.",
)
ORIGIN = Check(
    code="PR1607",
    section=REPLICA,
    title="The target's login may say where the subscription begins",
    why="The slot is older than the copy: without moving the subscription's origin to the copy's end, changes that are"
    " in the copy would be applied again.",
    mend="Grant the functions pg_replication_origin_advance and pg_replication_origin_progress on the target.",
    never_ignored="changes would be applied twice",
)
ROOM = Check(
    code="PR1608",
    section=REPLICA,
    title="The standby's disk takes what it does not replay",
    why="While its replay is paused it goes on receiving WAL and removes none: as much as the source writes meanwhile.",
    mend="See that its disk has room for what the source writes while the copy takes.",
)
RESTORABLE = Check(
    code="PR1609",
    section=REPLICA,
    title="The source's instance can be restored, or its cluster cloned",
    why="The rows are read from an instance that is restored from a snapshot of the source's own, or from a clone of the"
    " source's Aurora cluster; where a clone begins its release of Aurora has to tell.",
    mend="Name the source's RDS instance, or its Aurora cluster's writer, as connections.source.rds: {instance: NAME};"
    " elsewhere read on the source (from: primary) or on a standby (from: replica).",
    never_ignored="nothing could be copied",
)
SUBSCRIBES = Check(
    code="PR1610",
    section=REPLICA,
    title="The source subscribes to nobody",
    why="A copy of its storage has its subscriptions, too, and takes from their publishers' slots what is then never"
    " sent to the source.",
    mend="Disable them on the source for as long as the copy takes (ALTER SUBSCRIPTION … DISABLE), or read on the source"
    " (from: primary).",
    never_ignored="the source would miss changes for good",
)
_SUBSCRIBED = (
    "SELECT string_agg(quote_ident(subname), ', ' ORDER BY subname) FROM pg_subscription WHERE subenabled"
)
_FEEDBACK = "SELECT current_setting('hot_standby_feedback')::boolean"
_MAY = """
SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')),
       string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text)
FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (%s)
"""
_FUNCTIONS = {
    Way.PAUSE: ["pg_wal_replay_pause", "pg_wal_replay_resume"],
    Way.PROMOTE: ["pg_promote"],
    Way.RESTORE: [],
    Way.CLONE: [],
}


def findings(workspace: Workspace) -> list[Finding]:
    """Whether the standby serves; nothing where the plan reads on the source or the standby is frozen already."""
    if workspace.freezing is None or freezing.begun(workspace) is not None:
        return []
    server, way = workspace.freezing.server, workspace.freezing.way
    if server is None:
        return [
            _restorable(workspace, workspace.freezing),
            _subscribes(workspace.source),
            _origin(workspace.target),
        ]
    try:
        return [*_of_standby(workspace, server, way), _origin(workspace.target)]
    except ServerError as error:
        return [REACHED.failed(error.message, error.remedy)]


def _restorable(workspace: Workspace, wished: Freezing) -> Finding:
    if wished.restorer is None:
        return RESTORABLE.failed("The plan names no instance of the source", RESTORABLE.mend)
    lacking = wished.restorer.lacking()
    if lacking is not None:
        return RESTORABLE.failed(lacking[0].upper() + lacking[1:], RESTORABLE.mend)
    if wished.restorer.way() is not Way.CLONE:
        return RESTORABLE.passed("The source's instance can be restored from a snapshot")
    if not standby.tells_where_cloned(workspace.source):
        said = standby.NO_WORD_OF_CLONES
        return RESTORABLE.failed(said[0].upper() + said[1:], standby.WORD_OF_CLONES_SINCE)
    return RESTORABLE.passed("The source's cluster can be cloned")


def _subscribes(source: Server) -> Finding:
    names = source.value(_SUBSCRIBED)
    if names is None:
        return SUBSCRIBES.passed("The source subscribes to nobody")
    return SUBSCRIBES.failed(f"The source subscribes to others: {names}", SUBSCRIBES.mend)


def _of_standby(workspace: Workspace, server: Server, way: Way) -> Iterator[Finding]:
    ours, theirs = workspace.source.identity(), server.identity()
    yield REACHED.passed(f"Replica reached: PostgreSQL {theirs.version_text}")
    same = (ours.system_identifier, ours.database) == (theirs.system_identifier, theirs.database)
    if not same or not theirs.in_recovery:
        told = "is no standby" if same else "is a copy of another cluster, or another database"
        yield STANDBY.failed(f"The replica {told}", STANDBY.mend)
        return
    yield STANDBY.passed("The replica is a standby of the source")
    if way is Way.PAUSE and theirs.version < standby.PAUSE_SINCE:
        yield PAUSABLE.failed(
            f"A standby of PostgreSQL {theirs.major} does not tell when it stands still", PAUSABLE.mend
        )
        return
    yield PAUSABLE.passed("The standby tells when it stands still")
    yield _allowed(server, way, theirs.user)
    yield (
        UNPAUSED.passed("The standby replays")
        if standby.look(server).state == "not paused"
        else UNPAUSED.failed("The standby's replay is paused", UNPAUSED.mend)
    )
    if way is Way.PAUSE:
        yield (
            FEEDBACK.warned(
                "The standby sends hot_standby_feedback: the source keeps dead rows meanwhile", FEEDBACK.mend
            )
            if server.value(_FEEDBACK)
            else FEEDBACK.passed("The standby sends no hot_standby_feedback")
        )
        yield ROOM.warned("The standby keeps all WAL that comes while it stands still", ROOM.mend)


def _allowed(server: Server, way: Way, user: str) -> Finding:
    row = server.row(_MAY, [_FUNCTIONS[way]])
    assert row is not None
    if row[0]:
        return ALLOWED.passed(f"Login {user} may freeze the standby")
    return ALLOWED.failed(
        f"Login {user} may not freeze the standby",
        f'Execute on the source as a superuser: GRANT EXECUTE ON FUNCTION {row[1]} TO "{user}";',
    )


def _origin(target: Server) -> Finding:
    if target.value(origins.MAY_MOVE):
        return ORIGIN.passed("Target's login may move replication origins")
    return ORIGIN.failed(
        "Target's login may not move replication origins",
        f"Execute on the target as a superuser: {origins.granting(target)}",
    )
