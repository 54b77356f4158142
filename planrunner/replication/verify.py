"""Compares both sides: live, while replication runs, and inside the fence, when nothing moves.

Live, ``rounds`` decides bucket by bucket. ``prove`` keeps what was proven in the ledger and follows what changes
after; ``still``, inside the fence, then has only to look at what changed since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from planrunner.postgres import catalog
from planrunner.replication import (
    checksum,
    fingerprint,
    followed,
    proof_book,
    proving,
    relations,
    rounds,
    selection_record,
    tracker,
    verdicts,
)
from planrunner.replication.ends import Ends
from planrunner.replication.pieces import Piece
from planrunner.replication.proving import Prover
from planrunner.replication.rounds import Comparing, Found, Stage, State
from planrunner.replication.throttle import Effort
from planrunner.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.inside import Inside
    from planrunner.replication.proof_book import Book
    from planrunner.replication.workspace import Workspace
    from planrunner.verification import TableVerdict

DEFAULT_EFFORT = Effort()
# More than that no server digests; what is larger is not even tried.
_READ_A_SECOND = 1 << 30


class Mode(Enum):
    """What is compared inside the fence."""

    AUTO = "auto"
    DIGESTS = "digests"
    CHANGED = "changed"
    COUNTS = "counts"


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What a live verification has proven; good for one comparison inside the fence.

    ``found`` holds a verdict of every table but the undecided. ``pending`` is how many buckets and single rows
    are left for the pause as of now, ``scan_seconds`` what digesting everything on both sides takes, measured live.
    """

    found: Verification
    book: Book
    ends: Ends
    pending: int
    scan_seconds: float

    def fits(self, budget: float) -> bool:
        """Whether whole digests take at most a quarter of a pause of ``budget`` seconds."""
        return self.scan_seconds <= budget / 4


def chosen(mode: Mode, proven: Proven | None, budget: float) -> Proven | None:
    """What ``still`` is to build on under ``mode``: None means that every table is compared whole."""
    if proven is None or mode in {Mode.DIGESTS, Mode.COUNTS}:
        return None
    return None if mode is Mode.AUTO and proven.fits(budget) else proven


def before_pause(
    workspace: Workspace,
    mode: Mode,
    *,
    budget: float,
    ends: Ends | None = None,
    effort: Effort = DEFAULT_EFFORT,
) -> tuple[Verification, Proven | None]:
    """Compare everything live, as ``mode`` asks for a pause of ``budget`` seconds; with what ``still`` builds on.

    AUTO makes no tracker where everything is read so fast that the pause can do it again.
    """
    ends = ends or Ends.forward(workspace)
    small = sum(t.data_bytes for t in followed_tables(workspace)) < budget / 4 * _READ_A_SECOND
    if mode in {Mode.DIGESTS, Mode.COUNTS}:
        return live(workspace, counts_only=mode is Mode.COUNTS, ends=ends, effort=effort), None
    if mode is Mode.AUTO and small and not tracker.exists(workspace):
        found = live(workspace, ends=ends, effort=effort)
        if found.differences or found.seconds <= budget / 4:
            return found, None
    proven = prove(workspace, ends=ends, effort=effort)
    return proven.found, chosen(mode, proven, budget)


def followed_tables(workspace: Workspace) -> tuple[Table, ...]:
    """The source's tables whose rows the migration carries, each with the filter of its rows."""
    return followed.tables(workspace)


def divided(workspace: Workspace, tables: Sequence[Table]) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
    """Of all the source's ``tables``, those whose rows are followed and those copied inside the cutover's pause."""
    return followed.divided(workspace, tables)


def missing_on_target(workspace: Workspace, tables: Sequence[Table]) -> tuple[str, ...]:
    """The tables that the target lacks, as differences."""
    there = {t.qualified for t in catalog.stored_tables(workspace.target)}
    return tuple(f"{t.qualified}: missing on the target" for t in tables if t.qualified not in there)


