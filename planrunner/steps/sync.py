"""The step ``sync``: subscriptions on the copy's slots, and the target caught up past a barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Finding, Json, Side
from planrunner.postgres.preflight_section import Section
from planrunner.replication import (
    barrier,
    generations,
    indexes,
    merge,
    ranges,
    restore,
    slots,
    subscriptions,
    troubles,
    verify,
)
from planrunner.replication.health import observe, wal_disk
from planrunner.replication.schema_dump import Wishes
from planrunner.replication.watch import Watch
from planrunner.step import Action, Run
from planrunner.units import human_bytes, seconds, size
from planrunner.workspace import sampled, snapshot_option, workspace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

STEP = "sync"
CAUGHT_UP = "caught up"
FOLLOWING = Section("Following")


class Sync:
    """Follows the source from exactly where the copy began: no gap, no second copy."""

    uses: ClassVar[str] = STEP

    def actions(self, run: Run) -> Sequence[Action]:
        """Subscriptions, catching up, delayed foreign keys, materialized views: what is missing of them."""
        space = workspace(run)
        there = subscriptions.existing(run.target, space.names)
        held = space.ledger.generations()
        coming = held or (1,)
        done = space.ledger.effects(STEP)
        found = [_subscribe(run, g) for g in coming if g not in there or not there[g].enabled]
        if CAUGHT_UP not in done:
            found = [*_lost(run, held, done.keys()), *found, _catch_up(run)]
        former = sorted(set(generations.left(space)) - set(held)) if held else []
        if former:
            found.append(_clear_former([space.names.stream(g) for g in former]))
        if len(held) > snapshot_option(run, "streams", 1):
            found.append(_join(held, snapshot_option(run, "streams", 1)))
        if held and restore.FOREIGN_KEYS not in space.ledger.effects(restore.STEP):
            found.append(_withheld())
        views = restore.materialized_views(space)
        if views and "materialized views" not in done:
            found.append(refreshing(views))
        return found

    def findings(self, run: Run) -> Sequence[Finding]:
        """Whether what the options ask for can be had of these servers."""
        found: list[Finding] = []
        wished = workspace(run).terms
        if (problem := wished.budget.problem()) is not None:
            text = f"max_wal_retained: {problem}"
            found.append(
                FOLLOWING.failed(text, "Write max_wal_retained: {warn: 20GB, pause: 40GB, give_up: 50GB}.")
            )
        if wished.failover:
            found.append(_failover(run))
        return found

    def progress(self, run: Run) -> Mapping[str, Json]:
        """Lag and retained WAL in bytes, and the state of each slot and subscription."""
        space = workspace(run)
        health = observe(space)
        disk = wal_disk(run.source)
        figures: dict[str, Json] = {**barrier.lag(health), "pg_wal_bytes": disk.wal_bytes}
        return {**figures, "state": barrier.stream_state(health), "streams": barrier.streams(health)}

    def sample(self, run: Run) -> Mapping[str, Json]:
        """Units, rows and bytes, and how the streams do."""
        return sampled(run)

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
    tables = verify.followed_tables(space)
    owned = ranges.owned(space, tables, generation)
    others = generations.besides(space, tables, generation)
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
    held = space.ledger.generations()
    watch = Watch(space, held, following=True, acting=True)
    watch.look()
    until = run.clock.monotonic() + timeout
    took = barrier.wait(space, held, timeout=timeout, watch=watch)
    health = watch.look()
    while health.behind > limit and run.clock.monotonic() < until:
        barrier.wait(space, held, timeout=timeout, watch=watch)
        run.clock.sleep(0.5)
        health = watch.look()
    lag = barrier.lag(health)
    space.done(STEP, CAUGHT_UP, {**lag, "seconds": round(took, 3)})
    run.tell(
        f"caught up: {lag['lag_bytes']} bytes behind, slots retain {human_bytes(lag['retained_bytes'])}",
        dict(lag),
    )


def _lost(run: Run, generations: Sequence[int], done: Collection[str]) -> Sequence[Action]:
    """What can't be followed any more, blocked: a slot that is gone, a subscription that someone dropped."""
    space = workspace(run)
    health = observe(space)
    gone = [g for g in generations if g not in health.subscriptions and subscriptions.subscribed(g) in done]
    lost = [
        *troubles.slot_troubles(space, health, generations),
        *troubles.subscription_troubles(space, health, gone),
    ]
    return [
        Action(
            name=f"{trouble.code} {number}",
            summary="decide about a stream that is lost",
            where=Side.SOURCE,
            perform=lambda _: None,
            blocked=f"{trouble.what}. {trouble.remedy}",
        )
        for number, trouble in enumerate(lost, 1)
    ]


def _failover(run: Run) -> Finding:
    version = run.source.identity()
    if version.version >= slots.FAILOVER_SINCE:
        return FOLLOWING.passed("Slots are made for failover: standbys that synchronize slots keep them")
    return FOLLOWING.failed(
        f"failover: true needs PostgreSQL 17 on the source, it is {version.version_text}: older servers lose their slots"
        " in a failover",
        "Set failover: false in the sync step, and plan no failover of the source during the migration.",
    )


def _clear_former(streams: Sequence[str]) -> Action:
    return Action(
        name="clear former streams",
        summary=f"remove {', '.join(streams)}: what an interrupted join left, followed by nobody",
        where=Side.SOURCE,
        statements=tuple(f"SELECT pg_drop_replication_slot('{stream}')" for stream in streams),
        perform=lambda run: merge.undo(workspace(run)),
    )


def _join(held: Sequence[int], streams: int) -> Action:
    return Action(
        name="join streams",
        summary=f"join the {len(held)} streams that lost snapshots left into {streams}, at one commit of the source",
        where=Side.TARGET,
        statements=(
            "SELECT pg_create_logical_replication_slot(…, 'pgoutput')  -- on the source",
            "INSERT INTO planrunner.barrier_… (token, stop)  -- on the source, into every stream in one transaction",
            "ALTER SUBSCRIPTION … DISABLE  -- by a trigger on the target, when the marker arrives",
            "SELECT pg_replication_slot_advance(…)  -- on the source, to that transaction's end",
            "DROP SUBSCRIPTION …; CREATE SUBSCRIPTION …  -- in one transaction",
        ),
        undo="until the new subscription is made, the old streams are enabled again",
        perform=lambda run: merge.merge(
            workspace(run), verify.followed_tables(workspace(run)), streams=streams
        ),
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
        statements=tuple(
            f'{verb} "{schema}"."{name}"'
            for schema, name in views
            for verb in ("REFRESH MATERIALIZED VIEW", "ANALYZE")
        ),
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
