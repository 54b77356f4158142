"""Keeps a statement that holds a password out of the server's log and statistics, as far as the login may."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, LiteralString

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.postgres.connection import Server, Session

# What would write the text of a statement down, and the value with which it does not.
_SILENT: Mapping[str, str] = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_min_error_statement": "panic",
    "pg_stat_statements.track_utility": "off",
    "pgaudit.log": "none",
    # Since 16 the tree of a statement such as CREATE SUBSCRIPTION is written with all its texts.
    **dict.fromkeys(
        ("debug_print_raw_parse", "debug_print_parse", "debug_print_rewritten", "debug_print_plan"), "off"
    ),
    # Whoever watches sessions (pg_read_all_stats) sees their statements; so does the log when the server crashes.
    "track_activities": "off",
}
# What everybody may set is in no list of privileges.
_MAY_SINCE_15: LiteralString = "(s.context = 'user' OR pg_catalog.has_parameter_privilege(s.name, 'SET'))"
_MAY_BEFORE: LiteralString = (
    "(s.context = 'user' OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user))"
)
# WHERE is decided first: a setting that may not be changed is never tried.
_HUSH: LiteralString = """
SELECT s.name::text, s.setting::text, pg_catalog.set_config(s.name, v.value, true)
FROM unnest(%s::text[], %s::text[]) v(name, value) JOIN pg_catalog.pg_settings s ON s.name = v.name
WHERE s.setting <> v.value AND
"""
_RESTORE: LiteralString = """
SELECT pg_catalog.set_config(v.name, v.value, true) FROM unnest(%s::text[], %s::text[]) v(name, value)
"""
_TELLING: LiteralString = """
SELECT s.name::text, s.setting::text FROM pg_catalog.pg_settings s
WHERE ((s.name = 'log_statement' AND s.setting <> 'none')
       OR (s.name = 'pg_stat_statements.track_utility' AND s.setting = 'on')
       OR (s.name IN ('log_min_duration_statement', 'log_min_duration_sample') AND s.setting <> '-1')
       OR (s.name = 'log_transaction_sample_rate' AND s.setting <> '0')
       OR (s.name = 'pgaudit.log' AND s.setting NOT IN ('none', '')))
  AND NOT
"""


@contextmanager
def unrecorded(session: Session) -> Iterator[None]:
    """For the length of the block the server writes no statement down and shows none, as far as the login may say so.

    To be used inside a transaction; when that fails, its settings go with it.
    """
    may = _MAY_SINCE_15 if session.info.server_version >= 150000 else _MAY_BEFORE
    before = session.execute(_HUSH + may, [list(_SILENT), list(_SILENT.values())]).fetchall()
    yield
    session.execute(_RESTORE, [[row[0] for row in before], [row[1] for row in before]])


def telling(server: Server) -> list[tuple[str, str]]:
    """The settings that make the server write statements down and that our login can't change, with their values."""
    may = _MAY_SINCE_15 if server.version() >= 150000 else _MAY_BEFORE
    return [(row[0], row[1]) for row in server.rows(_TELLING + may)]
