"""Large objects, which logical replication does not carry: copied once, and levelled again inside the fence.

Levelling compares both sides by digest and makes the target's objects what the source's are: contents, owner,
grants and comment. It may be done at any time and any number of times.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication.restorable import assumable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.postgres.connection import Row, Server, Session
    from planrunner.replication.workspace import Workspace

STEP = "large objects"
BEGUN, COPIED = "begun", "copied"
# Objects a transaction: each takes a few locks, and the lock table is not endless.
_AT_ONCE = 500
_READ = 262144  # INV_READ of libpq/libpq-fs.h
# lo_lseek64(…, 0, 2) is the size. A piece is a megabyte, since lo_get of a whole object ends at one gigabyte.
_INVENTORY = """
SELECT o.oid::bigint, o.size, d.digest,
       pg_get_userbyid(o.lomowner)::text, obj_description(o.oid, 'pg_largeobject'),
       (SELECT array_agg(ARRAY[CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END,
                               a.privilege_type, a.is_grantable::text])
        FROM aclexplode(coalesce(o.lomacl, acldefault('L', o.lomowner))) a)
FROM (SELECT oid, lomowner, lomacl, lo_lseek64(lo_open(oid, %(read)s), 0, 2) AS size
      FROM pg_largeobject_metadata WHERE %(oids)s::oid[] IS NULL OR oid = ANY (%(oids)s::oid[]) OFFSET 0) o
CROSS JOIN LATERAL (SELECT md5(string_agg(md5(lo_get(o.oid, n * 1048576, 1048576)), '' ORDER BY n)) AS digest
  FROM generate_series(0, CASE WHEN %(digests)s THEN greatest(o.size - 1, 0) / 1048576 ELSE 0 END) n) d
"""
_PIECES = """
SELECT p.oid::bigint, p.n, lo_get(p.oid, p.n * 1048576, 1048576)
FROM (SELECT o.oid, n FROM (SELECT oid, lo_lseek64(lo_open(oid, %(read)s), 0, 2) AS size
                            FROM unnest(%(oids)s::oid[]) oid OFFSET 0) o
      CROSS JOIN LATERAL generate_series(0, greatest(o.size - 1, 0) / 1048576) n ORDER BY 1, 2 OFFSET 0) p
"""
_UNREADABLE = """
SELECT DISTINCT pg_get_userbyid(lomowner)::text FROM pg_largeobject_metadata m
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND NOT pg_has_role(lomowner, 'USAGE')
  AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                  AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))) ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True)
