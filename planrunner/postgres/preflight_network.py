"""Preflight of the lines: can we reach both servers, how good are the sessions, can the target dial."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import conninfo, sql

from planrunner.errors import PlanrunnerError, QueryFailed
from planrunner.postgres.failures import endpoint_facts
from planrunner.postgres.preflight_section import NETWORK
from planrunner.postgres.tls import VERIFYING, is_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Finding
    from planrunner.postgres.connection import Identity, Server, Session
    from planrunner.postgres.preflight_section import Needs

# sslrootcert=system came with this major.
_SYSTEM_SINCE = 16
_LEVELS = ("disable", "require", "verify-ca", "verify-full")
_LOOPBACK = re.compile(r"\A(localhost|127\..*|::1|/.*|)\Z")
# The probe dials with a password that is surely wrong: the source's refusal proves that it answers,
# and no real password gets into the target's log.
_NOT_A_PASSWORD = "planrunner-probe-without-a-password"  # noqa: S105  # the reason is above
_REFUSED_BY_SOURCE = re.compile(r"(password|PAM|\w+) authentication failed|no password supplied")
_CERTIFICATE = re.compile(r"certificate|SSL error", re.IGNORECASE)
_WITHOUT_PASSWORD = re.compile(r"does not request a password|must use the password|password or GSSAPI")


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
            finding=NETWORK.failed(f"{side} database not reachable: {text}", error.remedy), identity=None
        )
    place = endpoint_facts(server.endpoint)["place"]
    text = f'{side} database reachable (PostgreSQL {who.version_text}, "{who.database}" at {place})'
    return Reach(finding=NETWORK.passed(text), identity=who)


def session_quality(server: Server) -> Iterator[Finding]:
    """Encryption, proof of identity, primary or standby, poolers in between."""
    side = server.side.value
    yield _encryption(server)
    if server.identity().in_recovery:
        yield NETWORK.failed(
            f"{side.capitalize()} is a standby (in recovery); replication begins at the primary",
            f"Give connections.{side}.dsn the primary's (writer's) address.",
        )
    yield from _pooler(server)


def _encryption(server: Server) -> Finding:
    row = server.row("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    side = server.side.value
    given = server.parameters()
    if row is None or not row[0]:
        if _is_local(given):
            return NETWORK.passed(f"{side.capitalize()} session stays on this machine, not encrypted")
        return NETWORK.warned(
            f"{side.capitalize()} session is not encrypted",
            f"Put sslmode=verify-full into connections.{side}.dsn.",
        )
    if given.get("sslmode") in VERIFYING:
        return NETWORK.passed(f"{side.capitalize()} session is encrypted ({row[1]}), certificate verified")
    reason = "allow_self_signed_certs" if server.endpoint.self_signed else f"sslmode={given.get('sslmode')}"
    return NETWORK.warned(
        f"{side.capitalize()} session is encrypted ({row[1]}), but nothing proves who answers ({reason})",
        f"Take sslmode out of connections.{side}.dsn, and name who vouches for the server as"
        f" connections.{side}.ca: rds, system or FILE.",
    )


def _is_local(parameters: Mapping[str, str]) -> bool:
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
        yield NETWORK.failed(
            f"{side.capitalize()} is behind a transaction pooler: sessions do not last", remedy
        )
    else:
        yield NETWORK.warned(f"{side.capitalize()} is behind a proxy or pooler", remedy)


def _pid(session: Session) -> int:
    row = session.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def between(source: Server, target: Server, needs: Needs) -> Iterator[Finding]:
    """The two are different databases, and the target can dial the source."""
    there, here = source.identity(), target.identity()
    if (there.system_identifier, there.database) == (here.system_identifier, here.database):
        yield NETWORK.failed(
            "Source and target are the same database",
            "Check the hosts in connections.source.dsn and connections.target.dsn.",
        )
        return
    yield from same_level(source, Line(subscriber=target, dial=needs.dial))
    login = needs.login()
    named = {} if login is None else {"user": login}
    yield dialing(target, replace(needs, dial={**needs.dial, **named}), here)


@dataclass(frozen=True, kw_only=True)
class Line:
    """How ``subscriber`` dials the side that publishes; ``dial`` holds libpq parameters without the password."""

    subscriber: Server
    dial: Mapping[str, str]

    @property
    def who(self) -> str:
        """The side that dials."""
        return self.subscriber.side.value

    @property
    def whom(self) -> str:
        """The side that is dialled."""
        return "source" if self.who == "target" else "target"

    @property
    def place(self) -> str:
        """Where it is dialled."""
        return f"{self.dial.get('host') or 'localhost'}:{self.dial.get('port') or '5432'}"


def same_level(dialled: Server, line: Line) -> Iterator[Finding]:
    """Whether the subscription's line is secured as ours is, with files that lie on its own host."""
    own, dial = dialled.parameters(), line.dial
    who, whom = line.who.capitalize(), line.whom
    place = f"connections.{line.who}.{whom}_as_seen_from_{line.who}"
    if _strictness(dial) < _strictness(own):
        yield NETWORK.warned(
            f"{who}'s subscription asks less of the {whom} than we do: sslmode={dial.get('sslmode')}, ours is"
            f" {own.get('sslmode')}",
            f"Leave sslmode out of {place}, and name there the CA file of the {line.who}'s host as sslrootcert.",
        )
    roots = dial.get("sslrootcert")
    if dial.get("sslmode") not in VERIFYING or _is_local(line.subscriber.parameters()):
        return
    if roots is None:
        yield NETWORK.warned(
            f"{who}'s subscription verifies the {whom} by ~/.postgresql/root.crt of its own server: our file of"
            f" certificates lies on this machine, not on the {line.who}'s host",
            f"Put the certificates onto the {line.who}'s host, for its server to read, and name them as"
            f" {place}.sslrootcert (system where its own authorities know the {whom}).",
        )
    elif roots == "system" and line.subscriber.identity().major < _SYSTEM_SINCE:
        yield NETWORK.failed(
            f"{who} is PostgreSQL {line.subscriber.identity().major}, which does not know sslrootcert=system",
            f"Name a file of certificates on the {line.who}'s host as {place}.sslrootcert.",
        )