def live(
    workspace: Workspace,
    *,
    counts_only: bool = False,
    ends: Ends | None = None,
    effort: Effort = DEFAULT_EFFORT,
) -> Verification:
    """Compare every table while the source is written to; changes nothing.

    A table that changed in each attempt is left out of the verdicts and named in the news: only the
    comparison inside the fence can decide it.
    """
    begun = workspace.clock.monotonic()
    ends = ends or Ends.forward(workspace)
    selection_record.refuse_unrecorded(workspace.selection)
    present, gone = _present(workspace)
    book = proof_book.opened(workspace, ends.publisher, present, bucket_bytes=effort.bucket_bytes, keep=False)
    with Stage(workspace, ends, effort, counts_only=counts_only) as stage:
        work = Comparing(stage, book.cuts, {name: book.unproven(name) for name in book.cuts})
        found = [
            one
            for level in range(rounds.LEVELS)
            if work.undecided
            for decided in work.attempt(level)
            for one in decided
        ]
    found_of = _live_verdicts(present, ends, found, work.undecided)
    differing = {v.table for v in found_of}
    proving.tell_undecided(workspace, [name for name in work.undecided if name not in differing])
    return _verification(workspace, found_of, gone, begun)


def prove(workspace: Workspace, *, ends: Ends | None = None, effort: Effort = DEFAULT_EFFORT) -> Proven:
    """Prove every table equal while the source is written to, keep that in the ledger, and follow what changes.

    Goes on where an earlier attempt was cut off. Ends when little has changed since, or when that gets no less.
    """
    begun = workspace.clock.monotonic()
    ends = ends or Ends.forward(workspace)
    selection_record.refuse_unrecorded(workspace.selection)
    present, gone = _present(workspace)
    workspace.lease  # noqa: B018  # makes the ledger's tables where they are missing
    tracker.ensure(workspace, ends)
    book = proof_book.opened(workspace, ends.publisher, present, bucket_bytes=effort.bucket_bytes, keep=True)
    tracker.read(workspace, ends, book)
    untracked = frozenset(t.qualified for t in present) - tracker.vouched(workspace, ends)
    with Stage(workspace, ends, effort) as stage:
        prover = Prover(workspace, stage, book, untracked)
        prover.run()
        prover.tell()
        seconds = prover.scan_seconds(present)
    found = _verification(workspace, prover.verdicts(present), gone, begun)
    return Proven(found=found, book=book, ends=ends, pending=prover.pending(), scan_seconds=seconds)


def _present(workspace: Workspace) -> tuple[list[Table], tuple[str, ...]]:
    """The followed tables that the target has, and those that it lacks as differences."""
    tables = followed_tables(workspace)
    gone = missing_on_target(workspace, tables)
    return [t for t in tables if f"{t.qualified}: missing on the target" not in gone], gone


def _live_verdicts(
    tables: Sequence[Table], ends: Ends, found: Sequence[Found], undecided: Mapping[str, set[int]]
) -> list[TableVerdict]:
    parts: dict[str, list[Found]] = {t.qualified: [] for t in tables}
    for one in found:
        parts[one.name].append(one)
    differing = {one.name for one in found if one.state is State.DIFFERENT}
    return [
        verdicts.of_parts(
            t,
            ends,
            parts[t.qualified],
            equal=t.qualified not in differing,
            how=verdicts.LIVE,
            open_parts=t.qualified in undecided,
        )
        for t in tables
        if t.qualified not in undecided or t.qualified in differing
    ]


def _verification(
    workspace: Workspace, found: Sequence[TableVerdict], gone: tuple[str, ...], begun: float
) -> Verification:
    omitted = relations.omitted(workspace.source, workspace.selection)
    return Verification(
        tables=tuple(sorted(found, key=lambda v: v.table)),
        other=gone + fingerprint.differences(workspace.source, workspace.target, omitted),
        seconds=workspace.clock.monotonic() - begun,
    )


