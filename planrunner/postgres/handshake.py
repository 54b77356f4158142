"""A TLS handshake of our own, to learn why a certificate is refused: libpq says only that it is."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 5.0
# PostgreSQL's SSLRequest: length and code, answered by one letter.
# https://www.postgresql.org/docs/current/protocol-message-formats.html
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_REFUSED = "certificate verify failed"


def refusal(words: str, parameters: Mapping[str, str]) -> str | None:
    """OpenSSL's reason for a certificate that libpq refused with those words; None when it can't be learnt.

    Nothing is sent but the wish for TLS: no name and no password. The certificate is held against the same files.
    """
    host = parameters.get("hostaddr") or parameters.get("host", "")
    roots = parameters.get("sslrootcert")
    if _REFUSED not in words or not host or "," in host or not roots:
        return None
    try:
        context = _context(roots, parameters.get("sslcrl"))
        with socket.create_connection((host, int(parameters.get("port") or 5432)), timeout=_SECONDS) as line:
            _shake(line, context, parameters)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        return None
    return None


def _context(roots: str, revoked: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The name is libpq's to compare: it says so itself.
    context.check_hostname = False
    if roots == "system":
        context.load_default_certs()
    else:
        context.load_verify_locations(roots)
    if revoked:
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    return context


def _shake(line: socket.socket, context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    if parameters.get("sslnegotiation") != "direct":
        line.sendall(_SSL_REQUEST)
        if line.recv(1) != b"S":
            return
    with context.wrap_socket(line, server_hostname=parameters.get("host") or None):
        return
