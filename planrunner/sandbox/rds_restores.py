"""Snapshots and restores in the stand-in: a snapshot is a copy of the running server's files, a restore runs on one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moto.rds.exceptions import RDSClientError

from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planrunner.sandbox.rds_world import StandInInstance, World


@dataclass(kw_only=True)
class Restores:
    """The files of every snapshot, and the servers that were restored from them, by name.

    ``make`` registers an instance over a server with the API.
    """

    world: World
    make: Callable[[PostgresServer, str], StandInInstance]
    files: dict[str, Path] = field(default_factory=dict)
    servers: dict[str, PostgresServer] = field(default_factory=dict)

    def taken(self, params: Mapping[str, str]) -> None:
        """Copy the files as they are now, and what was logged meanwhile."""
        self.files[params["DBSnapshotIdentifier"].lower()] = copied(self.world.server, "snapshot")

    def restored(self, params: Mapping[str, str]) -> str:
        """Run a server on a snapshot's files: it recovers, and writes WAL of its own from then on."""
        name = params["DBInstanceIdentifier"].lower()
        if name in self.world.backend.databases:
            raise RDSClientError("DBInstanceAlreadyExists", "DB instance already exists")
        server = recovered(self.world.server, self.files[params["DBSnapshotIdentifier"].lower()])
        self.servers[name] = server
        instance = self.make(server, name)
        instance.tags = tags_of(params)
        instance.passing = ["creating"]
        return f"<DBInstance><DBInstanceIdentifier>{name}</DBInstanceIdentifier></DBInstance>"

    def deleted(self, params: Mapping[str, str]) -> None:
        """Stop the server of a deleted instance."""
        server = self.servers.pop(params["DBInstanceIdentifier"].lower(), None)
        if server is not None:
            server.close()

    def dropped(self, params: Mapping[str, str]) -> None:
        """Remove the files of a deleted snapshot."""
        data = self.files.pop(params["DBSnapshotIdentifier"].lower(), None)
        if data is not None:
            shutil.rmtree(data.parent, ignore_errors=True)

    def close(self) -> None:
        """End whatever is left."""
        for name in list(self.servers):
            self.deleted({"DBInstanceIdentifier": name})
        for name in list(self.files):
            self.dropped({"DBSnapshotIdentifier": name})


def copied(server: PostgresServer, what: str) -> Path:
    """The running server's files as they are now, with what was logged meanwhile, in a folder of their own."""
    account = unprivileged()
    folder = Path(tempfile.mkdtemp(prefix=f"planrunner-{what}-"))
    account.own(folder)
    data = folder / "data"
    words = ["-d", server.local_dsn, "-D", str(data), "-X", "stream", "-c", "fast"]
    subprocess.run(
        [server.bin_dir / "pg_basebackup", *words],
        check=True,
        capture_output=True,
        cwd=folder,
        **account.popen(),
    )
    return data


def recovered(source: PostgresServer, data: Path) -> PostgresServer:
    """A server like ``source`` that has recovered from a copy of its files."""
    server = PostgresServer(source.bin_dir, settings=source.settings, password=source.password)
    shutil.rmtree(server.data)
    shutil.copytree(data, server.data)
    account = unprivileged()
    for path in (server.data, *server.data.rglob("*")):
        account.own(path)
    server.data.chmod(0o700)
    server.start()
    return server


def tags_of(params: Mapping[str, str]) -> list[dict[str, str]]:
    """The tags that a call gives to what it makes."""
    keys = [k for k in params if k.startswith("Tags.") and k.endswith(".Key")]
    return [{"Key": params[key], "Value": params[key.removesuffix(".Key") + ".Value"]} for key in keys]
