"""Preflight of disks: what the target will need, how fast the source's WAL grows, room for our own files."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import QueryFailed
from planrunner.postgres.preflight_parameters import changing, read
from planrunner.postgres.preflight_section import CAPACITY, LOCAL, Check
from planrunner.postgres.preflight_settings import KEPT_WAL
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Needs

TARGET_DISK = Check(
    code="PR0535",
    section=CAPACITY,
    title="The target's disk has room for what arrives",
    why="A disk that fills up during the copy stops the target, with the migration and all else that runs there.",
)
SOURCE_WAL = Check(
    code="PR0536",
    section=CAPACITY,
    title="The source's disk has room for the WAL that the slot keeps",
    why="From the slot's first moment until the target has caught up the source keeps all WAL; a full disk stops it.",
)
OWN_FILES = Check(
    code="PR0110",
    section=LOCAL,
    title="This machine has room for the state and the temporary files",
    why="The state is written at every step: where it can't be, the run stops.",
)

# Rows arrive packed more densely, but the copy writes WAL and index builds write temporary files beside them.
_FACTOR = 1.25
_OWN_BYTES = 200 << 20
_SIZES = """
SELECT n.nspname::text, c.relname::text, pg_total_relation_size(c.oid)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner')
"""
# Both times are the server's. The redo pointer is where the last checkpoint began.
_WAL = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn)::float8,
       extract(epoch FROM clock_timestamp() - checkpoint_time)::float8
FROM pg_control_checkpoint() WHERE NOT pg_is_in_recovery()
"""
_AVERAGE = """
SELECT wal_bytes::float8, extract(epoch FROM clock_timestamp() - stats_reset)::float8 FROM pg_stat_wal
"""
# What was written in less may be anything: a single large transaction, a database being made.
_SHORTEST_LOOK_SECONDS = 60.0
_HOURS_OF_ROOM = 6.0
_STAT_WAL_SINCE = 140000
_NOT_READY = "55000"


def arriving(source: Server, needs: Needs) -> int:
    """About how many bytes arrive: the tables that the plan does not leave out, with their indexes."""
    left_out = needs.left_out(source)
    if not left_out:
        # One look at the folder; of each of ten thousand tables it takes many times as long.
        return int(source.value("SELECT pg_database_size(current_database())"))
    return sum(row[2] for row in source.rows(_SIZES) if (row[0], row[1]) not in left_out)


def target(server: Server, size: int) -> Finding:
    """What will be needed for ``size`` bytes of tables and indexes, against what is free where that can be known."""
    # What an earlier run has brought takes no more room.
    there = int(server.value("SELECT pg_database_size(current_database())"))
    need = max(int(size * _FACTOR) - there, 0)
    text = (
        f"Target will need about {human_bytes(need)} more: {human_bytes(size)} as on the source and a quarter for WAL and"
        f" sorting, less the {human_bytes(there)} that its database has already"
    )
    free = _free(server)
    if free is None:
        return TARGET_DISK.passed(f"{text}; SQL can't tell what is free there: {_where_to_look(server)}")
    if free >= need:
        return TARGET_DISK.passed(f"{text}; {human_bytes(free)} are free")
    return TARGET_DISK.failed(
        f"{text}; {human_bytes(free)} are free",
        f"Give the target's disk {human_bytes(need - free)} more, leave tables out by filters in the snapshot step, or"
        " drop what the target does not need.",
    )


def _free(server: Server) -> int | None:
    """Free bytes below the server's data folder, where it runs on this machine and our login may know the folder."""
    row = server.row("SELECT pg_backend_pid(), current_database()::text")
    known = read(server, ["data_directory"]).get("data_directory")
    if known is None or not known.value or row is None or not _runs_here(row[0], row[1]):
        return None
    try:
        return shutil.disk_usage(known.value).free
    except OSError:
        return None


def _runs_here(pid: int, database: str) -> bool:
    # An address does not tell: localhost may be the end of a tunnel. The process that serves us does.
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
    except OSError:
        return False
    return title.startswith("postgres:") and f" {database} " in title


