"""What is said of a table once its parts are compared: rows of the plan's source and target, equal or not, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.model import Side
from planrunner.replication import checksum
from planrunner.replication.checksum import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.ends import Ends
    from planrunner.replication.rounds import Found
    from planrunner.verification import TableVerdict

WHOLE = "whole, inside the pause"
LIVE = "live"


def of_parts(  # noqa: PLR0913  # a verdict's facts, each by its name
    table: Table,
    ends: Ends,
    parts: Sequence[Found],
    *,
    rows: tuple[int, int] = (0, 0),
    equal: bool,
    how: str,
    open_parts: bool = False,
) -> TableVerdict:
    """The verdict of a table from those of its ``parts``; ``rows`` are publisher's and subscriber's of the others.

    With ``open_parts`` there are more, of which nothing is known: rows are counted in those that were compared.

    Single rows lie in buckets that are counted already: of them only what the subscriber has more or less counts.
    """
    ours = rows[0] + sum(part.ours.rows for part in parts if not part.keys)
    theirs = rows[1] + sum(part.theirs.rows - (part.ours.rows if part.keys else 0) for part in parts)
    strays = sum(part.theirs.strays for part in parts)
    if ends.publisher.side is Side.TARGET:
        ours, theirs = theirs, ours
    # Of the hashes only whether they agree is left.
    found = checksum.verdict(
        table,
        Digest(rows=ours, hashes=""),
        Digest(rows=theirs, hashes="" if equal else "other", strays=strays),
    )
    if found.detail is not None and (open_parts or not all(part.whole for part in parts)):
        found = replace(found, detail=f"in the parts that were compared, {found.detail}")
    return replace(found, how=how)


def again(buckets: int, of: int, rows: int) -> str:
    """How a table was proven of which some parts were compared again inside the pause."""
    parts = [f"{buckets} of {of} buckets"] if buckets or not rows else []
    parts += [f"{rows} rows by their keys"] if rows else []
    return f"live, {' and '.join(parts)} again inside the pause"
