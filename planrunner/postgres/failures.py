"""Translates psycopg's errors into ours, each with its cause and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo

from planrunner.dialling import Trouble
from planrunner.errors import ConnectionFailed, QueryFailed
from planrunner.masking import masked
from planrunner.postgres import handshake
from planrunner.postgres.causes import BROKEN_SESSION, CONNECTION_CAUSES, QUERY_CAUSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Endpoint, Side
    from planrunner.postgres.causes import Cause

# libpq and psycopg repeat who failed to connect to what in several layers; one is ours.
_PREFIXES = re.compile(
    r"(?:\A|; )(?:connection failed: |connection is bad: )?(?:connection to server (?:at|on) .*? failed: )?"
    r"(?:(?:FATAL|ERROR):\s+)?"
)


def condensed(text: str, secrets: Sequence[str] = ()) -> str:
    """Text for a message: lines joined, nothing that is or looks like a password."""
    for secret in secrets:
        text = text.replace(secret, "***") if secret else text
    return "; ".join(line.strip() for line in masked(text).splitlines() if line.strip())


def connection_failure(
    error: psycopg.Error, endpoint: Endpoint, parameters: Mapping[str, str] | None = None
) -> ConnectionFailed:
    """Why no session could be opened on ``endpoint``, and the remedy.

    ``parameters`` are those that were dialled: where libpq says only that a certificate was refused, the server is
    asked once more for the reason.
    """
    text = condensed(str(error))
    reason = handshake.refusal(text, parameters) if parameters is not None else None
    text = f"{text}: {reason}" if reason else text
    # libpq gives no SQLSTATE for a refused connection, only the server's words.
    cause = next((c for c in CONNECTION_CAUSES if c.fits(text)), None)
    facts = endpoint_facts(endpoint, parameters)
    told = _PREFIXES.sub("", text, count=1)
    sqlstate = error.sqlstate or (cause.sqlstate if cause else None)
    if cause is None:
        return ConnectionFailed(
            f"{facts['side']}: cannot connect to {facts['place']}: {told}", sqlstate=sqlstate
        )
    return ConnectionFailed(
        f"{facts['side']}: {cause.message.format_map(facts)} ({told})",
        remedy=cause.remedy.format_map(facts),
        sqlstate=sqlstate,
    )


def dsn_parameters(endpoint: Endpoint) -> dict[str, str]:
    """The libpq parameters that the endpoint's DSN names; ConnectionFailed when it is not a DSN."""
    try:
        given = conninfo.conninfo_to_dict(endpoint.dsn)
    except psycopg.ProgrammingError as error:
        side = endpoint.side.value
        raise ConnectionFailed(
            f"{side}: connections.{side}.dsn is not a DSN: {condensed(str(error))}",
            remedy="Write postgresql://user@host:5432/database?sslmode=verify-full or host=… dbname=… user=…",
        ) from error
    return {name: str(value) for name, value in given.items() if value is not None}


def query_failure(error: psycopg.Error, side: Side, what: str | None) -> QueryFailed:
    """Why a statement was refused; ``what`` names it for people."""
    told = _server_words(error)
    subject = f"{what}: " if what else ""
    cause = _query_cause(error, told)
    facts = {"side": side.value}
    remedy = cause.remedy.format_map(facts) if cause else error.diag.message_hint
    lead = f"{cause.message.format_map(facts)}: " if cause else ""
    return QueryFailed(f"{side.value}: {subject}{lead}{told}", remedy=remedy, sqlstate=error.sqlstate)


_TROUBLES = (
    (Trouble.UNKNOWN_HOST, r"failed to resolve host|could not translate host name|name or service not known"),
    (Trouble.TIMED_OUT, r"timeout expired|timed out|no route to host|network is unreachable"),
    (Trouble.REFUSED, r"connection refused"),
)


def trouble_of(error: psycopg.Error) -> Trouble | None:
    """How the server was not reached; None when it was, and said no by itself."""
    text = str(error)
    return next((kind for kind, words in _TROUBLES if re.search(words, text, re.IGNORECASE)), None)


def _query_cause(error: psycopg.Error, told: str) -> Cause | None:
    if error.sqlstate is None:
        return BROKEN_SESSION if BROKEN_SESSION.fits(told) else None
    same_state = (c for c in QUERY_CAUSES if c.sqlstate == error.sqlstate)
    return next((c for c in same_state if c.fits(told)), None)


def _server_words(error: psycopg.Error) -> str:
    # Not str(error): that quotes the statement's line, which may hold a password.
    words = (error.diag.message_primary or str(error), error.diag.message_detail)
    return condensed("\n".join(word for word in words if word))


def endpoint_facts(endpoint: Endpoint, dialled: Mapping[str, str] | None = None) -> dict[str, str]:
    """What messages say of an endpoint: where, who, and the AWS command that shows its network.

    ``dialled`` are the parameters of the attempt, where there was one.
    """
    given = {**dsn_parameters(endpoint), **(dialled or {})}
    host, port = given.get("host") or "localhost", given.get("port") or "5432"
    local = host.startswith("/")
    return {
        "side": endpoint.side.value,
        "host": host,
        "port": port,
        "place": f"the socket in {host} (port {port})" if local else f"{host}:{port}",
        "user": given.get("user") or "(the system's user)",
        "database": given.get("dbname") or given.get("user") or "",
        "rootcert": given.get("sslrootcert") or "~/.postgresql/root.crt",
        "crl": given.get("sslcrl") or given.get("sslcrldir") or "its revocation list",
        "openssl": f"openssl s_client -starttls postgres -connect {host}:{port} </dev/null | openssl x509 -noout -dates",
        "network": _network_remedy(endpoint, host, port),
        "tls_remedy": _certificate_remedy(endpoint, host),
    }


def _rds_instance(endpoint: Endpoint, host: str) -> str | None:
    if endpoint.rds is not None:
        return endpoint.rds.instance
    return host.split(".", 1)[0] if host.endswith(".rds.amazonaws.com") else None


def _network_remedy(endpoint: Endpoint, host: str, port: str) -> str:
    instance = _rds_instance(endpoint, host)
    if instance is None:
        return (
            f"Check that PostgreSQL listens there (listen_addresses, port) and that every firewall"
            f" between lets this machine reach port {port}: pg_isready -h {host} -p {port}"
        )
    region = endpoint.rds.region if endpoint.rds else None
    return (
        f"Check that the instance's security group lets this machine reach port {port} and that the"
        " instance is available and, from outside its VPC, publicly accessible: aws rds"
        f" describe-db-instances --db-instance-identifier {instance}"
        f"{f' --region {region}' if region else ''} --query"
        " 'DBInstances[0].[DBInstanceStatus,PubliclyAccessible,Endpoint,VpcSecurityGroups]'"
    )


def _certificate_remedy(endpoint: Endpoint, host: str) -> str:
    where = f"connections.{endpoint.side.value}"
    if _rds_instance(endpoint, host) is None:
        bundle = "Get the certificate of the authority that signed the server's"
    else:
        bundle = (
            f"Write {where}.ca: rds, or get AWS's certificate bundle yourself: curl -o rds-ca.pem"
            " https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
        )
    return (
        f"{bundle}, and name its file as {where}.ca (or in {where}.dsn as sslrootcert=FILE);"
        " or give up the proof of identity, not the encryption:"
        f" {where}.allow_self_signed_certs: true"
    )
