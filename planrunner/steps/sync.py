"""The step ``sync``: subscriptions on the copy's slots, and the target caught up past a barrier."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from planrunner import clearing, cloud_jobs, polled, subscription_login
from planrunner.errors import StepFailed
from planrunner.model import Finding, Json, Side, Upkeep
from planrunner.postgres import needs, preflight_polling
from planrunner.postgres.preflight_section import FOLLOWING, Check
from planrunner.replication import (
    barrier,
    described,
    drift,
    generations,
    indexes,
    merge,
    origins,
    ranges,
    restore,
    slots,
    subscriptions,
    troubles,
    upkeep,
    verify,
)
from planrunner.replication.flushing import Flushing
from planrunner.replication.health import observe, wal_disk
from planrunner.replication.names import Names
from planrunner.replication.schema_dump import Wishes
from planrunner.replication.terms import terms
from planrunner.replication.watch import Watch
from planrunner.seren.job import Command
from planrunner.step import (
    IRREVERSIBLE,
    NO_LOCKS,
    NOTHING_STAYS,
    TAKEN_BACK,
    Action,
    Draft,
    Run,
    blocked,
    outlined,
)
from planrunner.units import human_bytes, seconds, size
from planrunner.workspace import sampled, snapshot_option, workspace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

STEP = "sync"
CAUGHT_UP = "caught up"
BUDGET = Check(
    code="PR1201",
    section=FOLLOWING,
    title="The limits of max_wal_retained rise",
    why="warn, pause and give_up are passed in this order; a limit below the one before it would never be met, or give"
    " up at once.",
    mend="Write rising sizes: max_wal_retained: {warn: 20GB, pause: 40GB, give_up: 50GB}.",
)
FAILOVER = Check(
    code="PR1202",
    section=FOLLOWING,
    title="The source's slots can outlive a failover",
    why="A slot that no standby has is lost in a failover, and with it the stream: the copy would begin anew.",
    mend="Use a source of PostgreSQL 17 or later, or set failover: false and plan no failover meanwhile.",
)
FLUSHES = Check(
    code="PR1204",
    section=FOLLOWING,
    title="The target flushes what it confirms",
    why="A worker that is started anew confirms everything up to where it begins. What its predecessor had applied and"
    " not flushed is lost in a crash of the target then, and the source does not send it again.",
    mend="Once the target keeps up: synchronous_commit: true in the sync step, and planrunner run PLAN --rerun with the"
    " step's id. After a crash of the target before that: planrunner verify PLAN.",
)
_PROBE_SECONDS = 20.0
_ENDING = "SELECT pg_terminate_backend(…)"
_GIVING_UP = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = …"
# What a wait for the streams may come to.
_WATCHING = (
    described.told(_GIVING_UP, described.SOURCE, "where max_wal_retained.give_up is passed"),
    described.told(_ENDING, described.SOURCE, "where nothing is heard over the stream's line"),
    described.told(_ENDING, described.TARGET, "where nothing is heard over its worker's line"),
)


class Sync:
    """Follows the source from exactly where the copy began: no gap, no second copy."""

    uses: ClassVar[str] = STEP
    upkeep: ClassVar[tuple[Upkeep, ...]] = (*upkeep.OWN, upkeep.MARKS, upkeep.LOGIN)

    def actions(self, run: Run) -> Sequence[Action]:
        """Subscriptions, catching up, delayed foreign keys, materialized views: what is missing of them."""
        if cloud_jobs.in_cloud(run):
            return cloud_jobs.missing(run, Command.SYNC)
        space = workspace(run)
        if not space.streamed:
            return _polling(run)
        there = subscriptions.existing(run.target, space.names)
        held = space.ledger.generations()
        streams = snapshot_option(run, "streams", 1)
        tables = verify.followed_tables(space)
        coming = generations.coming(space, tables, streams) or (1,)
        left = bool(generations.remaining(space, tables))
        done = space.ledger.effects(STEP)
        absent = [g for g in coming if g not in there]
        found = [
            _subscribe(run, g, adjusts=g in there, left=left, first=g in absent[:1])
            for g in coming
            if g not in there or not there[g].enabled
        ]
        wish = space.terms.synchronous
        found += [
            _commit_otherwise(space.names, g, synchronous=wish)
            for g in coming
            if wish is not None and g in there and there[g].enabled and there[g].synchronous != wish
        ]
        if not absent:
            found = [*subscription_login.missing(run, Side.SOURCE), *found]
        if CAUGHT_UP not in done:
            found = [*_lost(run, held, done.keys()), *found, _catch_up(size(run.option("max_lag", "16MB")))]
        former = sorted(set(generations.left(space)) - set(held)) if held else []
        if former:
            found.append(_clear_former(space.names, former))
        if len(coming) > streams:
            found.append(_join(space.names, coming, streams))
        # One snapshot's foreign keys are added with its other constraints.
        delayed = len(coming) > 1 if left else bool(held)
        if delayed and restore.FOREIGN_KEYS not in space.ledger.effects(restore.STEP):
            found.append(_withheld())
        views = restore.materialized_views(space)
        if views and "materialized views" not in done:
            found.append(refreshing(views))
        return found

    def findings(self, run: Run) -> Sequence[Finding]:
        """Whether what the options ask for can be had of these servers."""
        if cloud_jobs.in_cloud(run):
            return ()
        if not workspace(run).streamed:
            return tuple(
                preflight_polling.findings(run.source, run.target, verify.followed_tables(workspace(run)))
            )
        found: list[Finding] = [*subscription_login.findings(run, Side.SOURCE)]
        wished = workspace(run).terms
        if (problem := wished.budget.problem()) is not None:
            text = f"max_wal_retained: {problem}"
            found.append(
                BUDGET.failed(text, "Write max_wal_retained: {warn: 20GB, pause: 40GB, give_up: 50GB}.")
            )
        if wished.failover:
            found.append(_failover(run))
        found += _flushes(run)
        return found

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The subscription, and everything that follows from what the copy met; or rounds."""
        if cloud_jobs.drafted(draft):
            return cloud_jobs.outline(draft, Command.SYNC)
        if (pace := terms(draft.spec.options).pace) is not None:
            return outlined(
                [polled.rounds(None, pace), polled.settling(), _withheld(), refreshing([("…", "…")])]
            )
        names = Names(plan_id=draft.plan_id)
        streams = draft.option_of("snapshot", "streams", 1)
        made = (
            *subscription_login.outlined(draft, Side.SOURCE),
            "CREATE SUBSCRIPTION …",
            *described.all_told([subscriptions.owning(names, names.stream(1))]),
            *(
                [described.beginning_at_end(names, 1)]
                if draft.option_of("snapshot", "from", "primary") != "primary"
                else []
            ),
        )
        wished = terms(draft.spec.options)
        enabling = described.all_told(subscriptions.enabling(names, 1, synchronous=wished.synchronous))
        limit = size(draft.option("max_lag", "16MB"))
        return outlined(
            [
                _subscribing(names, 1, (*made, *enabling), adjusts=False),
                _catch_up(limit),
                _join(names, (1, 2), streams),
                _withheld(),
                refreshing([("…", "…")]),
            ]
        )

    def satisfied(self, run: Run) -> Sequence[str]:
        """The subscriptions that apply already."""
        there = subscriptions.existing(run.target, workspace(run).names)
        return [f"subscription {s.name} on the target is enabled" for s in there.values() if s.enabled]

    def progress(self, run: Run) -> Mapping[str, Json]:
        """Lag and retained WAL in bytes, and the state of each slot and subscription."""
        job = cloud_jobs.progress(run)
        if job is not None:
            return job
        space = workspace(run)
        if not space.streamed:
            return polled.figures(run)
        health = observe(space)
        disk = wal_disk(run.source)
        figures: dict[str, Json] = {**barrier.lag(health), "pg_wal_bytes": disk.wal_bytes}
        return {**figures, "state": barrier.stream_state(health), "streams": barrier.streams(health)}

    def goes_on(self, run: Run) -> None:
        """As ``Lasting`` says, of each stream."""
        if cloud_jobs.in_cloud(run):
            return
        space = workspace(run)
        if space.streamed and space.ledger.generations():
            barrier.probe(space, seconds=_PROBE_SECONDS)

    def sample(self, run: Run) -> Mapping[str, Json]:
        """Units, rows and bytes, and how the streams do."""
        return cloud_jobs.progress(run) or sampled(run)

    def leftovers(self, run: Run) -> Sequence[Action]:
        """The subscriptions, and what the ledger says of this step."""
        space = workspace(run)
        found = [_unsubscribe(space.names, g) for g in subscriptions.existing(run.target, space.names)]
        found += subscription_login.leftovers(run, Side.SOURCE)
        if space.ledger.effects(STEP):
            found.append(clearing.forget_step(run.plan_id, STEP, what="sync"))
        return found