def still(  # noqa: PLR0913  # what is compared and how, each by its name
    workspace: Workspace,
    tables: Sequence[Table],
    *,
    counts_only: bool,
    timeout: float,
    proven: Proven | None = None,
    jobs: int = 2,
    strays: bool = True,
    inside: Inside | None = None,
) -> Verification:
    """Compare every table while nothing is written on either side, and the barrier has been passed.

    ``inside`` is the session that holds the fence's locks.

    ``strays``: rows of the target outside a table's filter are a difference, as long as it only follows.

    With ``proven``, of the tables that it knows only what changed since; the others, and without it all, whole.
    """
    begun = workspace.clock.monotonic()
    gone = missing_on_target(workspace, tables)
    present = [t for t in tables if f"{t.qualified}: missing on the target" not in gone]
    found: list[TableVerdict] = []
    if proven is not None and not counts_only:
        known = [t for t in present if t.qualified in proven.book.cuts]
        found = _changed(workspace, known, proven, timeout=timeout, jobs=jobs, inside=inside)
        present = [t for t in present if t.qualified not in proven.book.cuts]
    left = max(0.001, timeout - (workspace.clock.monotonic() - begun))
    ours, theirs = checksum.both_sides(
        workspace.source,
        workspace.target,
        present,
        counts_only=counts_only,
        timeout=left,
        jobs=jobs,
        strays=strays,
        fence=inside,
    )
    how = None if counts_only else verdicts.WHOLE
    found += [replace(checksum.verdict(t, ours[t.qualified], theirs[t.qualified]), how=how) for t in present]
    return Verification(
        tables=tuple(sorted(found, key=lambda v: v.table)),
        other=gone,
        seconds=workspace.clock.monotonic() - begun,
    )


def _changed(
    workspace: Workspace,
    tables: Sequence[Table],
    proven: Proven,
    *,
    timeout: float,
    jobs: int,
    inside: Inside | None,
) -> list[TableVerdict]:
    # A copy: what the tracker tells now is not consumed, should the fence be rolled back.
    book, ends = proven.book.copy(), proven.ends
    begun = workspace.clock.monotonic()
    tracker.read(workspace, ends, book, keep=False, timeout=timeout)
    left = max(0.001, timeout - (workspace.clock.monotonic() - begun))
    pieces = [piece for t in tables for piece in _left_over(book, t)]
    with Stage(workspace, ends, Effort(jobs=jobs)) as stage:
        parts = stage.settled(pieces, timeout=left, fence=inside)
    found: dict[str, list[Found]] = {t.qualified: [] for t in tables}
    for one in parts:
        found[one.name].append(one)
    return [_told(book, t, ends, found[t.qualified]) for t in tables]


def _left_over(book: Book, table: Table) -> list[Piece]:
    """What of a table is to be compared: buckets that are not proven, and rows that changed in those that are."""
    name, cut = table.qualified, book.cuts[table.qualified]
    numbers = book.unproven(name)
    bare = set(numbers)
    keys = [
        k for k in book.touched.get(name, {}) if cut.bucket_of(dict(zip(cut.key, k, strict=True))) not in bare
    ]
    made = [Piece(cut=cut, numbers=numbers)] if numbers else []
    return [*made, Piece(cut=cut, keys=tuple(keys))] if keys else made


def _told(book: Book, table: Table, ends: Ends, parts: Sequence[Found]) -> TableVerdict:
    name = table.qualified
    again = [one for one in parts if not one.keys]
    rows_again = sum(len(one.keys) for one in parts)
    proven = sum(proof.rows for proof in book.proofs.get(name, {}).values())
    count = book.cuts[name].count
    verdict = verdicts.of_parts(
        table,
        ends,
        parts,
        rows=(proven, proven),
        equal=all(one.state is State.EQUAL for one in parts),
        how=verdicts.again(len(again), count, rows_again) if len(again) < count else verdicts.WHOLE,
    )
    return replace(verdict, buckets=count, again=len(again), rows_again=rows_again)