def _where_to_look(server: Server) -> str:
    rds = server.endpoint.rds
    if rds is None:
        return "look on its host, df -h"
    region = f" --region {rds.region}" if rds.region else ""
    return (
        f"aws cloudwatch get-metric-statistics{region} --namespace AWS/RDS --metric-name FreeStorageSpace --dimensions"
        f" Name=DBInstanceIdentifier,Value={rds.instance} --period 300 --statistics Minimum --start-time … --end-time …"
    )


@dataclass(frozen=True, kw_only=True)
class _Growth:
    """WAL in bytes a second, and what the figure was taken from."""

    rate: float
    seen: str


def wal(source: Server) -> Iterator[Finding]:
    """How much WAL an hour of copying makes the slot keep, and how long there is room for it."""
    growth = _growth(source)
    if growth is None:
        yield SOURCE_WAL.passed("How fast the source's WAL grows can't be told yet: it has just begun")
    else:
        yield _hours(source, growth)
    yield from _kept(source, growth)


def _growth(source: Server) -> _Growth | None:
    """The rate since the last checkpoint began, else the average since the statistics were reset."""
    looks = [_since_checkpoint(source)]
    if source.version() >= _STAT_WAL_SINCE:
        looks.append(source.row(_AVERAGE))
    for row in looks:
        if row is not None and row[0] is not None and (row[1] or 0) >= _SHORTEST_LOOK_SECONDS:
            return _Growth(rate=row[0] / row[1], seen=f"seen over {human_seconds(row[1])}")
    return None


def _since_checkpoint(source: Server) -> Row | None:
    try:
        return source.row(_WAL)
    except QueryFailed as error:
        # Aurora tells nothing of its WAL before its logical replication is on.
        if error.sqlstate != _NOT_READY:
            raise
        return None


def _hours(source: Server, growth: _Growth) -> Finding:
    an_hour = growth.rate * 3600
    text = f"Source writes about {human_bytes(an_hour)} of WAL an hour ({growth.seen}), which the slot keeps meanwhile"
    free = _free(source)
    if free is None:
        return SOURCE_WAL.passed(f"{text}; SQL can't tell what is free there: {_where_to_look(source)}")
    lasting = f"{human_bytes(free)} are free"
    if an_hour and free / an_hour < _HOURS_OF_ROOM:
        return SOURCE_WAL.warned(
            f"{text}; {lasting}, room for {human_seconds(free / growth.rate)}",
            "Give the source's disk more room, begin when less is written, or bound what slots keep: max_wal_retained in"
            " the sync step.",
        )
    return SOURCE_WAL.passed(f"{text}; {lasting}")


def _kept(source: Server, growth: _Growth | None) -> Iterator[Finding]:
    parameter = read(source, ["max_slot_wal_keep_size"]).get("max_slot_wal_keep_size")
    if parameter is None or parameter.number < 0:
        yield KEPT_WAL.passed("Source keeps a slot's WAL without limit")
        return
    limit = parameter.number << 20
    lasting = ""
    if growth is not None and growth.rate > 0:
        lasting = f", at the present rate after {human_seconds(limit / growth.rate)}"
    yield KEPT_WAL.warned(
        f"Source gives a slot up once it keeps more than {human_bytes(limit)} of WAL{lasting}",
        "If the copy takes longer than that, let it keep more (-1: without limit, as the disk allows)."
        f" {changing(source, parameter, '-1')}",
    )


def own_files(needs: Needs) -> Iterator[Finding]:
    """Room in the folder of the state and in that of temporary files."""
    folders = {tempfile.gettempdir(): "temporary files"}
    if needs.folder is not None:
        folders[str(needs.folder.resolve())] = "the plan's state"
    for folder, what in folders.items():
        if not Path(folder).is_dir():
            continue
        free = shutil.disk_usage(folder).free
        if free < _OWN_BYTES:
            yield OWN_FILES.warned(
                f"{human_bytes(free)} are free in {folder}, for {what}",
                "Make room there, or give another place: --state FILE for the state, TMPDIR for temporary files.",
            )
        else:
            yield OWN_FILES.passed(f"{human_bytes(free)} are free in {folder}, for {what}")
