"""What migrations left on two servers, found by looking at the servers: a ledger may be lost, a name is not.

Slots, subscriptions, publications, barrier tables, triggers, functions, changed identities, grants, replication
origins and sessions, of this plan and of others, on either side: the way back has its slot on the target.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Belongs, Residue, Side
from planrunner.postgres.catalog import qualified
from planrunner.postgres.grants import Grant
from planrunner.replication import identities
from planrunner.replication.names import FENCE_TRIGGER, SCHEMA, TRUNCATE_TRIGGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.postgres.connection import Row, Server
    from planrunner.replication.names import Names

# kind, name, plan, detail, database: one row for each thing. A plan's id is eight hexadecimal digits. The slots of
# a table's first copy name the subscription's server; a fence is closed while its function raises 25006.
_SCAN = """
SELECT 'slot' AS kind, slot_name::text AS name, substring(slot_name::text from '^pr_([0-9a-f]{8})_') AS plan,
       jsonb_build_object('retained', coalesce(pg_size_pretty(pg_wal_lsn_diff(
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)),
         'an unknown amount'), 'active', active_pid) AS detail, database::text AS database
FROM pg_replication_slots WHERE NOT temporary AND slot_name::text ~ '^pr_[0-9a-f]{8}_'
UNION ALL
SELECT 'sync slot', slot_name::text, NULL, jsonb_build_object('active', active_pid,
         'subscription', substring(slot_name::text from '^pg_([0-9]+)_'),
         'system', substring(slot_name::text from '_([0-9]+)$')), database::text
FROM pg_replication_slots WHERE slot_name::text ~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$'
UNION ALL
SELECT 'subscription', s.subname::text, substring(s.subname::text from '^pr_([0-9a-f]{8})_'),
       jsonb_build_object('oid', s.oid), d.datname::text
FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE s.subname::text ~ '^pr_[0-9a-f]{8}_'
UNION ALL
SELECT 'publication', pubname::text, substring(pubname::text from '^pr_([0-9a-f]{8})_'), '{}', current_database()::text
FROM pg_publication WHERE pubname::text ~ '^pr_[0-9a-f]{8}_'
UNION ALL
SELECT CASE WHEN c.relname::text ~ '^barrier_' THEN 'barrier table' ELSE 'table' END, c.relname::text,
       substring(c.relname::text from '_([0-9a-f]{8})(?:_|$)'), '{}', current_database()::text
FROM pg_class c WHERE c.relnamespace = to_regnamespace('planrunner') AND c.relkind IN ('r', 'p', 'v', 'S')
  AND c.relname NOT IN ('lease', 'unit', 'chunk', 'effect')
UNION ALL
SELECT 'trigger', t.tgname::text, substring(p.proname::text from '_([0-9a-f]{8})(?:_|$)'),
       jsonb_build_object('tables', count(*), 'first', min(format('%%s.%%s', n.nspname, c.relname)),
         'schema', f.nspname, 'function', p.proname, 'closed', bool_or(p.prosrc ~ '25006')), current_database()::text
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
WHERE starts_with(t.tgname::text, 'planrunner') AND coalesce(to_jsonb(t) ->> 'tgparentid', '0') = '0'
GROUP BY t.tgname, p.proname, f.nspname
UNION ALL
SELECT 'function', format('%%s(%%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
       substring(p.proname::text from '_([0-9a-f]{8})(?:_|$)'),
       jsonb_build_object('function', p.proname, 'arguments', pg_get_function_identity_arguments(p.oid)),
       current_database()::text
FROM pg_proc p WHERE p.pronamespace = to_regnamespace('planrunner')
  AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND starts_with(t.tgname::text, 'planrunner'))
UNION ALL
SELECT 'schema', nspname::text, NULL, jsonb_build_object('empty', NOT EXISTS (SELECT FROM pg_depend d
         WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid)), current_database()::text
