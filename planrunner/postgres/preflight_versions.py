"""Preflight of the servers' versions: which are served, which get no more fixes, which minors lose data.

End of life is what https://www.postgresql.org/support/versioning/ tells; a defect is told only where the release
notes of the minor that mends it say so, and they are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from planrunner.model import Side
from planrunner.postgres.preflight_section import CAPACITY, Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Identity, Server

SERVED = Check(
    code="PR0501",
    section=CAPACITY,
    title="The server's version is served",
    why="Older servers lack what a migration without downtime is built on, and newer ones were never tried.",
)
SUPPORTED = Check(
    code="PR0502",
    section=CAPACITY,
    title="The target's version still gets fixes",
    why="After its end of life a version gets no more security fixes: the database would move onto a server that is"
    " out of support from its first day.",
)
DEFECTS = Check(
    code="PR0503",
    section=CAPACITY,
    title="The minor release has no known defect that a migration meets",
    why="Some minor releases lose or repeat changes that are replicated, or have made indexes that miss rows; an update"
    " to the newest minor of the same major needs only a restart.",
)

OLDEST, NEWEST = 12, 18
END_OF_LIFE: Mapping[int, date] = {
    12: date(2024, 11, 21),
    13: date(2025, 11, 13),
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What minors of ``major`` from ``since`` on do wrong until ``mended``, on the side where it matters."""

    major: int
    mended: int
    side: Side
    harm: str
    since: int = 0

    def holds(self, version: int, side: Side) -> bool:
        """Whether a server of that ``server_version_num`` has it."""
        return (
            side is self.side
            and version // 10000 == self.major
            and self.since <= version % 10000 < self.mended
        )


_LOSES = (
    "may decode changes with a stale catalogue and lose or garble them when ALTER PUBLICATION or ALTER TYPE runs while"
    " others write"
)
_FLOODS = (
    "passes cache invalidations on to every open transaction over and over while it decodes, until the WAL sender ends"
    " with a failed memory allocation"
)
_REPEATS = (
    "may forget where an apply worker was when an error is caught in it, and apply changes a second time"
)
_BLOATS = "takes far more memory than needed to decode long transactions, up to running out of it"
_SKIPS = "may count a transaction as applied although its apply worker ended before it was, and so lose it for good"
_INDEXES = (
    "leaves rows out of indexes built by CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY, so that a comparison or an"
    " update by such an index misses them; rebuild those indexes after the update"
)
KNOWN: Sequence[Defect] = (
    Defect(major=14, mended=4, side=Side.SOURCE, harm=_INDEXES),
    *(Defect(major=m, mended=n, side=Side.SOURCE, harm=_LOSES) for m, n in ((15, 13), (16, 9), (17, 5))),
    *(
        Defect(major=m, since=n, mended=n + 1, side=Side.SOURCE, harm=_FLOODS)
        for m, n in ((15, 13), (16, 9), (17, 5))
    ),
    *(Defect(major=m, mended=n, side=Side.SOURCE, harm=_BLOATS) for m, n in ((15, 9), (16, 5), (17, 1))),
    *(Defect(major=m, mended=n, side=Side.TARGET, harm=_REPEATS) for m, n in ((16, 9), (17, 5))),
    Defect(major=16, mended=5, side=Side.TARGET, harm=_SKIPS),
)


def versions(server: Server) -> Iterator[Finding]:
    """Whether the server's major is served and supported, and its minor free of what is known."""
    who = server.identity()
    yield _served(who, server.side)
    if server.side is Side.TARGET:
        yield from _supported(who.major, server.clock.now())
    yield from defects(who.version, who.version_text, server)


def _served(who: Identity, side: Side) -> Finding:
    text = f"{side.value.capitalize()} is PostgreSQL {who.version_text}"
    if who.major < OLDEST:
        return SERVED.failed(
            f"{text}: planrunner serves {OLDEST} to {NEWEST}",
            f"Upgrade the {side.value} to PostgreSQL {OLDEST} or later first (pg_upgrade, on RDS a major version"
            " upgrade).",
        )
    if who.major > NEWEST:
        return SERVED.warned(
            f"{text}, newer than any that planrunner was tried with ({NEWEST})",
            "Rehearse on a copy first, or take a newer planrunner.",
        )
    return SERVED.passed(f"{text}, which is served")


def _supported(major: int, now: datetime) -> Iterator[Finding]:
    until = END_OF_LIFE.get(major)
    if until is None:
        return
    if now.astimezone(UTC).date() > until:
        yield SUPPORTED.warned(
            f"Target's PostgreSQL {major} gets no more fixes since {until:%Y-%m-%d}",
            f"Choose a target of PostgreSQL {NEWEST}, which gets them until {END_OF_LIFE[NEWEST]:%Y-%m-%d}.",
        )
    else:
        yield SUPPORTED.passed(f"Target's PostgreSQL {major} gets fixes until {until:%Y-%m-%d}")


def defects(version: int, shown: str, server: Server) -> Iterator[Finding]:
    """A warning for each known defect of that version on that side."""
    found = [one for one in KNOWN if one.holds(version, server.side)]
    for one in found:
        yield DEFECTS.warned(
            f"{server.side.value.capitalize()}'s PostgreSQL {shown} {one.harm} (mended in {one.major}.{one.mended},"
            " see its release notes)",
            _update(server, one),
        )
    if not found:
        yield DEFECTS.passed(
            f"PostgreSQL {shown} has no known defect that the {server.side.value} would meet"
        )


def _update(server: Server, one: Defect) -> str:
    rds = server.endpoint.rds
    if rds is None:
        return (
            f"Install the newest minor release of PostgreSQL {one.major}, {one.major}.{one.mended} or later, on the"
            f" {server.side.value} and restart it: apt-get install --only-upgrade postgresql-{one.major}"
        )
    region = f" --region {rds.region}" if rds.region else ""
    return (
        f"Run, which restarts the instance: aws rds modify-db-instance{region} --db-instance-identifier {rds.instance}"
        f" --engine-version {one.major}.{one.mended} --apply-immediately (or a later minor release)"
    )
