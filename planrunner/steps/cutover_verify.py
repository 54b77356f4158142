"""The step ``cutover_verify``: stop writes, prove both sides equal, carry sequences, end replication."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Json, Side, Verification, VerifyTerms
from planrunner.postgres import catalog
from planrunner.replication import (
    comparison,
    cutover,
    decisions,
    fence,
    generations,
    identities,
    large_objects,
    ranges,
    restore,
    settings,
    slots,
    subscriptions,
    verify,
)
from planrunner.step import Action, Run
from planrunner.units import human_bytes, seconds
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class CutoverVerify:
    """Moves the point of truth to the target, or leaves everything as it was."""

    uses: ClassVar[str] = cutover.STEP

    def actions(self, run: Run) -> Sequence[Action]:
        """The cutover itself, the end of replication, and a last refresh: what is missing of them."""
        space = workspace(run)
        found: list[Action] = []
        committed = fence.fenced(run.source, space.names)
        found += _settings(run)
        if not committed:
            found.append(_cut_over(run))
        alive = set(subscriptions.existing(run.target, space.names)) | set(
            slots.existing(run.source, space.names)
        )
        if alive or not committed or ranges.made(space):
            found.append(_retire(run, alive))
        found += _identities(run)
        views = restore.materialized_views(space)
        if views and "materialized views" not in space.ledger.effects(cutover.STEP):
            found.append(_refresh(views))
        return found

    def progress(self, run: Run) -> Mapping[str, Json]:
        """The write pause and its parts, and what the comparison inside it found."""
        space = workspace(run)
        return {**space.ledger.effects(cutover.STEP), "decisions": list[Json](decisions.told(space))}

    def verify(self, run: Run, terms: VerifyTerms) -> Verification:
        """Compare both sides at any time: what differs while changes stream is looked at behind a barrier."""
        scope = comparison.Scope(
            counts_only=run.option("verify", "digests") == "counts",
            owners=run.option_of("snapshot", "owners", "keep") == "keep",
            grants=run.option_of("snapshot", "grants", "keep") == "keep",
        )
        return comparison.compare(workspace(run), terms, scope)

    def leftovers(self, run: Run) -> Sequence[Action]:
        """What the ledger says of the cutover; a committed fence stays, so that nobody writes to the old side."""
        space = workspace(run)
        if fence.fenced(run.source, space.names):
            lower = "; ".join(s.as_string() for s in fence.lower_statements(run.source, space.names)[:2])
            run.tell(
                "the fence on the source stays: it keeps the old side read-only. To write there again, drop"
                f" its triggers: {lower}; …",
                {"fenced": True},
            )
        if not space.ledger.effects(cutover.STEP) and not space.ledger.effects(settings.STEP):
            return ()
        return [
            Action(
                name="forget",
                summary="remove what the ledger says of the cutover",
                where=Side.TARGET,
                statements=("DELETE FROM planrunner.effect WHERE step = 'cutover_verify'",),
                perform=_forget,
            )
        ]


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


def _terms(run: Run) -> cutover.Terms:
    return cutover.Terms(
        budget=seconds(run.option("write_pause_budget", "5s")),
        lock_timeout=seconds(run.option("lock_timeout", "200ms")),
        headroom=run.option("sequence_headroom", 100),
        counts_only=run.option("verify", "digests") == "counts",
        large_objects=_large_object_terms(run),
    )


def _large_object_terms(run: Run) -> large_objects.Terms | None:
    if run.option_of("snapshot", "large_objects", "refuse") != "copy":
        return None
    return large_objects.Terms(
        owners=run.option_of("snapshot", "owners", "keep") == "keep",
        grants=run.option_of("snapshot", "grants", "keep") == "keep",
        sizes_only=run.option("verify", "digests") == "counts",
    )


def _cut_over(run: Run) -> Action:
    space = workspace(run)
    known = catalog.tables(run.source)
    tables, late = space.selection.carried(known), verify.divided(space, known)[1]
    copied = f", copy {len(late)} tables whole ({human_bytes(sum(t.bytes for t in late))})" if late else ""
    terms = _terms(run)
    database = run.source.identity().database
    lock = (fence.lock_statement(tables).as_string(),) if tables else ()
    made = tuple(s.as_string() for s in fence.statements(space.names, tables, database=database))
    return Action(
        name="cutover",
        summary=f"stop writes to {len(tables)} tables{copied}, prove both sides equal, carry sequences; at most"
        f" {terms.budget:g} s, else everything is rolled back",
        where=Side.SOURCE,
        statements=("BEGIN", *lock, *made, "-- barrier, comparison, setval on the target", "COMMIT"),
        locks=("SHARE ROW EXCLUSIVE on every table of the source, for the length of the pause",),
        needs=("ownership of the tables",),
        undo="until the COMMIT: ROLLBACK. After it: drop the triggers, see `planrunner cleanup`",
        destructive=True,
        perform=lambda run: cutover.cut_over(workspace(run), _terms(run)),
    )


def _retire(run: Run, alive: set[int]) -> Action:
    space = workspace(run)
    streams = [space.names.stream(g) for g in sorted(alive)] or [space.names.stream(1)]
    return Action(
        name="end replication",
        summary=f"drop subscription, slot and publication {', '.join(streams)}: nothing fills the source's disk",
        where=Side.TARGET,
        statements=tuple(
            statement
            for s in streams
            for statement in (f"DROP SUBSCRIPTION {s}", f"SELECT pg_drop_replication_slot('{s}')")
        ),
        perform=_perform_retire,
    )


def _perform_retire(run: Run) -> None:
    generations.clear_all(workspace(run))


def _refresh(views: Sequence[tuple[str, str]]) -> Action:
    return Action(
        name="materialized views",
        summary=f"refresh {len(views)} materialized views a last time",
        where=Side.TARGET,
        statements=tuple(f'REFRESH MATERIALIZED VIEW "{schema}"."{name}"' for schema, name in views),
        perform=lambda run: restore.refresh(workspace(run), views, step=cutover.STEP),
    )
