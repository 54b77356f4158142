"""Records what a run really does: every changing statement in the servers' logs, every call to the stand-in RDS."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.model import Side

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.demo import Stage
    from planrunner.sandbox.servers import PostgresServer

# ``mod`` marks by the server's own judgement what changes data or schema; the durations bring the text of
# everything else, because a SELECT that makes a slot or sets a sequence is none to it.
SETTINGS = {
    "log_statement": "mod",
    "log_min_duration_statement": "0",
    "log_replication_commands": "on",
    "log_line_prefix": "%m [%p] %q%u@%d/%a| ",
}
_LINE = re.compile(r"^\S+ \S+ \S+ \[(?P<pid>\d+)\] (?:(?P<user>\w+)@(?P<database>\w+)/(?P<app>[^|]*)\| )?(?P<text>.*)$", re.DOTALL)
_MOD = re.compile(r"^LOG:  (?:statement|execute [^:]*): (?P<sql>.*)$", re.DOTALL)
_TIMED = re.compile(r"^LOG:  duration: \S+ ms  (?:statement|execute [^:]*): (?P<sql>.*)$", re.DOTALL)
_REPLICATION = re.compile(r"^LOG:  received replication command: (?P<sql>.*)$", re.DOTALL)
# What changes something although log_statement = mod does not call it so.
_CHANGING = re.compile(
    r"^\s*(?:DO|CALL|LOCK|VACUUM|ANALYZE|CLUSTER|REINDEX|CHECKPOINT|NOTIFY|SECURITY|IMPORT|REASSIGN)\b"
    r"|\b(?:pg_create_\w+_slot|pg_copy_\w+_slot|pg_drop_replication_slot|pg_replication_slot_advance|"
    r"pg_replication_origin_\w+|setval|nextval|lo_\w+|lowrite|pg_logical_emit_message|pg_terminate_backend|"
    r"pg_cancel_backend|pg_switch_wal|pg_reload_conf|dblink\w*|pg_logical_slot_get\w*|pg_sync_replication_slots)\s*\(",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One changing statement that a server logged."""

    side: Side
    sql: str
    user: str
    app: str


class Log:
    """What a server writes to its log from now on."""

    def __init__(self, server: PostgresServer, side: Side) -> None:
        self._path = server.log
        self._side = side
        self._from = server.log.stat().st_size

    def seen(self, user: str = "migrator") -> list[Seen]:
        """The changing statements of that login since then, in order."""
        with self._path.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode("utf-8", "replace")
        found = (_parsed(record, self._side) for record in _records(text))
        return [seen for seen in found if seen is not None and seen.user == user]


def _records(text: str) -> Iterator[str]:
    # The server begins what continues a message with a tab.
    record: list[str] = []
    for line in text.splitlines():
        if line.startswith("\t") and record:
            record.append(line[1:])
            continue
        if record:
            yield "\n".join(record)
        record = [line]
    if record:
        yield "\n".join(record)


def _parsed(record: str, side: Side) -> Seen | None:
    line = _LINE.match(record)
    if line is None or line["user"] is None:
        return None
    text = line["text"]
    sql = None
    if (found := _MOD.match(text) or _REPLICATION.match(text)) is not None:
        sql = found["sql"]
    elif (found := _TIMED.match(text)) is not None and _CHANGING.search(found["sql"]):
        sql = found["sql"]
    if sql is None:
        return None
    return Seen(side=side, sql=sql, user=line["user"], app=line["app"] or "")


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Both servers' logs since the recording began."""

    scene: Stage
    logs: tuple[Log, Log]

    def statements(self) -> list[Seen]:
        """Everything that changed something, the source's first."""
        return [seen for log in self.logs for seen in log.seen()]


def let_log(scene: Stage) -> None:
    """Make both servers log what this module reads."""
    scene.source.restart(SETTINGS)
    scene.target.restart(SETTINGS)


@contextmanager
def recording(scene: Stage) -> Iterator[Recorder]:
    """Record what is done inside the block."""
    yield Recorder(scene=scene, logs=(Log(scene.source, Side.SOURCE), Log(scene.target, Side.TARGET)))
