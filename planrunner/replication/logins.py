"""Who subscriptions log in as on the other side: a role of the plan's own, renewed while it is used, dropped at cleanup.

The role's password is known to the process that set it and to the subscriptions, and is kept nowhere else. So a process
that needs it and did not set it gives the role another one and hands that to every subscription that is there: a
worker that dials in between is refused and comes back by itself. Where the process dies in between, the ledger
says so, and the next one hands over anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import conninfo, sql

from planrunner.errors import ConnectionFailed, PlanrunnerError, StepBlocked, StepConflict
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import dialler, quiet
from planrunner.postgres.dialler import Dialler, Kind
from planrunner.postgres.passwords import lasting_password

if TYPE_CHECKING:
    from planrunner.model import Json, Secret
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.workspace import Workspace

STEP = "login"
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_SUBSCRIPTIONS = """
SELECT subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
WHERE subname = %(back)s OR subname ~ %(forth)s ORDER BY 1
"""


def name_on(workspace: Workspace, server: Server) -> str:
    """The name of the role that is made on ``server``."""
    return workspace.names.login if server.side is Side.SOURCE else workspace.names.login_back


def chosen(workspace: Workspace, server: Server) -> Dialler:
    """Who the other side's subscriptions log in as on ``server``; reads only."""
    name = name_on(workspace, server)
    return dialler.chosen(server, name, workspace.names.owner_mark, workspace.terms.login)


def dial_parameters(workspace: Workspace, server: Server) -> dict[str, str]:
    """The connection string's parts as the other side's subscription uses them, without the password."""
    return dialling(server, chosen(workspace, server))


def dialling(server: Server, who: Dialler) -> dict[str, str]:
    """The same for a login that is known already."""
    named = {} if who.user is None else {"user": who.user}
    return {**server.parameters_elsewhere(), **named}


def borrowed(workspace: Workspace, server: Server) -> bool:
    """True where subscriptions log in as the plan's own login, or nobody can say."""
    try:
        return chosen(workspace, server).kind is Kind.OWN
    except PlanrunnerError:
        return server.endpoint.replication is None


def credentials(workspace: Workspace, server: Server) -> dict[str, str]:
    """What a subscription that dials ``server`` says of its login, the password too; see ``ready``."""
    who = ready(workspace, server)
    secret = _password(workspace, server, who)
    named = {} if who.user is None else {"user": who.user}
    return named if secret is None else {**named, "password": secret.reveal()}


def _password(workspace: Workspace, server: Server, who: Dialler) -> Secret | None:
    match who.kind:
        case Kind.MADE:
            return workspace.logins[server.side]
        case Kind.NAMED:
            return server.replication_password()
        case Kind.OWN:
            return lasting_password(server)


def ready(workspace: Workspace, server: Server) -> Dialler:
    """See that subscriptions can log in on ``server`` by a password that this process knows; returns who they are.

    To be called with no transaction of ours open that has changed a subscription. StepBlocked when the plan
    wishes a role that can't be made, StepConflict when another of its name is there.
    """
    if server.side in workspace.logins:
        return Dialler(kind=Kind.MADE, user=name_on(workspace, server))
    who = chosen(workspace, server)
    if who.kind is Kind.MADE:
        if who.lacking is not None:
            raise StepBlocked(
                f"{server.side.value}: no role can be made for the subscription to log in as: {who.lacking}",
                remedy=remedy(server),
            )
        _give_password(workspace, server)
    return who


def remedy(server: Server) -> str:
    """What to do where our login may not make the role: how others make one, and how to go on without."""
    rds = dialler.ground(server).rds
    right = (
        "GRANT rds_replication TO orders_replication;"
        if rds
        else "ALTER ROLE orders_replication REPLICATION;"
    )
    side = server.side.value
    return (
        f"Give the {side}'s login that; or make a login as an administrator: CREATE ROLE orders_replication LOGIN"
        f" PASSWORD '…'; {right} and name it as connections.{side}.replication: {{login, password}}; or write"
        " replication_role: own in the sync step."
    )


def _give_password(workspace: Workspace, server: Server) -> None:
    name, mark = name_on(workspace, server), workspace.names.owner_mark
    there = dialler.shown(server, name)
    if there is not None and there.mark != mark:
        raise StepConflict(
            f"{server.side.value}: role {name} is there and not ours: its comment is {there.mark!r}, not {mark!r}",
            remedy=f"Look whose it is; drop it or rename it on the {server.side.value}, then run again.",
        )
    password = dialler.random_password()
    workspace.done(STEP, server.side.value, {"role": name, "handed_over": False})
    with workspace.writing_to(server) as session:
        secret = dialler.verifier(session, name, password)
        holding, *rest = _setting(workspace, server, secret, new=there is None)
        with quiet.unrecorded(session):
            session.execute(holding)
        for statement in rest:
            session.execute(statement)
    failpoint("login.password_set")
    _await_replicating(workspace, server, name, password)
    _hand_over(workspace, server, {"user": name, "password": password.reveal()})
    failpoint("login.handed_over")
    workspace.logins[server.side] = password


