"""Preflight of the line by which one server dials the other: reached, secured, and asked for a password."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import conninfo, sql

from planrunner.errors import QueryFailed
from planrunner.model import Mark
from planrunner.postgres.dialled import bounded, place_of
from planrunner.postgres.preflight_network import is_local, one_database
from planrunner.postgres.preflight_section import FROM_TARGET, Check
from planrunner.postgres.tls import VERIFYING, is_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Finding
    from planrunner.postgres.connection import Identity, Server
    from planrunner.postgres.preflight_section import Needs

# sslrootcert=system came with this major.
_SYSTEM_SINCE = 16
_LEVELS = ("disable", "require", "verify-ca", "verify-full")
# The probe dials with a password that is surely wrong: the source's refusal proves that it answers,
# and no real password gets into the target's log.
_NOT_A_PASSWORD = "planrunner-probe-without-a-password"  # noqa: S105  # the reason is above
_REFUSED_BY_SOURCE = re.compile(r"(password|PAM|\w+) authentication failed|no password supplied")
_CERTIFICATE = re.compile(r"certificate|SSL error", re.IGNORECASE)
_WITHOUT_PASSWORD = re.compile(r"does not request a password|must use the password|password or GSSAPI")
REACHED = Check(
    code="PR0801",
    section=FROM_TARGET,
    title="The target reaches the source",
    why="The subscription is dialled by the target's server, from its own host and network, not from this machine.",
    mend="Let the target's address through the source's security group or firewall and pg_hba.conf, and give"
    " connections.target.source_as_seen_from_target the host by which the target reaches the source.",
    can=(Mark.FAIL,),
)
UNPROBED = Check(
    code="PR0802",
    section=FROM_TARGET,
    title="The target's line to the source can be probed",
    why="What is not dialled now is dialled for the first time when the copy is done.",
    mend="Have CREATE EXTENSION dblink run on the target and check again, or see yourself that the source's firewall or"
    " security group lets the target's address in.",
    can=(Mark.WARN,),
)
ELSEWHERE = Check(
    code="PR0803",
    section=FROM_TARGET,
    title="The source's address leads from the target to the source",
    why="localhost, on the target's host, is the target itself.",
    mend="Give connections.target.source_as_seen_from_target the host by which the target reaches the source.",
    can=(Mark.FAIL,),
)
PASSWORD_ASKED = Check(
    code="PR0804",
    section=FROM_TARGET,
    title="The source asks the target for a password",
    why="A subscription of a role that is no superuser must log in by a password, or PostgreSQL refuses it.",
    mend="Let the source's pg_hba.conf ask the target's address for scram-sha-256.",
    can=(Mark.FAIL,),
)
LEVEL = Check(
    code="PR0805",
    section=FROM_TARGET,
    title="The subscription's line is secured as ours is",
    why="The subscription carries every row that changes; its line should prove as much as ours.",
    mend="Leave sslmode out of connections.target.source_as_seen_from_target.",
    can=(Mark.WARN,),
)
CERTIFICATES = Check(
    code="PR0806",
    section=FROM_TARGET,
    title="The target's host has the certificates to verify the source",
    why="The target's server verifies by files of its own host, where ours are not; without them the subscription can't"
    " connect.",
    mend="Put the certificates onto the target's host and name them as"
    " connections.target.source_as_seen_from_target.sslrootcert.",
)


@dataclass(frozen=True, kw_only=True)
class LineChecks:
    """The checks of one direction in which a subscription dials."""

    reached: Check
    unprobed: Check
    elsewhere: Check
    password_asked: Check
    level: Check
    certificates: Check


_LINE = LineChecks(
    reached=REACHED,
    unprobed=UNPROBED,
    elsewhere=ELSEWHERE,
    password_asked=PASSWORD_ASKED,
    level=LEVEL,
    certificates=CERTIFICATES,
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """How ``subscriber`` dials the side that publishes; ``dial`` holds libpq parameters without the password.

    ``checks`` are those of the target's line unless others are named.
    """

    subscriber: Server
    dial: Mapping[str, str]
    checks: LineChecks = _LINE

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
        return place_of(self.dial)


def from_target(source: Server, target: Server, needs: Needs) -> Iterator[Finding]:
    """The target can dial the source, by a line as good as ours; nothing where the two are one."""
    here = target.identity()
    if not one_database(source.identity(), here):
        yield from same_level(source, Line(subscriber=target, dial=needs.dial))
        login = needs.login()
        named = {} if login is None else {"user": login}
        yield dialing(target, replace(needs, dial={**needs.dial, **named}), here)


def same_level(dialled: Server, line: Line) -> Iterator[Finding]:
    """Whether the subscription's line is secured as ours is, with files that lie on its own host."""
    own, dial = dialled.parameters(), line.dial
    who, whom = line.who.capitalize(), line.whom
    place = f"connections.{line.who}.{whom}_as_seen_from_{line.who}"
    if _strictness(dial) < _strictness(own):
        yield line.checks.level.warned(
            f"{who}'s subscription asks less of the {whom} than we do: sslmode={dial.get('sslmode')}, ours is"
            f" {own.get('sslmode')}",
            f"Leave sslmode out of {place}, and name there the CA file of the {line.who}'s host as sslrootcert.",
        )
    roots = dial.get("sslrootcert")
    if dial.get("sslmode") not in VERIFYING or is_local(line.subscriber.parameters()):
        return
    if roots is None:
        yield line.checks.certificates.warned(
            f"{who}'s subscription verifies the {whom} by ~/.postgresql/root.crt of its own server: our file of"
            f" certificates lies on this machine, not on the {line.who}'s host",
            f"Put the certificates onto the {line.who}'s host, for its server to read, and name them as"
            f" {place}.sslrootcert (system where its own authorities know the {whom}).",
        )
    elif roots == "system" and line.subscriber.identity().major < _SYSTEM_SINCE:
        yield line.checks.certificates.failed(
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
    if is_local(line.dial) and not is_local(line.subscriber.parameters()):
        who, whom = line.who, line.whom
        return line.checks.elsewhere.failed(
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
    return line.checks.unprobed.warned(
        f"{line.who.capitalize()}'s own line to the {line.whom} is not probed (the login may not); its subscription will"
        f" dial {line.place}{files}",
        f"To have it probed, run on the {line.who}: CREATE EXTENSION dblink; and check again. Otherwise make sure that"
        f" the {line.whom}'s firewall or security group lets the {line.who}'s address in.",
    )


def _probe(line: Line, schema: str, *, superuser: bool) -> Finding:
    query = sql.SQL("SELECT answer FROM {}(%s, 'SELECT 1') AS probe(answer int)").format(
        sql.Identifier(schema, "dblink")
    )
    dial = conninfo.make_conninfo("", **{**line.dial, "password": _NOT_A_PASSWORD})
    try:
        with (
            line.subscriber.session(read_only=True) as session,
            bounded(line.subscriber, session, line.place),
        ):
            session.execute(query, [dial])
    except QueryFailed as error:
        return _probe_verdict(error, line)
    if superuser:
        return line.checks.reached.passed(f"{line.who.capitalize()} reaches the {line.whom} at {line.place}")
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
        with (
            line.subscriber.translated(f"dial the {line.whom}"),
            bounded(line.subscriber, session, line.place),
        ):
            session.execute(command)
    except QueryFailed as error:
        if error.sqlstate in {"42501", "25006"}:
            return _not_probed(line)
        return _probe_verdict(error, line)
    finally:
        session.close()
    if superuser:
        return line.checks.reached.passed(f"{line.who.capitalize()} reaches the {line.whom} at {line.place}")
    return _passwordless(line)


def _probe_verdict(error: QueryFailed, line: Line) -> Finding:
    who, whom = line.who.capitalize(), line.whom
    if _REFUSED_BY_SOURCE.search(error.message):
        return line.checks.reached.passed(f"{who} reaches the {whom} at {line.place} (dialled)")
    if _WITHOUT_PASSWORD.search(error.message):
        return _passwordless(line)
    if error.sqlstate in {"08001", "08006"}:
        told = error.message.removeprefix(f"{line.who}: ")
        words = told.partition("could not establish connection; ")[2] or told
        remedy = _line_remedy(line) if _CERTIFICATE.search(words) else error.remedy
        return line.checks.reached.failed(f"{who} can't dial the {whom} at {line.place}: {words}", remedy)
    return line.checks.unprobed.warned(
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
    return line.checks.password_asked.failed(
        f"The {line.whom} lets the {line.who} in at {line.place} without asking for a password",
        f"A subscription of a role that is no superuser must use one: let the {line.whom}'s pg_hba.conf ask the"
        f" {line.who}'s address for scram-sha-256.",
    )
