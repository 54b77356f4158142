"""A streaming standby of a server, and a migration whose plan reads the rows from it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import conninfo

from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.servers import PostgresServer
from tests.faults.scene import migration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.scene import Migration

REPLICA = """  replica:
    dsn: postgresql://postgres@127.0.0.1:{port}/{name}?sslmode=disable
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
"""


@contextmanager
def standby(primary: PostgresServer, slot: str | None = None) -> Iterator[PostgresServer]:
    """A physical standby of ``primary``, streaming, through a physical slot of that name where one is given."""
    server = PostgresServer(primary.bin_dir, settings=primary.settings, password=primary.password)
    try:
        shutil.rmtree(server.data)
        dsn = conninfo.make_conninfo(primary.superuser_dsn)
        made = ["-C", "-S", slot] if slot else []
        subprocess.run(
            [
                *(server.bin_dir / "pg_basebackup", "-d", dsn, "-D", server.data),
                *("-R", "-X", "stream", "-c", "fast", *made),
            ],
            check=True,
            capture_output=True,
            cwd=server.folder,
            **unprivileged().popen(),
        )
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def reading_from(
    replica: PostgresServer,
    pair: tuple[PostgresServer, PostgresServer],
    folder: Path,
    name: str,
    script: str,
    **options: str,
) -> Iterator[Migration]:
    """A migration whose plan names ``replica`` as the source's."""
    with migration(pair, folder, name, script, **options) as one:
        text = one.plan.read_text()
        one.plan.write_text(
            text.replace("steps:\n", REPLICA.format(port=replica.port, name=name) + "steps:\n", 1)
        )
        yield one
