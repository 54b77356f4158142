"""What the copy will come to, said beforehand: sizes from the catalogue, times from a short probe.

Nothing is made up: a figure that rests on something unmeasured says so, and each tells its formula.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.model import Estimate
from planrunner.replication import filter_checks, generations, probe
from planrunner.replication.jobs import jobs_of
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.probe import Measured
    from planrunner.replication.units import Unit
    from planrunner.replication.workspace import Workspace

# Loading costs more than reading: rows, their WAL and the indexes. Between these factors lay the runs that
# were measured with servers of one kind on both sides; the target's own disks can't be tried without writing.
LOADING = (2.0, 6.0)
_PROBE_STREAMS = 4
_SIZES = """
SELECT c.oid::bigint, pg_relation_size(c.oid),
       CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE pg_total_relation_size(c.reltoastrelid) END,
       pg_indexes_size(c.oid), c.reltuples <= 0 AND pg_relation_size(c.oid) > 0
FROM pg_class c WHERE c.oid = ANY (%s::oid[])
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is left to copy, in bytes by the source's files; ``unknown`` tables were never analysed."""

    tables: int
    units: int
    jobs: int
    rows: int
    unknown: int
    heap: int
    toast: int
    indexes: int
    largest_indexes: int
    filtered: bool

    @property
    def data(self) -> int:
        """Heap and toast: what travels."""
        return self.heap + self.toast


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the probe measured, in bytes a second."""

    reading: Measured
    sending: Measured
    writing: Measured


def estimates(workspace: Workspace, tables: Sequence[Table], *, streams: int) -> tuple[Estimate, ...]:
    """Estimate what is left of ``tables``; about two seconds long, on read-only sessions. Empty: all is copied."""
    units = generations.remaining(workspace, tables)
    if not units:
        return ()
    source, clock = workspace.source, workspace.clock
    chunks = source.identity().major >= 14
    jobs = jobs_of(units, streams=streams, chunks=chunks)
    measured = sizes(workspace, units, jobs=len(jobs))
    standing = probe.position(source, clock)
    sending = probe.sending(workspace.target, clock)
    # Before the rows are read: a first reader's hint bits may be WAL of our own making.
    writing = probe.writing(source, standing, clock)
    rates = Rates(
        reading=probe.reading(source, jobs, clock, streams=min(streams, _PROBE_STREAMS)),
        sending=sending,
        writing=writing,
    )
    most_wal = workspace.target.value(
        "SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'max_wal_size'"
    )
    return told(measured, rates, streams=streams, most_wal=int(most_wal))


def sizes(workspace: Workspace, units: Sequence[Unit], *, jobs: int) -> Sizes:
    """The sizes of ``units``: a filtered table counts by the planner's estimate of its share, in two queries."""
    parts = Counter(unit.table.oid for unit in units)
    tables = {unit.table.oid: unit.table for unit in units}
    whole = {unit.table.oid: unit.parts for unit in units}
    kept = filter_checks.kept_rows(workspace.source, [t for t in tables.values() if t.where])
    shares = {
        oid: parts[oid] / whole[oid] * (min(1.0, kept[oid] / max(table.rows, 1)) if oid in kept else 1.0)
        for oid, table in tables.items()
    }
    rows = workspace.source.rows(_SIZES, [list(tables)])
    heap, toast, indexes = ([int(row[n] * shares[row[0]]) for row in rows] for n in (1, 2, 3))
    return Sizes(
        tables=len(tables),
        units=len(units),
        jobs=jobs,
        rows=int(sum(shares[oid] * table.rows for oid, table in tables.items())),
        unknown=sum(bool(row[4]) for row in rows),
        heap=sum(heap),
        toast=sum(toast),
        indexes=sum(indexes),
        largest_indexes=max(indexes, default=0),
        filtered=bool(kept),
    )


def told(sizes: Sizes, rates: Rates, *, streams: int, most_wal: int) -> tuple[Estimate, ...]:
    """The estimates in the order in which they are shown."""
    time = copy_time(sizes, rates, streams=streams)
    return (*_counts(sizes), *_rates(rates), time, wal(time, rates.writing), *_disk(sizes, most_wal))


