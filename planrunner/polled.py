"""The actions of a migration whose source is polled: a snapshot without a slot, rounds, and what they can't see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import clearing
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.postgres.catalog import ANY_TABLE
from planrunner.replication import (
    described,
    polling,
    polling_changes,
    polling_following,
    polling_ledger,
    verify,
)
from planrunner.shapes import ANYTHING
from planrunner.step import NO_LOCKS, NOTHING_STAYS, Action
from planrunner.units import human_bytes, human_seconds
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.catalog import Table
    from planrunner.replication.terms import Pace
    from planrunner.step import Run

STEP = "sync"
CAUGHT_UP = "caught up"
# What a reviewer must know of this mode, in the words of a preview.
UNSEEN = (
    "-- not seen between rounds: what a row was in between; only its state at the time of a round is brought",
    "-- not seen before the next reconciliation: deleted rows, the old key of a row that was given another, a"
    " TRUNCATE's rows where the table keeps its file, rows that left a filter, and every row of a table without a"
    " primary key",
    "-- not kept: which changes were one transaction. Each table is committed by itself, so the target is no state that"
    " the source ever had until the last round inside the cutover's fence, and must not be read as one before",
)
_LOCKING = "LOCK TABLE ONLY … IN ACCESS SHARE MODE"
_WRITING = (
    ("SET LOCAL session_replication_role = replica", "where rows differ"),
    ("ALTER TABLE ONLY … DISABLE TRIGGER …", "where a trigger would fire, or our guard stands"),
    (
        "CREATE TEMPORARY TABLE pg_temp.planrunner_round ON COMMIT DROP AS SELECT … WITH NO DATA",
        "where rows have changed",
    ),
    ("COPY pg_temp.planrunner_round … FROM STDIN (…)", "where rows have changed"),
    ("ANALYZE pg_temp.planrunner_round", "where they are many"),
    ("DELETE FROM ONLY … there USING … staged WHERE …", "where rows have changed"),
    ("DELETE FROM ONLY …", "where the source has them no more, or others of their key"),
    ("INSERT INTO … (…) …", "where rows differ"),
    ("COPY … FROM STDIN (…)", "where most of a part differs"),
    ("ALTER TABLE ONLY … ENABLE …TRIGGER …", "where it was disabled"),
)


def capturing(perform: Callable[[Run], None], *, tables: str) -> Action:
    """The action that holds a snapshot of the source, to which no slot belongs."""
    return Action(
        name="capture",
        summary=f"hold a snapshot of the source for {tables} tables; no publication, no slot: the source is polled",
        where=Side.SOURCE,
        statements=(polling.BEGIN, "SELECT pg_export_snapshot()"),
        locks=NO_LOCKS,
        needs=(needs.READING, *needs.on(Side.TARGET, needs.CREATE)),
        undo="it ends with its sessions",
        lasting=NOTHING_STAYS,
        perform=perform,
    )


def missing(run: Run) -> Sequence[Action]:
    """The rounds, unless the target has caught up."""
    space = workspace(run)
    if CAUGHT_UP in space.ledger.effects(STEP):
        return ()
    pace = space.terms.pace
    assert pace is not None
    return [rounds(verify.followed_tables(space), pace)]


def rounds(tables: Sequence[Table] | None, pace: Pace) -> Action:
    """The action that polls ``tables`` until the target has caught up; None: nothing is known of them."""
    asked = ANY_TABLE if not tables else max(tables, key=lambda t: t.bytes)
    size = "the selected tables" if tables is None else _scanned(tables)
    keep = f", then for {human_seconds(pace.keep)} more" if pace.keep else ""
    return Action(
        name="rounds",
        summary=f"poll {size}: every {human_seconds(pace.interval)} for changed rows, every"
        f" {human_seconds(pace.reconcile)} for vanished ones by comparing whole tables; until the target has caught"
        f" up{keep}",
        where=Side.TARGET,
        statements=(
            *UNSEEN,
            described.told(polling.BEGIN, described.SOURCE, "one for each table"),
            described.told(_LOCKING, described.SOURCE),
            f"-- from the source: {polling_changes.outgoing(asked, 0).as_string().replace(_ANY_HORIZON, ANYTHING)}",
            "-- no index leads to changed rows: each round reads every table once, each reconciliation reads it on both"
            " sides and hashes its rows",
            *_writing(),
        ),
        locks=(
            "ACCESS SHARE on a table of the source while it is read",
            "ROW EXCLUSIVE on the target's; SHARE ROW EXCLUSIVE where a trigger is disabled",
        ),
        needs=(needs.ACTING_AS, needs.SILENCING, needs.CREATE, *needs.on(Side.SOURCE, needs.READING)),
        undo="TRUNCATE, by hand",
        lasting="the rows on the target, which the migration is for",
        perform=_perform_rounds,
    )


# The horizon that ``rounds`` writes out, which only the run knows.
_ANY_HORIZON = "4294967295"


def _scanned(tables: Sequence[Table]) -> str:
    keyless = sum(1 for t in tables if not polling_changes.addressable(t))
    told = f", {keyless} of them without a key and only compared" if keyless else ""
    return f"{len(tables)} tables{told} ({human_bytes(sum(t.data_bytes for t in tables))} are read in each round)"


def _perform_rounds(run: Run) -> None:
    space = workspace(run)
    found = polling_following.follow(space)
    space.done(STEP, CAUGHT_UP, {"seconds": round(found.seconds, 3), "tables": len(found.visits)})


def settling() -> Action:
    """The action that makes rows of different tables fit together, for foreign keys that several snapshots delayed."""
    return Action(
        name="settle",
        summary="make every table what one snapshot of the source shows, so that foreign keys hold",
        where=Side.TARGET,
        statements=(
            described.told(polling.BEGIN, described.SOURCE),
            described.told(_LOCKING, described.SOURCE, "all tables"),
            *_writing(),
        ),
        locks=("ACCESS SHARE on every table of the source while the target is made equal",),
        needs=(needs.ACTING_AS, needs.SILENCING, *needs.on(Side.SOURCE, needs.READING)),
        undo="nothing to undo: it brings what the next round would",
        lasting=NOTHING_STAYS,
        recovery=True,
        perform=_settle,
    )


def _settle(run: Run) -> None:
    polling_following.settle(workspace(run))


def _writing() -> tuple[str, ...]:
    return tuple(described.told(text, when, described.TARGET) for text, when in _WRITING)


def last_round() -> tuple[str, ...]:
    """What the last round inside the pause executes."""
    return (
        "-- inside the pause: a last round, which reads and hashes every table on both sides. That is the pause's"
        " length; a rehearsal measures it",
        described.told(polling.BEGIN, described.SOURCE),
        described.told(_LOCKING, described.SOURCE),
        *_writing(),
    )


def figures(run: Run) -> Mapping[str, Json]:
    """Rounds, rows and ages for status and report."""
    space = workspace(run)
    seen = polling_ledger.known(space)
    now = run.clock.now().timestamp()
    if not seen:
        return {"state": "no round was made yet", "tables_polled": 0}
    oldest = min(seen.values(), key=lambda s: s.at)
    unequal = min(s.compared for s in seen.values())
    compared = f"compared whole {human_seconds(now - unequal)} ago" if unequal else "not all compared yet"
    return {
        "state": f"{len(seen)} tables polled, the last round {human_seconds(now - oldest.at)} ago, {compared}",
        "tables_polled": len(seen),
        "rounds": min(s.rounds for s in seen.values()),
        "rows_brought": sum(s.brought for s in seen.values()),
        "rows_removed": sum(s.removed for s in seen.values()),
        "seconds_behind": round(now - oldest.at, 1),
        "seconds_since_compared": round(now - unequal, 1) if unequal else None,
        "horizon": min(s.horizon for s in seen.values()),
    }


def leftovers(run: Run) -> Sequence[Action]:
    """What the ledger says of snapshots and rounds."""
    space = workspace(run)
    steps = [s for s in (polling_ledger.STEP, polling_ledger.SNAPSHOTS) if space.ledger.effects(s)]
    return [clearing.forget_step(run.plan_id, *steps, what="the rounds")] if steps else []
