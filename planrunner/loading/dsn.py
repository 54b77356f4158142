"""Reads connection strings as libpq does, far enough to see obvious mistakes without a driver."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import unquote

from planrunner.loading.document import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# libpq 18's; "ssl" is what JDBC writes and libpq understands in URIs.
_KNOWN = """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
    gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle
    keepalives_interval krbsrvname load_balance_hosts max_protocol_version min_protocol_version
    oauth_client_id oauth_client_secret oauth_issuer oauth_scope options passfile password port replication
    require_auth requirepeer requiressl scram_client_key scram_server_key service ssl ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode
    sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user
"""
KEYWORDS = frozenset(_KNOWN.split())
_SECRET = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_SSL_MODES = ("disable", "require", "verify-ca", "verify-full")
_FALLING_BACK = frozenset({"allow", "prefer"})

_URI = re.compile(
    r"postgres(?:ql)?://(?:(?P<login>[^@/]*)@)?(?P<hosts>[^/?]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<more>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
_PAIR = re.compile(
    r"\s*(?P<key>\w+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<bare>(?!')(?:[^\s\\]|\\.)*))", re.DOTALL
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SOCKET = (
    "A socket's folder is written postgresql:///DATABASE?host=/var/run/postgresql; a / in a name is %2F."
)
_ALIASES = {
    **dict.fromkeys(("database", "db", "name"), "dbname"),
    **dict.fromkeys(("username", "login", "role"), "user"),
    **dict.fromkeys(("hostname", "server", "address"), "host"),
    **dict.fromkeys(("tls", "ssl_mode", "sslrequire"), "sslmode"),
}
_NUMBERS = (
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    "tcp_user_timeout",
)
_EXAMPLE = "Write postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full, or host=… dbname=… user=…"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One mistake in a DSN; the message quotes nothing that may be a password."""

    message: str
    remedy: str
    is_password: bool = False


@dataclass(frozen=True, kw_only=True)
class Dsn:
    """A connection string's parameters, its password among them, and its mistakes."""

    parameters: Mapping[str, str]
    faults: tuple[Fault, ...] = ()

    @property
    def place(self) -> tuple[str, str, str]:
        """Host, port and database, with libpq's defaults."""
        given = self.parameters
        host = given.get("host") or given.get("hostaddr") or "localhost"
        return host, given.get("port") or "5432", given.get("dbname", "")


class _Unparsable(Exception):
    """The text is no connection string; ``fault`` says why."""

    def __init__(self, message: str, remedy: str = _EXAMPLE) -> None:
        super().__init__(message)
        self.fault = Fault(message=message, remedy=remedy)


def parse(text: str) -> Dsn:
    """Read a connection string; what is wrong with it is among its faults."""
    try:
        parameters = _from_uri(text) if "://" in text.split("=", 1)[0] else _from_pairs(text)
    except _Unparsable as error:
        return Dsn(parameters={}, faults=(error.fault,))
    return Dsn(parameters=parameters, faults=(*_oddities(text), *_faults(parameters)))


def _oddities(text: str) -> Iterator[Fault]:
    """What libpq would take without a word and nobody means."""
    if "${" in text or "$(" in text:
        remedy = "Declare NAME in vars and write {{ vars.NAME }}."
        yield Fault(message="no shell replaces ${NAME} here", remedy=remedy)
    if "://" not in text.split("=", 1)[0]:
        keys = [match["key"] for match in _PAIR.finditer(text)]
    else:
        head, _, query = text.partition("?")
        keys = [unquote(part.partition("=")[0]) for part in query.split("&")]
        database = head.partition("://")[2].partition("/")[2]
        if "#" in head:
            yield Fault(message="a # in the URI begins no fragment", remedy="Take it out, or write %23.")
        elif "/" in database:
            yield Fault(message="a / in the name of the database", remedy=_SOCKET)
    for key in sorted({key for key in keys if keys.count(key) > 1 and key in KEYWORDS}):
        yield Fault(message=f"{key} is given twice", remedy="Keep one of them.")


def without_password(text: str) -> str:
    """The connection string without a password in it."""
    if "://" not in text.split("=", 1)[0]:
        kept = [m[0] for m in _PAIR.finditer(text) if m["key"] != "password"]
        return "".join(kept).strip()
    head, question, query = text.partition("?")
    head = re.sub(r"(://[^:/@]*):[^/@]*@", r"\1@", head, count=1)
    kept = [part for part in query.split("&") if unquote(part.partition("=")[0]) != "password"]
    return head + (question + "&".join(kept) if kept != [""] and kept else "")


