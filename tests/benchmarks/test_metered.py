"""A metered line: what a process may take, and that two of them don't share it."""

from __future__ import annotations

import struct

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.benchmarks.metered import BURST_BYTES, Bucket, MeteredLines, name_of


def test_a_bucket_lets_its_burst_pass_and_then_its_rate() -> None:
    bucket = Bucket(1000.0, 0.0)
    assert bucket.take(BURST_BYTES, 0.0) == 0
    assert bucket.take(500, 0.0) == 0.5
    assert bucket.take(500, 0.5) == 0.5
    assert bucket.take(BURST_BYTES, 1e6) == 0


def test_a_connection_belongs_to_whoever_it_names() -> None:
    words = b"user\0me\0application_name\0planrunner/1/copy/2\0database\0x\0\0"
    startup = struct.pack("!II", 8 + len(words), 196608) + words
    assert name_of(startup) == "planrunner/1/copy/2"
    assert name_of(struct.pack("!II", 8, 80877103)) == ""


@pytest.mark.server
def test_a_line_takes_as_long_as_its_rate_says() -> None:
    clock = SystemClock()
    with (
        PostgresServer(wheel_bin(16)) as server,
        MeteredLines(server.port, bytes_per_second=1_000_000) as lines,
    ):
        dsn = server.superuser_dsn.replace(f"port={server.port}", f"port={lines.port}")
        with (
            psycopg.connect(dsn, application_name="one") as one,
            psycopg.connect(dsn, application_name="two") as two,
        ):
            begun = clock.monotonic()
            for session in (one, two):
                session.execute("SELECT repeat('x', 1300000)")
            taken = clock.monotonic() - begun
    assert taken > 2 * (1_300_000 - BURST_BYTES) / 1_000_000
