"""Which TLS mode a server's DSN can have: tried from the strictest down, before any password is sent."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo

if TYPE_CHECKING:
    from collections.abc import Mapping

# libpq's own root.crt, the machine's certificates, encryption alone.
_LADDER: tuple[Mapping[str, str], ...] = (
    {"sslmode": "verify-full"},
    {"sslmode": "verify-full", "sslrootcert": "system"},
    {"sslmode": "require"},
)
# An empty password is looked up nowhere but in the file, which is none: nothing secret is sent.
_SILENT = {"password": "", "passfile": f"{os.devnull}/none", "connect_timeout": "5", "gssencmode": "disable"}


class _Answer(Enum):
    YES = "yes"
    NO_TLS = "the server has no TLS"
    OTHERWISE = "not in this mode, maybe in a looser one"
    SILENCE = "not reached"


def strictest(dsn: str) -> Mapping[str, str] | None:
    """The TLS parameters of the strictest mode in which the server gets as far as asking for a password.

    ``dsn`` names no sslmode. A certificate that it names is insisted on, and a server that offers TLS is never
    talked to without. None: it is not reached in any mode.
    """
    named = bool(conninfo.conninfo_to_dict(dsn).get("sslrootcert"))
    for mode in _LADDER[: 1 if named else None]:
        match _answer(dsn, mode):
            case _Answer.YES:
                return mode
            case _Answer.NO_TLS:
                plain = {"sslmode": "disable"}
                return plain if _answer(dsn, plain) is _Answer.YES else None
            case _Answer.SILENCE:
                return None
            case _Answer.OTHERWISE:
                continue
    return None


def _answer(dsn: str, mode: Mapping[str, str]) -> _Answer:
    try:
        psycopg.connect(conninfo.make_conninfo(dsn, **_SILENT, **mode)).close()
    except psycopg.OperationalError as error:
        if error.pgconn is not None and error.pgconn.needs_password:
            return _Answer.YES
        text = str(error)
        if "does not support SSL" in text:
            return _Answer.NO_TLS
        tls = any(word in text for word in ("SSL", "certificate", "sslrootcert"))
        return _Answer.OTHERWISE if tls else _Answer.SILENCE
    return _Answer.YES