class LargeObject:
    """One object; ``digest`` is of its pieces. A grant is (role or None for PUBLIC, privilege, with option)."""

    oid: int
    size: int
    digest: str
    owner: str
    comment: str | None
    grants: frozenset[tuple[str | None, str, bool]]

    def same_bytes(self, other: LargeObject) -> bool:
        """True when both hold the same contents."""
        return (self.size, self.digest) == (other.size, other.digest)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Whether owners and grants are carried, and whether contents are compared by size alone."""

    owners: bool = True
    grants: bool = True
    sizes_only: bool = False


def unreadable(source: Server) -> tuple[str, ...]:
    """The owners of the large objects that our login may not read."""
    return tuple(str(row[0]) for row in source.rows(_UNREADABLE))


def strange_owners(source: Server, target: Server) -> tuple[str, ...]:
    """Owners of large objects that are on the target too, where our login may not act as them."""
    owners = {
        str(r[0])
        for r in source.rows("SELECT DISTINCT pg_get_userbyid(lomowner)::text FROM pg_largeobject_metadata")
    }
    there = {str(r[0]) for r in target.rows("SELECT rolname::text FROM pg_roles")}
    return tuple(sorted((owners & there) - assumable(target)))


def size(source: Server) -> tuple[int, int]:
    """How many objects there are, and how many bytes they take on disk."""
    row = source.row(
        "SELECT (SELECT count(*) FROM pg_largeobject_metadata), pg_total_relation_size('pg_largeobject')"
    )
    assert row is not None
    return row[0], row[1]


def lock_statement() -> sql.SQL:
    """What holds back every writer of large objects, and other readers too; only a superuser may."""
    # The server opens this table for writing even to read it: whoever locks it must read it in this session.
    return sql.SQL("LOCK TABLE pg_catalog.pg_largeobject, pg_catalog.pg_largeobject_metadata IN SHARE MODE")


def inventory(
    session: Session, *, digests: bool, oids: Sequence[int] | None = None
) -> dict[int, LargeObject]:
    """Large objects by OID (all, or ``oids``), as the session sees them; without ``digests`` one piece is read."""
    wanted = list(oids) if oids is not None else None
    rows = session.execute(_INVENTORY, {"read": _READ, "digests": digests, "oids": wanted}).fetchall()
    return {
        r[0]: LargeObject(
            oid=r[0],
            size=r[1],
            digest=r[2],
            owner=r[3],
            comment=r[4],
            grants=frozenset((who, what, option == "true") for who, what, option in r[5] or ()),
        )
        for r in rows
    }


def level(
    workspace: Workspace, terms: Terms, *, timeout: float = 0, within: Session | None = None
) -> dict[str, int]:
    """Make the target's large objects what the source's are; tells how many were copied, removed and seen.

    ``timeout`` in seconds bounds each statement (0: none). ``within`` is a session of the source with a
    transaction to read in; left out, one of its own. A failure leaves whole objects, some of them old.
    StepFailed when what was written does not read back the same.
    """
    if within is not None:
        return _level(workspace, within, terms, timeout)
    with workspace.source.session(read_only=True) as reader:
        _begin(reader)
        return _level(workspace, reader, terms, timeout)


def _level(workspace: Workspace, reader: Session, terms: Terms, timeout: float) -> dict[str, int]:
    ours, theirs = _both(workspace, reader, terms, timeout)
    stale = [o for oid, o in sorted(ours.items()) if oid not in theirs or not o.same_bytes(theirs[oid])]
    gone = sorted(theirs.keys() - ours.keys())
    for start in range(0, len(gone), _AT_ONCE):
        _unlink(workspace, gone[start : start + _AT_ONCE])
    for start in range(0, len(stale), _AT_ONCE):
        _copy(workspace, reader, stale[start : start + _AT_ONCE], theirs)
    _prove(workspace, stale, timeout)
    login = workspace.target.identity().user
    fresh = {o.oid: _fresh(o, login) for o in stale}
    _describe(workspace, list(ours.values()), {**theirs, **fresh}, terms)
    return {
        "objects": len(ours),
        "copied": len(stale),
        "removed": len(gone),
        "bytes": sum(o.size for o in stale),
    }


def _unlink(workspace: Workspace, oids: Sequence[int]) -> None:
    with workspace.writing() as writer:
        writer.execute("SELECT lo_unlink(oid) FROM unnest(%s::oid[]) oid", [list(oids)])
        failpoint("large_objects.before_remove")
    failpoint("large_objects.removed")


def _begin(session: Session) -> None:
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")


def _bound(session: Session, timeout: float) -> None:
    """Bound each further statement of the open transaction."""
    session.execute("SELECT set_config('statement_timeout', %s, true)", [str(int(timeout * 1000))])


def _both(
    workspace: Workspace, reader: Session, terms: Terms, timeout: float
) -> tuple[dict[int, LargeObject], dict[int, LargeObject]]:
    def theirs() -> dict[int, LargeObject]:
        with workspace.target.session(read_only=True) as session:
            _begin(session)
            _bound(session, timeout)
            return inventory(session, digests=not terms.sizes_only)

    _bound(reader, timeout)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(theirs)
        return inventory(reader, digests=not terms.sizes_only), other.result()


def _copy(
    workspace: Workspace, reader: Session, objects: Sequence[LargeObject], there: Mapping[int, LargeObject]
) -> None:
    oids = [o.oid for o in objects]
    with workspace.writing() as writer:
        replaced = [oid for oid in oids if oid in there]
        writer.execute("SELECT lo_unlink(oid) FROM unnest(%s::oid[]) oid", [replaced])
        writer.execute("SELECT lo_create(oid) FROM unnest(%s::oid[]) oid", [oids])
        with writer.pipeline():
            for oid, number, data in workspace.source.telling(_pieces(reader, oids)):
                writer.execute("SELECT lo_put(%s::oid, %s * 1048576::bigint, %s)", [oid, number, data])
        failpoint("large_objects.before_commit")


def _pieces(reader: Session, oids: Sequence[int]) -> Iterator[Row]:
    with reader.cursor(name="pieces", binary=True) as pieces:
        pieces.itersize = 8
        yield from pieces.execute(_PIECES, {"read": _READ, "oids": oids})


def _prove(workspace: Workspace, written: Sequence[LargeObject], timeout: float) -> None:
    with workspace.target.session(read_only=True) as session:
        _begin(session)
        _bound(session, timeout)
        found = inventory(session, digests=True, oids=[o.oid for o in written])
    wrong = [o.oid for o in written if o.oid not in found or not o.same_bytes(found[o.oid])]
    if wrong:
        raise StepFailed(
            f"target: {len(wrong)} large objects differ from the source's after the copy: {wrong[:10]}",
            remedy="Find out who else writes large objects on the target; run again.",
        )


def _fresh(wanted: LargeObject, login: str) -> LargeObject:
    """A newly made object: the login's, with the owner's rights and nothing else."""
    owners = frozenset({(login, "SELECT", False), (login, "UPDATE", False)})
    return LargeObject(
        oid=wanted.oid, size=wanted.size, digest=wanted.digest, owner=login, comment=None, grants=owners
    )


def _describe(
    workspace: Workspace, ours: Sequence[LargeObject], theirs: Mapping[int, LargeObject], terms: Terms
) -> None:
    differing = [(o, made) for o in ours if (made := list(_statements(o, theirs[o.oid], terms)))]
    for start in range(0, len(differing), _AT_ONCE):
        with workspace.writing() as writer, writer.pipeline():
            for _, made in differing[start : start + _AT_ONCE]:
                for statement in made:
                    writer.execute(statement)
        failpoint("large_objects.described")


def _statements(ours: LargeObject, theirs: LargeObject, terms: Terms) -> Iterator[sql.Composed]:
    called = sql.Literal(ours.oid)
    if ours.comment != theirs.comment:
        yield sql.SQL("COMMENT ON LARGE OBJECT {} IS {}").format(called, sql.Literal(ours.comment))
    owner = ours.owner if terms.owners else theirs.owner
    if owner != theirs.owner:
        yield sql.SQL("ALTER LARGE OBJECT {} OWNER TO {}").format(called, sql.Identifier(owner))
    if not terms.grants:
        return
    wish, have = _as_of(ours, owner), _as_of(theirs, owner)
    for who, what, _ in sorted(have - wish, key=str):
        yield sql.SQL("REVOKE {} ON LARGE OBJECT {} FROM {}").format(_word(what), called, _role(who))
    for who, what, option in sorted(wish - have, key=str):
        yield sql.SQL("GRANT {} ON LARGE OBJECT {} TO {}{}").format(
            _word(what), called, _role(who), sql.SQL(" WITH GRANT OPTION" if option else "")
        )


def _as_of(found: LargeObject, owner: str) -> frozenset[tuple[str | None, str, bool]]:
    """The grants once ``owner`` owns the object: an owner's rights go with the ownership."""
    return frozenset(
        (owner if who == found.owner else who, what, option) for who, what, option in found.grants
    )


def _role(name: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if name is None else sql.Identifier(name)


def _word(privilege: str) -> sql.SQL:
    return sql.SQL("SELECT") if privilege == "SELECT" else sql.SQL("UPDATE")
