"""``wal_level`` and its limits on a server that no parameter group rules: what is set where, and what a person does."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

from psycopg import sql

from planrunner.enabling import record
from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import headroom, needs
from planrunner.step import NO_LOCKS, NOTHING_STAYS, Action

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Session
    from planrunner.postgres.headroom import Headroom
    from planrunner.step import Run

_LEVEL = "wal_level"
_SET: dict[str, LiteralString] = {
    _LEVEL: "ALTER SYSTEM SET wal_level = {}",
    headroom.SLOTS: "ALTER SYSTEM SET max_replication_slots = {}",
    headroom.SENDERS: "ALTER SYSTEM SET max_wal_senders = {}",
    headroom.WORKERS: "ALTER SYSTEM SET max_worker_processes = {}",
    headroom.APPLIERS: "ALTER SYSTEM SET max_logical_replication_workers = {}",
    headroom.ORIGINS: "ALTER SYSTEM SET max_active_replication_origins = {}",
}
_RESET: dict[str, LiteralString] = {
    _LEVEL: "ALTER SYSTEM RESET wal_level",
    headroom.SLOTS: "ALTER SYSTEM RESET max_replication_slots",
    headroom.SENDERS: "ALTER SYSTEM RESET max_wal_senders",
    headroom.WORKERS: "ALTER SYSTEM RESET max_worker_processes",
    headroom.APPLIERS: "ALTER SYSTEM RESET max_logical_replication_workers",
    headroom.ORIGINS: "ALTER SYSTEM RESET max_active_replication_origins",
}
_FILES = (
    "SELECT DISTINCT ON (name) name, setting FROM pg_file_settings WHERE name = ANY (%s)"
    " ORDER BY name, seqno DESC"
)
_FORMER = (
    "SELECT DISTINCT ON (name) name, setting FROM pg_file_settings WHERE name = ANY (%s)"
    " AND sourcefile LIKE '%%postgresql.auto.conf' ORDER BY name, seqno DESC"
)
# pg_read_all_data reads every view, and calls none of the functions behind it.
_MAY_SEE_FILES = (
    "SELECT has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')"
    " AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')"
)


def on_own_server(run: Run, room: Headroom) -> list[Action]:
    """What is missing on a server that is no RDS instance."""
    level = {} if room.logical else {_LEVEL: "logical"}
    wanted = {**level, **{name: str(need) for name, need in room.raises.items()}}
    if not wanted:
        return []
    told = " and ".join(f"{name} = {value}" for name, value in wanted.items())
    restart = blocked_action(
        "restart",
        f"restart the source, so that {told} takes effect",
        "Restart the source's server (systemctl restart postgresql, pg_ctl restart, or your provider's"
        f" console), then run again: {told} is set and takes effect with the restart.",
    )
    unset = {name: value for name, value in wanted.items() if name not in _configured(run, wanted)}
    if not unset:
        return [restart]
    if all(_may_alter_system(run, name) for name in unset):
        return [altering(unset), restart]
    return [
        blocked_action(
            "set_wal_level",
            f"set {told} on the source and restart it",
            f"The source needs {told}, and this role may not set it. Run on the source as a superuser:"
            f" {'; '.join(_setting(n, v).as_string() for n, v in unset.items())}; (or set it in postgresql.conf, or in"
            " your provider's console), restart the server, then run again.",
        )
    ]


def _configured(run: Run, wanted: Mapping[str, str]) -> set[str]:
    """What the files say already, as far as the role may see them."""
    if run.source.value(_MAY_SEE_FILES):
        rows = run.source.rows(_FILES, [list(wanted)])
        return {name for name, value in rows if _suffices(name, value, wanted[name])}
    rows = run.source.rows(
        "SELECT name FROM pg_settings WHERE pending_restart AND name = ANY (%s)", [list(wanted)]
    )
    return {row[0] for row in rows}


def _suffices(name: str, value: str, wanted: str) -> bool:
    if name == _LEVEL:
        return value == wanted
    return value.isdigit() and int(value) >= int(wanted)


def _may_alter_system(run: Run, name: str) -> bool:
    identity = run.source.identity()
    if identity.superuser or identity.major < 15:
        return identity.superuser
    return bool(run.source.value("SELECT has_parameter_privilege(%s, 'ALTER SYSTEM')", [name]))


def _setting(name: str, value: str) -> sql.Composed:
    # Words in quotes, numbers as they are.
    return sql.SQL(_SET[name]).format(sql.Literal(int(value) if value.isdigit() else value))


def _going_back(settings: Mapping[str, str | None]) -> list[sql.Composed]:
    return [
        sql.SQL(_RESET[name]).format() if value is None else _setting(name, value)
        for name, value in settings.items()
    ]


def altering(settings: Mapping[str, str]) -> Action:
    """The action that sets them in the server's own configuration."""
    statements = [_setting(name, value) for name, value in settings.items()]

    def perform(run: Run) -> None:
        record.altering(run, _former(run, settings))
        failpoint("own_server.before_alter_system")
        # Not run.source.execute: ALTER SYSTEM refuses to run in a transaction block.
        with run.source.session() as session:
            _execute(session, statements)

    return Action(
        name="alter_system",
        summary=f"set {' and '.join(f'{n} = {v}' for n, v in settings.items())} on the source",
        where=Side.SOURCE,
        perform=perform,
        statements=tuple(statement.as_string() for statement in statements),
        locks=NO_LOCKS,
        needs=(needs.CONFIGURING, *needs.on(Side.TARGET, needs.CREATE)),
        undo="; ".join(s.as_string() for s in _going_back(dict.fromkeys(settings))),
        lasting=f"{', '.join(settings)} in postgresql.auto.conf, until reset and restarted; logical writes more WAL",
    )


def _former(run: Run, settings: Mapping[str, str]) -> dict[str, str | None]:
    seen: dict[str, str] = {}
    if run.source.value(_MAY_SEE_FILES):
        seen = {row[0]: row[1] for row in run.source.rows(_FORMER, [list(settings)])}
    return {name: seen.get(name) for name in settings}


def setting_back(settings: Mapping[str, str | None]) -> Action:
    """What gives the server's configuration its former values; it restarts nothing."""
    statements = _going_back(settings)

    def perform(run: Run) -> None:
        failpoint("own_server.before_set_back")
        with run.source.session() as session:
            _execute(session, statements)

    return Action(
        name="alter_system_back",
        summary=f"set {', '.join(settings)} on the source as before; in force with its next restart, which"
        " planrunner does not make",
        where=Side.SOURCE,
        perform=perform,
        statements=tuple(statement.as_string() for statement in statements),
        locks=NO_LOCKS,
        needs=(needs.CONFIGURING,),
        undo="the step enable_logical sets them anew",
        lasting=NOTHING_STAYS,
    )


def _execute(session: Session, statements: list[sql.Composed]) -> None:
    for statement in statements:
        session.execute(statement)


def blocked_action(name: str, summary: str, reason: str, *, where: Side = Side.SOURCE) -> Action:
    """Something that a person has to do."""

    def perform(_: Run) -> None:
        raise StepFailed(summary, remedy=reason)

    return Action(
        name=name,
        summary=summary,
        where=where,
        perform=perform,
        statements=("-- none by planrunner: a person does it",),
        locks=("every session is cut off while the server restarts",) if "restart" in summary else NO_LOCKS,
        needs=(needs.BY_OTHERS,),
        undo="nothing is done",
        lasting="what that person changes",
        blocked=reason,
    )
