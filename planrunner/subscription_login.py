"""The login of subscriptions as the steps that subscribe tell of it: actions, findings, what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres import dialler, needs
from planrunner.postgres.dialler import Ground, Kind, Wish
from planrunner.postgres.preflight_section import FOLLOWING, WAY_BACK, Check
from planrunner.replication import described, logins
from planrunner.replication.names import Names
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, TAKEN_BACK, Action, Draft, Run
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.dialler import Dialler
    from planrunner.replication.workspace import Workspace

_WHY = (
    "A subscription keeps the password it was created with. With a login of its own, the plan's password can be rotated"
    " in mid-run, and what the other side keeps opens the stream and no table."
)
_MEND = (
    "Give the login CREATEROLE, so that a role is made for each plan; or let an administrator make one and name it as"
    " `replication` beside the DSN; or say `replication_role: own` in the sync step."
)
SUBSCRIBES = Check(code="PR1203", section=FOLLOWING, title="The subscription's login", why=_WHY, mend=_MEND)
SUBSCRIBES_BACK = Check(
    code="PR0921", section=WAY_BACK, title="The login of the way back", why=_WHY, mend=_MEND
)
_NAMED = """
SELECT rolcanlogin, rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles g
         WHERE g.rolname = 'rds_replication' AND pg_has_role(r.oid, g.oid, 'USAGE')),
       has_database_privilege(r.oid, current_database(), 'CONNECT'), coalesce(rolvaliduntil < now(), false)
