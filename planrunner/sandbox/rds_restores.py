"""Snapshots and restores in the stand-in: a snapshot is a copy of the running server's files, a restore runs on one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        name, server = params["DBSnapshotIdentifier"].lower(), self.world.server
        account = unprivileged()
        folder = Path(tempfile.mkdtemp(prefix="planrunner-snapshot-"))
        account.own(folder)
        data = folder / "data"
        words = ["-d", server.superuser_dsn, "-D", str(data), "-X", "stream", "-c", "fast"]
        subprocess.run(
            [server.bin_dir / "pg_basebackup", *words],
            check=True,
            capture_output=True,
            cwd=folder,
            **account.popen(),
        )
        self.files[name] = data

    def restored(self, params: Mapping[str, str]) -> str:
        """Run a server on a snapshot's files: it recovers, and writes WAL of its own from then on."""
        name, source = params["DBInstanceIdentifier"].lower(), self.world.server
        server = PostgresServer(source.bin_dir, settings=source.settings, password=source.password)
        self.servers[name] = server
        shutil.rmtree(server.data)
        shutil.copytree(self.files[params["DBSnapshotIdentifier"].lower()], server.data)
        account = unprivileged()
        for path in (server.data, *server.data.rglob("*")):
            account.own(path)
        server.data.chmod(0o700)
        server.start()
        instance: Any = self.make(server, name)
        tags = [k for k in params if k.startswith("Tags.") and k.endswith(".Key")]
        instance.tags = [
            {"Key": params[key], "Value": params[key.removesuffix(".Key") + ".Value"]} for key in tags
        ]
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
