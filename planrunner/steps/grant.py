"""The step ``grant``: gives the source's login what it lacks to copy and to replicate."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from planrunner.errors import StepBlocked
from planrunner.failpoints import failpoint
from planrunner.model import Side, Upkeep
from planrunner.postgres import needs, privileges
from planrunner.postgres.connection import Server
from planrunner.postgres.grants import TO_COME, Grant, Kind, give
from planrunner.postgres.grants_back import remembered, take_back
from planrunner.references import reference
from planrunner.replication import described, ledger, relations, upkeep
from planrunner.step import NO_LOCKS, NOTHING_STAYS, TAKEN_BACK, Action, Draft, Run, outlined
from planrunner.workspace import polls, selected, workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.privileges import Login, Rights

STEP = "grant"
_LATER = "allow reading what is created during the migration"
_RIGHTS = {
    Kind.DATABASE: "CREATE on the database:",
    Kind.SCHEMA: "USAGE on schemas:",
    Kind.TABLE: "SELECT on tables:",
    Kind.SEQUENCE: "SELECT on sequences:",
}


class GrantRights:
    """Grants only what is missing, as the plan's own login; what it may not do itself is told."""

    uses: ClassVar[str] = STEP
    upkeep: ClassVar[tuple[Upkeep, ...]] = upkeep.OWN

    def actions(self, run: Run) -> Sequence[Action]:
        """The replication right, memberships in the roles that own tables, USAGE and SELECT."""
        wanted = run.option("memberships", True)  # noqa: FBT003  # the option's default
        held = _held(run)
        streamed = not polls(run.plan)
        replication = privileges.replication_gap(held.login) if streamed else None
        memberships = privileges.membership_gaps(held) if wanted else ()
        access = privileges.access_gaps(held)
        everything = (*((replication,) if replication else ()), *memberships, *access)
        to_come = _to_come(run, held, memberships=wanted)
        found: list[Action] = []
        if replication is not None and replication.possible:
            found.append(_replication(replication))
        found += _rest("memberships", "join the roles that own tables", memberships)
        found += _rest("access", "allow reading", access)
        found += _rest("access to come", _LATER, to_come)
        if streamed and not held.login.replicates and replication is None:
            found.append(_attribute(held.login))
        lacking = [grant for grant in everything if not grant.possible]
        if lacking:
            found += _by_others(held, [*lacking, *(grant for grant in to_come if not grant.possible)])
        return found

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The grants it may come to; which of them are missing, the source tells."""
        login = "…"
        replicating = Grant(kind=Kind.ROLE, names=(privileges.RDS_REPLICATION,), login=login)
        found = [] if polls(draft.plan) else [_replication(replicating)]
        owners = Grant(kind=Kind.ROLE, names=("…",), login=login)
        if draft.option("memberships", True):  # noqa: FBT003  # the option's default
            found += _rest("memberships", "join the roles that own tables", [owners])
        kinds = (Kind.DATABASE, Kind.SCHEMA, Kind.TABLE, Kind.SEQUENCE)
        some = [Grant(kind=kind, names=("…",), login=login) for kind in kinds]
        found += _rest("access", "allow reading", some)
        if draft.option("default_privileges", True):  # noqa: FBT003  # the option's default
            later = [Grant(kind=kind, schema="…", names=("…",), login=login) for kind in TO_COME]
            found += _rest("access to come", _LATER, later)
        return outlined(found)

    def satisfied(self, run: Run) -> Sequence[str]:
        """The rights that the login has."""
        held = _held(run)
        who = held.login
        found = [f"{who.name} may replicate"] if who.replicates else []
        for kind, right in _RIGHTS.items():
            objects = held.of(kind)
            having = sum(o.held for o in objects)
            found += [f"{who.name} has {right} {having} of {len(objects)}"] if having else []
        owned = sum(t.owned for t in held.of(Kind.TABLE))
        return [*found, *([f"{who.name} has the owner's rights on {owned} tables"] if owned else [])]

    def leftovers(self, run: Run) -> Sequence[Action]:
        """The grants that this plan made, to be taken back; the ledger on the target remembers them."""
        made = [Grant.from_detail(d) for d in workspace(run).ledger.effects(STEP).values()]
        if not made:
            return ()
        return [
            Action(
                name="take back",
                summary=f"take back what {made[0].login} was granted: {_names(made)}",
                where=Side.SOURCE,
                statements=(
                    *(grant.take_back().as_string() for grant in made),
                    *described.all_told(
                        [grant.take_back() for grant in made if grant.kind in TO_COME],
                        described.TARGET,
                        "where the dump brought it",
                    ),
                    ledger.forgetting(run.plan_id, STEP).as_string() + "  -- on the target",
                ),
                locks=NO_LOCKS,
                needs=(needs.GIVING_ROLES, needs.GIVING_ACCESS),
                undo=privileges.by_hand(None, made),
                lasting=NOTHING_STAYS,
                perform=partial(_take_back, grants=made),
            )
        ]


def _replication(grant: Grant) -> Action:
    return Action(
        name="replication",
        summary=f"let {grant.login} replicate, and wait until it may"
        if grant.kind is Kind.ATTRIBUTE
        else f"make {grant.login} a member of {grant.names[0]} and wait until it may replicate",
        where=Side.SOURCE,
        statements=(grant.give().as_string(),),
        locks=NO_LOCKS,
        needs=(needs.GIVING_ROLES, *needs.on(Side.TARGET, needs.CREATE)),
        undo=grant.take_back().as_string(),
        lasting=TAKEN_BACK,
        perform=partial(_give_replication, grant=grant),
    )


def _give_replication(run: Run, *, grant: Grant) -> None:
    _give(run, grants=[grant])
    privileges.await_replication(run.source, run.clock)


def _rest(name: str, aim: str, grants: Sequence[Grant]) -> list[Action]:
    mine = [grant for grant in grants if grant.possible]
    if not mine:
        return []
    return [
        Action(
            name=name,
            summary=f"{aim}: {_names(mine)}",
            where=Side.SOURCE,
            statements=tuple(grant.give().as_string() for grant in mine),
            locks=NO_LOCKS,
            needs=(
                needs.GIVING_ROLES if name == "memberships" else needs.GIVING_ACCESS,
                *needs.on(Side.TARGET, needs.CREATE),
            ),
            undo=" ".join(f"{grant.take_back().as_string()};" for grant in mine),
            lasting=TAKEN_BACK,
            perform=partial(_give, grants=mine),
        )
    ]


def _give(run: Run, *, grants: Sequence[Grant]) -> None:
    # Recorded first: a grant shows on the server, but not who made it, so cleanup would miss it.
    giver = _giver(run)
    for grant in grants:
        workspace(run).done(STEP, grant.key, remembered(giver, grant).detail())
    failpoint("grant.recorded")
    give(giver, grants)
    failpoint("grant.given")


def _take_back(run: Run, *, grants: Sequence[Grant]) -> None:
    kept = take_back(_giver(run), grants)
    failpoint("grant.taken_back")
    if later := [grant for grant in grants if grant.kind in TO_COME]:
        take_back(run.target, later, where_we_may=True)
    if kept:
        run.tell(f"left as somebody else made it: {'; '.join(kept)}", {"kept": list(kept)})
    workspace(run).ledger.forget(STEP)


def _giver(run: Run) -> Server:
    """Who makes the grants: the administrator that the step names, or the plan's login."""
    given: dict[str, Any] | None = run.option("administrator", None)
    if given is None:
        return run.source
    found = run.held.get("administrator", Server)
    if found is None:
        ref = reference(given["password"]["secret"], run.plan.path.parent)
        found = run.source.as_login(str(given["login"]), lambda: run.resolve(ref))
        run.held.put("administrator", found)
    return found