def _setting(workspace: Workspace, server: Server, secret: str, *, new: bool) -> tuple[sql.Composed, ...]:
    name, until = name_on(workspace, server), _until(workspace)
    if not new:
        return (dialler.renewing(name, until=until, secret=secret),)
    on = dialler.ground(server)
    return dialler.making(name, workspace.names.owner_mark, on, secret=secret, until=until)


def _until(workspace: Workspace) -> str:
    return (workspace.clock.now() + workspace.terms.login_lifetime).isoformat(timespec="seconds")


def _await_replicating(workspace: Workspace, server: Server, name: str, password: Secret) -> None:
    """Wait until the role may replicate: RDS applies membership in rds_replication a moment after the GRANT.

    Any other refusal is passed over: only the other side need be let in.
    """
    deadline = workspace.clock.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            server.open(read_only=False, secret=password, user=name, replication="database").close()
        except ConnectionFailed as error:
            if error.sqlstate == "42501" and workspace.clock.monotonic() < deadline:
                workspace.clock.sleep(_POLL_SECONDS)
                continue
        return


def _hand_over(workspace: Workspace, server: Server, known: dict[str, str]) -> None:
    """Give every subscription that dials ``server`` the login."""
    dial = conninfo.make_conninfo("", **{**server.parameters_elsewhere(), **known})
    subscriber = workspace.target if server.side is Side.SOURCE else workspace.source
    with workspace.writing_to(subscriber) as session:
        for subscription in subscribed(workspace, server):
            with quiet.unrecorded(session):
                session.execute(redialling(subscription, dial))
        if subscriber is workspace.target:
            _note(workspace, session, server)
    if subscriber is not workspace.target:
        workspace.done(STEP, server.side.value, {"role": known["user"], "handed_over": True})


def _note(workspace: Workspace, session: Session, server: Server) -> None:
    detail: dict[str, Json] = {"role": name_on(workspace, server), "handed_over": True}
    workspace.ledger.record_effect(session, STEP, server.side.value, detail)


def subscribed(workspace: Workspace, server: Server) -> tuple[str, ...]:
    """Our subscriptions that dial ``server``."""
    names = workspace.names
    if server.side is Side.SOURCE:
        rows = workspace.target.rows(_SUBSCRIPTIONS, {"back": "", "forth": f"^{names.prefix}[0-9]+$"})
    else:
        rows = workspace.source.rows(_SUBSCRIPTIONS, {"back": names.back, "forth": "^$"})
    return tuple(str(row[0]) for row in rows)


def redialling(subscription: str, dial: str) -> sql.Composed:
    """What gives a subscription another connection string."""
    return sql.SQL("ALTER SUBSCRIPTION {} CONNECTION {}").format(
        sql.Identifier(subscription), sql.Literal(dial)
    )


def torn(workspace: Workspace, server: Server) -> bool:
    """True when subscriptions can't log in on ``server`` any more: a handing over broke off, or the role is gone."""
    noted = workspace.ledger.effects(STEP).get(server.side.value)
    if noted is None or server.side in workspace.logins or not subscribed(workspace, server):
        return False
    if chosen(workspace, server).kind is not Kind.MADE:
        return False
    return not noted["handed_over"] or dialler.shown(server, noted["role"]) is None


def due(workspace: Workspace, server: Server) -> bool:
    """True when less than half of the role's lifetime is left."""
    there = dialler.shown(server, name_on(workspace, server))
    if there is None or there.mark != workspace.names.owner_mark or there.left is None:
        return False
    return there.left < workspace.terms.login_lifetime.total_seconds() / 2


def renew(workspace: Workspace, server: Server) -> None:
    """Let the role be valid for its whole lifetime again."""
    with workspace.writing_to(server) as session:
        session.execute(dialler.renewing(name_on(workspace, server), until=_until(workspace)))
    failpoint("login.renewed")


def there(workspace: Workspace, server: Server) -> bool:
    """True when the server shows the role, and it is ours."""
    found = dialler.shown(server, name_on(workspace, server))
    return found is not None and found.mark == workspace.names.owner_mark


def drop(workspace: Workspace, server: Server) -> None:
    """Remove the role once no subscription uses it; nothing happens when it is gone or not ours."""
    name = name_on(workspace, server)
    found = dialler.shown(server, name)
    workspace.logins.pop(server.side, None)
    if found is not None and found.mark == workspace.names.owner_mark:
        failpoint("login.before_drop")
        with workspace.writing_to(server) as session:
            for statement in dialler.dropping(name, found):
                session.execute(statement)
        failpoint("login.dropped")
    if workspace.ledger.exists():
        with workspace.writing() as session:
            workspace.ledger.forget_effects(session, STEP, server.side.value)
