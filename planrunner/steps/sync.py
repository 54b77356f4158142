"""The step ``sync``: subscriptions on the copy's slots, and the target caught up past a barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Json, Side
from planrunner.replication import (
    barrier,
    generations,
    indexes,
    ranges,
    restore,
    slots,
    subscriptions,
    verify,
)
from planrunner.replication.schema_dump import Wishes
from planrunner.step import Action, Run
from planrunner.units import human_bytes, seconds, size
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEP = "sync"
CAUGHT_UP = "caught up"


class Sync:
    """Follows the source from exactly where the copy began: no gap, no second copy."""

    uses: ClassVar[str] = STEP

    def actions(self, run: Run) -> Sequence[Action]:
        """Subscriptions, catching up, delayed foreign keys, materialized views: what is missing of them."""
        space = workspace(run)
        there = subscriptions.existing(run.target, space.names)
        held = space.ledger.generations()
        coming = held or (1,)
        found = [_subscribe(run, g) for g in coming if g not in there or not there[g].enabled]
        done = space.ledger.effects(STEP)
        if CAUGHT_UP not in done:
            found.append(_catch_up(run))
        if held and restore.FOREIGN_KEYS not in space.ledger.effects(restore.STEP):
            found.append(_withheld())
        views = restore.materialized_views(space)
        if views and "materialized views" not in done:
            found.append(refreshing(views))
        return found

    def progress(self, run: Run) -> Mapping[str, Json]:
        """Lag and retained WAL in bytes, per slot, and the state of each subscription."""
        space = workspace(run)
        streams: dict[str, Json] = {
            s.name: {"lag_bytes": s.behind, "retained_bytes": s.retained, "wal_status": s.wal_status}
            for s in slots.existing(run.source, space.names).values()
        }
        return {**barrier.lag(space), "streams": streams, "state": barrier.stream_state(space)}

    def leftovers(self, run: Run) -> Sequence[Action]:
        """The subscriptions, and what the ledger says of this step."""
        space = workspace(run)
        found = [
            _unsubscribe(space.names.stream(g), g) for g in subscriptions.existing(run.target, space.names)
        ]
        if space.ledger.effects(STEP):
            found.append(
                Action(
                    name="forget",
                    summary="remove what the ledger says of sync",
                    where=Side.TARGET,
                    statements=("DELETE FROM planrunner.effect WHERE step = 'sync'",),
                    perform=lambda run: workspace(run).ledger.forget(STEP),
                )
            )
        return found


def _subscribe(run: Run, generation: int) -> Action:
    space = workspace(run)
    owned = ranges.owned(space, verify.followed_tables(space), generation)
    others = owned.publications(space.names)
    made = subscriptions.statement(run.source, space.names, generation, None, others=others).as_string()
    return Action(
        name=f"subscribe {generation}",
        summary=f"subscribe to slot {space.names.stream(generation)} and start applying",
        where=Side.TARGET,
        statements=(
            *(s.as_string() for s in owned.truncating(space.names, generation)),
            f"{made}  -- and the source's password",
            f"ALTER SUBSCRIPTION {space.names.stream(generation)} ENABLE",
        ),
        needs=("pg_create_subscription and CREATE on the database, or superuser before PostgreSQL 16",),
        undo="planrunner cleanup drops it",
        perform=lambda run: _perform_subscribe(run, generation),
    )


def _perform_subscribe(run: Run, generation: int) -> None:
    space = workspace(run)
    count = generations.follow(space, verify.followed_tables(space), generation)
    run.tell(
        f"following {count} units from slot {space.names.stream(generation)}",
        {"units": count, "generation": generation},
    )


def _catch_up(run: Run) -> Action:
    limit = size(run.option("max_lag", "16MB"))
    return Action(
        name="catch up",
        summary=f"wait until the target has passed a barrier and lags less than {human_bytes(limit)}",
        where=Side.TARGET,
        statements=("one row into planrunner.barrier_… on the source; it is there when the target shows it",),
        perform=lambda run: _perform_catch_up(run, limit),
    )


def _perform_catch_up(run: Run, limit: int) -> None:
    space = workspace(run)
    timeout = seconds(run.option("timeout", "1h"))
    took = barrier.wait(space, space.ledger.generations(), timeout=timeout)
    lag = barrier.lag(space)
    until = run.clock.monotonic() + timeout
    while lag["lag_bytes"] > limit and run.clock.monotonic() < until:
        barrier.wait(space, space.ledger.generations(), timeout=timeout)
        run.clock.sleep(0.5)
        lag = barrier.lag(space)
    space.done(STEP, CAUGHT_UP, {**lag, "seconds": round(took, 3)})
    kept = human_bytes(lag["retained_bytes"])
    run.tell(f"caught up: {lag['lag_bytes']} bytes behind, slots retain {kept}", dict(lag))
    allowed = run.option("max_wal_retained", "")
    if allowed and lag["retained_bytes"] > size(allowed):
        run.tell(
            f"warning: slots retain {kept} of WAL on the source, above max_wal_retained {allowed}", dict(lag)
        )


def _withheld() -> Action:
    return Action(
        name="foreign keys",
        summary="add the foreign keys and unique indexes that several snapshots delayed",
        where=Side.TARGET,
        statements=("ALTER TABLE … ADD CONSTRAINT … FOREIGN KEY, as pg_dump gives them",),
        perform=_perform_withheld,
    )


def _perform_withheld(run: Run) -> None:
    terms = indexes.Terms(jobs=2, memory="512MB", wishes=Wishes())
    with indexes.Builder(workspace(run), terms, lambda: None) as builder:
        builder.withheld()


def refreshing(views: Sequence[tuple[str, str]]) -> Action:
    """The action that fills the target's materialized views."""
    return Action(
        name="materialized views",
        summary=f"refresh {len(views)} materialized views in the order of their dependencies",
        where=Side.TARGET,
        statements=tuple(f'REFRESH MATERIALIZED VIEW "{schema}"."{name}"' for schema, name in views),
        perform=lambda run: restore.refresh(workspace(run), views, step=STEP),
    )


def _unsubscribe(stream: str, generation: int) -> Action:
    return Action(
        name=f"unsubscribe {stream}",
        summary=f"drop subscription {stream}",
        where=Side.TARGET,
        statements=(
            f"ALTER SUBSCRIPTION {stream} DISABLE",
            f"ALTER SUBSCRIPTION {stream} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {stream}",
        ),
        destructive=True,
        perform=lambda run: subscriptions.drop(workspace(run), generation),
    )
