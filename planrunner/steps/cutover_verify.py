"""The step ``cutover_verify``: stop writes, prove both sides equal, carry sequences, open the target, end replication."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Finding, Json, Side, Upkeep
from planrunner.on_demand import on_demand
from planrunner.replication import comparison, crossing, upkeep
from planrunner.replication.crossing import Position
from planrunner.replication.names import Names
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, Action, Draft, Run, outlined
from planrunner.units import seconds
from planrunner.workspace import polls, sampled, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner import (
        clearing,
        cloud_checks,
        cloud_jobs,
        crossings,
        lifting,
        polled,
        returning,
        unfollowed,
    )
    from planrunner.postgres import catalog, needs
    from planrunner.replication import (
        cutover,
        decisions,
        described,
        fence,
        generations,
        identities,
        ranges,
        restore,
        settings,
        tracker,
        verify,
    )
    from planrunner.verification import Verification, VerifyTerms
else:
    # A comparison, which is to start quickly, needs none of these.
    clearing = on_demand("planrunner.clearing")
    cloud_checks = on_demand("planrunner.cloud_checks")
    cloud_jobs = on_demand("planrunner.cloud_jobs")
    crossings = on_demand("planrunner.crossings")
    lifting = on_demand("planrunner.lifting")
    polled = on_demand("planrunner.polled")
    returning = on_demand("planrunner.returning")
    unfollowed = on_demand("planrunner.unfollowed")
    catalog = on_demand("planrunner.postgres.catalog")
    needs = on_demand("planrunner.postgres.needs")
    cutover = on_demand("planrunner.replication.cutover")
    decisions = on_demand("planrunner.replication.decisions")
    described = on_demand("planrunner.replication.described")
    fence = on_demand("planrunner.replication.fence")
    generations = on_demand("planrunner.replication.generations")
    identities = on_demand("planrunner.replication.identities")
    ranges = on_demand("planrunner.replication.ranges")
    restore = on_demand("planrunner.replication.restore")
    settings = on_demand("planrunner.replication.settings")
    tracker = on_demand("planrunner.replication.tracker")
    verify = on_demand("planrunner.replication.verify")


class CutoverVerify:
    """Moves the point of truth to the target, or leaves everything as it was."""

    uses: ClassVar[str] = crossing.STEP
    upkeep: ClassVar[tuple[Upkeep, ...]] = (
        *upkeep.OWN,
        upkeep.MARKS,
        upkeep.MARKS_BACK,
        upkeep.DIALS,
        upkeep.DIALS_BACK,
    )

    def actions(self, run: Run) -> Sequence[Action]:
        """The cutover itself, the end of replication, the way back, and a last refresh: what is missing of them."""
        if cloud_jobs.in_cloud(run):
            return [cloud_jobs.no_cutover(run.plan)]
        if run.option("rehearse", False):  # noqa: FBT003  # the option's default
            return crossings.missing_rehearsal(run)
        space = workspace(run)
        where = crossing.position(space)
        found = [*_settings(run), *crossings.missing_cutover(run, where), *_retire(run, where)]
        found += crossings.missing_way_back(run, where)
        if not run.option("reverse", False):  # noqa: FBT003  # the option's default
            # What tells rows apart is needed as long as the target publishes.
            found += _identities(run)
        views = restore.materialized_views(space)
        if views and "materialized views" not in space.ledger.effects(cutover.STEP):
            found.append(_refresh(views))
        return [*found, *lifting.lift_guard(run, where)]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The cutover of tables of which nothing is known but what the plan says."""
        if cloud_jobs.drafted(draft):
            return outlined([cloud_jobs.no_cutover(draft.plan)])
        names, some = Names(plan_id=draft.plan_id), [catalog.ANY_TABLE]
        back = draft.option("reverse", False)  # noqa: FBT003  # the option's default
        nowhere = fence.Standing(closed=False, tables=frozenset(), whole=frozenset())
        closing = described.closing(names, some, "…", nowhere)
        fenced = (fence.BEGIN, fence.lock_statement(some).as_string(), *closing)
        guard = crossings.guarding("the", closing)
        if draft.option("rehearse", False):  # noqa: FBT003  # the option's default
            return outlined([guard, crossings.rehearsing((*fenced, "ROLLBACK"), draft.spec.id)])
        opening = described.told(fence.opening(names), described.TARGET)
        last = polled.last_round() if polls(draft.plan) else ()
        crossed = (*fenced, *last, f"{described.SEQUENCES}; {described.TARGET}", "COMMIT", opening)
        budget = seconds(draft.option("write_pause_budget", "5s"))
        return outlined(
            [
                _carrying_settings("the", _SETTINGS),
                guard,
                crossings.cutting_over("the selected tables", budget, crossed, reversible=back),
                *([] if polls(draft.plan) else [_retiring(names, (1,))]),
                *([crossings.leading_back(names.back, ("CREATE SUBSCRIPTION …",))] if back else []),
                _refresh([("…", "…")]),
                *([] if back else [lifting.lifting(names, some, Side.TARGET)]),
            ]
        )

    def satisfied(self, run: Run) -> Sequence[str]:
        """How far a crossing is already."""
        space = workspace(run)
        where = crossing.position(space)
        found = ["writers are on the target"] if where is Position.TARGET else []
        done = space.ledger.effects(settings.STEP)
        found += ["settings and grants of the database are carried"] if settings.CARRIED in done else []
        there = fence.standing(run.target, space.names)
        return [*found, *([f"{len(there.whole)} tables of the target are closed"] if there.closed else [])]

    def findings(self, run: Run) -> Sequence[Finding]:
        """What would keep traffic from being led, or the way back from being had."""
        return cloud_checks.before_cutover(run.plan) if cloud_jobs.in_cloud(run) else crossings.findings(run)

    def progress(self, run: Run) -> Mapping[str, Json]:
        """The write pause and its parts, what the comparison inside it found, and how the way back does."""
        return {**crossings.figures(run), "decisions": list[Json](decisions.told(workspace(run)))}

    def sample(self, run: Run) -> Mapping[str, Json]:
        """Units, rows and bytes, and how the streams do."""
        return sampled(run)

    def verify(self, run: Run, terms: VerifyTerms) -> Verification:
        """Compare both sides at any time: what differs while changes stream is looked at behind a barrier."""
        scope = comparison.Scope(
            counts_only=run.option("verify", "auto") == "counts",
            owners=run.option_of("snapshot", "owners", "keep") == "keep",
            grants=run.option_of("snapshot", "grants", "keep") == "keep",
        )
        return comparison.compare(workspace(run), terms, scope)

    def crossed(self, run: Run) -> bool:
        """Unless writers are on the source and nothing is under way."""
        return crossing.position(workspace(run)) is not Position.SOURCE

    def rehearsal(self, run: Run) -> Sequence[Action]:
        """The cutover without its commit."""
        if cloud_jobs.in_cloud(run):
            return [cloud_jobs.no_cutover(run.plan)]
        return [crossings.rehearsal(run, asked_by="planrunner cutover --rehearse")]

    def rollback(self, run: Run) -> Sequence[Action]:
        """What is missing until writers are back on the source and the target follows it again."""
        return returning.missing_rollback(run)

    def rollback_rehearsal(self, run: Run) -> Sequence[Action]:
        """The rollback without its commit."""
        return [returning.rollback_rehearsal(run)]

    def leftovers(self, run: Run) -> Sequence[Action]:
        """The way back, fences, and what the ledger says of the cutover; a closed source stays closed."""
        space = workspace(run)
        if fence.fenced(run.source, space.names):
            lower = "; ".join(s.as_string() for s in fence.lower_statements(run.source, space.names)[:2])
            run.tell(
                "the fence on the source stays: it keeps the old side read-only. To write there again, drop"
                f" its triggers: {lower}; …",
                {"fenced": True},
            )
        found = [*lifting.leftovers(run)]
        if not space.ledger.effects(cutover.STEP) and not space.ledger.effects(settings.STEP):
            return found
        return [*found, clearing.forget_step(run.plan_id, settings.STEP, cutover.STEP, what="the cutover")]


