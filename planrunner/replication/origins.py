"""Where a subscription begins that is not to begin where its slot stands: its replication origin is moved there.

A move takes effect in the server's memory at once and is not taken back with its transaction, while the origin is: the
next subscription that is given the same number would begin there. So the subscription is committed first, the move has
a transaction of its own, and only what was read back counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepBlocked, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.workspace import Workspace

STEP = "origin"
MAY_MOVE = (
    "SELECT has_function_privilege('pg_replication_origin_advance(text, pg_lsn)', 'EXECUTE')"
    " AND has_function_privilege('pg_replication_origin_progress(text, boolean)', 'EXECUTE')"
)
_PROGRESS = (
    "SELECT pg_replication_origin_progress('pg_' || oid, true)::text FROM pg_subscription WHERE subname = %s"
)


def made(workspace: Workspace, session: Session, subscription: str, begins: Lsn | None = None) -> None:
    """Record, in the transaction that makes ``subscription`` or before it, that its origin was not moved yet.

    ``begins`` is where it is to begin, see ``settle_wished``.
    """
    wish = {} if begins is None else {"begins": str(begins)}
    workspace.ledger.record_effect(session, STEP, subscription, {"moved": None, **wish})


def wished(workspace: Workspace, subscription: str) -> Lsn | None:
    """Where a subscription is still to be moved to before it is enabled; None where its slot says where it begins."""
    begins = workspace.ledger.effects(STEP).get(subscription, {}).get("begins")
    return None if begins is None else Lsn.parse(str(begins))


def settle_wished(workspace: Workspace, server: Server, subscription: str) -> None:
    """See that a subscription that was never enabled begins where it was made to, as ``settle`` does.

    Its slot was advanced to there, which a crash of its server before the next checkpoint takes back: what was sent
    and applied by another stream would come again. Where the login may not move it, the wish is given up.
    """
    begins = wished(workspace, subscription)
    if begins is None:
        return
    if server.value(MAY_MOVE):
        settle(workspace, server, subscription, begins, needed=False)
    else:
        # Later, when somebody has granted it, the subscription would be moved back.
        workspace.done(STEP, subscription, {"moved": None})


def settle(workspace: Workspace, server: Server, subscription: str, begins: Lsn, *, needed: bool) -> None:
    """See that ``subscription``, committed and not enabled yet, begins at ``begins``; a second time changes nothing.

    Where the login may not move it nothing is done, or, where it is ``needed``, StepBlocked is raised.
    """
    if not server.value(MAY_MOVE):
        if needed:
            raise StepBlocked(
                f"{server.side.value}: the login may not move replication origins, and {subscription} has to begin at"
                f" {begins}",
                remedy=f"Execute on the {server.side.value} as a superuser: {granting(server)}",
            )
        return
    moved = workspace.ledger.effects(STEP).get(subscription, {}).get("moved")
    # What was enabled meanwhile has come further.
    if moved == str(begins) and (at := progress(server, subscription)) is not None and at >= begins:
        return
    with workspace.writing_to(server) as session:
        failpoint("origin.before_move")
        session.execute(moving(subscription, str(begins)))
    failpoint("origin.moved")
    at = progress(server, subscription)
    if at != begins:
        raise StepFailed(
            f"{server.side.value}: {subscription} would begin at {at}, not at {begins}; it was not enabled",
            remedy="Run again: its origin is moved anew.",
        )
    workspace.done(STEP, subscription, {"moved": str(begins)})


def progress(server: Server, subscription: str) -> Lsn | None:
    """Up to where ``subscription`` has applied, as its origin says; None before it has."""
    found = server.value(_PROGRESS, [subscription])
    return None if found is None else Lsn.parse(found)


def moving(subscription: str, lsn: str) -> sql.Composed:
    """What tells a subscription's origin that everything up to ``lsn`` is there."""
    return sql.SQL(
        "SELECT pg_replication_origin_advance('pg_' || oid, {}::pg_lsn) FROM pg_subscription WHERE subname = {}"
    ).format(sql.Literal(lsn), sql.Literal(subscription))


def granting(server: Server) -> str:
    """What lets the login move origins and read where they are."""
    functions = (
        "pg_replication_origin_advance(text, pg_lsn)",
        "pg_replication_origin_progress(text, boolean)",
    )
    return (
        sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {};")
        .format(sql.SQL(", ").join(map(sql.SQL, functions)), sql.Identifier(server.identity().user))
        .as_string()
    )
