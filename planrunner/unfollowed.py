"""Actions about what replication does not carry by itself: roles, identities, large objects, and decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.model import Side
from planrunner.postgres import catalog, needs
from planrunner.replication import (
    decisions,
    described,
    identities,
    large_objects,
    late,
    ledger,
    roles,
    uncarried,
    verify,
)
from planrunner.replication.choices import Way
from planrunner.replication.schema_dump import Wishes
from planrunner.step import NO_LOCKS, NO_NEEDS, NOTHING_STAYS, TAKEN_BACK, Action
from planrunner.units import human_bytes
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.step import Draft, Run


def wishes(run: Run) -> Wishes:
    """Whether the plan keeps owners and grants."""
    return Wishes(
        owners=run.option("owners", "keep") == "keep", grants=run.option("grants", "keep") == "keep"
    )


def preparations(run: Run) -> Sequence[Action]:
    """What comes before the capture: refusals, decisions, replica identities."""
    identifying = _identities(run) if workspace(run).streamed else ()
    return [*_refusals(run), *_decided(run), *identifying]


def outline(draft: Draft) -> Sequence[Action]:
    """What the plan's choices may come to: identities, roles, large objects."""
    found: list[Action] = []
    if draft.option("without_replica_identity", None) is not None:
        found.append(_identifying([identities.Change(table=catalog.ANY_TABLE, index=None)]))
    if "keep" in {draft.option("owners", "keep"), draft.option("grants", "keep")}:
        made = ("CREATE ROLE …  -- of each role that is named and missing", "GRANT … TO …  -- memberships")
        found.append(_creating_roles("the missing roles", made, lambda _: None))
    if draft.option("large_objects", "refuse") == "copy":
        found.append(_copying_large_objects("the large objects"))
    return found


def satisfied(run: Run) -> Sequence[str]:
    """What a migration would have had to bring and is there."""
    found = []
    if wishes(run).owners or wishes(run).grants:
        there = len(roles.named(run.source)) - len(roles.missing(run.source, run.target))
        found += [f"{there} of the roles that are named exist on the target"] if there else []
    copied = workspace(run).ledger.effects(large_objects.STEP)
    return [*found, *(["the large objects are copied"] if large_objects.COPIED in copied else [])]


def _bare(run: Run) -> list[Table]:
    return [t for t in verify.followed_tables(workspace(run)) if not t.identifiable]


def _refusals(run: Run) -> Sequence[Action]:
    """What the migration does not carry, blocked unless the plan has chosen so."""
    found = [
        *_unlogged_troubles(run),
        *(_identity_troubles(run) if workspace(run).streamed else ()),
        *_late_troubles(run),
        *_large_object_troubles(run),
    ]
    return [
        Action(
            name=f"uncarried {number}",
            summary="decide about what is not carried",
            where=Side.LOCAL,
            statements=("-- none before somebody decides",),
            locks=NO_LOCKS,
            needs=NO_NEEDS,
            undo="nothing is done",
            lasting=NOTHING_STAYS,
            perform=lambda _: None,
            blocked=text,
        )
        for number, text in enumerate(found, 1)
    ]


def _unlogged_troubles(run: Run) -> list[str]:
    carried = workspace(run).selection.carried(catalog.tables(run.source))
    unlogged = [t.qualified for t in carried if t.unlogged]
    if not unlogged or run.option("unlogged", "refuse") != "refuse":
        return []
    return [
        f"the rows of unlogged tables can't be followed: {', '.join(unlogged)}. ALTER TABLE … SET LOGGED, or set"
        " unlogged: schema_only to carry them empty, or copy_at_cutover to copy them while writes stand still"
    ]


def _identity_troubles(run: Run) -> list[str]:
    choices = workspace(run).choices
    refused = [t.qualified for t in _bare(run) if choices.choice(t).way is Way.REFUSE]
    found = [
        f"without_replica_identity: {pattern} matches no table"
        for pattern in choices.idle(catalog.tables(run.source))
    ]
    if refused:
        found.append(
            f"{', '.join(refused)}: no replica identity, so updates and deletes can't be followed. Add a primary key,"
            " or choose in without_replica_identity: full, index, insert_only or copy_at_cutover"
        )
    return [*found, *identities.changes(run.source, _bare(run), choices)[1]]


