"""Compares both sides: live, while replication runs, and inside the fence, when nothing moves.

Live, per table: S1 = digest(source), a barrier, T = digest(target), S2 = digest(source). S1 = S2 = T proves
equality at that moment; S1 ≠ S2 proves nothing and is tried again. S1 = S2 ≠ T is a difference only when the
next attempt finds the same three: a row that came and went in between looks like one, once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.model import TableVerdict, Verification
from planrunner.postgres import catalog
from planrunner.replication import (
    barrier,
    checksum,
    fingerprint,
    relations,
    selection_record,
    subscriptions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

ATTEMPTS = 3
LIVE_TIMEOUT_SECONDS = 24 * 3600.0


def followed_tables(workspace: Workspace) -> tuple[Table, ...]:
    """The source's tables whose rows the migration carries, each with the filter of its rows."""
    return divided(workspace, catalog.tables(workspace.source))[0]


def divided(workspace: Workspace, tables: Sequence[Table]) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
    """Of all the source's ``tables``, those whose rows are followed and those copied inside the cutover's pause."""
    late = {t.oid for t in tables if workspace.choices.late(t)}
    # Late ones are chosen by the same filters; those would leave an unlogged table out.
    coming = workspace.selection.followed(
        [replace(t, unlogged=False) if t.oid in late else t for t in tables]
    )
    return tuple(t for t in coming if t.oid not in late), tuple(t for t in coming if t.oid in late)


def missing_on_target(workspace: Workspace, tables: Sequence[Table]) -> tuple[str, ...]:
    """The tables that the target lacks, as differences."""
    there = {t.qualified for t in catalog.stored_tables(workspace.target)}
    return tuple(f"{t.qualified}: missing on the target" for t in tables if t.qualified not in there)


def live(workspace: Workspace, *, counts_only: bool = False) -> Verification:
    """Compare every table while the source is written to.

    A table that changed in each attempt is left out of the verdicts and named in the news: only the
    comparison inside the fence can decide it.
    """
    begun = workspace.clock.monotonic()
    selection_record.refuse_unrecorded(workspace.selection)
    tables = followed_tables(workspace)
    gone = missing_on_target(workspace, tables)
    open_tables = {t.qualified: t for t in tables if f"{t.qualified}: missing on the target" not in gone}
    verdicts: dict[str, TableVerdict] = {}
    suspects: dict[str, tuple[checksum.Digest, checksum.Digest]] = {}
    for _ in range(ATTEMPTS):
        found = _round(workspace, list(open_tables.values()), counts_only=counts_only)
        verdicts |= {
            name: checksum.verdict(open_tables[name], *pair)
            for name, pair in found.items()
            if pair[0] == pair[1] or suspects.get(name) == pair
        }
        suspects = found
        open_tables = {name: table for name, table in open_tables.items() if name not in verdicts}
        if not open_tables:
            break
    if open_tables:
        workspace.tell(
            f"{len(open_tables)} tables changed during every live comparison and are decided inside the fence",
            {"undecided": sorted(open_tables)},
        )
    return Verification(
        tables=tuple(verdicts[name] for name in sorted(verdicts)),
        other=gone
        + fingerprint.differences(
            workspace.source, workspace.target, relations.omitted(workspace.source, workspace.selection)
        ),
        seconds=workspace.clock.monotonic() - begun,
    )


def _round(
    workspace: Workspace, tables: Sequence[Table], *, counts_only: bool
) -> dict[str, tuple[checksum.Digest, checksum.Digest]]:
    """Both digests of every table that was the same before and after the target was looked at."""
    source, target = workspace.source, workspace.target
    version = min(source.identity().version, target.identity().version)

    def digests(server: Server) -> dict[str, checksum.Digest]:
        return checksum.digests(
            server,
            tables,
            counts_only=counts_only,
            md5=version < 140000,
            jobs=2,
            timeout=LIVE_TIMEOUT_SECONDS,
        )

    first = digests(source)
    generations = workspace.ledger.generations()
    if generations and subscriptions.existing(target, workspace.names):
        barrier.wait(workspace, generations, timeout=600)
    there = digests(target)
    second = digests(source)
    return {
        t.qualified: (first[t.qualified], there[t.qualified])
        for t in tables
        if first[t.qualified] == second[t.qualified]
    }


def still(
    workspace: Workspace, tables: Sequence[Table], *, counts_only: bool, timeout: float
) -> Verification:
    """Compare every table while nothing is written on either side."""
    begun = workspace.clock.monotonic()
    gone = missing_on_target(workspace, tables)
    present = [t for t in tables if f"{t.qualified}: missing on the target" not in gone]
    ours, theirs = checksum.both_sides(
        workspace.source, workspace.target, present, counts_only=counts_only, timeout=timeout
    )
    return Verification(
        tables=tuple(checksum.verdict(t, ours[t.qualified], theirs[t.qualified]) for t in present),
        other=gone,
        seconds=workspace.clock.monotonic() - begun,
    )
