"""What a login may do on a server, and which grants would close the gaps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import ConnectionFailed, QueryFailed
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
       coalesce(pg_has_role(giver.oid, rds.oid, 'MEMBER WITH ADMIN OPTION')
                OR giver.rolcreaterole AND current_setting('server_version_num')::int < 160000, false),
       rds.oid IS NULL AND (giver.rolsuper OR giver.rolcreaterole AND giver.rolreplication
         AND current_setting('server_version_num')::int >= 160000
         AND pg_has_role(giver.oid, me.oid, 'MEMBER WITH ADMIN OPTION'))
FROM pg_roles me JOIN pg_roles giver ON giver.rolname = current_user
LEFT JOIN pg_roles rds ON rds.rolname = 'rds_replication'
WHERE me.rolname = coalesce(%(login)s, current_user)
"""
# The same tables as the catalogue lists: not the system's, not ours, not an extension's, not temporary. ``me`` is who
# lacks something, ``giver`` who runs the query and may give it. A superuser's role is nobody's to join: whoever has
# its rights has nearly all rights.
_OBJECTS = """
WITH me AS (SELECT oid, rolinherit FROM pg_roles WHERE rolname = coalesce(%(login)s, current_user)),
mine AS (
  SELECT c.oid, c.relnamespace, c.relname, c.relowner, c.relkind FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype = 'e')),
owners AS (
  SELECT DISTINCT r.oid, r.rolname,
         pg_has_role(me.oid, r.oid, 'USAGE') AS member,
         (giver.rolsuper OR pg_has_role(giver.oid, r.oid, 'MEMBER WITH ADMIN OPTION')
          OR v.num < 160000 AND giver.rolcreaterole)
         AND NOT r.rolsuper AND (me.rolinherit OR v.num >= 160000) AS joinable
  FROM mine JOIN pg_roles r ON r.oid = mine.relowner AND mine.relkind <> 'S', me, pg_roles giver,
       (SELECT current_setting('server_version_num')::int) v(num)
  WHERE giver.rolname = current_user),
joined AS (SELECT oid FROM owners WHERE joinable AND NOT member AND %(memberships)s),
objects AS (
  SELECT 'database' AS kind, NULL::name AS schema, datname AS name, datdba AS owner,
         has_database_privilege(me.oid, d.oid, 'CREATE') AS held,
         EXISTS (SELECT FROM joined j WHERE has_database_privilege(j.oid, d.oid, 'CREATE')) AS inherited,
         has_database_privilege(d.oid, 'CREATE WITH GRANT OPTION') AS passes
  FROM pg_database d, me WHERE datname = current_database()
  UNION ALL SELECT 'schema', NULL, nspname, nspowner, has_schema_privilege(me.oid, n.oid, 'USAGE'),
         EXISTS (SELECT FROM joined j WHERE has_schema_privilege(j.oid, n.oid, 'USAGE')),
         has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION')
  FROM pg_namespace n, me WHERE n.oid IN (SELECT relnamespace FROM mine)
  UNION ALL SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname, relname, relowner,
         has_table_privilege(me.oid, m.oid, 'SELECT'),
         EXISTS (SELECT FROM joined j WHERE has_table_privilege(j.oid, m.oid, 'SELECT')),
         has_table_privilege(m.oid, 'SELECT WITH GRANT OPTION')
  FROM mine m JOIN pg_namespace n ON n.oid = m.relnamespace, me)
SELECT o.kind, o.schema::text, o.name::text, pg_get_userbyid(o.owner)::text, o.held, o.inherited,
       o.passes OR pg_has_role(o.owner, 'USAGE')
         OR %(login)s::text IS NULL AND o.owner IN (SELECT oid FROM joined),
       pg_has_role(me.oid, o.owner, 'USAGE'), o.owner IN (SELECT oid FROM owners WHERE joinable),
       pg_has_role(o.owner, 'USAGE'), (SELECT rolsuper FROM pg_roles r WHERE r.oid = o.owner)
FROM objects o, me ORDER BY 1, 2 NULLS FIRST, 3
"""
_DEFAULTS = """
SELECT n.nspname::text, pg_get_userbyid(d.defaclrole)::text, d.defaclobjtype::text
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE (a.grantee = 0 OR r.rolname = %s) AND a.privilege_type = 'SELECT'
"""


@dataclass(frozen=True, kw_only=True)
class Login:
    """The role of a session. ``version`` is ``server_version_num``.

    ``rds`` is True where a role ``rds_replication`` exists, ``rds_member`` when the login has its
    rights, ``rds_grantable`` when whoever asks may give them to it. ``attribute_grantable``: they may
    give it the attribute, where there is no such role.
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
    attribute_grantable: bool = False

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
    ``commanded``: whoever grants has them. ``of_superuser``: the owner is one, whom nobody should join.
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
    commanded: bool = False
    of_superuser: bool = False

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


def login(server: Server, name: str | None = None) -> Login:
    """The role of that name on ``server``, of our sessions without one; QueryFailed when there is none."""
    row = server.row(_LOGIN, {"login": name})
    if row is None:
        raise QueryFailed(
            f'{server.side.value}: there is no role "{name}"',
            remedy="Make it first, or correct the user of connections.source.dsn.",
        )
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
        attribute_grantable=row[11],
    )


def rights(
    server: Server,
    *,
    memberships: bool = True,
    left_out: Collection[tuple[str, str]] = (),
    name: str | None = None,
) -> Rights:
    """What our login may do there; ``memberships``: whether it may join the roles that own tables.

    ``name`` is another login's, to which we may give something.

    ``left_out`` are tables and sequences, (schema, name), that the plan does not touch: they need no right,
    nor does a schema in which everything is left out.
    """
    given = {"memberships": memberships, "login": name}
    rows = [r for r in server.rows(_OBJECTS, given) if (r[1], r[2]) not in left_out]
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
            commanded=r[9],
            of_superuser=r[10],
        )
        for r in rows
    )
    return Rights(login=login(server, name), objects=tuple(objects))


def replication_gap(who: Login) -> Grant | None:
    """Membership in rds_replication, where that role exists and the login can't replicate yet."""
    if not who.replicates and who.attribute_grantable:
        return Grant(kind=Kind.ATTRIBUTE, names=("REPLICATION",), login=who.name)
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


def default_gaps(server: Server, held: Rights, *, memberships: bool) -> tuple[Grant, ...]:
    """SELECT on what the owners will create in the schemas of what is copied, where no membership brings it."""
    there = {(row[0], row[1], row[2]) for row in server.rows(_DEFAULTS, [held.login.name])}
    wanted: dict[tuple[str, str, Kind], bool] = {}
    for kind, comes, letter in (
        (Kind.TABLE, Kind.DEFAULT_TABLE, "r"),
        (Kind.SEQUENCE, Kind.DEFAULT_SEQUENCE, "S"),
    ):
        for o in held.of(kind):
            brought = o.owned or (memberships and o.joinable)
            told = {(o.schema, o.owner, letter), (None, o.owner, letter)} & there
            if not brought and not told and o.schema is not None:
                wanted[o.schema, o.owner, comes] = o.commanded
    return tuple(
        Grant(kind=kind, schema=schema, names=(owner,), login=held.login.name, possible=possible)
        for (schema, owner, kind), possible in sorted(
            wanted.items(), key=lambda pair: (*pair[0][:2], pair[0][2].value)
        )
    )


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
