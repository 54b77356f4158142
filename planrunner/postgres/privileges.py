"""What a login may do on a server, and which grants would close the gaps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import ConnectionFailed
from planrunner.postgres.grants import Grant, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server

RDS_REPLICATION = "rds_replication"
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_LOGIN = """
SELECT me.rolname::text, me.rolsuper, me.rolreplication, me.rolbypassrls, me.rolcreaterole, me.rolcreatedb,
       me.rolinherit, current_setting('server_version_num')::int, rds.oid IS NOT NULL,
       coalesce(pg_has_role(me.oid, rds.oid, 'USAGE'), false),
       coalesce(pg_has_role(me.oid, rds.oid, 'MEMBER WITH ADMIN OPTION')
                OR me.rolcreaterole AND current_setting('server_version_num')::int < 160000, false)
FROM pg_roles me LEFT JOIN pg_roles rds ON rds.rolname = 'rds_replication'
WHERE me.rolname = current_user
"""
# The same tables as the catalogue lists: not the system's, not ours, not an extension's, not temporary.
_OBJECTS = """
WITH mine AS (
  SELECT c.oid, c.relnamespace, c.relname, c.relowner, c.relkind FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype = 'e')),
owners AS (
  SELECT DISTINCT r.oid, r.rolname,
         pg_has_role(me.oid, r.oid, 'USAGE') AS member,
         (me.rolsuper OR pg_has_role(me.oid, r.oid, 'MEMBER WITH ADMIN OPTION')
          OR v.num < 160000 AND me.rolcreaterole AND NOT r.rolsuper)
         AND (me.rolinherit OR v.num >= 160000) AS joinable
  FROM mine JOIN pg_roles r ON r.oid = mine.relowner AND mine.relkind <> 'S', pg_roles me,
       (SELECT current_setting('server_version_num')::int) v(num)
  WHERE me.rolname = current_user),
joined AS (SELECT oid FROM owners WHERE joinable AND NOT member AND %(memberships)s),
objects AS (
  SELECT 'database' AS kind, NULL::name AS schema, datname AS name, datdba AS owner,
         has_database_privilege(oid, 'CREATE') AS held,
         EXISTS (SELECT FROM joined j WHERE has_database_privilege(j.oid, d.oid, 'CREATE')) AS inherited
  FROM pg_database d WHERE datname = current_database()
  UNION ALL SELECT 'schema', NULL, nspname, nspowner, has_schema_privilege(oid, 'USAGE'),
         EXISTS (SELECT FROM joined j WHERE has_schema_privilege(j.oid, n.oid, 'USAGE'))
  FROM pg_namespace n WHERE oid IN (SELECT relnamespace FROM mine)
  UNION ALL SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname, relname, relowner,
         has_table_privilege(m.oid, 'SELECT'),
         EXISTS (SELECT FROM joined j WHERE has_table_privilege(j.oid, m.oid, 'SELECT'))
  FROM mine m JOIN pg_namespace n ON n.oid = m.relnamespace)
SELECT o.kind, o.schema::text, o.name::text, pg_get_userbyid(o.owner)::text, o.held, o.inherited,
       pg_has_role(o.owner, 'USAGE') OR o.owner IN (SELECT oid FROM joined),
       pg_has_role(o.owner, 'USAGE'), o.owner IN (SELECT oid FROM owners WHERE joinable)
FROM objects o ORDER BY 1, 2 NULLS FIRST, 3
"""


@dataclass(frozen=True, kw_only=True)
class Login:
    """The role of a session. ``version`` is ``server_version_num``.

    ``rds`` is True where a role ``rds_replication`` exists, ``rds_member`` when the login has its
    rights, ``rds_grantable`` when the login may give them to itself.
    """

    name: str
    superuser: bool
    replication: bool
    bypassrls: bool
    createrole: bool
    createdb: bool
    inherit: bool
    version: int
    rds: bool
    rds_member: bool
    rds_grantable: bool

    @property
    def replicates(self) -> bool:
        """True when the login may open replication connections."""
        return self.superuser or self.replication or self.rds_member


@dataclass(frozen=True, kw_only=True)
class Access:
    """One object and what the login may do with it.

    ``held``: it has CREATE on the database, USAGE on the schema, SELECT on the table or sequence.
    ``inherited``: memberships that it may give itself bring that. ``grantable``: it may grant it to
    itself, after those memberships. ``owned``: it has the owner's rights; ``joinable``: it may get them.
    """

    kind: Kind
    schema: str | None
    name: str
    owner: str
    held: bool
    inherited: bool
    grantable: bool
    owned: bool
    joinable: bool

    @property
    def qualified(self) -> str:
        """``schema.name`` for people."""
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What a login may do in one database; ``objects`` holds database, schemas, tables, sequences."""

    login: Login
    objects: tuple[Access, ...]

    def of(self, kind: Kind) -> tuple[Access, ...]:
        """The objects of one kind."""
        return tuple(o for o in self.objects if o.kind is kind)


