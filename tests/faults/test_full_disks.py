"""Disks that are full: the source's WAL, and the target's tables. Each on a small file system of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.sandbox.account import unprivileged
from tests.faults.breaking import (
    SCRIPT,
    UNHURRIED,
    Clerk,
    ended,
    execute,
    finishes,
    stalled,
    until_told,
    wait_until,
    write_wal,
)
from tests.faults.scene import migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

RUN = ("run", "--yes", "--no-input")
BIG = "CREATE TABLE big AS SELECT i AS id, repeat(md5(i::text), 30) AS text FROM generate_series(1, 30000) i;"


class SmallDisk:
    """A file system of its own, whose size can be changed while it is in use."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._mount(megabytes, "size={}m,mode=0700")

    def resize(self, megabytes: int) -> None:
        self._mount(megabytes, "remount,size={}m")

    def _mount(self, megabytes: int, options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options.format(megabytes), "tmpfs", self.folder],
            check=True,
            capture_output=True,
        )

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=False, capture_output=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """One at ``folder``, for the servers' account; the test is skipped where this machine lets us mount none."""
    try:
        disk = SmallDisk(folder, megabytes)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        unprivileged().own(folder)
        yield disk
    finally:
        disk.unmount()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers(source={"max_wal_size": "32MB", "min_wal_size": "32MB"}) as both:
        yield both


@contextmanager
def wal_on(server: PostgresServer, megabytes: int) -> Iterator[SmallDisk]:
    """The server's WAL on a small disk; moved back at the end."""
    wal = server.data / "pg_wal"
    kept = server.folder / "pg_wal.kept"
    server.stop()
    shutil.copytree(wal, kept)
    with small_disk(wal, megabytes) as disk:
        _moved(kept, wal)
        server.start()
        yield disk
        server.stop()
        shutil.copytree(wal, kept)
    shutil.rmtree(wal)
    wal.mkdir(mode=0o700)
    unprivileged().own(wal)
    _moved(kept, wal)
    server.start()


def _moved(kept: Path, wal: Path) -> None:
    shutil.copytree(kept, wal, dirs_exist_ok=True)
    for path in (wal, *wal.rglob("*")):
        unprivileged().own(path)
    shutil.rmtree(kept)


@pytest.mark.server
def test_a_source_whose_wal_disk_is_full_is_taken_up_again_once_there_is_room(
    pair: Pair, tmp_path: Path
) -> None:
    source = pair[0]
    with (
        wal_on(source, 80) as disk,
        migration(pair, tmp_path, "walfull", SCRIPT, over=UNHURRIED) as one,
        Clerk(one.ours) as clerk,
    ):
        one.succeeds(*RUN, "--until", "follow")
        with stalled(one):
            child = one.start(*RUN)
            until_told(one, "cutover_verify begins")
            # Nothing is applied, so the slot keeps it all; the plan has set no limit.
            with pytest.raises(psycopg.Error):
                write_wal(one.ours, 100)
            wait_until(lambda: not source.running, "the source has panicked")
            code, said = ended(child)
        assert code == 1, said
        assert "source" in said
        disk.resize(400)
        source.start()
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@pytest.mark.server
def test_a_target_without_room_is_told_and_taken_up_again(pair: Pair, tmp_path: Path) -> None:
    target = pair[1]
    folder = Path(tempfile.mkdtemp(prefix="small-", dir=target.folder))
    with (
        small_disk(folder, 24) as disk,
        migration(pair, tmp_path, "tablefull", SCRIPT + BIG, over=UNHURRIED) as one,
    ):
        execute(target.superuser_dsn, f"CREATE TABLESPACE small LOCATION '{folder}'")
        execute(target.superuser_dsn, "ALTER DATABASE tablefull SET TABLESPACE small")
        execute(one.ours, "ALTER TABLE big ADD PRIMARY KEY (id)")
        code, said = one.run(*RUN)
        assert code == 1, said
        assert "target: copy public.big: the disk is full" in " ".join(said.split()), said
        disk.resize(110)
        one.succeeds(*RUN, "--until", "copy")
        # The apply worker fails, and comes back to fail again.
        disk.resize(_used(folder) + 1)
        execute(
            one.ours, "INSERT INTO big SELECT -i, repeat(md5(i::text), 30) FROM generate_series(1, 9000) i"
        )
        code, said = one.run(*RUN)
        told = " ".join(said.split())
        assert code == 1, said
        assert "follow: target: " in told, said
        assert "No space left on device" in told, said
        disk.resize(200)
        finishes(one)
        one.assert_moved()
        execute(target.superuser_dsn, "ALTER DATABASE tablefull SET TABLESPACE pg_default")
        execute(target.superuser_dsn, "DROP TABLESPACE small")


def _used(folder: Path) -> int:
    return -(-shutil.disk_usage(folder).used // (1 << 20))
