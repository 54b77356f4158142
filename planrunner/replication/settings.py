"""What a server keeps about a database beside its contents: its owner, grants, comment, limit, and settings.

Settings are those of ALTER DATABASE … SET, ALTER ROLE … SET and ALTER ROLE … IN DATABASE … SET. They are carried
just before the cutover: until then the target's sessions, ours and the apply worker's, run without them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication import decisions, roles
from planrunner.replication.attempts import attempted
from planrunner.replication.decisions import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.workspace import Workspace

STEP = "settings"
CARRIED = "carried"
# Settings whose value is a list of names: stored with each name quoted, and set from the names one by one.
_LISTS = frozenset(
    {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
)
_LISTED = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,\s]+))\s*(?:,|\Z)')
_DATABASE = """
SELECT pg_get_userbyid(d.datdba)::text, d.datconnlimit, shobj_description(d.oid, 'pg_database'),
       (SELECT array_agg(ARRAY[CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END,
                               a.privilege_type, a.is_grantable::text])
        FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
        WHERE a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname ~ '^pr_[0-9a-f]{8}_'))
FROM pg_database d WHERE d.datname = current_database()
"""
_SETTINGS = """
SELECT r.rolname::text, s.setdatabase <> 0, split_part(c.entry, '=', 1), substr(c.entry, strpos(c.entry, '=') + 1)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN LATERAL unnest(s.setconfig)
  WITH ORDINALITY c(entry, n)
WHERE (s.setdatabase = 0 AND s.setrole <> 0)
   OR s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1 NULLS FIRST, 2, c.n
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: of a role (None: of every role) and of this database or of all."""

    role: str | None
    here: bool
    name: str
    value: str

    @property
    def place(self) -> tuple[str | None, bool, str]:
        """What is set, without the value."""
        return self.role, self.here, self.name.lower()

    def told(self, database: str) -> str:
        """For people: ``search_path of role app in database shop``."""
        whose = [f'role "{self.role}"'] if self.role is not None else []
        whose += [f'database "{database}"'] if self.here else []
        return f"{self.name} of {' in '.join(whose)}"


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database as its server keeps it; a grant is (role or None for PUBLIC, privilege, with grant option)."""

    owner: str
    connections: int
    comment: str | None
    grants: frozenset[tuple[str | None, str, bool]]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the plan wishes to carry."""

    settings: bool
    owners: bool
    grants: bool


def database(server: Server) -> Database:
    """What ``server`` keeps about the connected database."""
    row = server.row(_DATABASE)
    assert row is not None
    return Database(
        owner=row[0],
        connections=row[1],
        comment=row[2],
        grants=frozenset((who, what, option == "true") for who, what, option in row[3] or ()),
    )


def read(server: Server) -> tuple[Setting, ...]:
    """Every setting of the connected database and of roles."""
    return tuple(Setting(role=r[0], here=r[1], name=r[2], value=r[3]) for r in server.rows(_SETTINGS))


def names(value: str) -> tuple[str, ...]:
    """The names of a setting that is a list: ``"$user", public`` gives ``$user`` and ``public``."""
    return tuple(
        quoted.replace('""', '"') if quoted or not plain else plain
        for quoted, plain in ((m[1] or "", m[2] or "") for m in _LISTED.finditer(value) if m[0])
    )


def statement(setting: Setting, database_name: str) -> sql.Composed:
    """The ALTER that makes ``setting`` in the database of that name."""
    where = sql.SQL("DATABASE {}").format(sql.Identifier(database_name))
    subject = where
    if setting.role is not None:
        subject = sql.SQL("ROLE {}").format(sql.Identifier(setting.role))
        subject += sql.SQL(" IN ") + where if setting.here else sql.SQL("")
    values: tuple[str, ...] = (setting.value,)
    if setting.name.lower() in _LISTS:
        values = names(setting.value) or ("",)
    return sql.SQL("ALTER {} SET {} TO {}").format(
        subject,
        sql.Identifier(*setting.name.split(".")),
        sql.SQL(", ").join([sql.Literal(value) for value in values]),
    )


def wanted(source: Server, target: Server) -> tuple[tuple[Setting, ...], tuple[Decision, ...]]:
    """The source's settings that the target lacks, and a decision for each that it has with another value."""
    named = {role.name for role in roles.named(source)}
    ours = [s for s in read(source) if s.role is None or s.role in named]
    theirs = {s.place: s for s in read(target)}
    there = target.identity().database
    missing = tuple(s for s in ours if s.place not in theirs)
    differing = tuple(
        Decision(
            key=f"setting {s.told(there)}",
            text=f"{s.told(there)} is {s.value!r} on the source and stays {theirs[s.place].value!r} on the target",
        )
        for s in ours
        if s.place in theirs and theirs[s.place].value != s.value
    )
    return missing, differing