def login(server: Server) -> Login:
    """The role of our sessions on ``server``."""
    row = server.row(_LOGIN)
    assert row is not None
    return Login(
        name=row[0],
        superuser=row[1],
        replication=row[2],
        bypassrls=row[3],
        createrole=row[4],
        createdb=row[5],
        inherit=row[6],
        version=row[7],
        rds=row[8],
        rds_member=row[9],
        rds_grantable=row[10],
    )


def rights(server: Server, *, memberships: bool = True, left_out: Collection[tuple[str, str]] = ()) -> Rights:
    """What our login may do there; ``memberships``: whether it may join the roles that own tables.

    ``left_out`` are tables and sequences, (schema, name), that the plan does not touch: they need no right,
    nor does a schema in which everything is left out.
    """
    rows = [r for r in server.rows(_OBJECTS, {"memberships": memberships}) if (r[1], r[2]) not in left_out]
    used = {r[1] for r in rows}
    rows = [r for r in rows if Kind(r[0]) is not Kind.SCHEMA or r[2] in used]
    objects = (
        Access(
            kind=Kind(r[0]),
            schema=r[1],
            name=r[2],
            owner=r[3],
            held=r[4],
            inherited=r[5],
            grantable=r[6],
            owned=r[7],
            joinable=r[8],
        )
        for r in rows
    )
    return Rights(login=login(server), objects=tuple(objects))


def replication_gap(who: Login) -> Grant | None:
    """Membership in rds_replication, where that role exists and the login can't replicate yet."""
    if who.replicates or not who.rds:
        return None
    return Grant(
        kind=Kind.ROLE,
        names=(RDS_REPLICATION,),
        login=who.name,
        inherit=who.version >= 160000,
        possible=who.rds_grantable and (who.inherit or who.version >= 160000),
    )


def membership_gaps(held: Rights) -> tuple[Grant, ...]:
    """A membership for every role that owns tables and whose rights the login lacks."""
    strange = {t.owner: t.joinable for t in held.of(Kind.TABLE) if not t.owned}
    who = held.login
    return tuple(
        Grant(
            kind=Kind.ROLE,
            names=(owner,),
            login=who.name,
            inherit=who.version >= 160000,
            possible=possible,
        )
        for owner, possible in sorted(strange.items())
    )


def access_gaps(held: Rights, kinds: Sequence[Kind] | None = None) -> tuple[Grant, ...]:
    """What the login lacks once it has the memberships it may give itself; one grant a schema and kind."""
    lacking = [o for o in held.objects if not (o.held or o.inherited) and (kinds is None or o.kind in kinds)]
    # Before its tables the database and the schema they are in.
    order = [Kind.DATABASE, Kind.SCHEMA, Kind.TABLE, Kind.SEQUENCE]
    lacking.sort(key=lambda o: (order.index(o.kind), o.schema or "", not o.grantable))
    groups = groupby(lacking, key=lambda o: (o.kind, o.schema, o.grantable))
    return tuple(_access_grant(held.login, list(objects)) for _, objects in groups)


def _access_grant(who: Login, objects: list[Access]) -> Grant:
    first = objects[0]
    return Grant(
        kind=first.kind,
        schema=first.schema,
        names=tuple(o.name for o in objects),
        login=who.name,
        possible=first.grantable,
    )


def by_hand(who: Login | None, grants: Iterable[Grant]) -> str:
    """The statements for people to run, in one line."""
    text = " ".join(f"{grant.give().as_string()};" for grant in grants)
    if who is None or who.inherit or who.version >= 160000:
        return text
    inheriting = sql.SQL("ALTER ROLE {} INHERIT;").format(sql.Identifier(who.name)).as_string()
    return f"{inheriting} {text}"


def attribute_statement(who: Login) -> str:
    """What a superuser runs where there is no rds_replication."""
    return sql.SQL("ALTER ROLE {} REPLICATION;").format(sql.Identifier(who.name)).as_string()


def await_replication(server: Server, clock: Clock) -> None:
    """Wait until a replication connection is accepted; ConnectionFailed when it is not within 10 s.

    RDS applies membership in rds_replication a moment after the GRANT.
    """
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            session = server.open(read_only=False, replication="database")
        except ConnectionFailed as error:
            if error.sqlstate != "42501" or clock.monotonic() > deadline:
                raise
            clock.sleep(_POLL_SECONDS)
            continue
        try:
            with server.translated("IDENTIFY_SYSTEM"):
                session.execute("IDENTIFY_SYSTEM")
        finally:
            session.close()
        return
