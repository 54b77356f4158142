"""Subscriptions on the target: one a generation, on the slot that the copy began with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import conninfo, sql

from planrunner.errors import StepFailed
from planrunner.postgres.connection import LIVENESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server
    from planrunner.replication.names import Names
    from planrunner.replication.ranges import Owned
    from planrunner.replication.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """A subscription as the server shows it: ``pid`` of its apply worker while that runs."""

    name: str
    enabled: bool
    pid: int | None
    errors: int


def existing(target: Server, names: Names) -> dict[int, Subscription]:
    """Our subscriptions by generation."""
    errors = "coalesce(e.apply_error_count, 0)" if target.identity().major >= 15 else "0"
    join = "LEFT JOIN pg_stat_subscription_stats e ON e.subid = s.oid" if errors != "0" else ""
    rows = target.rows(
        sql.SQL(
            "SELECT s.subname::text, s.subenabled, w.pid, {errors}::bigint FROM pg_subscription s"
            " JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()"
            " LEFT JOIN pg_stat_subscription w ON w.subid = s.oid AND w.relid IS NULL {join}"
            " WHERE starts_with(s.subname::text, %s)"
        ).format(errors=sql.SQL(errors), join=sql.SQL(join)),
        [names.prefix],
    )
    found = (Subscription(name=r[0], enabled=r[1], pid=r[2], errors=r[3]) for r in rows)
    return {
        g: subscription for subscription in found if (g := names.generation(subscription.name)) is not None
    }


def dial_parameters(source: Server) -> dict[str, str]:
    """The connection string's parts as the target uses them, without the password."""
    parameters = {**source.parameters(), **LIVENESS}
    parameters.pop("application_name", None)
    seen = source.endpoint.seen_from_target
    if seen is not None:
        parameters.pop("hostaddr", None)
        parameters.update({"host": seen.host} if seen.host else {})
        parameters.update({"port": str(seen.port)} if seen.port else {})
        if seen.sslmode is not None:
            # Our CA file lies on this machine, not on the target's.
            parameters.pop("sslrootcert", None)
            parameters["sslmode"] = seen.sslmode
        parameters.update({"sslrootcert": seen.sslrootcert} if seen.sslrootcert else {})
    return parameters


def statement(
    source: Server, names: Names, generation: int, password: str | None, *, others: Sequence[str] = ()
) -> sql.Composed:
    """CREATE SUBSCRIPTION on the generation's slot: no second slot, no second copy, not yet enabled.

    ``others`` are the publications it follows besides the generation's own.
    """
    name = names.stream(generation)
    secret = {"password": password} if password is not None else {}
    dial = conninfo.make_conninfo(**dial_parameters(source), **secret)
    return sql.SQL(
        "CREATE SUBSCRIPTION {name} CONNECTION {dial} PUBLICATION {publications}"
        " WITH (create_slot = false, copy_data = false, enabled = false, slot_name = {slot})"
    ).format(
        name=sql.Identifier(name),
        dial=sql.Literal(dial),
        publications=sql.SQL(", ").join(map(sql.Identifier, (name, *others))),
        slot=sql.Literal(name),
    )


def create(workspace: Workspace, generation: int, owned: Owned, *, also: Sequence[str] = ()) -> None:
    """Create the generation's subscription, disabled, with what a TRUNCATE of its ranges does on the target.

    ``also`` are further publications that it names.
    """
    secret = workspace.source.password()
    command = statement(
        workspace.source,
        workspace.names,
        generation,
        secret.reveal() if secret is not None else None,
        others=(*owned.publications(workspace.names), *also),
    )
    name = sql.Identifier(workspace.names.stream(generation))
    with workspace.writing() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        for made in owned.truncating(workspace.names, generation):
            session.execute(made)
        session.execute(command)
        session.execute(
            sql.SQL("COMMENT ON SUBSCRIPTION {} IS {}").format(name, sql.Literal(workspace.names.owner_mark))
        )


def enable(workspace: Workspace, generation: int) -> None:
    """Start the generation's apply worker."""
    with workspace.writing() as session:
        session.execute(
            sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(workspace.names.stream(generation)))
        )


def drop(workspace: Workspace, generation: int) -> None:
    """Disable the subscription, wait for its worker to end, drop it; its slot is left to ``slots.drop``."""
    target, names = workspace.target, workspace.names
    name = sql.Identifier(names.stream(generation))
    if generation not in existing(target, names):
        return
    with workspace.writing() as session:
        session.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
    for _ in range(300):
        if existing(target, names)[generation].pid is None:
            break
        workspace.clock.sleep(0.05)
    else:
        raise StepFailed(
            f"target: the apply worker of {names.stream(generation)} does not end",
            remedy="Look at pg_stat_subscription on the target; run again to go on.",
        )
    with workspace.writing() as session:
        session.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name))
        session.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))
