"""``wal_level`` on a server: what it says, and how it is set where no parameter group does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import ServerError, StepFailed
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.step import NO_LOCKS, Action

if TYPE_CHECKING:
    from planrunner.step import Run

# pg_read_all_data reads every view, and calls none of the functions behind it.
_MAY_SEE_FILES = (
    "SELECT has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')"
    " AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')"
)


def level(run: Run) -> str:
    """What the source says; nothing else is believed."""
    return str(run.source.value("SHOW wal_level"))


def level_if_answering(run: Run) -> str | None:
    """The same, None while the server is away."""
    try:
        return level(run)
    except ServerError:
        return None


def on_own_server(run: Run) -> list[Action]:
    """What is missing on a server that is no RDS instance."""
    restart = blocked_action(
        "restart",
        "restart the source, so that wal_level = logical takes effect",
        "Restart the source's server (systemctl restart postgresql, pg_ctl restart, or your provider's"
        " console), then run again: wal_level is set to logical and takes effect with the restart.",
    )
    if _configured(run):
        return [restart]
    if _may_alter_system(run):
        return [altering(), restart]
    return [
        blocked_action(
            "set_wal_level",
            "set wal_level = logical on the source and restart it",
            "wal_level must be logical, and this role may not set it. Run on the source as a superuser:"
            " ALTER SYSTEM SET wal_level = 'logical'; (or set it in postgresql.conf, or in your provider's"
            " console), restart the server, then run again.",
        )
    ]


def _configured(run: Run) -> bool:
    """True when the files say logical already, as far as the role may see them."""
    if run.source.value(_MAY_SEE_FILES):
        query = "SELECT setting FROM pg_file_settings WHERE name = 'wal_level' ORDER BY seqno DESC LIMIT 1"
        return bool(run.source.value(query) == "logical")
    return bool(run.source.value("SELECT pending_restart FROM pg_settings WHERE name = 'wal_level'"))


def _may_alter_system(run: Run) -> bool:
    identity = run.source.identity()
    if identity.superuser or identity.major < 15:
        return identity.superuser
    return bool(run.source.value("SELECT has_parameter_privilege('wal_level', 'ALTER SYSTEM')"))


def altering() -> Action:
    """The action that sets it in the server's own configuration."""

    def perform(run: Run) -> None:
        # Not run.source.execute: ALTER SYSTEM refuses to run in a transaction block.
        with run.source.session() as session:
            session.execute("ALTER SYSTEM SET wal_level = 'logical'")

    return Action(
        name="alter_system",
        summary="set wal_level = logical on the source",
        where=Side.SOURCE,
        perform=perform,
        statements=("ALTER SYSTEM SET wal_level = 'logical'",),
        locks=NO_LOCKS,
        needs=(needs.CONFIGURING,),
        undo="ALTER SYSTEM RESET wal_level",
    )


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
        blocked=reason,
    )