FROM pg_namespace n WHERE nspname = 'planrunner'
UNION ALL
SELECT 'replication origin', o.roname, NULL, '{}', NULL FROM pg_replication_origin o
WHERE o.roname ~ '^pg_[0-9]+(_[0-9]+)?$' AND NOT EXISTS (SELECT FROM pg_subscription s
  WHERE s.oid::text = split_part(o.roname, '_', 2))
UNION ALL
SELECT 'role', rolname::text, substring(rolname::text from '^pr_([0-9a-f]{8})_'), '{}', NULL FROM pg_roles
WHERE rolname::text ~ '^pr_[0-9a-f]{8}_'
UNION ALL
SELECT 'session', format('%%s pid %%s', application_name, pid),
       substring(application_name from '^planrunner/([0-9a-f]{8})(?:/[0-9a-f]+)?$'),
       jsonb_build_object('pid', pid), datname::text
FROM pg_stat_activity WHERE application_name LIKE 'planrunner/%%' AND pid <> ALL (%(pids)s::int[])
"""
_TABLES = """
SELECT to_regclass('planrunner.effect') IS NOT NULL AND to_regclass('planrunner.unit') IS NOT NULL
  AND to_regclass('planrunner.chunk') IS NOT NULL AND to_regclass('planrunner.lease') IS NOT NULL
"""
_LEDGER = """
SELECT plan_id, count(*) FROM (SELECT plan_id FROM planrunner.effect UNION ALL SELECT plan_id FROM planrunner.unit
  UNION ALL SELECT plan_id FROM planrunner.chunk UNION ALL SELECT plan_id FROM planrunner.lease) all_rows