def statements(source: Server, target: Server, terms: Terms) -> tuple[sql.Composed, ...]:
    """Everything that ``carry`` executes, in order; a refused statement is told and not missed again."""
    there = target.identity().database
    made = list(_about(database(source), database(target), there, terms))
    if terms.settings:
        made += [statement(s, there) for s in wanted(source, target)[0]]
    if terms.owners:
        made += _owner(database(source).owner, database(target), there)
    return tuple(made)


def _about(ours: Database, theirs: Database, name: str, terms: Terms) -> Iterator[sql.Composed]:
    called = sql.Identifier(name)
    if ours.comment is not None and ours.comment != theirs.comment:
        yield sql.SQL("COMMENT ON DATABASE {} IS {}").format(called, sql.Literal(ours.comment))
    if terms.settings and ours.connections != theirs.connections:
        yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(called, sql.Literal(ours.connections))
    if not terms.grants:
        return
    # An owner's own rights go with the ownership.
    here = {g for g in ours.grants if g[0] != ours.owner}
    there = {g for g in theirs.grants if g[0] != theirs.owner}
    for who, what, _ in sorted(there - here, key=str):
        if (who, what) not in {g[:2] for g in here} and who is None:
            yield sql.SQL("REVOKE {} ON DATABASE {} FROM PUBLIC").format(_privilege(what), called)
    for who, what, option in sorted(here - there, key=str):
        yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
            _privilege(what),
            called,
            sql.SQL("PUBLIC") if who is None else sql.Identifier(who),
            sql.SQL(" WITH GRANT OPTION" if option else ""),
        )


def _privilege(word: str) -> sql.SQL:
    return {"CONNECT": sql.SQL("CONNECT"), "CREATE": sql.SQL("CREATE")}.get(word, sql.SQL("TEMPORARY"))


def _owner(owner: str, theirs: Database, name: str) -> list[sql.Composed]:
    if owner == theirs.owner:
        return []
    return [sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(owner))]


def carry(workspace: Workspace, terms: Terms) -> None:
    """Execute what is missing in one transaction; what the server refuses is told as a decision and left.

    StepFailed, and nothing is kept, when the login would lock itself out of the database.
    """
    source, target = workspace.source, workspace.target
    found: list[Decision] = list(wanted(source, target)[1]) if terms.settings else []
    planned = statements(source, target, terms)
    with workspace.writing() as session:
        for each in planned:
            refusal = attempted(session, each)
            if refusal is not None:
                shown = each.as_string()
                found.append(
                    Decision(key=f"refused {shown}", text=f"not carried: {shown}; the target says: {refusal}")
                )
        found += _stay_inside(session, target)
        figures = {"statements": len(planned), "decisions": len(found)}
        workspace.ledger.record_effect(session, STEP, CARRIED, figures)
        failpoint("settings.before_commit")
    failpoint("settings.carried")
    decisions.tell(workspace, found)


def _stay_inside(session: Session, target: Server) -> list[Decision]:
    """Give the login CONNECT where the database's new grants leave it none."""
    may = "SELECT has_database_privilege(current_database(), 'CONNECT')"
    if session.execute(may).fetchone() == (True,):
        return []
    who = target.identity()
    grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
        sql.Identifier(who.database), sql.Identifier(who.user)
    )
    refusal = attempted(session, grant)
    if refusal is not None:
        raise StepFailed(
            f'target: with the source\'s owner and grants of the database, login "{who.user}" could not connect'
            f" any more ({refusal}); nothing was changed",
            remedy=f"Run on the target as an administrator: {grant.as_string()}; or set settings: skip.",
        )
    return [
        Decision(key="login keeps CONNECT", text=f'target: login "{who.user}" keeps CONNECT on the database')
    ]
