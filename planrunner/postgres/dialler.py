"""The role by which a subscription logs in on the side that publishes: who may make it, and what makes and drops it.

It may log in and replicate, and nothing else: a subscription that copies no data reads no table. Its password is
random, and the server is given only its SCRAM verifier.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.masking import hush
from planrunner.model import Secret
from planrunner.postgres.privileges import RDS_REPLICATION

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session

# A worker that dials anew may meet its former connection, which the server has not given up yet: two for each of
# the streams that joins and lost snapshots can leave.
MOST_CONNECTIONS = 64
DEFAULT_LIFETIME = timedelta(days=30)
_BYTES = 32
_SCRAM = b"scram-sha-256"
_SINCE_INHERIT_OPTION = 160000
# Whether our login may make a role that replicates: by membership in rds_replication where that role is there, else
# by the attribute, which since 16 whoever has it may give. RDS can keep passwords to members of rds_password.
_MAY_MAKE = """
SELECT me.rolname::text, me.rolsuper OR me.rolcreaterole,
       CASE WHEN rds.oid IS NOT NULL THEN pg_has_role(me.oid, rds.oid, 'MEMBER WITH ADMIN OPTION') OR v.num < 160000
            ELSE me.rolsuper OR v.num >= 160000 AND me.rolreplication END,
       rds.oid IS NOT NULL,
       coalesce(current_setting('rds.restrict_password_commands', true), 'off') <> 'on'
         OR EXISTS (SELECT FROM pg_roles p WHERE p.rolname = 'rds_password' AND pg_has_role(me.oid, p.oid, 'MEMBER')),
       acl.everybody OR has_database_privilege(me.oid, d.oid, 'CONNECT WITH GRANT OPTION'), d.datname::text
FROM pg_roles me LEFT JOIN pg_roles rds ON rds.rolname = 'rds_replication'
CROSS JOIN (SELECT current_setting('server_version_num')::int) v(num)
CROSS JOIN pg_database d
CROSS JOIN LATERAL (SELECT bool_or(a.grantee = 0 AND a.privilege_type = 'CONNECT')
                    FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a) acl(everybody)
WHERE me.rolname = current_user AND d.datname = current_database()
"""
_GROUND = """
SELECT current_setting('server_version_num')::int, EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication'),
       EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a
               WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT'), datname::text,
       (SELECT rolname::text FROM pg_roles WHERE rolname = current_user AND NOT rolsuper)
FROM pg_database WHERE datname = current_database()
"""
_SHOWN = """
SELECT shobj_description(r.oid, 'pg_authid'), CASE WHEN isfinite(r.rolvaliduntil)
       THEN extract(epoch FROM r.rolvaliduntil - now())::float8 END, d.datname::text,
       EXISTS (SELECT FROM aclexplode(d.datacl) a WHERE a.grantee = r.oid),
       EXISTS (SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
               AND s.deptype = 'a' AND s.dbid = d.oid)
FROM pg_roles r, pg_database d WHERE r.rolname = %s AND d.datname = current_database()
"""


class Wish(Enum):
    """Whether subscriptions get a login of their own: where it can be made, always, or never."""

    AUTO = "auto"
    CREATE = "create"
    OWN = "own"


class Kind(Enum):
    """Who a subscription logs in as: a role made for it, one that the plan names, or the plan's own login."""

    MADE = "made"
    NAMED = "named"
    OWN = "own"


@dataclass(frozen=True, kw_only=True)
class Dialler:
    """Who a subscription logs in as; ``user`` is None for the plan's own login.

    ``lacking`` says why no role can be made for it.
    """

    kind: Kind
    user: str | None = None
    lacking: str | None = None


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role as its server shows it; ``left`` is the seconds for which it is valid, None for ever.

    ``granted``: it has CONNECT on the database by a grant of its own. ``reads``: somebody has granted it something in
    the database, such as a table that was added to the stream later.
    """

    mark: str | None
    left: float | None
    database: str
    granted: bool
    reads: bool = False


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What decides how the role is made: ``rds`` where rds_replication is there, ``version`` of the server.

    ``connect`` is the database where PUBLIC lacks CONNECT, ``maker`` who makes it and is no superuser.
    """

    version: int
    rds: bool
    connect: str | None = None
    maker: str | None = None


def shown(server: Server, name: str) -> Role | None:
    """The role of that name, None when there is none."""
    row = server.row(_SHOWN, [name])
    if row is None:
        return None
    return Role(mark=row[0], left=row[1], database=row[2], granted=row[3], reads=row[4])