GROUP BY 1 ORDER BY 1
"""
_CHANGED = "SELECT step, plan_id, detail FROM planrunner.effect WHERE step IN ('identity', 'grant') ORDER BY 1, 2, name"
_IDENTITIES = """
SELECT n.nspname::text, c.relname::text, c.relreplident::text FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest(%s::text[], %s::text[]) w(schema, name) ON w.schema = n.nspname AND w.name = c.relname
"""
_SHARED = frozenset({"slot", "sync slot", "subscription", "replication origin", "role", "session"})


@dataclass(frozen=True, kw_only=True)
class _Thing:
    """A row of the scan, and where it was found."""

    server: Server
    names: Names
    kind: str
    name: str
    plan: str | None
    detail: dict[str, object]
    elsewhere: str | None

    def residue(
        self,
        harm: str,
        statement: sql.Composed | str,
        *,
        name: str | None = None,
        harmful: bool = False,
        kept: bool = False,
    ) -> Residue:
        text = statement if isinstance(statement, str) else statement.as_string()
        place = f"in database {self.elsewhere}: " if self.elsewhere else ""
        return Residue(
            side=self.server.side,
            kind=self.kind,
            name=name or self.name,
            ours=_belongs(self.plan, self.names),
            harm=harm,
            statement=f"{place}{text};",
            harmful=harmful and not kept,
            kept=kept,
        )


def scan(source: Server, target: Server, names: Names) -> tuple[Residue, ...]:
    """Everything of planrunner that either server shows, this plan's first; reads only.

    The callers' own sessions are no residue, nor what a session takes with it when it ends.
    """
    # Asked first, so that both sessions that look are there and known as ours.
    systems = [server.identity().system_identifier for server in (source, target)]
    pids = sorted(source.pids | target.pids)
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(lambda server: _things(server, names, pids), (source, target))
    if systems[0] == systems[1]:
        # Two databases of one server: what belongs to the whole server is told once.
        seen = {(thing.kind, thing.name) for thing in ours if thing.kind in _SHARED}
        theirs = [thing for thing in theirs if (thing.kind, thing.name) not in seen]
    subscribers = {str(t.detail["oid"]): t for t in (*ours, *theirs) if t.kind == "subscription"}
    _mark_closed(ours, theirs)
    told = [_of(_traced(thing, subscribers, set(systems))) for thing in (*ours, *theirs)]
    found = [*told, *_recorded(source, target, names)]
    order = list(Belongs)
    return tuple(sorted(found, key=lambda r: (order.index(r.ours), r.side.value, not r.harmful)))


def _things(server: Server, names: Names, pids: list[int]) -> list[_Thing]:
    here = server.identity().database
    return [
        _Thing(
            server=server,
            names=names,
            kind=row[0],
            name=row[1],
            plan=row[2],
            detail=row[3],
            elsewhere=row[4] if row[4] not in (None, here) and row[0] == "subscription" else None,
        )
        for row in server.rows(_SCAN, {"pids": pids})
    ]


def _mark_closed(ours: list[_Thing], theirs: list[_Thing]) -> None:
    """Note on every closed fence whether the same plan closes the other side as well."""
    fences = [[t for t in side if t.kind == "trigger" and t.detail["closed"]] for side in (ours, theirs)]
    plans = [{t.plan for t in side} for side in fences]
    for thing in (*fences[0], *fences[1]):
        thing.detail["both"] = thing.plan in plans[0] & plans[1]


def _traced(thing: _Thing, subscribers: dict[str, _Thing], systems: set[str]) -> _Thing:
    """A slot of a table's first copy, as its subscription's, where that is there and one of ours."""
    if thing.kind != "sync slot" or thing.detail["system"] not in systems:
        return thing
    owner = subscribers.get(str(thing.detail["subscription"]))
    return thing if owner is None else _Thing(**{**vars(thing), "plan": owner.plan})


def _belongs(plan: str | None, names: Names) -> Belongs:
    if plan is None:
        return Belongs.UNKNOWN
    return Belongs.THIS_PLAN if plan == names.plan_id else Belongs.ANOTHER_PLAN


def _of(thing: _Thing) -> Residue:
    return _MAKERS.get(thing.kind, _table)(thing)


def _table(thing: _Thing) -> Residue:
    return thing.residue("none", sql.SQL("DROP TABLE {}").format(sql.Identifier(SCHEMA, thing.name)))


def _subscription(thing: _Thing) -> Residue:
    drop = sql.SQL(
        "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} SET (slot_name = NONE); DROP SUBSCRIPTION {0}"
    ).format(sql.Identifier(thing.name))
    harm = "its worker goes on dialling the other side and applies what comes"
    return thing.residue(harm, drop, harmful=True)


def _publication(thing: _Thing) -> Residue:
    drop = sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(thing.name))
    harm = "UPDATE and DELETE are refused on its tables that have no replica identity"
    return thing.residue(harm, drop, harmful=True)


def _function(thing: _Thing) -> Residue:
    name = sql.Identifier(SCHEMA, str(thing.detail["function"])).as_string()
    return thing.residue("none, nothing calls it", f"DROP FUNCTION {name}({thing.detail['arguments']})")


def _schema(thing: _Thing) -> Residue:
    if thing.detail["empty"]:
        return thing.residue("none, it is empty", "DROP SCHEMA planrunner")
    return thing.residue("none, it holds what is named here", "DROP SCHEMA planrunner  -- once it is empty")


def _origin(thing: _Thing) -> Residue:
    drop = sql.SQL("SELECT pg_replication_origin_drop({})").format(sql.Literal(thing.name))
    return thing.residue("takes a place for replication origins; its subscription is gone", drop)


def _role(thing: _Thing) -> Residue:
    drop = sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(thing.name))
    return thing.residue("a role with the rights it was given for the migration", drop, harmful=True)


def _session(thing: _Thing) -> Residue:
    end = sql.SQL("SELECT pg_terminate_backend({})").format(sql.Literal(thing.detail["pid"]))
    return thing.residue("another command of planrunner may be at work", end)


def _slot(thing: _Thing) -> Residue:
    drop = sql.SQL("SELECT pg_drop_replication_slot({})").format(sql.Literal(thing.name))
    if thing.detail["active"]:
        end = sql.SQL("SELECT pg_terminate_backend({})").format(sql.Literal(thing.detail["active"]))
        drop = sql.SQL("; ").join([end, drop])
    kept = f" ({thing.detail['retained']} now)" if "retained" in thing.detail else ""
    return thing.residue(f"keeps WAL{kept} until the disk is full", drop, harmful=True)


def _trigger(thing: _Thing) -> Residue:
    count, first = thing.detail["tables"], thing.detail["first"]
    name = f"{thing.name} on {first}" + ("" if count == 1 else f" and {int(str(count)) - 1} more tables")
    # CASCADE takes the triggers, which are the only things that can depend on it.
    drop = sql.SQL("DROP FUNCTION {}() CASCADE").format(
        sql.Identifier(str(thing.detail["schema"]), str(thing.detail["function"]))
    )
    if thing.name.startswith(FENCE_TRIGGER):
        if thing.detail.get("both"):
            harm = "this side is read-only, and so is the other: nobody can write"
            return thing.residue(harm, drop, name=name, harmful=True)
        if thing.detail["closed"]:
            return thing.residue("keeps this side read-only", drop, name=name, kept=True)
        return thing.residue("is called by every statement and lets it pass", drop, name=name)
    if thing.name == TRUNCATE_TRIGGER:
        return thing.residue("TRUNCATE fails once its barrier table is gone", drop, name=name, harmful=True)
    return thing.residue("is called by what it stands on", drop, name=name)


_MAKERS: dict[str, Callable[[_Thing], Residue]] = {
    "slot": _slot,
    "sync slot": _slot,
    "subscription": _subscription,
    "publication": _publication,
    "trigger": _trigger,
    "function": _function,
    "schema": _schema,
    "replication origin": _origin,
    "role": _role,
    "session": _session,
}


def _recorded(source: Server, target: Server, names: Names) -> Iterator[Residue]:
    """What shows on a server but not whose it is: rows of a ledger, and what only the ledger remembers."""
    if not target.value(_TABLES):
        return
    changed = target.rows(_CHANGED)
    for server in (source, target):
        yield from _identities(server, names, [row for row in changed if row[0] == "identity"])
    for _, plan, detail in (row for row in changed if row[0] == "grant"):
        grant = Grant.from_detail(detail)
        yield Residue(
            side=Side.SOURCE,
            kind="grant",
            name=f"{grant.kind.value} {', '.join(grant.names)} to {grant.login}",
            ours=_belongs(plan, names),
            harm="the login keeps a right that it was given for the migration",
            statement=f"{grant.take_back().as_string()};",
            harmful=True,
        )
    for plan, count in target.rows(_LEDGER):
        yield Residue(
            side=Side.TARGET,
            kind="ledger",
            name=f"{count} rows in schema planrunner",
            ours=_belongs(plan, names),
            harm="none, but a later run of the plan goes by it",
            statement=sql.SQL("; ").join([_forgetting(table, plan) for table in _LEDGER_TABLES]).as_string()
            + ";",
        )


_LEDGER_TABLES = ("effect", "unit", "chunk", "lease")


def _forgetting(table: str, plan: str) -> sql.Composed:
    return sql.SQL("DELETE FROM {} WHERE plan_id = {}").format(
        sql.Identifier(SCHEMA, table), sql.Literal(plan)
    )


def _identities(server: Server, names: Names, changed: list[Row]) -> Iterator[Residue]:
    if not changed:
        return
    wanted = [[row[2]["schema"] for row in changed], [row[2]["name"] for row in changed]]
    now = {(row[0], row[1]): row[2] for row in server.rows(_IDENTITIES, wanted)}
    for _, plan, detail in changed:
        there = now.get((detail["schema"], detail["name"]))
        if there is not None and there != detail["was"]:
            yield Residue(
                side=server.side,
                kind="replica identity",
                name=qualified(detail["schema"], detail["name"]),
                ours=_belongs(plan, names),
                harm="updates and deletes write more WAL than before: it was changed for the migration",
                statement=f"{identities.back(detail).as_string()};",
                harmful=True,
            )
