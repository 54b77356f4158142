"""A row that the source has stored and can't send: PostgreSQL writes it out as text, and no message is longer than 1 GB.

The stream stops there for good, and says neither at which row nor of which table. In binary such a row may still fit,
so a temporary copy of the slot is read that way, and of each change only its head.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from planrunner.errors import PlanrunnerError
from planrunner.postgres.catalog import qualified
from planrunner.postgres.causes import TOO_LONG
from planrunner.replication import apply_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Session
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.workspace import Workspace

_SECONDS = 60
_TEXT = (
    "SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s,"
    " 'proto_version', '1', 'publication_names', %s)"
)
# The kind of the message, and the relation's OID.
_LONGEST = (
    "SELECT substring(data FROM 2 FOR 4), octet_length(data) FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s,"
    " 'proto_version', '1', 'publication_names', %s, 'binary', 'true') WHERE get_byte(data, 0) IN (68, 73, 85)"
    " ORDER BY 2 DESC LIMIT 1"
)
_NAMED = (
    "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.oid = %s"
)
_BINARY_SINCE = 140000


@dataclass(frozen=True, kw_only=True)
class Unsendable:
    """The source's own words, and where it could be found out the table and how long the row is in binary."""

    words: str
    table: str | None = None
    bytes: int | None = None


def find(workspace: Workspace, subscription: Subscription) -> Unsendable | None:
    """What ``subscription`` stands before and the source can't send; None when it can, or it can't be found out."""
    try:
        words = _words(workspace, subscription)
    except (PlanrunnerError, psycopg.Error):
        return None
    if words is None:
        return None
    try:
        return _found(workspace, subscription, words)
    except (PlanrunnerError, psycopg.Error):
        return Unsendable(words=words)


def _words(workspace: Workspace, subscription: Subscription) -> str | None:
    with _copied(workspace, subscription) as (session, asked):
        try:
            session.execute(_TEXT, asked)
        except psycopg.Error as error:
            words = (error.diag.message_primary, error.diag.message_detail)
            told = ": ".join(word for word in words if word)
            return told if TOO_LONG.fits(told) else None
        return None


def _found(workspace: Workspace, subscription: Subscription, words: str) -> Unsendable:
    # Another copy: the server has dropped the one on which it failed.
    with _copied(workspace, subscription) as (session, asked):
        if session.info.server_version < _BINARY_SINCE:
            return Unsendable(words=words)
        longest = session.execute(_LONGEST, asked).fetchone()
        named = longest and session.execute(_NAMED, [int.from_bytes(longest[0])]).fetchone()
    if not longest or not named:
        return Unsendable(words=words)
    return Unsendable(words=words, table=qualified(*named), bytes=longest[1])


@contextmanager
def _copied(workspace: Workspace, subscription: Subscription) -> Iterator[tuple[Session, list[object]]]:
    source, slot = workspace.source, str(subscription.slot)
    with apply_error.copied_slot(source, workspace.names.plan_id, slot, seconds=_SECONDS) as (session, name):
        yield session, [name, apply_error.MOST_CHANGES, subscription.publications]
