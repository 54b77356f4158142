"""The step ``cutover_verify``: stop writes, prove both sides equal, carry sequences, open the target, end replication."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Finding, Json, Side, Verification, VerifyTerms
from planrunner.on_demand import on_demand
from planrunner.replication import comparison, crossing
from planrunner.replication.crossing import Position
from planrunner.step import Action, Run
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner import crossings
    from planrunner.replication import (
        cutover,
        decisions,
        fence,
        identities,
        ranges,
        restore,
        settings,
        slots,
        subscriptions,
        tracker,
    )
else:
    # A comparison, which is to start quickly, needs none of these.
    crossings = on_demand("planrunner.crossings")
    cutover = on_demand("planrunner.replication.cutover")
    decisions = on_demand("planrunner.replication.decisions")
    fence = on_demand("planrunner.replication.fence")
    identities = on_demand("planrunner.replication.identities")
    ranges = on_demand("planrunner.replication.ranges")
    restore = on_demand("planrunner.replication.restore")
    settings = on_demand("planrunner.replication.settings")
    slots = on_demand("planrunner.replication.slots")
    subscriptions = on_demand("planrunner.replication.subscriptions")
    tracker = on_demand("planrunner.replication.tracker")


class CutoverVerify:
    """Moves the point of truth to the target, or leaves everything as it was."""

    uses: ClassVar[str] = crossing.STEP

    def actions(self, run: Run) -> Sequence[Action]:
        """The cutover itself, the end of replication, the way back, and a last refresh: what is missing of them."""
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
        return [*found, *crossings.lift_guard(run, where)]

    def findings(self, run: Run) -> Sequence[Finding]:
        """What would keep traffic from being led, or the way back from being had."""
        return crossings.findings(run)

    def progress(self, run: Run) -> Mapping[str, Json]:
        """The write pause and its parts, what the comparison inside it found, and how the way back does."""
        return {**crossings.figures(run), "decisions": list[Json](decisions.told(workspace(run)))}

    def verify(self, run: Run, terms: VerifyTerms) -> Verification:
        """Compare both sides at any time: what differs while changes stream is looked at behind a barrier."""
        scope = comparison.Scope(
            counts_only=run.option("verify", "auto") == "counts",
            owners=run.option_of("snapshot", "owners", "keep") == "keep",
            grants=run.option_of("snapshot", "grants", "keep") == "keep",
        )
        return comparison.compare(workspace(run), terms, scope)

    def rehearsal(self, run: Run) -> Sequence[Action]:
        """The cutover without its commit."""
        return [crossings.rehearsal(run, asked_by="planrunner cutover --rehearse")]

    def rollback(self, run: Run) -> Sequence[Action]:
        """What is missing until writers are back on the source and the target follows it again."""
        return crossings.missing_rollback(run)

    def rollback_rehearsal(self, run: Run) -> Sequence[Action]:
        """The rollback without its commit."""
        return [crossings.rollback_rehearsal(run)]

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
        found = [*crossings.leftovers(run)]
        if not space.ledger.effects(cutover.STEP) and not space.ledger.effects(settings.STEP):
            return found
        forget = Action(
            name="forget",
            summary="remove what the ledger says of the cutover",
            where=Side.TARGET,
            statements=("DELETE FROM planrunner.effect WHERE step = 'cutover_verify'",),
            perform=_forget,
        )
        return [*found, forget]


def _forget(run: Run) -> None:
    for step in (settings.STEP, cutover.STEP):
        workspace(run).ledger.forget(step)


def _settings(run: Run) -> Sequence[Action]:
    """What the server keeps about the database: before the cutover, so that the first session there has it."""
    if settings.CARRIED in workspace(run).ledger.effects(settings.STEP):
        return ()
    terms = _setting_terms(run)
    made = settings.statements(run.source, run.target, terms)
    if not made:
        return ()
    return [
        Action(
            name="settings",
            summary=f"carry {len(made)} settings, grants and the owner of the database and its roles",
            where=Side.TARGET,
            statements=tuple(s.as_string() for s in made),
            needs=("ownership of the database", "CREATEROLE for the settings of roles"),
            undo="ALTER DATABASE … RESET, ALTER ROLE … RESET, by hand",
            perform=lambda run: settings.carry(workspace(run), _setting_terms(run)),
        )
    ]


def _setting_terms(run: Run) -> settings.Terms:
    return settings.Terms(
        settings=run.option("settings", "keep") == "keep",
        owners=run.option_of("snapshot", "owners", "keep") == "keep",
        grants=run.option_of("snapshot", "grants", "keep") == "keep",
    )


def _identities(run: Run) -> Sequence[Action]:
    made = identities.restore_statements(workspace(run), Side.TARGET)
    if not made:
        return ()
    return [
        Action(
            name="identities",
            summary=f"put back the replica identity of {len(made)} tables",
            where=Side.TARGET,
            statements=tuple(s.as_string() for s in made),
            perform=lambda run: identities.restore_target(workspace(run)),
        )
    ]


def _retire(run: Run, where: Position) -> Sequence[Action]:
    space = workspace(run)
    alive = set(subscriptions.existing(run.target, space.names)) | set(
        slots.existing(run.source, space.names)
    )
    if where is Position.TARGET and not alive and not ranges.made(space) and not tracker.exists(space):
        return []
    streams = [space.names.stream(g) for g in sorted(alive)] or [space.names.stream(1)]
    return [
        Action(
            name="end replication",
            summary=f"drop subscription, slot and publication {', '.join(streams)}: nothing fills the source's disk",
            where=Side.TARGET,
            statements=tuple(
                statement
                for s in streams
                for statement in (f"DROP SUBSCRIPTION {s}", f"SELECT pg_drop_replication_slot('{s}')")
            ),
            perform=lambda run: cutover.retire(workspace(run)),
        )
    ]


def _refresh(views: Sequence[tuple[str, str]]) -> Action:
    return Action(
        name="materialized views",
        summary=f"refresh {len(views)} materialized views a last time",
        where=Side.TARGET,
        statements=tuple(f'REFRESH MATERIALIZED VIEW "{schema}"."{name}"' for schema, name in views),
        perform=lambda run: restore.refresh(workspace(run), views, step=cutover.STEP),
    )
