"""Clones of an Aurora cluster in the stand-in: a copy of the running server's files, on which an instance runs.

The copy is of the moment of the call. Where it was taken the server on it tells as Aurora's does, by a function of its
own; as on a writer of Aurora's nothing else tells, for it was started again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from moto.rds.exceptions import RDSClientError
from psycopg import sql

from planrunner.sandbox.rds_restores import copied, recovered, tags_of
from planrunner.sandbox.rds_world import StandInCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from planrunner.sandbox.rds_world import StandInInstance, World
    from planrunner.sandbox.servers import PostgresServer

    Params = Mapping[str, str]

_BUSY = "InvalidDBClusterStateFault"
_AMISS = "InvalidParameterCombination"
# So many looks are told that something is being deleted before it is gone.
_LOOKS = 2
_SIZELESS = "db.serverless"
_OF_THE_WAL = ("pg_current_wal_lsn", "pg_current_wal_flush_lsn", "pg_current_wal_insert_lsn")
_REFUSING = """
BEGIN
  IF current_setting('wal_level') <> 'logical' THEN
    RAISE 'wal_level must be set to ''logical''' USING ERRCODE = '55000',
      HINT = 'WAL control functions cannot be executed when wal_level < logical.';
  END IF;
  RETURN {real}();
END
"""


@dataclass(kw_only=True)
class Clones:
    """The files of every clone by its cluster, and the servers of their instances, by name.

    ``make`` registers an instance over a server with the API. ``early``: files of an earlier moment, which the next
    clone is made of.
    """

    world: World
    make: Callable[[PostgresServer, str], StandInInstance]
    early: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    servers: dict[str, PostgresServer] = field(default_factory=dict)
    _leaving: dict[str, int] = field(default_factory=dict)

    def cloned(self, params: Params) -> str:
        """RestoreDBClusterToPointInTime, of an Aurora cluster."""
        name = params["DBClusterIdentifier"].lower()
        source = self.world.clusters.get(params["SourceDBClusterIdentifier"].lower())
        if source is None:
            raise RDSClientError(
                "DBClusterNotFoundFault", f"DBCluster {params['SourceDBClusterIdentifier']} not found."
            )
        if name in self.world.clusters:
            raise RDSClientError("DBClusterAlreadyExistsFault", "DB Cluster already exists")
        wished = (params.get("RestoreType"), params.get("UseLatestRestorableTime"))
        if not source.engine.startswith("aurora") or wished != ("copy-on-write", "true"):
            raise RDSClientError(_AMISS, "The stand-in clones Aurora's clusters as they are now.")
        self.world.must_take_changes(source.status, code=_BUSY)
        self.files[name] = self.early or copied(self.world.server, "clone")
        self.early = None
        self.world.clusters[name] = StandInCluster(
            identifier=name,
            engine=source.engine,
            engine_version=source.engine_version,
            group=params.get("DBClusterParameterGroupName", source.group),
            passing=["creating"],
            tags=tags_of(params),
            capacity=_capacity(params),
        )
        return f"<DBCluster><DBClusterIdentifier>{name}</DBClusterIdentifier></DBCluster>"

    def populated(self, params: Params) -> str | None:
        """CreateDBInstance in a clone; None for any other, which is moto's."""
        cluster = self.world.clusters.get(params.get("DBClusterIdentifier", "").lower())
        if cluster is None or cluster.identifier not in self.files:
            return None
        name = params["DBInstanceIdentifier"].lower()
        if name in self.world.backend.databases:
            raise RDSClientError("DBInstanceAlreadyExists", "DB instance already exists")
        if params.get("Engine") != cluster.engine:
            raise RDSClientError(_AMISS, f"The engine of cluster {cluster.identifier} is {cluster.engine}.")
        if params.get("DBInstanceClass") == _SIZELESS and cluster.capacity is None:
            raise RDSClientError(
                _AMISS, f"Set the Serverless v2 scaling configuration of {cluster.identifier} first."
            )
        # A look that has not seen it available yet has not waited for it.
        self.world.must_take_changes(*(cluster.passing[:1] or [cluster.status]), code=_BUSY)
        server = recovered(self.world.server, self.files[cluster.identifier])
        self.servers[name] = server
        tell_start(server, "pg_last_wal_replay_lsn()")
        server.restart()
        instance = self.make(server, name)
        instance.engine = cluster.engine
        instance.db_cluster_identifier = cluster.identifier
        instance.tags = tags_of(params)
        instance.passing = ["creating"]
        cluster.members.append(instance)
        return f"<DBInstance><DBInstanceIdentifier>{name}</DBInstanceIdentifier></DBInstance>"

    def unmanned(self, params: Params) -> str | None:
        """DeleteDBInstance of a clone's; None for any other, which is moto's."""
        name = params["DBInstanceIdentifier"].lower()
        server = self.servers.pop(name, None)
        if server is None:
            return None
        if "FinalDBSnapshotIdentifier" in params:
            raise RDSClientError(
                _AMISS, "FinalDBSnapshotIdentifier can not be specified for a cluster's instance"
            )
        server.close()
        instance = self.world.backend.databases[name]
        instance.passing, instance.status = [], "deleting"
        self._leaving[name] = _LOOKS
        return f"<DBInstance><DBInstanceIdentifier>{name}</DBInstanceIdentifier></DBInstance>"

    def dropped(self, params: Params) -> str:
        """DeleteDBCluster, of a clone whose instances are being deleted."""
        name = params["DBClusterIdentifier"].lower()
        cluster = self.world.clusters.get(name)
        if cluster is None or name not in self.files:
            raise RDSClientError("DBClusterNotFoundFault", f"DBCluster {name} not found.")
        if params.get("SkipFinalSnapshot") != "true":
            raise RDSClientError(
                _AMISS, "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified."
            )
        if any(member.status != "deleting" for member in cluster.members):
            raise RDSClientError(
                _BUSY, "Cluster cannot be deleted, it still contains DB instances in non-deleting state."
            )
        shutil.rmtree(self.files.pop(name).parent, ignore_errors=True)
        cluster.passing, cluster.status = ["deleting"] * _LOOKS, "gone"
        return f"<DBCluster><DBClusterIdentifier>{name}</DBClusterIdentifier></DBCluster>"

    def looked_at(self, _: Params) -> None:
        """After a look at instances: what is being deleted is gone after some of them."""
        for name in list(self._leaving):
            self._leaving[name] -= 1
            if self._leaving[name] == 0:
                del self._leaving[name]
                gone = self.world.backend.databases.pop(name)
                for cluster in self.world.clusters.values():
                    cluster.members = [member for member in cluster.members if member is not gone]

    def close(self) -> None:
        """End whatever is left."""
        for server in self.servers.values():
            server.close()
        for data in self.files.values():
            shutil.rmtree(data.parent, ignore_errors=True)
        self.servers.clear()
        self.files.clear()