def _settings(run: Run) -> Sequence[Action]:
    """What the server keeps about the database: before the cutover, so that the first session there has it."""
    if settings.CARRIED in workspace(run).ledger.effects(settings.STEP):
        return ()
    terms = _setting_terms(run)
    made = settings.statements(run.source, run.target, terms)
    if not made:
        return ()
    return [_carrying_settings(str(len(made)), tuple(s.as_string() for s in made))]


# What a database's settings may come to, for an outline.
_SETTINGS = (
    "COMMENT ON DATABASE …",
    "ALTER DATABASE …",
    "ALTER ROLE … SET …",
    "GRANT … ON DATABASE … TO …",
    "REVOKE … ON DATABASE … FROM PUBLIC",
)


def _carrying_settings(count: str, statements: tuple[str, ...]) -> Action:
    return Action(
        name="settings",
        summary=f"carry {count} settings, grants and the owner of the database and its roles",
        where=Side.TARGET,
        statements=(
            *statements,
            "GRANT CONNECT ON DATABASE … TO …  -- of our login; where the source's grants would lock it out",
        ),
        locks=NO_LOCKS,
        needs=(needs.DATABASE, needs.ROLES),
        undo="ALTER DATABASE … RESET, ALTER ROLE … RESET, by hand",
        lasting="the settings, grants and owner of the database and its roles on the target",
        adjusts=True,
        perform=lambda run: settings.carry(workspace(run), _setting_terms(run)),
    )


