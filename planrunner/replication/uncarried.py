"""What a database has that the migration does not carry exactly, read from both servers in a fixed number of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication import restorable
from planrunner.replication.decisions import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server
    from planrunner.replication.names import Names

# One row of lists of names.
_INVENTORY = """
SELECT
  ARRAY(SELECT extname::text FROM pg_extension
   WHERE extname <> 'plpgsql' AND (starts_with(extname, 'aws_') OR starts_with(extname, 'rds_tools')) ORDER BY 1),
  ARRAY(SELECT evtname::text FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM pg_depend d
     WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e') ORDER BY 1),
  ARRAY(SELECT pubname::text FROM pg_publication WHERE NOT starts_with(pubname, %(ours)s) ORDER BY 1),
  ARRAY(SELECT subname::text FROM pg_subscription
   WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1),
  ARRAY(SELECT slot_name::text FROM pg_replication_slots
   WHERE database = current_database() AND NOT temporary AND NOT starts_with(slot_name, %(ours)s) ORDER BY 1),
  ARRAY(SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'f' ORDER BY 1),
  ARRAY(SELECT format('%%s on %%s', coalesce(usename, 'PUBLIC'), srvname) FROM pg_user_mappings
   WHERE umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1),
  ARRAY(SELECT DISTINCT format('%%s %%s (%%s)', l.objtype, l.objname, l.provider) FROM pg_seclabels l ORDER BY 1),
  ARRAY(SELECT c.oid::regclass::text FROM pg_class c WHERE c.reltablespace <> 0
     AND c.relkind IN ('r', 'p', 'i', 'I', 'm') AND c.oid >= 16384 ORDER BY 1),
  ARRAY(SELECT entry FROM pg_db_role_setting CROSS JOIN LATERAL unnest(setconfig) entry
   WHERE setdatabase = 0 AND setrole = 0 ORDER BY 1),
  (SELECT count(*) FROM pg_largeobject_metadata),
  (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'public'),
  ARRAY(SELECT DISTINCT r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
   WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'a' AND r.rolname ~ '^rds'
     AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1)
"""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The plan's choices that leave something behind."""

    owners: bool
    large_objects: str
    empty: tuple[str, ...] = ()
    insert_only: tuple[str, ...] = ()


def decisions(source: Server, target: Server, names: Names, terms: Terms) -> tuple[Decision, ...]:
    """Everything that is known before the run; what only the run finds is told by who finds it."""
    row = source.row(_INVENTORY, {"ours": names.plan_prefix})
    assert row is not None
    superuser = target.identity().superuser
    found = [
        *_about("extensions", "extensions of the provider stay behind", row[0]),
        *_about(
            "event triggers", "event triggers take a superuser and stay behind", () if superuser else row[1]
        ),
        *_about("publications", "publications of others stay on the source alone", row[2]),
        *_about("subscriptions", "subscriptions of others stay on the source alone", row[3]),
        *_about(
            "slots", "replication slots of others stay on the source; their readers need new ones", row[4]
        ),
        *_about("foreign tables", "foreign tables arrive, their rows stay where they are", row[5]),
        *_about("user mappings", "user mappings arrive without options that can't be read", row[6]),
        *_about("security labels", "security labels stay behind", row[7]),
        *_about("tablespaces", "not in their tablespace but in the target's default one", row[8]),
        *_about("settings for all", "settings of ALTER ROLE ALL belong to the whole server and stay", row[9]),
        *_about("unlogged", "unlogged tables arrive empty", terms.empty),
        *_about(
            "insert only",
            "followed for inserts alone: an update or delete there stops the cutover",
            terms.insert_only,
        ),
        *_large(row[10], terms, fenced=source.identity().superuser),
    ]
    there = {str(r[0]) for r in target.rows("SELECT rolname::text FROM pg_roles WHERE rolname ~ '^rds'")}
    lacking = [name for name in row[12] if name not in there]
    found += _about("provider's roles", "grants to the provider's roles stay behind", lacking)
    if terms.owners:
        found += _public(target, row[11])
    return tuple(found)


def _about(key: str, text: str, names: list[str] | tuple[str, ...] | None) -> Iterator[Decision]:
    if names:
        yield Decision(key=key, text=f"{text}: {', '.join(names)}")


def _large(count: int, terms: Terms, *, fenced: bool) -> Iterator[Decision]:
    if count and terms.large_objects == "skip":
        yield Decision(key="large objects", text=f"{count} large objects stay behind (large_objects: skip)")
    elif count and not fenced:
        yield Decision(
            key="large objects",
            text=f"writers of the source's {count} large objects can't be stopped by a login that is no superuser;"
            " what they write after the last comparison is lost: stop them before the cutover",
        )
    elif count:
        yield Decision(
            key="large objects",
            text=f"the source's {count} large objects stay writable there after the cutover; its tables do not",
        )


def _public(target: Server, owner: str | None) -> Iterator[Decision]:
    if owner is None or owner in restorable.assumable(target):
        return
    theirs = target.value("SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'public'")
    if theirs != owner:
        yield Decision(
            key="schema public",
            text=f'schema public belongs to "{owner}" on the source, to "{theirs}" on the target',
        )