def _capacity(params: Params) -> tuple[str, str] | None:
    bounds = [params.get(f"ServerlessV2ScalingConfiguration.{end}Capacity") for end in ("Min", "Max")]
    return None if None in bounds else (str(bounds[0]), str(bounds[1]))


def tell_start(server: PostgresServer, place: str) -> None:
    """Let the server tell from now on, as Aurora does, where its volume begins: at what ``place`` is now."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        start = session.execute(f"SELECT {place}::text".encode()).fetchone()
    body = sql.SQL("SELECT {}::pg_lsn").format(sql.Literal(start and start[0])).as_string()
    statement = sql.SQL(
        "CREATE OR REPLACE FUNCTION pg_catalog.aurora_volume_logical_start_lsn() RETURNS pg_lsn LANGUAGE sql AS {}"
    ).format(sql.Literal(body))
    _everywhere(server, statement)


def withhold_wal(server: PostgresServer) -> None:
    """Let the server refuse, as Aurora does, to tell of its WAL before wal_level is logical; once is enough."""
    with psycopg.connect(server.superuser_dsn) as session:
        known = session.execute("SELECT FROM pg_proc WHERE proname LIKE '%_of_postgresql'").fetchone()
    if known is not None:
        return
    for name in _OF_THE_WAL:
        ours, kept = sql.Identifier("pg_catalog", name), f"{name}_of_postgresql"
        body = _REFUSING.format(real=sql.Identifier("pg_catalog", kept).as_string())
        _everywhere(
            server,
            sql.SQL("ALTER FUNCTION {}() RENAME TO {}").format(ours, sql.Identifier(kept)),
            sql.SQL("CREATE FUNCTION {}() RETURNS pg_lsn LANGUAGE plpgsql AS {}").format(
                ours, sql.Literal(body)
            ),
        )


def _everywhere(server: PostgresServer, *statements: sql.Composed) -> None:
    """In every database, those that are made later too; RDS lets nobody into its own."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        listed = session.execute(
            "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'rdsadmin'"
        ).fetchall()
    for (database,) in listed:
        dsn = server.dsn(server.superuser, database, password=server.password)
        with psycopg.connect(dsn) as session:
            for statement in statements:
                session.execute(statement)
