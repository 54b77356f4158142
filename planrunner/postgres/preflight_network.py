"""Preflight of our own lines: can we reach both servers, how good are the sessions, are they two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError
from planrunner.postgres.failures import endpoint_facts
from planrunner.postgres.preflight_section import NETWORK, Check
from planrunner.postgres.tls import VERIFYING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Finding
    from planrunner.postgres.connection import Identity, Server, Session

_LOOPBACK = re.compile(r"\A(localhost|127\..*|::1|/.*|)\Z")
REACHABLE = Check(
    code="PR0201",
    section=NETWORK,
    title="Both databases answer",
    why="Whatever depends on a server that does not answer is not checked, and the migration could not begin.",
    mend="The finding names the likely cause: the address, a firewall or security group, TLS, or the login.",
    never_ignored="nothing can be moved from or to a server that does not answer",
)
ENCRYPTED = Check(
    code="PR0202",
    section=NETWORK,
    title="Sessions are encrypted",
    why="Without TLS everybody on the way reads the rows, and may change them.",
    mend="Put sslmode=verify-full into the connection's dsn, or take sslmode out: it is the default.",
)
PROVEN = Check(
    code="PR0203",
    section=NETWORK,
    title="Servers prove who they are",
    why="An encrypted line to an unknown server keeps nobody in the middle from reading the password and every row.",
    mend="Take sslmode out of the dsn and name who vouches for the server: ca: rds, ca: system or ca: FILE.",
)
PRIMARY = Check(
    code="PR0204",
    section=NETWORK,
    title="Servers are primaries",
    why="A standby (reader) can't make the publication, nor be written to: replication begins at the primary.",
    mend="Give the dsn the primary's (writer's) address.",
    never_ignored="a standby can't be migrated from or to",
)
NO_POOLER = Check(
    code="PR0205",
    section=NETWORK,
    title="No transaction pooler stands in between",
    why="A snapshot, an advisory lock and a replication connection belong to a session; a transaction pooler gives each"
    " transaction another one.",
    mend="Give the dsn the server's own address, not the pooler's.",
    never_ignored="the copy's snapshot and the lock against a second run would be lost between two statements",
)
NO_PROXY = Check(
    code="PR0206",
    section=NETWORK,
    title="No proxy or pooler stands in between",
    why="A proxy may end long sessions, and does not pass replication connections on.",
    mend="Give the dsn the server's own address, not the proxy's.",
)
APART = Check(
    code="PR0207",
    section=NETWORK,
    title="Source and target are two databases",
    why="A database that is copied into itself would be emptied or doubled.",
    mend="Correct the hosts in connections.source.dsn and connections.target.dsn.",
    never_ignored="rows would be lost",
)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Whether a server answers; ``identity`` is None when it does not."""

    finding: Finding
    identity: Identity | None


def reach(server: Server) -> Reach:
    """Open a session and ask who is there; a failure is a finding, not an exception."""
    side = server.side.value.capitalize()
    try:
        who = server.identity()
    except PlanrunnerError as error:
        text = error.message.removeprefix(f"{server.side.value}: ")
        return Reach(
            finding=REACHABLE.failed(f"{side} database not reachable: {text}", error.remedy), identity=None
        )
    place = endpoint_facts(server.endpoint)["place"]
    text = f'{side} database reachable (PostgreSQL {who.version_text}, "{who.database}" at {place})'
    return Reach(finding=REACHABLE.passed(text), identity=who)


def session_quality(server: Server) -> Iterator[Finding]:
    """Encryption, proof of identity, primary or standby, poolers in between."""
    side = server.side.value
    yield _encryption(server)
    if server.identity().in_recovery:
        yield PRIMARY.failed(
            f"{side.capitalize()} is a standby (in recovery); replication begins at the primary",
            f"Give connections.{side}.dsn the primary's (writer's) address.",
        )
    yield from _pooler(server)


def _encryption(server: Server) -> Finding:
    row = server.row("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    side = server.side.value
    given = server.parameters()
    if row is None or not row[0]:
        if is_local(given):
            return ENCRYPTED.passed(f"{side.capitalize()} session stays on this machine, not encrypted")
        return ENCRYPTED.warned(
            f"{side.capitalize()} session is not encrypted",
            f"Put sslmode=verify-full into connections.{side}.dsn.",
        )
    if given.get("sslmode") in VERIFYING:
        return ENCRYPTED.passed(f"{side.capitalize()} session is encrypted ({row[1]}), certificate verified")
    reason = "allow_self_signed_certs" if server.endpoint.self_signed else f"sslmode={given.get('sslmode')}"
    return PROVEN.warned(
        f"{side.capitalize()} session is encrypted ({row[1]}), but nothing proves who answers ({reason})",
        f"Take sslmode out of connections.{side}.dsn, and name who vouches for the server as"
        f" connections.{side}.ca: rds, system or FILE.",
    )


def is_local(parameters: Mapping[str, str]) -> bool:
    """Whether such a session stays on the machine that opens it."""
    return _LOOPBACK.match(parameters.get("host") or parameters.get("hostaddr") or "") is not None


def _pooler(server: Server) -> Iterator[Finding]:
    side = server.side.value
    with server.session(read_only=True) as first:
        shown, real = first.info.backend_pid, _pid(first)
        if shown == real:
            return
        # A pooler makes up the pid it shows. Whether it also swaps backends between two statements
        # shows when another session takes this one's backend in the meantime.
        with server.session(read_only=True) as second, second.transaction():
            _pid(second)
            swapped = _pid(first) != real
    remedy = f"Give connections.{side}.dsn the server's own address, not the pooler's."
    if swapped:
        yield NO_POOLER.failed(
            f"{side.capitalize()} is behind a transaction pooler: sessions do not last", remedy
        )
    else:
        yield NO_PROXY.warned(f"{side.capitalize()} is behind a proxy or pooler", remedy)


def _pid(session: Session) -> int:
    row = session.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def apart(source: Server, target: Server) -> Iterator[Finding]:
    """The two are different databases."""
    if one_database(source.identity(), target.identity()):
        yield APART.failed(
            "Source and target are the same database",
            "Check the hosts in connections.source.dsn and connections.target.dsn.",
        )


def one_database(there: Identity, here: Identity) -> bool:
    """Whether both are the same database of the same server."""
    return (there.system_identifier, there.database) == (here.system_identifier, here.database)