FROM pg_roles r WHERE rolname = %s
"""


def server_of(run: Run, side: Side) -> Server:
    """The side that is dialled."""
    return run.source if side is Side.SOURCE else run.target


def outlined(draft: Draft, side: Side) -> tuple[str, ...]:
    """The statements of making the role, as far as the plan alone tells whether there is one."""
    endpoint = draft.plan.source if side is Side.SOURCE else draft.plan.target
    if endpoint.replication is not None or draft.option_of("sync", "replication_role", "auto") == "own":
        return ()
    names = Names(plan_id=draft.plan_id)
    user = names.login if side is Side.SOURCE else names.login_back
    made = described.making_login(
        names, user, Ground(version=160000, rds=endpoint.rds is not None, maker="…")
    )
    where = described.SOURCE if side is Side.SOURCE else described.TARGET
    return described.all_told(made, where, "where its login may make roles")


def needed(run: Run, side: Side = Side.SOURCE) -> tuple[str, ...]:
    """What making the role needs, where it is to be made."""
    kind = logins.chosen(workspace(run), server_of(run, side)).kind
    return needs.on(side, needs.MAKING_LOGINS) if kind is Kind.MADE else ()


def missing(run: Run, side: Side) -> Sequence[Action]:
    """What is missing until the subscriptions that are there can log in, and can for long enough."""
    space, server = workspace(run), server_of(run, side)
    if logins.torn(space, server):
        return [_handing_over(space, server)]
    return [_renewing(space, server)] if logins.due(space, server) else []


def _handing_over(space: Workspace, server: Server) -> Action:
    name = logins.name_on(space, server)
    return Action(
        name="subscription's login",
        summary=f"give role {name} a new password and hand it to the subscriptions that are there",
        where=server.side,
        statements=described.giving_login(space, server, described.Time.FIRST),
        locks=NO_LOCKS,
        needs=(needs.MAKING_LOGINS, *needs.on(_other(server.side), needs.SUBSCRIBING)),
        undo="planrunner cleanup drops the role",
        lasting=TAKEN_BACK,
        adjusts=True,
        recovery=True,
        perform=lambda run: _ready(run, server.side),
    )


def _ready(run: Run, side: Side) -> None:
    logins.ready(workspace(run), server_of(run, side))


def _renewing(space: Workspace, server: Server) -> Action:
    name = logins.name_on(space, server)
    return Action(
        name="renew login",
        summary=f"let role {name}, by which the subscription logs in, be valid for longer",
        where=server.side,
        statements=(dialler.renewing(name, until="…").as_string(),),
        locks=NO_LOCKS,
        needs=(needs.MAKING_LOGINS,),
        undo="planrunner cleanup drops the role",
        lasting=TAKEN_BACK,
        adjusts=True,
        perform=lambda run: logins.renew(workspace(run), server_of(run, server.side)),
    )


def leftovers(run: Run, side: Side) -> Sequence[Action]:
    """The removal of the role, where it is there."""
    space, server = workspace(run), server_of(run, side)
    found = dialler.shown(server, logins.name_on(space, server))
    if found is None or found.mark != space.names.owner_mark:
        return ()
    name = logins.name_on(space, server)
    return [
        Action(
            name="drop login",
            summary=f"drop role {name}, by which the subscription logged in",
            where=side,
            statements=described.all_told(dialler.dropping(name, found)),
            locks=NO_LOCKS,
            needs=(needs.MAKING_LOGINS,),
            undo=f"{IRREVERSIBLE}: a run makes another",
            lasting=NOTHING_STAYS,
            destructive=True,
            perform=lambda run: logins.drop(workspace(run), server_of(run, side)),
        )
    ]


def findings(run: Run, side: Side) -> Iterator[Finding]:
    """Who the subscription will log in as, and what is wrong with that."""
    check = SUBSCRIBES if side is Side.SOURCE else SUBSCRIBES_BACK
    space, server = workspace(run), server_of(run, side)
    who = logins.chosen(space, server)
    match who.kind:
        case Kind.NAMED:
            yield _named(check, server, str(who.user))
        case Kind.MADE:
            yield _made(check, space, server, who)
        case Kind.OWN:
            yield _own(check, space, server, who)


def _named(check: Check, server: Server, user: str) -> Finding:
    row, side = server.row(_NAMED, [user]), server.side.value
    if row is None:
        return check.failed(
            f'There is no role "{user}" on the {side}, by which the subscription is to log in',
            f"Create it, or take connections.{side}.replication out of the plan.",
        )
    may_login, replicates, connects, expired = row
    lacking = [
        text
        for held, text in (
            (may_login, "LOGIN"),
            (replicates, "the right to replicate"),
            (connects, "CONNECT on the database"),
            (not expired, "a VALID UNTIL that is to come"),
        )
        if not held
    ]
    if lacking:
        role = sql.Identifier(user).as_string()
        return check.failed(
            f'Role "{user}", by which the subscription is to log in, lacks {" and ".join(lacking)}',
            f"Run on the {side} as an administrator: ALTER ROLE {role} LOGIN REPLICATION VALID UNTIL 'infinity'; (on"
            f" RDS: GRANT rds_replication TO {role};)",
        )
    return check.passed(f'Subscription logs in as "{user}", which may replicate')


def _made(check: Check, space: Workspace, server: Server, who: Dialler) -> Finding:
    name, side = logins.name_on(space, server), server.side.value
    there = dialler.shown(server, name)
    if there is not None and there.mark != space.names.owner_mark:
        return check.failed(
            f"Role {name} is there on the {side} and not ours: its comment is {there.mark!r}",
            f"Look whose it is; drop it or rename it on the {side}.",
        )
    if who.lacking is not None:
        return check.failed(
            f"No role can be made for the subscription to log in as: {who.lacking}", logins.remedy(server)
        )
    return check.passed(f"Subscription logs in by a role of its own, {name}")


def _own(check: Check, space: Workspace, server: Server, who: Dialler) -> Finding:
    if server.endpoint.rds_iam:
        why = f" ({who.lacking})" if who.lacking else ""
        return check.failed(
            f"Subscription has no login: an IAM token lasts 15 minutes, and no role is made for it{why}",
            logins.remedy(server),
        )
    if who.lacking is None or space.terms.login is Wish.OWN:
        return check.passed("Subscription logs in as the plan's own login")
    return check.warned(
        f"Subscription logs in as the plan's own login, as no role can be made for it: {who.lacking}",
        logins.remedy(server),
    )


def _other(side: Side) -> Side:
    return Side.TARGET if side is Side.SOURCE else Side.SOURCE
