"""What a server is and holds, as a saved preview keeps it: version, identity, parameters, catalogue."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING

from planrunner.replication import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planrunner.model import Json
    from planrunner.postgres.connection import Server

# What decides whether replication can be had and how; sizes of memory do not.
PARAMETERS = (
    "wal_level",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "max_logical_replication_workers",
    "max_sync_workers_per_subscription",
    "max_active_replication_origins",
    "max_slot_wal_keep_size",
    "idle_replication_slot_timeout",
    "wal_sender_timeout",
    "server_encoding",
    "rds.logical_replication",
)


def sighting(server: Server) -> dict[str, Json]:
    """The server as it is now; reads only. Text and numbers alone, never a secret."""
    who = server.identity()
    return {
        "version": who.version_text,
        "system_identifier": who.system_identifier,
        "database": who.database,
        "user": who.user,
        "in_recovery": who.in_recovery,
        "parameters": _parameters(server),
        **_catalogue(server),
    }


def _parameters(server: Server) -> dict[str, Json]:
    query = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s) ORDER BY 1"
    return {str(row[0]): str(row[1]) for row in server.rows(query, [list(PARAMETERS)])}


def _catalogue(server: Server) -> dict[str, Json]:
    """A digest of what belongs to each table, and the names of everything that belongs to none."""
    lines: dict[str, list[str]] = defaultdict(list)
    for line, table in fingerprint.catalogue(server).items():
        lines[table].append(line)
    others = sorted(lines.pop("", []))
    tables: dict[str, Json] = {table: _digest(held) for table, held in sorted(lines.items())}
    return {"catalogue": _digest([*others, *map(str, tables.values())]), "tables": tables, "others": others}


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
