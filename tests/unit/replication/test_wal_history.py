"""What a server's own counters say of WAL: a mean where they have run long enough, else why not."""

from __future__ import annotations

from datetime import UTC, datetime

from planrunner.model import Estimate
from planrunner.replication.wal_history import Counted, told

MB = 1 << 20
COUNTED = Counted(rate=2.0 * MB, since=datetime(2026, 3, 1, 8, 30, tzinfo=UTC))


def test_a_slot_grows_at_the_mean_for_the_time_of_the_copy() -> None:
    rate, held = told(COUNTED, Estimate(name="copy_time", unit="s", low=100, high=300))
    assert rate.text == "2 MB/s in the mean since 2026-03-01 08:30 UTC"
    assert (held.low, held.high) == (200 * MB, 600 * MB)


def test_without_a_time_of_the_copy_only_the_rate_is_told() -> None:
    unknown = Estimate(name="copy_time", unit="s", reason="no rights")
    assert [e.name for e in told(COUNTED, unknown)] == ["wal_rate_counted"]
    assert [e.name for e in told(COUNTED, None)] == ["wal_rate_counted"]


def test_what_was_not_counted_says_why() -> None:
    (found,) = told(Counted(reason="pg_stat_wal came with PostgreSQL 14"), None)
    assert (found.low, found.reason) == (None, "pg_stat_wal came with PostgreSQL 14")