def _counts(sizes: Sizes) -> tuple[Estimate, ...]:
    unknown = f"; {sizes.unknown} tables were never analysed and count as empty" if sizes.unknown else ""
    by = "the source's files" + (", times the planner's share of filtered tables" if sizes.filtered else "")
    return (
        _exact("tables", sizes.tables, f"{sizes.tables} tables"),
        _exact("units", sizes.units, f"{sizes.units} units in {sizes.jobs} jobs (chunks and batches)"),
        _exact("rows", sizes.rows, f"about {sizes.rows} rows{unknown}", "the planner's estimate"),
        _size("heap_bytes", sizes.heap, by),
        _size("toast_bytes", sizes.toast, by),
        _size("index_bytes", sizes.indexes, by),
    )


def _rates(rates: Rates) -> tuple[Estimate, ...]:
    return (
        _rate("read_rate", rates.reading, "COPY of the largest tables to nowhere"),
        _rate("line_rate", rates.sending, "random bytes sent to the target in a query, one connection"),
        _rate("wal_rate", rates.writing, "pg_current_wal_lsn() twice"),
    )


def copy_time(sizes: Sizes, rates: Rates, *, streams: int) -> Estimate:
    """How long the copy and its indexes take, in seconds; a range."""
    missing = [m.reason for m in (rates.reading, rates.sending) if m.reason]
    reading, line = rates.reading.rate, rates.sending.rate
    if missing or not reading or not line:
        return Estimate(name="copy_time", unit="s", reason="; ".join(map(str, missing)) or "no rate")
    low = max(LOADING[0] * sizes.data / reading, sizes.data / (line * streams))
    high = max(LOADING[1] * (sizes.data + sizes.indexes) / reading, sizes.data / line)
    return Estimate(
        name="copy_time",
        unit="s",
        low=low,
        high=high,
        text=f"{human_seconds(low)} to {human_seconds(high)}",
        formula=f"data {human_bytes(sizes.data)} (heap + toast): between max({LOADING[0]:g} * data / read_rate,"
        f" data / (line_rate * {streams} streams)) and max({LOADING[1]:g} * (data + indexes) / read_rate,"
        f" data / line_rate); between equal machines loading took {LOADING[0]:g} to {LOADING[1]:g} times as long"
        " as reading; the target's disks are not measured",
    )


def wal(time: Estimate, writing: Measured) -> Estimate:
    """The WAL that our slot will hold back on the source until the copy is done, in bytes; a range."""
    if writing.rate is None or time.low is None or time.high is None:
        return Estimate(name="wal_retained", unit="B", reason=writing.reason or "copy_time is not measured")
    low, high = writing.rate * time.low, writing.rate * time.high
    return Estimate(
        name="wal_retained",
        unit="B",
        low=low,
        high=high,
        text=f"{human_bytes(low)} to {human_bytes(high)} on the source's disk",
        formula="wal_rate * copy_time, were writes to go on as in the second that was measured",
    )


def _disk(sizes: Sizes, most_wal: int) -> tuple[Estimate, ...]:
    low = sizes.data + sizes.indexes
    high = low + sizes.largest_indexes + most_wal
    return (
        Estimate(
            name="target_disk",
            unit="B",
            low=low,
            high=high,
            text=f"{human_bytes(low)} to {human_bytes(high)}",
            formula="heap + toast + indexes; at most the largest table's indexes once more for sorting, and the"
            f" target's max_wal_size ({human_bytes(most_wal)})",
        ),
        Estimate(
            name="target_free", unit="B", reason="no server tells its free disk space over SQL: look there"
        ),
    )


def _exact(name: str, value: int, text: str, formula: str | None = None) -> Estimate:
    return Estimate(name=name, unit="", low=value, high=value, text=text, formula=formula)


def _size(name: str, value: int, formula: str) -> Estimate:
    return Estimate(name=name, unit="B", low=value, high=value, text=human_bytes(value), formula=formula)


def _rate(name: str, measured: Measured, how: str) -> Estimate:
    if measured.rate is None:
        return Estimate(name=name, unit="B/s", reason=measured.reason)
    taken = f"{human_bytes(measured.bytes)} in {measured.seconds:.2f} s"
    over = f" over {measured.streams} streams" if measured.streams > 1 else ""
    return Estimate(
        name=name,
        unit="B/s",
        low=measured.rate,
        high=measured.rate,
        text=f"{human_bytes(measured.rate)}/s",
        formula=f"{how}: {taken}{over}",
    )