def _late_troubles(run: Run) -> list[str]:
    space = workspace(run)
    coming_late = verify.divided(space, catalog.tables(run.source))[1]
    return [
        f"copy_at_cutover: {pair}: a foreign key points to it, which would not hold before the cutover. Choose"
        " index or full for it"
        for pair in (late.referenced(run.source, coming_late) if coming_late else ())
    ]


def _large_object_troubles(run: Run) -> list[str]:
    choice = run.option("large_objects", "refuse")
    if choice == "skip" or not catalog.has_large_objects(run.source):
        return []
    if choice == "refuse":
        return [
            "large objects can't be followed. Set large_objects: copy to copy them now and what changed of them"
            " inside the cutover's pause, or skip to leave them behind"
        ]
    strangers = large_objects.unreadable(run.source)
    done = workspace(run).ledger.effects(large_objects.STEP)
    found: list[str] = []
    if strangers:
        found.append(
            f"large objects of {', '.join(strangers)} can't be read. Run on the source as an administrator:"
            f' GRANT "{strangers[0]}" TO "{run.source.identity().user}"; or set large_objects: skip'
        )
    keepers = large_objects.strange_owners(run.source, run.target) if wishes(run).owners else ()
    if keepers:
        found.append(
            f"large objects belong to {', '.join(keepers)}, as which the target's login may not act. Run on the"
            f' target as an administrator: GRANT "{keepers[0]}" TO "{run.target.identity().user}"; or set owners: login'
        )
    if not done and catalog.has_large_objects(run.target):
        found.append(
            "the target already has large objects, which could be in the way: remove them (lo_unlink)"
        )
    return found


def _decided(run: Run) -> Sequence[Action]:
    """What is known beforehand to stay behind or to arrive changed, for the report."""
    space = workspace(run)
    terms = uncarried.Terms(
        owners=wishes(run).owners,
        large_objects=run.option("large_objects", "refuse"),
        empty=_empty(run),
        insert_only=tuple(t.qualified for t in _bare(run) if space.choices.insert_only(t)),
    )
    found = uncarried.decisions(run.source, run.target, space.names, terms)
    new = decisions.untold(space, found)
    if not new:
        return ()
    return [
        Action(
            name="decisions",
            summary=f"note {len(new)} things that are not carried exactly",
            where=Side.LOCAL,
            statements=tuple(f"-- {d.text}" for d in new),
            locks=NO_LOCKS,
            needs=needs.on(Side.TARGET, needs.CREATE),
            undo="planrunner cleanup forgets them",
            lasting=TAKEN_BACK,
            perform=lambda run: decisions.tell(workspace(run), new),
        )
    ]


def _empty(run: Run) -> tuple[str, ...]:
    """The unlogged tables that arrive without rows."""
    if run.option("unlogged", "refuse") != "schema_only":
        return ()
    carried = workspace(run).selection.carried(catalog.tables(run.source))
    return tuple(t.qualified for t in carried if t.unlogged)


def _identities(run: Run) -> Sequence[Action]:
    wanted, _ = identities.changes(run.source, _bare(run), workspace(run).choices)
    if not wanted:
        return ()
    return [_identifying(wanted)]


def identities_coming(run: Run) -> tuple[identities.Change, ...]:
    """The identities that the source's tables are still to be given, for want of one or for a row filter."""
    if not workspace(run).streamed:
        return ()
    wanted, _ = identities.changes(run.source, _bare(run), workspace(run).choices)
    return (*wanted, *filter_identities(run))


def filter_identities(run: Run) -> tuple[identities.Change, ...]:
    """The identities that row filters need."""
    space = workspace(run)
    if space.selection.everything or not space.selection.identity_full:
        return ()
    filtered = [t for t in verify.followed_tables(space) if t.where and t.identifiable]
    return tuple(identities.Change(table=t, index=None) for t in filtered if t.replica_identity == "d")


def _identifying(wanted: Sequence[identities.Change]) -> Action:
    told = ", ".join(f"{c.table.qualified} ({c.index or 'FULL'})" for c in wanted)
    return Action(
        name="identities",
        summary=f"set a replica identity on {len(wanted)} tables without one: {told}",
        where=Side.SOURCE,
        statements=tuple(c.statement().as_string() for c in wanted),
        locks=("ACCESS EXCLUSIVE on each table, for an instant",),
        needs=(needs.OWNERSHIP,),
        undo="cleanup puts the former identity back",
        lasting=TAKEN_BACK,
        adjusts=True,
        perform=lambda run: identities.change(workspace(run), wanted),
    )


