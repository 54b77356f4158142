"""The steps of a first plan with their reasons as comments: from what was found on the servers, or in general."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.loading.wishes import Wishes
    from planrunner.survey import Bare, Survey

_GB = 1 << 30
# Each stream should have something to do: a database below this for each is not worth another.
_BYTES_A_JOB = 256 << 20
# A unit of a split table is this big at least, and a table becomes some thirty of them at most.
_LEAST_SPLIT, _MOST_RANGES = 10 * _GB, 32
# What is copied or compared while writes stand still takes time by its size; the rehearsal measures it.
_PAUSE_SECONDS, _LATE_BYTES_A_SECOND, _LATE_BYTES = 5, 20 << 20, 64 << 20
_WIDTH = 110
_SHOWN_BARE = 50
OLDEST = 13


def steps(wishes: Wishes, found: Survey | None) -> Iterator[str]:
    """The lines of ``steps:``, comments among them."""
    yield "steps:"
    yield from _logical(wishes, found)
    yield from _step(
        "grant", "grant", "Gives the source's login the replication right and SELECT, where it lacks them."
    )
    yield from _step(
        "check", "validate", "Checks both sides and reports every problem at once; changes nothing."
    )
    yield from _step("copy", "snapshot", "Copies schema and rows as of one moment, in parallel.")
    yield from _copy_options(wishes, found)
    yield from _step("follow", "sync", "Follows every change from that moment on.")
    yield "    with:"
    yield "      max_lag: 16MB"
    yield _noted("# max_wal_retained: 50GB", "give up before the source keeps more WAL than this")
    yield from _cutover(wishes, found)


def warnings(wishes: Wishes, found: Survey | None) -> tuple[str, ...]:
    """What somebody has to do something about before the plan can work."""
    hosts = [f"{side}: {advice}" for side in ("source", "target") if (advice := wishes.host(side).advice)]
    tokens = [
        f"{side}: an IAM token lasts 15 minutes; the subscription needs a lasting password"
        for side in ("source", "target")
        if (kept := wishes.keeping(side)) is not None and kept.is_token and side == "source"
    ]
    return (*hosts, *tokens, *(() if found is None else _found_warnings(found)))


def _found_warnings(found: Survey) -> Iterator[str]:
    source, target = found.source, found.target
    if source.major < OLDEST:
        yield f"source: PostgreSQL {source.version} is older than {OLDEST}, the oldest that is tested"
    for side, one in (("source", source), ("target", target)):
        if one is not None and one.standby:
            yield f"{side}: is a standby; name the primary (the writer)"
        if one is not None and one.pooled:
            yield f"{side}: a pooler or proxy answers; name the server's own host and port"
    if target is not None and target.major < source.major:
        yield (
            f"target: PostgreSQL {target.major} is older than the source's {source.major}; its schema may not"
            " restore there"
        )
    if target is not None and not target.subscribes:
        yield f"target: {target.user} can't create subscriptions; the preflight says what to grant"
    if found.unlogged:
        count = f"{len(found.unlogged)} unlogged tables" if len(found.unlogged) > 1 else "1 unlogged table"
        yield f"source: {count} can't be followed; see unlogged in the plan"
    if found.missing_extensions:
        yield f"target: lacks extensions of the source: {', '.join(found.missing_extensions)}"
    if found.occupied:
        yield f"target: is not empty: {len(found.occupied)} tables, {found.occupied[0]} among them"


def _step(name: str, uses: str, *reasons: str) -> Iterator[str]:
    yield ""
    yield from (f"  # {line}" for reason in reasons for line in folded(reason))
    yield f"  - id: {name}"
    yield f"    uses: {uses}"


def _logical(wishes: Wishes, found: Survey | None) -> Iterator[str]:
    cluster = wishes.host("source").cluster
    aurora = cluster is not None or (found is not None and found.source.aurora)
    is_rds = wishes.rds()[0] is not None or (found is not None and found.source.rds)
    if found is not None and found.source.wal_level == "logical":
        yield "  # The source has wal_level = logical already: no step has to enable it."
    elif aurora:
        yield from _aurora(cluster)
    elif found is None or is_rds:
        yield from _step(
            "logical",
            "enable_logical",
            "Brings the source to wal_level=logical. On RDS that needs a reboot: allow, ask, in_window or never.",
        )
        yield from ("    with:", f"      reboot: {wishes.reboot}")
    else:
        yield from (f"  # {line}" for line in folded(_EXTERNAL.format(level=found.source.wal_level)))
        yield "  # - {id: logical, uses: enable_logical}   # sets it where the login may, and waits for the restart"


_EXTERNAL = (
    "Managed elsewhere: the source has wal_level = {level}, and replication needs logical. Set it (ALTER SYSTEM SET"
    " wal_level = 'logical', or your provider's console) and restart the server before the run."
)


def _aurora(cluster: str | None) -> Iterator[str]:
    name = _plain(cluster or "CLUSTER")
    text = (
        "Aurora keeps the setting in the parameter group of the cluster. Name the cluster's writer as"
        " connections.source.rds (rds: {instance: WRITER}) and take the next step in: it sets rds.logical_replication=1"
        " there and reboots the writer once. Who the writer is tells:"
    )
    yield from (f"  # {line}" for line in folded(text))
    yield f"  #   aws rds describe-db-clusters --db-cluster-identifier {name} --query 'DBClusters[].DBClusterMembers'"
    yield "  # - {id: logical, uses: enable_logical, with: {reboot: ask}}"


def _copy_options(wishes: Wishes, found: Survey | None) -> Iterator[str]:
    yield "    with:"
    if found is None:
        yield "      jobs: 4"
        yield from _foreign_roles(commented=True, why="when the source's roles do not exist on the target")
        yield _noted("# without_replica_identity: full", "when there are tables without a primary key")
        return
    jobs = max(2, min(found.jobs, math.ceil(found.bytes / _BYTES_A_JOB)))
    room = "both servers have" if found.target else "the source has"
    yield _noted(f"jobs: {jobs}", f"{human_bytes(found.bytes)}; {room} room for {found.jobs}")
    yield f"      index_jobs: {max(2, jobs // 2)}"
    yield _split(found)
    if found.keep_roles is False:
        yield from _foreign_roles(
            commented=False, why="the target lacks roles that its login may not make or be"
        )
    elif found.keep_roles is None:
        yield from _foreign_roles(commented=True, why="when the source's roles do not exist on the target")
    yield from _bare(found.bare)
    yield from _unlogged(wishes, found)
    if found.large_objects:
        yield _noted("large_objects: copy", f"there are {found.large_objects}; skip leaves them behind")


def _noted(text: str, remark: str) -> str:
    """An option with its remark."""
    return f"      {text:<36}# {_plain(remark)}"


def _split(found: Survey) -> str:
    if found.source.major < 15:
        return _noted("# split_above: 10GB", "needs a source of 15")
    if found.split_bytes <= _LEAST_SPLIT:
        return _noted("# split_above: 10GB", "no table with a fitting key is that big")
    gigabytes = math.ceil(max(_LEAST_SPLIT, found.split_bytes / _MOST_RANGES) / _GB)
    size = human_bytes(found.split_bytes)
    return _noted(
        f"split_above: {gigabytes}GB", f"the biggest that can be cut has {size}; a loss costs a range"
    )


def _foreign_roles(*, commented: bool, why: str) -> Iterator[str]:
    mark = "# " if commented else ""
    yield _noted(f"{mark}owners: login", why)
    yield f"      {mark}grants: skip"


def _bare(bare: Sequence[Bare]) -> Iterator[str]:
    if not bare:
        return
    text = (
        "Without a primary key the server can't tell a row of these tables for UPDATE and DELETE. index: a unique"
        " index of NOT NULL columns tells it; full: all columns do, slow to apply where much is changed; insert_only:"
        " nothing is ever updated or deleted; copy_at_cutover: copied whole while writes stand still."
    )
    yield from (f"      # {line}" for line in folded(text, _WIDTH - 4))
    yield "      without_replica_identity:"
    for one in bare[:_SHOWN_BARE]:
        yield f"        {json.dumps(one.pattern, ensure_ascii=not one.pattern.isprintable())}: {_choice(one)}"
        yield f"        #   {_size(one.bytes, one.rows)}{_about(one)}"
    if len(bare) > _SHOWN_BARE:
        yield f'        "*": full   # {len(bare) - _SHOWN_BARE} more'


def _choice(one: Bare) -> str:
    if not one.indexes:
        return "full"
    name = one.indexes[0]
    if len(one.indexes) == 1 or re.search(r"\{[{%#]", name) or not name.isprintable():
        return "index" if len(one.indexes) == 1 else "full"
    return f"{{index: {json.dumps(name, ensure_ascii=False)}}}"


def _about(one: Bare) -> str:
    others = [w for w in ("index", "full") if w != _choice(one) and (w != "index" or one.indexes)]
    others += ["insert_only", "copy_at_cutover"]
    if one.changes is None:
        changed = ""
    else:
        changed = (
            f"; {one.changes} updates and deletes counted" if one.changes else "; no update or delete counted"
        )
    able = f"; index can be {', '.join(map(_plain, one.indexes))}" if len(one.indexes) > 1 else ""
    return f"{changed}{able}; or {', '.join(others)}"


def _unlogged(wishes: Wishes, found: Survey) -> Iterator[str]:
    if not found.unlogged:
        return
    first, *others = found.unlogged
    size = sum(t.bytes for t in found.unlogged)
    names = f"{_plain(first.name)}{f' and {len(others)} more' if others else ''}"
    yield f"      # Unlogged tables are not replicated ({names}, {human_bytes(size)}):"
    yield "      # copy_at_cutover, schema_only (they arrive empty), or ALTER TABLE … SET LOGGED before."
    if _goes_back(wishes, found):
        yield _noted("unlogged: schema_only", "copy_at_cutover rules out reverse: true")
    elif _late_bytes(found):
        yield "      unlogged: copy_at_cutover"
    else:
        yield _noted("unlogged: refuse", "they are big: choose")


def _late_bytes(found: Survey) -> int:
    """What is small enough to be proposed for a copy inside the pause."""
    size = sum(t.bytes for t in found.unlogged)
    return size if size <= _LATE_BYTES else 0


def _cutover(wishes: Wishes, found: Survey | None) -> Iterator[str]:
    waits = " Waits for: planrunner approve" if wishes.approval == "manual" else ""
    yield from _step(
        "cutover",
        "cutover_verify",
        f"Stops writes, compares both sides, carries the sequences over.{waits}",
    )
    if wishes.approval == "manual":
        yield "    approval: manual"
    yield "    with:"
    yield _noted(f"write_pause_budget: {_budget(wishes, found)}s", "past it everything is rolled back")
    if found is not None:
        yield "      # A guess from the sizes; planrunner cutover PLAN --rehearse measures the pause."
    yield from _reverse(wishes, found)


def _budget(wishes: Wishes, found: Survey | None) -> int:
    if found is None:
        return _PAUSE_SECONDS
    late = 0 if _goes_back(wishes, found) else _late_bytes(found)
    return _PAUSE_SECONDS + math.ceil(late / _LATE_BYTES_A_SECOND) + (5 if found.tables > 1000 else 0)


def _goes_back(wishes: Wishes, found: Survey | None) -> bool:
    """Whether the plan says reverse: true: as was wished, else where nothing stands against it."""
    if wishes.reverse is not None or found is None or found.target is None:
        return bool(wishes.reverse)
    return not lacking_way_back(found) and not found.unlogged


def _reverse(wishes: Wishes, found: Survey | None) -> Iterator[str]:
    lacks = lacking_way_back(found)
    if _goes_back(wishes, found):
        yield _noted("reverse: true", "the source follows the target afterwards: planrunner rollback")
        yield from (f"      # It needs: {_plain(lack)}" for lack in lacks)
    elif wishes.reverse is None:
        unlogged = (
            "not with unlogged tables that are copied at the cutover" if found and found.unlogged else None
        )
        why = lacks[0] if lacks else unlogged or "the way back; needs wal_level logical on the target"
        yield _noted("# reverse: true", why)


def lacking_way_back(found: Survey | None) -> tuple[str, ...]:
    """What ``reverse: true`` lacks on servers that were looked at."""
    if found is None or found.target is None:
        return ()
    source, target = found.source, found.target
    checks = (
        (target.wal_level == "logical", f"the target's wal_level is {target.wal_level}, not logical"),
        (target.publishes, f"the target's login {target.user} may not replicate"),
        (source.subscribes, f"the source's login {source.user} may not create subscriptions"),
    )
    return tuple(text for holds, text in checks if not holds)


def figures(found: Survey) -> Iterator[str]:
    """What was found, as the comment at the plan's head."""
    source, target = found.source, found.target
    database = f"database {_plain(source.database)} of {human_bytes(found.bytes)}"
    yield f"# Found: PostgreSQL {_plain(source.version)}, {database}"
    if target is not None:
        yield f"#   target: PostgreSQL {_plain(target.version)}, database {_plain(target.database)}"
    yield f"#   {found.tables} tables, {found.sequences} sequences, {found.large_objects} large objects"
    yield from _names("materialized views (refreshed on the target)", found.materialized_views)
    yield from _names("foreign tables (their rows stay where they are)", found.foreign_tables)
    yield from _names("unlogged tables", [t.name for t in found.unlogged])
    yield from _names("extensions", found.extensions)
    yield from _names("extensions that the target lacks", found.missing_extensions)
    if found.biggest:
        yield "#   the biggest tables, with indexes:"
    yield from (f"#     {_plain(t.name)}: {_size(t.bytes, t.rows)}" for t in found.biggest)


def _names(noun: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        yield f"#   {noun}: {', '.join(map(_plain, names[:10]))}{more}"


def _size(size: int, rows: int) -> str:
    return f"{human_bytes(size)}, about {rows} rows"


def _plain(text: str) -> str:
    """A name as a comment can hold it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def folded(text: str, width: int = _WIDTH) -> Iterator[str]:
    """The text in lines of at most ``width`` characters, broken at spaces."""
    line = ""
    for word in _plain(text).split(" "):
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
    yield line