def chosen(server: Server, name: str, mark: str, wish: Wish) -> Dialler:
    """Who the other side's subscription logs in as on ``server``; ``name`` is the role that would be made for it."""
    if server.endpoint.replication is not None:
        return Dialler(kind=Kind.NAMED, user=server.endpoint.replication.login)
    if wish is Wish.OWN:
        return Dialler(kind=Kind.OWN)
    there = shown(server, name)
    lacking = None if there is not None and there.mark == mark else _lacking(server)
    if lacking is not None and wish is Wish.AUTO:
        return Dialler(kind=Kind.OWN, lacking=lacking)
    return Dialler(kind=Kind.MADE, user=name, lacking=lacking)


def _lacking(server: Server) -> str | None:
    """What our login lacks to make such a role, None when it may."""
    row = server.row(_MAY_MAKE)
    assert row is not None
    login, creates, gives, rds, passwords, connects, database = row
    right = f"the right to give {RDS_REPLICATION}" if rds else "the right to give REPLICATION"
    wanting = [
        text
        for held, text in (
            (creates, "CREATEROLE"),
            (gives, right),
            (passwords, "membership in rds_password (rds.restrict_password_commands is on)"),
            (connects, f'the right to give CONNECT on database "{database}"'),
        )
        if not held
    ]
    return f'role "{login}" lacks {" and ".join(wanting)}' if wanting else None


def random_password() -> Secret:
    """A password of 256 random bits, which no text of this process will show."""
    value = secrets.token_urlsafe(_BYTES)
    hush(value)
    return Secret(value)


def verifier(session: Session, name: str, password: Secret) -> str:
    """What the server keeps of the password, made on this side: it never sees the password itself."""
    made = session.pgconn.encrypt_password(password.reveal().encode(), name.encode(), _SCRAM)
    return made.decode()


def ground(server: Server) -> Ground:
    """What decides on ``server`` how the role is made."""
    row = server.row(_GROUND)
    assert row is not None
    return Ground(version=row[0], rds=row[1], connect=None if row[2] else row[3], maker=row[4])


def making(name: str, mark: str, on: Ground, *, secret: str, until: str) -> tuple[sql.Composed, ...]:
    """What makes the role: first the statement that holds ``secret``, its verifier."""
    role = sql.Identifier(name)
    # Before 16 a role inherits from all its groups or from none, and rds_replication has to be inherited.
    chooses = on.version >= _SINCE_INHERIT_OPTION
    made = [
        sql.SQL("CREATE ROLE {} LOGIN {}{} PASSWORD {} VALID UNTIL {} CONNECTION LIMIT {}").format(
            role,
            sql.SQL("INHERIT" if on.rds and not chooses else "NOINHERIT"),
            sql.SQL("" if on.rds else " REPLICATION"),
            sql.Literal(secret),
            sql.Literal(until),
            sql.Literal(MOST_CONNECTIONS),
        ),
        sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(mark)),
    ]
    if on.rds:
        options = sql.SQL(" WITH INHERIT TRUE, SET FALSE" if chooses else "")
        made.append(sql.SQL("GRANT {} TO {}{}").format(sql.Identifier(RDS_REPLICATION), role, options))
    if on.connect is not None:
        made.append(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(on.connect), role))
    if on.maker is not None:
        # Only who has a role's rights may end its sessions, which hold a slot that is to go.
        options = sql.SQL(" WITH INHERIT TRUE, SET FALSE" if chooses else "")
        made.append(sql.SQL("GRANT {} TO {}{}").format(role, sql.Identifier(on.maker), options))
    return tuple(made)


def renewing(name: str, *, until: str, secret: str | None = None) -> sql.Composed:
    """What lets the role be valid until then, and gives it another password where there is one."""
    password = sql.SQL("") if secret is None else sql.SQL(" PASSWORD {}").format(sql.Literal(secret))
    return sql.SQL("ALTER ROLE {}{} VALID UNTIL {}").format(
        sql.Identifier(name), password, sql.Literal(until)
    )


def dropping(name: str, role: Role | None) -> tuple[sql.Composed, ...]:
    """What removes the role, as ``role`` shows it, and the grants that would keep it."""
    known = sql.Identifier(name)
    dropped = sql.SQL("DROP ROLE {}").format(known)
    if role is None:
        return (dropped,)
    revoking = sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(sql.Identifier(role.database), known)
    return (
        *([revoking] if role.granted else []),
        # It owns nothing: what goes are rights.
        *([sql.SQL("DROP OWNED BY {}").format(known)] if role.reads else []),
        dropped,
    )