def _held(run: Run) -> Rights:
    giver = _giver(run)
    return privileges.rights(
        giver,
        memberships=run.option("memberships", True),  # noqa: FBT003  # the option's default
        left_out=relations.left_out(giver, selected(run.plan)),
        name=None if giver is run.source else run.source.identity().user,
    )


def _to_come(run: Run, held: Rights, *, memberships: bool) -> Sequence[Grant]:
    if not run.option("default_privileges", True):  # noqa: FBT003  # the option's default
        return ()
    return privileges.default_gaps(_giver(run), held, memberships=memberships)


def _attribute(who: Login) -> Action:
    statement = privileges.attribute_statement(who)
    return _blocked(
        name="replication attribute",
        summary=f"give {who.name} the REPLICATION attribute",
        statements=(statement,),
        reason=f'Missing REPLICATION privilege: role "{who.name}" may not replicate, nor give itself that.'
        f" Run on the source as a superuser: {statement}",
    )


def _by_others(held: Rights, grants: Sequence[Grant]) -> list[Action]:
    supers = sorted({o.owner for o in held.of(Kind.TABLE) if o.of_superuser and not o.owned})
    rest = [g for g in grants if not (g.kind is Kind.ROLE and set(g.names) <= set(supers))]
    if len(rest) == len(grants):
        return _by_hand(held.login, grants)
    return [*_owned_by_superusers(held, supers), *_by_hand(held.login, rest)]


def _owned_by_superusers(held: Rights, supers: Sequence[str]) -> list[Action]:
    tables = [o.qualified for o in held.of(Kind.TABLE) if o.owner in supers]
    return [
        _blocked(
            name="tables of superusers",
            summary=f"get the owner's rights on {len(tables)} tables of {', '.join(supers)}, a superuser",
            statements=("-- none: membership in a superuser's role would give its rights on everything",),
            reason=f"{', '.join(tables[:5])}: give them another owner (ALTER TABLE … OWNER TO …), let a superuser be"
            " the login of connections.source, or leave them out by the snapshot step's filters.",
        )
    ]


def _by_hand(who: Login, grants: Sequence[Grant]) -> list[Action]:
    if not grants:
        return []
    text = privileges.by_hand(who, grants)
    return [
        _blocked(
            name="grants by the master user",
            summary=f"grant what {who.name} may not grant itself: {_names(grants)}",
            statements=tuple(grant.give().as_string() for grant in grants),
            reason=f"Run on the source as the master user (elsewhere: a superuser): {text}",
        )
    ]


def _blocked(*, name: str, summary: str, statements: tuple[str, ...], reason: str) -> Action:
    def perform(_: Run) -> None:
        raise StepBlocked(f"source: not done: {summary}", remedy=reason)

    return Action(
        name=name,
        summary=summary,
        where=Side.SOURCE,
        statements=statements,
        locks=NO_LOCKS,
        needs=(needs.BY_OTHERS,),
        undo="REVOKE, by hand",
        lasting="the grants that somebody else gives: cleanup does not take them back",
        blocked=reason,
        perform=perform,
    )


def _names(grants: Sequence[Grant]) -> str:
    names = [name if g.schema is None else f"{g.schema}.{name}" for g in grants for name in g.names]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
