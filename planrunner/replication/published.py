"""Whether what is followed is still published and subscribed to: a table taken out of either is lost without an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import catalog
from planrunner.replication.names import SCHEMA
from planrunner.replication.troubles import ANEW, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.replication.workspace import Workspace

_RANGE = re.compile(r"#\d+\Z")
_OURS = """
SELECT p.pubname::text, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate,
       ARRAY(SELECT c.relname::text FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
             WHERE r.prpubid = p.oid AND c.relnamespace = to_regnamespace('planrunner'))
FROM pg_publication p WHERE starts_with(p.pubname, %s)
"""
# A list of columns, which none of ours has, publishes less of a table than is followed; 14 knows none.
_UNPUBLISHED = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%%'
  AND n.nspname NOT IN ('information_schema', 'planrunner') AND NOT EXISTS (
    SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE r.prrelid = c.oid AND starts_with(p.pubname, %s) AND to_jsonb(r) ->> 'prattrs' IS NULL)
ORDER BY 1, 2
"""
# What a subscription does not list is sent and thrown away.
_UNSUBSCRIBED = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%%'
  AND n.nspname <> 'information_schema' AND NOT EXISTS (
    SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
    WHERE r.srrelid = c.oid AND starts_with(s.subname, %s))
ORDER BY 1, 2
"""


def lacking(workspace: Workspace, generations: Sequence[int]) -> Iterator[Trouble]:
    """What somebody took away from the publications of ``generations``; two queries on the source."""
    names, source = workspace.names, workspace.source
    there = {row[0]: (row[1], row[2]) for row in source.rows(_OURS, [names.plan_prefix])}
    for generation in generations:
        name, marker = names.stream(generation), names.barrier(generation)
        if name not in there:
            yield missing(name)
            continue
        whole, markers = there[name]
        if not whole:
            yield _narrowed(name)
        if marker not in markers:
            yield _without(SCHEMA, marker, name)
    expected = _followed(workspace)
    for schema, table in source.rows(_UNPUBLISHED, [names.plan_prefix]):
        if catalog.qualified(schema, table) in expected:
            yield _without(schema, table, names.stream(_generation(workspace, schema, table, generations)))


def unsubscribed(workspace: Workspace, generations: Sequence[int]) -> Iterator[Trouble]:
    """What the subscriptions of ``generations`` do not apply although it is followed; one query on the target."""
    names = workspace.names
    copied = {
        unit: c.generation for unit, c in workspace.ledger.units().items() if c.generation in generations
    }
    expected = {_RANGE.sub("", unit): generation for unit, generation in copied.items()}
    expected |= {catalog.qualified(SCHEMA, names.barrier(g)): g for g in generations}
    for schema, table in workspace.target.rows(_UNSUBSCRIBED, [names.prefix]):
        generation = expected.get(catalog.qualified(schema, table))
        if generation is not None:
            yield _unapplied(schema, table, names.stream(generation))


def _followed(workspace: Workspace) -> set[str]:
    """The tables that are copied, or are to be: each has been published since before its copy."""
    held = workspace.round.generation_of if workspace.round is not None else {}
    return {_RANGE.sub("", unit) for unit in (*workspace.ledger.units(), *held)}


def _generation(workspace: Workspace, schema: str, table: str, generations: Sequence[int]) -> int:
    name = catalog.qualified(schema, table)
    copied = workspace.ledger.units().get(name)
    known = copied.generation if copied is not None else None
    return known if known is not None and known in generations else max(generations)


def missing(name: str) -> Trouble:
    """A publication of ours that is gone."""
    return Trouble(
        code="publication_missing",
        what=f"source: publication {name} is gone: someone dropped it; its slot can't be read any more",
        remedy="Find out who drops publications there. Made anew it would not be known at the slot's position, so"
        f" {ANEW}",
    )


def _narrowed(name: str) -> Trouble:
    publication = sql.Identifier(name)
    alter = sql.SQL("ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');").format(
        publication
    )
    return Trouble(
        code="publication_narrowed",
        what=f"source: publication {name} does not publish all of insert, update, delete and truncate any more: someone"
        " changed it, and what it leaves out is missing on the target",
        remedy=f"On the source: {alter.as_string()} {_COMPARE}",
    )


def _without(schema: str, table: str, publication: str) -> Trouble:
    add = sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {};").format(
        sql.Identifier(publication), sql.Identifier(schema, table)
    )
    return Trouble(
        code="publication_without",
        what=f"source: table {catalog.qualified(schema, table)} was taken out of publication {publication}, or only some"
        " of its columns are left in it: someone changed it, and what is written to the table since is missing on the"
        " target",
        remedy=f"On the source: {add.as_string()} {_COMPARE}",
    )


def _unapplied(schema: str, table: str, subscription: str) -> Trouble:
    refresh = sql.SQL("ALTER SUBSCRIPTION {} REFRESH PUBLICATION WITH (copy_data = false);").format(
        sql.Identifier(subscription)
    )
    return Trouble(
        code="subscription_without",
        what=f"target: subscription {subscription} applies nothing to table {catalog.qualified(schema, table)} any more:"
        " someone refreshed it while its publication did not have the table, and what is written to the table since is"
        " missing",
        remedy=f"On the target: {refresh.as_string()} {_COMPARE}",
    )


_COMPARE = (
    "What was written meanwhile does not come by itself: once the run has caught up, `planrunner verify PLAN` names the"
    " rows that differ, and the statements that mend them."
)
