"""Preflight of RDS's certificates: how long they are good, and whether our bundle knows their authority."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError
from planrunner.postgres.preflight_section import NETWORK
from planrunner.postgres.tls import VERIFYING, encrypted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from planrunner.aws.certificates import InstanceAuthority
    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

_WARNING_DAYS = 90
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def authority(server: Server, told: InstanceAuthority, now: datetime) -> Iterator[Finding]:
    """What AWS tells of the instance's authority, against the calendar and against our file."""
    parameters = server.parameters()
    if not encrypted(parameters):
        return
    side = server.side.value.capitalize()
    yield from _dates(f"{side}'s certificate authority {told.identifier}", told.until, now, _OTHER_AUTHORITY)
    yield from _dates(f"{side}'s own certificate", told.server_until, now, _OWN_RENEWAL)
    if parameters.get("sslmode") in VERIFYING and told.thumbprint and parameters.get("sslrootcert"):
        yield _known(server, told, parameters["sslrootcert"])


_OTHER_AUTHORITY = (
    "Let the instance use another one, which may restart it: aws rds modify-db-instance --db-instance-identifier"
    " NAME --ca-certificate-identifier rds-ca-rsa2048-g1 --apply-immediately; the bundle of ca: rds holds both."
)
_OWN_RENEWAL = (
    "RDS renews it by itself, on most versions without a restart; see the maintenance that is pending: aws rds"
    " describe-pending-maintenance-actions"
)


def _dates(what: str, until: datetime | None, now: datetime, remedy: str) -> Iterator[Finding]:
    if until is None:
        return
    days = (until - now).days
    if until <= now:
        yield NETWORK.failed(f"{what} has expired ({until:%Y-%m-%d}): nothing that verifies connects", remedy)
    elif days <= _WARNING_DAYS:
        yield NETWORK.warned(f"{what} expires in {days} days ({until:%Y-%m-%d})", remedy)
    else:
        yield NETWORK.passed(f"{what} is good until {until:%Y-%m-%d}")


def _known(server: Server, told: InstanceAuthority, file: str) -> Finding:
    try:
        thumbprints = _thumbprints(Path(file))
    except (OSError, ValueError) as error:
        return NETWORK.failed(
            f"The certificates in {file} can't be read: {error}", "Name another file as ca."
        )
    if (told.thumbprint or "").replace(":", "").lower() in thumbprints:
        return NETWORK.passed(f"{file} holds {told.identifier}")
    text = f"{file} does not hold {told.identifier}, which the instance uses"
    remedy = "Get the newest bundle: https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
    # An authority that another one of the file vouches for is good, too: what counts is the connection.
    return NETWORK.warned(text, remedy) if _connects(server) else NETWORK.failed(text, remedy)


def _thumbprints(file: Path) -> frozenset[str]:
    blocks = _PEM.findall(file.read_text("ascii", "replace"))
    return frozenset(
        hashlib.sha1(ssl.PEM_cert_to_DER_cert(block), usedforsecurity=False).hexdigest() for block in blocks
    )


def _connects(server: Server) -> bool:
    try:
        server.identity()
    except PlanrunnerError:
        return False
    return True