def _from_uri(text: str) -> dict[str, str]:
    if not re.match(r"postgres(?:ql)?://", text):
        raise _Unparsable("expected a DSN that begins with postgresql://")
    match = _URI.fullmatch(text)
    if match is None or "@" in match["hosts"]:
        raise _Unparsable(
            "the part between // and the host can't be read",
            "Percent-encode special characters of the user's name: @ is %40, / is %2F, : is %3A.",
        )
    user, _, password = (match["login"] or "").partition(":")
    found = {"user": user, "password": password, "dbname": match["dbname"] or "", **_hosts(match["hosts"])}
    return {key: _decoded(value) for key, value in [*found.items(), *_query(match["more"])] if value}


def _hosts(text: str) -> dict[str, str]:
    matches = [_HOST.fullmatch(part) for part in text.split(",")]
    found = [match for match in matches if match is not None]
    if len(found) < len(matches):
        raise _Unparsable("the host and port can't be read", "Write HOST:PORT; an IPv6 address in brackets.")
    ports = [match["port"] or "" for match in found]
    return {
        "host": ",".join(match["host"].strip("[]") for match in found),
        "port": ",".join(ports),
    }


def _query(text: str | None) -> Iterator[tuple[str, str]]:
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise _Unparsable("a parameter after the ? has no value", "Write ?KEY=VALUE&KEY=VALUE.")
        yield _decoded(key), value


def _decoded(text: str) -> str:
    if "%00" in text:
        raise _Unparsable("%00 is a character that no name may hold", "Take it out.")
    if _BAD_ESCAPE.search(text):
        raise _Unparsable("a % is followed by no hexadecimal digits", "Write a percent sign itself as %25.")
    return unquote(text)


def _from_pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position = 0
    rest = text.rstrip()
    while position < len(rest):
        match = _PAIR.match(rest, position)
        if match is None:
            raise _Unparsable("expected a DSN: a URI or KEY=VALUE pairs")
        value = match["quoted"] if match["quoted"] is not None else match["bare"]
        found[match["key"]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = match.end()
    return found


def _faults(given: Mapping[str, str]) -> Iterator[Fault]:
    for key in given:
        if key not in KEYWORDS:
            remedy = _meant(key)
            yield Fault(message="unknown parameter " + key[:60], remedy=remedy)
    yield from (_secret(key) for key in _SECRET if given.get(key))
    if not given.get("dbname") and not given.get("service"):
        yield Fault(message="names no database", remedy=_EXAMPLE)
    yield from tls_faults(given)
    yield from _port_faults(given)
    for key in _NUMBERS:
        if not re.fullmatch(r"-?[0-9]{1,9}", given.get(key, "0")):
            yield Fault(message=f"{key} is not a whole number", remedy=f"Write {key}=10.")
    if given.get("replication"):
        remedy = "Take it out; planrunner opens such sessions by itself."
        yield Fault(message="replication must not be set here", remedy=remedy)


def _meant(key: str) -> str:
    known = {**{word: word for word in KEYWORDS}, **_ALIASES}
    near = get_close_matches(key[:60].lower(), sorted(known), n=1, cutoff=0.6)
    if near:
        return f'Did you mean "{known[near[0]]}"?'
    return suggestion("", sorted(KEYWORDS), label="libpq knows")


def _port_faults(given: Mapping[str, str]) -> Iterator[Fault]:
    ports = given.get("port", "").split(",")
    if not all(map(_is_port, ports)):
        yield Fault(message="the port is not a number from 1 to 65535", remedy=_EXAMPLE)
    hosts = (given.get("host") or given.get("hostaddr") or "").split(",")
    if len(ports) not in {1, len(hosts)}:
        message = f"{len(hosts)} host{'s' if len(hosts) > 1 else ''} and {len(ports)} ports"
        yield Fault(message=message, remedy="Give one port for each host, or one for all.")


def tls_faults(given: Mapping[str, str]) -> Iterator[Fault]:
    """What is wrong with how the line is to be encrypted; nothing may fall back to plain text."""
    mode = given.get("sslmode")
    if mode in _FALLING_BACK:
        yield Fault(
            message=f"sslmode={mode} sends everything in plain text where the server wishes so",
            remedy="Leave sslmode out: then the server's certificate is verified. Where it can't be, write"
            " allow_self_signed_certs: true beside dsn (sslmode=require for a pooler's console): encrypted all the"
            " same, without proof of identity.",
        )
    elif mode is not None and mode not in _SSL_MODES:
        remedy = suggestion(mode, _SSL_MODES, label="There are")
        yield Fault(message="unknown sslmode", remedy=remedy)
    if "requiressl" in given:
        yield Fault(
            message="requiressl is a word of former times for sslmode=require and sslmode=prefer",
            remedy="Take it out; write sslmode=verify-full, or leave sslmode out, which means the same.",
        )


def _secret(key: str) -> Fault:
    if key != "password":
        return Fault(message=f"{key} is a secret and must not stand in a plan", remedy="Take it out.")
    return Fault(
        message="a password stands in the DSN",
        remedy="Take it out, and beside dsn refer to where it is kept: password: {secret: {env: NAME}}",
        is_password=True,
    )


def _is_port(text: str) -> bool:
    return text == "" or (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535)
