"""An Aurora source whose logical replication is not on yet: it tells nothing of its WAL, and that is no failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.errors import QueryFailed
from planrunner.model import Mark, Side
from planrunner.postgres import preflight_disk
from planrunner.replication import wal_history
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.rds_clones import withhold_wal
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.conftest import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server

pytestmark = pytest.mark.server


@pytest.fixture
def aurora() -> Iterator[tuple[PostgresServer, Server]]:
    with PostgresServer(wheel_bin(16)) as server:
        withhold_wal(server)
        ours = connected(server, "postgres", Side.SOURCE)
        yield server, ours
        ours.close()


def test_what_it_does_not_tell_of_its_wal_is_not_known_and_nothing_else(
    aurora: tuple[PostgresServer, Server],
) -> None:
    server, ours = aurora
    with pytest.raises(QueryFailed, match="wal_level must be set to 'logical'"):
        ours.value("SELECT pg_current_wal_lsn()")

    found = list(preflight_disk.wal(ours))
    assert {finding.code for finding in found} == {"PR0515", "PR0536"}
    assert {finding.mark for finding in found} == {Mark.PASS}
    assert "can't be told yet" in found[0].text
    assert wal_history.checkpoint(ours).reason == "source: wal_level must be set to 'logical'"

    server.restart({"wal_level": "logical"})
    ours.close()
    assert wal_history.checkpoint(ours).reason is None