def _flushes(run: Run) -> Sequence[Finding]:
    """A warning where streams apply without a flush, by the plan's wish or because they could not keep up."""
    space = workspace(run)
    if space.terms.synchronous is False:
        text = "synchronous_commit: false: a crash of the target may lose what it has confirmed"
        return [FLUSHES.warned(text, FLUSHES.mend)]
    there = subscriptions.existing(run.target, space.names).values()
    late = [s.name for s in there if not s.synchronous]
    if space.terms.synchronous or not late:
        return ()
    text = f"{', '.join(late)} could not keep up with a flush for each transaction, and a crash may lose some now"
    return [FLUSHES.warned(text, FLUSHES.mend)]


def _polling(run: Run) -> Sequence[Action]:
    """Rounds, and what several snapshots delayed; no stream."""
    space = workspace(run)
    done = space.ledger.effects(STEP)
    found = [*polled.missing(run)]
    if len(space.ledger.generations()) > 1 and restore.FOREIGN_KEYS not in space.ledger.effects(restore.STEP):
        found += [polled.settling(), _withheld()]
    views = restore.materialized_views(space)
    if views and "materialized views" not in done:
        found.append(refreshing(views))
    return found


def _subscribe(run: Run, generation: int, *, adjusts: bool, left: bool, first: bool) -> Action:
    space = workspace(run)
    tables = verify.followed_tables(space)
    owned = ranges.owned(space, tables, generation)
    others = generations.besides(space, tables, generation)
    enabling = described.all_told(
        subscriptions.enabling(space.names, generation, synchronous=space.terms.synchronous)
    )
    begins = origins.wished(space, space.names.stream(generation))
    if begins is not None:
        moving = origins.moving(space.names.stream(generation), str(begins))
        enabling = (described.told(moving, "where the login may"), *enabling)
    narrowing = f"ALTER PUBLICATION {_quoted(space.names.stream(generation))} SET TABLE …"
    made = (
        described.told(narrowing, described.SOURCE, "where it names more than was copied"),
        *(s.as_string() for s in owned.truncating(space.names, generation)),
        *(described.owning_ranges(space.names, generation) if left else ()),
        *described.subscribing(space, generation, others, left=left, first=first),
    )
    action = _subscribing(space.names, generation, enabling if adjusts else made, adjusts=adjusts)
    return action if adjusts else replace(action, needs=(*action.needs, *subscription_login.needed(run)))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _subscribing(names: Names, generation: int, statements: tuple[str, ...], *, adjusts: bool) -> Action:
    stream = names.stream(generation)
    return Action(
        name=f"subscribe {generation}",
        summary=f"subscribe to slot {stream} and start applying",
        where=Side.TARGET,
        statements=statements,
        locks=NO_LOCKS,
        needs=(needs.SUBSCRIBING, needs.CREATE, *needs.on(Side.SOURCE, needs.REPLICATION)),
        undo="planrunner cleanup drops it",
        lasting=TAKEN_BACK,
        adjusts=adjusts,
        perform=lambda run: _perform_subscribe(run, generation),
    )