def _setting_terms(run: Run) -> settings.Terms:
    return settings.Terms(
        settings=run.option("settings", "keep") == "keep",
        owners=run.option_of("snapshot", "owners", "keep") == "keep",
        grants=run.option_of("snapshot", "grants", "keep") == "keep",
    )


def _identities(run: Run) -> Sequence[Action]:
    # Those on record, and those that an earlier step is still to change.
    coming = [change.back() for change in unfollowed.identities_coming(run)]
    made = (*identities.restore_statements(workspace(run), Side.TARGET), *coming)
    if not made:
        return ()
    return [
        Action(
            name="identities",
            summary=f"put back the replica identity of {len(made)} tables",
            where=Side.TARGET,
            statements=tuple(s.as_string() for s in made),
            locks=("ACCESS EXCLUSIVE on each table, for an instant",),
            needs=(needs.ACTING_AS,),
            undo="ALTER TABLE … REPLICA IDENTITY FULL, by hand",
            lasting=NOTHING_STAYS,
            adjusts=True,
            perform=lambda run: identities.restore_target(workspace(run)),
        )
    ]


def _retire(run: Run, where: Position) -> Sequence[Action]:
    space = workspace(run)
    alive = set(generations.left(space))
    if not space.streamed and not alive:
        return []
    if where is Position.TARGET and not alive and not ranges.made(space) and not tracker.exists(space):
        return []
    if "sync" in run.planned_before:
        # Those that will be there by then.
        streams, tables = run.option_of("snapshot", "streams", 1), verify.followed_tables(space)
        coming = generations.coming(space, tables, streams) or (1,)
        alive = set(generations.joined(coming, tables, streams))
    return [_retiring(space.names, sorted(alive) or [1])]


def _retiring(names: Names, streams: Sequence[int]) -> Action:
    return Action(
        name="end replication",
        summary="drop subscription, slot and publication"
        f" {', '.join(map(names.stream, streams))}: nothing fills the source's disk",
        where=Side.TARGET,
        statements=(
            *described.dropping_tracker(names),
            *described.all_told(described.unsplitting(names), described.SOURCE, "where tables were split"),
            *(statement for g in streams for statement in described.clearing(names, g)),
        ),
        locks=("SHARE UPDATE EXCLUSIVE on each published table of the source, for an instant",),
        needs=(needs.SUBSCRIBING, needs.CREATE, *needs.on(Side.SOURCE, needs.OWNERSHIP, needs.REPLICATION)),
        undo=f"{IRREVERSIBLE}: the target follows the source no more; reverse: true makes a way back",
        lasting=NOTHING_STAYS,
        perform=lambda run: cutover.retire(workspace(run)),
    )


def _refresh(views: Sequence[tuple[str, str]]) -> Action:
    return Action(
        name="materialized views",
        summary=f"refresh {len(views)} materialized views a last time",
        where=Side.TARGET,
        statements=restore.refreshing(views),
        locks=("ACCESS EXCLUSIVE on each materialized view while it is filled",),
        needs=(needs.ACTING_AS,),
        undo="nothing to undo: they are refreshed again at any time",
        lasting=NOTHING_STAYS,
        perform=lambda run: restore.refresh(workspace(run), views, step=cutover.STEP),
    )
