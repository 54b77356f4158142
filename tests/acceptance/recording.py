"""Records what a run really does: every changing statement in the servers' logs, every call to the stand-in RDS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.model import Side
from planrunner.shapes import parted

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_LINE = re.compile(
    r"^\S+ \S+ \S+ \[(?P<pid>\d+)\] (?:(?P<user>[^@]*)@(?P<database>[^/]*)/(?P<app>[^|]*)\| )?(?P<text>.*)$",
    re.DOTALL,
)
_MOD = re.compile(r"^LOG:  (?:statement|execute [^:]*): (?P<sql>.*)$", re.DOTALL)
_TIMED = re.compile(r"^LOG:  duration: \S+ ms  (?:statement|execute [^:]*): (?P<sql>.*)$", re.DOTALL)
_REPLICATION = re.compile(r"^LOG:  received replication command: (?P<sql>.*)$", re.DOTALL)
_PARAMETERS = re.compile(r"^DETAIL:  [Pp]arameters: (?P<list>.*)$", re.DOTALL)
_PARAMETER = re.compile(r"\$(\d+) = ('(?:[^']|'')*'|NULL)(?:, |$)", re.DOTALL)
# What changes something although log_statement = mod does not call it so. Commands that only set up their own
# session or transaction, or only look, are not among them.
_CHANGING = re.compile(
    r"^\s*(?:DO|CALL|LOCK|VACUUM|ANALYZE|CLUSTER|REINDEX|CHECKPOINT|NOTIFY|REASSIGN|CREATE_REPLICATION_SLOT"
    r"|DROP_REPLICATION_SLOT|ALTER_REPLICATION_SLOT)\b"
    r"|\b(?:pg_create_\w+_slot|pg_copy_\w+_slot|pg_drop_replication_slot|pg_replication_slot_advance"
    r"|pg_replication_origin_\w+|setval|nextval|lo_create|lo_creat|lo_put|lo_unlink|lo_import|lowrite"
    r"|lo_from_bytea|lo_truncate|pg_logical_emit_message|pg_terminate_backend|pg_cancel_backend|pg_switch_wal"
    r"|pg_reload_conf|dblink\w*|pg_logical_slot_get\w*|pg_sync_replication_slots|pg_import_system_collations)\s*\(",
    re.IGNORECASE,
)
# What a dump begins with, and nothing else does.
_PREAMBLE = "SELECT pg_catalog.set_config('search_path', '', false)"
_STRING = re.compile(r"'(?:[^']|'')*'")
_LOOKING = re.compile(
    r"^\s*(?:SELECT|SET|RESET|SHOW|BEGIN|START TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|EXPLAIN|FETCH|CLOSE"
    r"|DISCARD|DEALLOCATE|IDENTIFY_SYSTEM|COPY .* TO STDOUT)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One changing statement that a server logged, its parameters in place; ``dumped``: pg_dump worded it."""

    side: Side
    sql: str
    app: str
    dumped: bool


class Log:
    """What a server writes to its log from now on."""

    def __init__(self, server: PostgresServer, side: Side) -> None:
        self._path = server.log
        self._side = side
        self._from = server.log.stat().st_size

    def seen(self, user: str) -> list[Seen]:
        """The changing statements of that login since then, in order."""
        with self._path.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode("utf-8", "replace")
        return [
            Seen(side=self._side, sql=statement, app=app, dumped=_PREAMBLE in script)
            for app, script in _scripts(text, user)
            for statement in parted(script)
            if changes(statement)
        ]


def changes(statement: str) -> bool:
    """True unless the statement only looks, or only sets up its own session or transaction."""
    words = _STRING.sub("''", statement)
    return _CHANGING.search(words) is not None or _LOOKING.match(words) is None


def _scripts(text: str, user: str) -> Iterator[tuple[str, str]]:
    """What was sent, in order, as (application, SQL)."""
    sent: list[list[str]] = []
    last: dict[str, list[str]] = {}
    for record in _records(text):
        line = _LINE.match(record)
        if line is None or line["user"] != user:
            continue
        pid, found = line["pid"], _sent(line["text"])
        given = _PARAMETERS.match(line["text"])
        if found is not None:
            last[pid] = [line["app"] or "", found]
            sent.append(last[pid])
        elif given is not None and pid in last:
            last[pid][1] = _filled(last[pid][1], given["list"])
        else:
            last.pop(pid, None)
    yield from ((app, script) for app, script in sent)


def _sent(text: str) -> str | None:
    if (found := _MOD.match(text) or _REPLICATION.match(text)) is not None:
        return found["sql"]
    timed = _TIMED.match(text)
    return timed["sql"] if timed is not None and _CHANGING.search(timed["sql"]) else None


def _filled(statement: str, given: str) -> str:
    values = dict(_PARAMETER.findall(given))
    return re.sub(r"\$(\d+)", lambda m: values.get(m[1], m[0]), statement)


def _records(text: str) -> Iterator[str]:
    # The server begins what continues a message with a tab.
    record: list[str] = []
    for line in text.split("\n"):
        if line.startswith("\t") and record:
            record.append(line[1:])
            continue
        if record:
            yield "\n".join(record)
        record = [line]
    yield "\n".join(record)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Both servers' logs and the RDS API since the recording began."""

    scene: Stage
    logs: tuple[Log, Log]
    calls_before: int
    network_before: int

    def statements(self, user: str = "migrator") -> list[Seen]:
        """Everything that changed something, the source's first."""
        return [seen for log in self.logs for seen in log.seen(user)]

    def calls(self) -> list[tuple[str, dict[str, str]]]:
        """The changing calls to AWS with their parameters."""
        return [
            (call.action, {k: v for k, v in call.params.items() if k != "Version"})
            for call in self.scene.api.calls[self.calls_before :]
            if call.changes
        ]

    def actions(self) -> set[str]:
        """Every AWS action that was called, those that only look too, as IAM names them."""
        rds = {f"rds:{call.action}" for call in self.scene.api.calls[self.calls_before :]}
        return rds | {f"ec2:{action}" for action, _ in self.scene.api.network.calls[self.network_before :]}


def let_log(scene: Stage) -> None:
    """Make both servers log what this module reads."""
    scene.source.restart(SETTINGS)
    scene.target.restart(SETTINGS)


def begin(scene: Stage) -> Recording:
    """Record from now on."""
    logs = (Log(scene.source, Side.SOURCE), Log(scene.target, Side.TARGET))
    calls, network = len(scene.api.calls), len(scene.api.network.calls)
    return Recording(scene=scene, logs=logs, calls_before=calls, network_before=network)