def _commit_otherwise(names: Names, generation: int, *, synchronous: bool) -> Action:
    stream = names.stream(generation)
    how = "flush each transaction" if synchronous else "apply without a flush for each transaction"
    return Action(
        name=f"commit otherwise {generation}",
        summary=f"stop {stream}, let its worker {how}, and start it again",
        where=Side.TARGET,
        statements=described.all_told(
            (
                subscriptions.dropping(stream)[0],
                *subscriptions.enabling(names, generation, synchronous=synchronous),
            )
        ),
        locks=NO_LOCKS,
        needs=(needs.SUBSCRIBING, needs.CREATE),
        undo="the option as it was, in the plan, and another run",
        lasting=TAKEN_BACK,
        adjusts=True,
        perform=lambda run: subscriptions.commit_otherwise(
            workspace(run), generation, synchronous=synchronous
        ),
    )


def _perform_subscribe(run: Run, generation: int) -> None:
    space = workspace(run)
    with drift.explaining(space):
        count = generations.follow(space, verify.followed_tables(space), generation)
    run.tell(
        f"following {count} units from slot {space.names.stream(generation)}",
        {"units": count, "generation": generation},
    )


def _catch_up(limit: int) -> Action:
    return Action(
        name="catch up",
        summary=f"wait until the target has passed a barrier and lags less than {human_bytes(limit)}",
        where=Side.TARGET,
        statements=(
            *described.all_told(
                upkeep.MARKS.statements, described.SOURCE, "it is there when the target shows it"
            ),
            *_WATCHING,
        ),
        locks=NO_LOCKS,
        needs=needs.on(Side.SOURCE, needs.CREATE),
        undo="nothing to undo: a marker row stays for an hour",
        lasting=NOTHING_STAYS,
        perform=lambda run: _perform_catch_up(run, limit),
    )