def restore_identities(run: Run) -> Action:
    """The action of cleanup that puts replica identities back."""
    statements = identities.restore_statements(workspace(run), Side.SOURCE)
    return Action(
        name="restore identities",
        summary=f"put back the replica identity of {len(statements)} tables, on both sides",
        where=Side.SOURCE,
        statements=(
            *(s.as_string() for s in statements),
            *described.all_told(statements, described.TARGET, "where it is not back there"),
            ledger.forgetting(run.plan_id, identities.STEP).as_string() + "  -- on the target",
        ),
        locks=("ACCESS EXCLUSIVE on each table, for an instant",),
        needs=(needs.OWNERSHIP, *needs.on(Side.TARGET, needs.ACTING_AS)),
        undo="ALTER TABLE … REPLICA IDENTITY …, by hand",
        lasting=NOTHING_STAYS,
        adjusts=True,
        perform=lambda run: identities.restore(workspace(run)),
    )


def large_objects_missing(run: Run) -> Sequence[Action]:
    """The copy of large objects, once, where the plan wants it."""
    done = workspace(run).ledger.effects(large_objects.STEP)
    count, size = large_objects.size(run.source)
    if run.option("large_objects", "refuse") != "copy" or large_objects.COPIED in done or not count:
        return ()
    return [_copying_large_objects(f"{count} large objects, {human_bytes(size)}")]


def _copying_large_objects(what: str) -> Action:
    return Action(
        name="large objects",
        summary=f"copy {what}; what changes of them follows at cutover",
        where=Side.TARGET,
        statements=described.LARGE_OBJECTS,
        locks=NO_LOCKS,
        needs=(needs.ACTING_AS, *needs.on(Side.SOURCE, needs.READING)),
        undo="SELECT lo_unlink(oid), by hand",
        lasting="the large objects on the target, which the migration is for",
        perform=_perform_large_objects,
    )


def _perform_large_objects(run: Run) -> None:
    space = workspace(run)
    terms = large_objects.Terms(owners=wishes(run).owners, grants=wishes(run).grants)
    # On record before the first is made: after a kill those that are there are ours.
    space.done(large_objects.STEP, large_objects.BEGUN)
    figures = large_objects.level(space, terms)
    space.done(large_objects.STEP, large_objects.COPIED, figures)
    run.tell(f"copied {figures['copied']} large objects, {human_bytes(figures['bytes'])}", dict(figures))


def roles_missing(run: Run) -> Sequence[Action]:
    """Roles that the target lacks, and those that its login may not act as."""
    if not (wishes(run).owners or wishes(run).grants):
        return ()
    absent = roles.missing(run.source, run.target)
    found: list[Action] = []
    who = run.target.identity()
    if absent:
        made = roles.statements(
            absent, login=who.user, superuser=who.superuser, may_give=roles.givable(run.target)
        )
        made += tuple(
            roles.joining(m, options=who.major >= 16) for m in roles.joinings(workspace(run), absent)
        )
        called = f"{len(absent)} roles without passwords: {', '.join(r.name for r in absent)}"
        found.append(
            _creating_roles(
                called,
                tuple(s.as_string() for s in made),
                lambda run: roles.create(workspace(run), absent),
            )
        )
    strangers = roles.unassumable(run.source, run.target) if wishes(run).owners else ()
    if strangers:
        found.append(
            Action(
                name="assume roles",
                summary=f"own objects as {', '.join(strangers)}",
                where=Side.TARGET,
                statements=tuple(f'GRANT "{role}" TO "{who.user}"' for role in strangers),
                locks=NO_LOCKS,
                needs=(needs.BY_OTHERS,),
                undo="REVOKE, by hand",
                lasting="the membership that somebody gives the target's login: cleanup does not take it back",
                perform=lambda _: None,
                blocked=f'the target\'s login "{who.user}" may not act as {", ".join(strangers)}. Run on the target as'
                f' an administrator: GRANT "{strangers[0]}" TO "{who.user}"; or set owners: login in the snapshot step',
            )
        )
    return found


def _creating_roles(what: str, statements: tuple[str, ...], perform: Callable[[Run], None]) -> Action:
    return Action(
        name="roles",
        summary=f"create {what}",
        where=Side.TARGET,
        statements=statements,
        locks=NO_LOCKS,
        needs=(needs.ROLES,),
        undo="DROP ROLE, by hand: roles belong to the whole server",
        lasting="the roles on the target, without passwords; roles belong to the whole server",
        perform=perform,
    )
