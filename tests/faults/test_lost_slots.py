"""The source gives a slot up, or would fill its disk for one: told before, told when it happened, never called done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import (
    SCRIPT,
    UNHURRIED,
    Clerk,
    begin_anew,
    ended,
    execute,
    rows,
    stalled,
    until_told,
    write_wal,
)
from tests.faults.scene import migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

RUN = ("run", "--yes", "--no-input")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers(
        source={"max_slot_wal_keep_size": "64MB", "max_wal_size": "48MB", "min_wal_size": "32MB"}
    ) as both:
        yield both


@pytest.mark.server
def test_a_slot_that_the_source_gives_up_is_told_before_and_after(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "invalidated", SCRIPT, over=UNHURRIED) as one:
        one.succeeds(*RUN, "--until", "follow")
        with stalled(one):
            execute(one.ours, "INSERT INTO said VALUES (1, 'behind')")
            child = one.start(*RUN)
            # With every megabyte it comes nearer; it is told while there is time.
            write_wal(one.ours, 56)
            until_told(one, "gives a slot up by itself after")
            write_wal(one.ours, 64)
            execute(one.ours, "CHECKPOINT")
            code, said = ended(child)
        told = " ".join(said.split())
        assert code == 1, said
        assert "was invalidated (wal_removed)" in told, said
        assert "planrunner cleanup" in told, said
        # The worker is back, the rows are not to be had any more: no run may call it done.
        code, said = one.run(*RUN)
        assert code == 1, said
        assert "was invalidated (wal_removed)" in " ".join(said.split()), said
        assert rows(one.ours, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'planrunner%'") == [(0,)]
        code, said = one.run("status")
        assert code == 0, said
        assert "slot wal_removed" in " ".join(said.split()), said
        begin_anew(one)


@pytest.mark.server
def test_a_stream_is_given_up_before_the_sources_disk_is_full(pair: Pair, tmp_path: Path) -> None:
    follow = "{max_wal_retained: {warn: 8MB, give_up: 24MB}}"
    with (
        migration(pair, tmp_path, "budget", SCRIPT, follow=follow, over=UNHURRIED) as one,
        Clerk(one.ours) as clerk,
    ):
        one.succeeds(*RUN, "--until", "follow")
        with stalled(one):
            child = one.start(*RUN)
            write_wal(one.ours, 12)
            until_told(one, "the slots keep much WAL on the source")
            write_wal(one.ours, 30)
            code, said = ended(child)
        assert code == 1, said
        assert "was given up before the disk is full" in " ".join(said.split()), said
        # Nothing of ours keeps the source's WAL, and the application never noticed.
        assert rows(one.ours, "SELECT slot_name FROM pg_replication_slots") == []
        before = len(clerk.acknowledged)
        code, said = one.run(*RUN)
        assert code == 1, said
        assert "was given up by this plan" in " ".join(said.split()), said
        assert len(clerk.acknowledged) > before
        clerk.stop()
        begin_anew(one)
        clerk.assert_kept(one.theirs)