def _perform_catch_up(run: Run, limit: int) -> None:
    space = workspace(run)
    timeout = seconds(run.option("timeout", "1h"))
    held = space.ledger.generations()
    watch = Watch(space, held, following=True, acting=True, flushing=Flushing(space, limit))
    watch.look()
    until = run.clock.monotonic() + timeout
    took = barrier.wait(space, held, timeout=timeout, watch=watch)
    health = watch.look()
    while health.behind > limit:
        if run.clock.monotonic() > until:
            raise StepFailed(
                f"the target is {human_bytes(health.behind)} behind after {timeout:.0f} s, max_lag is"
                f" {human_bytes(limit)}: {barrier.standing(space, health)}",
                remedy="It applies, but no faster than the source writes. Run again to go on waiting, or look at what"
                " slows the target down (pg_stat_activity, its disk); with streams: 2 or more it applies in parallel.",
            )
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
        blocked(
            name=f"{trouble.code} {number}",
            summary="decide about a stream that is lost",
            where=Side.SOURCE,
            none=" before somebody decides",
            needs=(needs.BY_OTHERS,),
            why=f"{trouble.what}. {trouble.remedy}",
        )
        for number, trouble in enumerate(lost, 1)
    ]


def _failover(run: Run) -> Finding:
    version = run.source.identity()
    if version.version >= slots.FAILOVER_SINCE:
        return FAILOVER.passed("Slots are made for failover: standbys that synchronize slots keep them")
    return FAILOVER.failed(
        f"failover: true needs PostgreSQL 17 on the source, it is {version.version_text}: older servers lose their slots"
        " in a failover",
        "Set failover: false in the sync step, and plan no failover of the source during the migration.",
    )


def _clear_former(names: Names, streams: Sequence[int]) -> Action:
    called = ", ".join(names.stream(g) for g in streams)
    return Action(
        name="clear former streams",
        summary=f"remove {called}: what an interrupted join left, followed by nobody",
        where=Side.SOURCE,
        statements=tuple(s for stream in streams for s in described.clearing(names, stream)),
        locks=NO_LOCKS,
        needs=(needs.OWNERSHIP, needs.REPLICATION),
        undo=f"{IRREVERSIBLE}: nobody follows them",
        lasting=NOTHING_STAYS,
        recovery=True,
        destructive=True,
        perform=lambda run: merge.undo(workspace(run)),
    )


def _join(names: Names, held: Sequence[int], streams: int) -> Action:
    return Action(
        name="join streams",
        summary=f"join the {len(held)} streams that lost snapshots left into {streams}, at one commit of the source",
        where=Side.TARGET,
        statements=(*described.joining(names, held), *_WATCHING),
        locks=("SHARE UPDATE EXCLUSIVE on each table of the source, for an instant",),
        needs=(needs.SUBSCRIBING, needs.CREATE, *needs.on(Side.SOURCE, needs.OWNERSHIP, needs.REPLICATION)),
        undo="until the new subscription is made, the old streams are enabled again",
        lasting=TAKEN_BACK,
        recovery=True,
        perform=lambda run: merge.merge(
            workspace(run), verify.followed_tables(workspace(run)), streams=streams
        ),
    )


def _withheld() -> Action:
    return Action(
        name="foreign keys",
        summary="add the foreign keys and unique indexes that several snapshots delayed",
        where=Side.TARGET,
        statements=described.FOREIGN_KEYS,
        locks=("SHARE ROW EXCLUSIVE on both tables of a foreign key, SHARE on a table whose index is built",),
        needs=(needs.ACTING_AS,),
        undo="ALTER TABLE … DROP CONSTRAINT …, DROP INDEX …, by hand",
        lasting="the constraints and indexes on the target, which the migration is for",
        recovery=True,
        perform=_perform_withheld,
    )


def _perform_withheld(run: Run) -> None:
    terms = indexes.Terms(jobs=2, memory="512MB", wishes=Wishes())
    space = workspace(run)
    with drift.explaining(space), indexes.Builder(space, terms, lambda: None) as builder:
        builder.withheld()


def refreshing(views: Sequence[tuple[str, str]]) -> Action:
    """The action that fills the target's materialized views."""
    return Action(
        name="materialized views",
        summary=f"refresh {len(views)} materialized views in the order of their dependencies",
        where=Side.TARGET,
        statements=restore.refreshing(views),
        locks=("ACCESS EXCLUSIVE on each materialized view while it is filled",),
        needs=(needs.ACTING_AS,),
        undo="REFRESH MATERIALIZED VIEW … WITH NO DATA, by hand",
        lasting=NOTHING_STAYS,
        perform=lambda run: restore.refresh(workspace(run), views, step=STEP),
    )


def _unsubscribe(names: Names, generation: int) -> Action:
    stream = names.stream(generation)
    return Action(
        name=f"unsubscribe {stream}",
        summary=f"drop subscription {stream}",
        where=Side.TARGET,
        statements=described.all_told(subscriptions.dropping(stream)),
        locks=NO_LOCKS,
        needs=(needs.SUBSCRIBING, needs.CREATE),
        undo=f"{IRREVERSIBLE}: a stream that is cut off can't be taken up again, only begun anew",
        lasting=NOTHING_STAYS,
        destructive=True,
        perform=lambda run: subscriptions.drop(workspace(run), generation),
    )