def _strictness(parameters: Mapping[str, str]) -> int:
    # A socket is as good as anything: nothing of it leaves the machine.
    return 9 if is_socket(parameters) else _LEVELS.index(parameters.get("sslmode", "disable"))


def dialing(target: Server, needs: Needs, here: Identity) -> Finding:
    """Whether the target reaches the source as a subscription will; ``here`` is who we are on the target."""
    return dialled(Line(subscriber=target, dial=needs.dial), here)


def dialled(line: Line, here: Identity) -> Finding:
    """Whether one side reaches the other as a subscription will; ``here`` is who we are on the side that dials."""
    if _is_local(line.dial) and not _is_local(line.subscriber.parameters()):
        who, whom = line.who, line.whom
        return NETWORK.failed(
            f"{who.capitalize()} can't dial the {whom}: for the {who}, {line.place} is the {who} itself",
            f"Give connections.{who}.{whom}_as_seen_from_{who} the host that the {who} reaches it by.",
        )
    schema = line.subscriber.value(
        "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'dblink'"
    )
    if schema is None:
        return _probe_by_subscription(line, superuser=here.superuser)
    return _probe(line, str(schema), superuser=here.superuser)


def _not_probed(line: Line) -> Finding:
    certificate = line.dial.get("sslrootcert")
    files = (
        f", and needs the file {certificate} on its own host" if certificate not in {None, "system"} else ""
    )
    return NETWORK.warned(
        f"{line.who.capitalize()}'s own line to the {line.whom} is not probed (the login may not); its subscription will"
        f" dial {line.place}{files}",
        f"To have it probed, run on the {line.who}: CREATE EXTENSION dblink; and check again. Otherwise make sure that"
        f" the {line.whom}'s firewall or security group lets the {line.who}'s address in.",
    )


def _probe(line: Line, schema: str, *, superuser: bool) -> Finding:
    query = sql.SQL("SELECT answer FROM {}(%s, 'SELECT 1') AS probe(answer int)").format(
        sql.Identifier(schema, "dblink")
    )
    try:
        line.subscriber.rows(
            query, [conninfo.make_conninfo("", **{**line.dial, "password": _NOT_A_PASSWORD})]
        )
    except QueryFailed as error:
        return _probe_verdict(error, line)
    if superuser:
        return NETWORK.passed(f"{line.who.capitalize()} reaches the {line.whom} at {line.place}")
    return _passwordless(line)


def probing(dial: str) -> sql.Composed:
    """What makes the server dial as a subscription will; executed in a transaction that is rolled back."""
    return sql.SQL(
        "CREATE SUBSCRIPTION planrunner_probe CONNECTION {} PUBLICATION planrunner_probe"
        " WITH (enabled = false, create_slot = false, slot_name = NONE)"
    ).format(sql.Literal(dial))


def _probe_by_subscription(line: Line, *, superuser: bool) -> Finding:
    """Let it dial as the subscription will, in a transaction that is rolled back, with a wrong password."""
    command = probing(conninfo.make_conninfo("", **{**line.dial, "password": _NOT_A_PASSWORD}))
    session = line.subscriber.open(read_only=False, autocommit=False)
    try:
        with line.subscriber.translated(f"dial the {line.whom}"):
            session.execute(command)
    except QueryFailed as error:
        if error.sqlstate in {"42501", "25006"}:
            return _not_probed(line)
        return _probe_verdict(error, line)
    finally:
        session.close()
    if superuser:
        return NETWORK.passed(f"{line.who.capitalize()} reaches the {line.whom} at {line.place}")
    return _passwordless(line)


def _probe_verdict(error: QueryFailed, line: Line) -> Finding:
    who, whom = line.who.capitalize(), line.whom
    if _REFUSED_BY_SOURCE.search(error.message):
        return NETWORK.passed(f"{who} reaches the {whom} at {line.place} (dialled)")
    if _WITHOUT_PASSWORD.search(error.message):
        return _passwordless(line)
    if error.sqlstate in {"08001", "08006"}:
        words = error.message.partition("could not establish connection; ")[2] or error.message
        remedy = _line_remedy(line) if _CERTIFICATE.search(words) else error.remedy
        return NETWORK.failed(f"{who} can't dial the {whom} at {line.place}: {words}", remedy)
    return NETWORK.warned(
        f"{who}'s own line to the {whom} could not be probed: {error.message}", error.remedy
    )


def _line_remedy(line: Line) -> str:
    who, whom = line.who, line.whom
    roots = line.dial.get("sslrootcert")
    looked = f"{roots} there" if roots else "~/.postgresql/root.crt of its server's account there"
    return (
        f"The {who}'s server checks the certificate on its own host, by {looked}. Put the certificates of the {whom}'s"
        f" authority onto that host and name them as connections.{who}.{whom}_as_seen_from_{who}.sslrootcert; or give"
        f" up the proof of identity, not the encryption: sslmode: require in the same place."
    )


def _passwordless(line: Line) -> Finding:
    return NETWORK.failed(
        f"The {line.whom} lets the {line.who} in at {line.place} without asking for a password",
        f"A subscription of a role that is no superuser must use one: let the {line.whom}'s pg_hba.conf ask the"
        f" {line.who}'s address for scram-sha-256.",
    )
