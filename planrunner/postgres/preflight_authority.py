"""Preflight of RDS's certificates: how long they are good, and whether our bundle knows their authority."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError
from planrunner.postgres.preflight_section import NETWORK, Check
from planrunner.postgres.tls import VERIFYING, encrypted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from planrunner.aws.certificates import InstanceAuthority
    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

_WARNING_DAYS = 90
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

_BUNDLE = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
AUTHORITY_LASTS = Check(
    code="PR0221",
    section=NETWORK,
    title="The instance's certificate authority lasts",
    why="From the day on which it expires nothing that verifies the server can connect, in the middle of a migration as"
    " well.",
    mend="Let the instance use another authority (aws rds modify-db-instance --ca-certificate-identifier …); the bundle"
    " of ca: rds holds the old and the new ones.",
)
CERTIFICATE_LASTS = Check(
    code="PR0222",
    section=NETWORK,
    title="The instance's own certificate lasts",
    why="An expired certificate is refused by everything that verifies it.",
    mend="RDS renews it by itself; the maintenance that is pending is told by aws rds"
    " describe-pending-maintenance-actions.",
)
BUNDLE = Check(
    code="PR0223",
    section=NETWORK,
    title="Our bundle knows the instance's authority",
    why="A bundle that is older than the instance's authority can't vouch for it: connections that verify fail.",
    mend=f"Get the newest bundle: {_BUNDLE}",
)
AUTHORITY_TOLD = Check(
    code="PR0224",
    section=NETWORK,
    title="AWS tells which authority the instance uses",
    why="Without its answer nobody sees that a certificate is about to expire.",
    mend="Allow rds:DescribeDBInstances and rds:DescribeCertificates to the identity that runs planrunner.",
)


def authority(server: Server, told: InstanceAuthority, now: datetime) -> Iterator[Finding]:
    """What AWS tells of the instance's authority, against the calendar and against our file."""
    parameters = server.parameters()
    if not encrypted(parameters):
        return
    side = server.side.value.capitalize()
    name = f"{side}'s certificate authority {told.identifier}"
    yield from _dates(AUTHORITY_LASTS, name, told.until, now)
    yield from _dates(CERTIFICATE_LASTS, f"{side}'s own certificate", told.server_until, now)
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


def _dates(check: Check, what: str, until: datetime | None, now: datetime) -> Iterator[Finding]:
    if until is None:
        return
    remedy = _OTHER_AUTHORITY if check is AUTHORITY_LASTS else _OWN_RENEWAL
    days = (until - now).days
    if until <= now:
        yield check.failed(f"{what} has expired ({until:%Y-%m-%d}): nothing that verifies connects", remedy)
    elif days <= _WARNING_DAYS:
        yield check.warned(f"{what} expires in {days} days ({until:%Y-%m-%d})", remedy)
    else:
        yield check.passed(f"{what} is good until {until:%Y-%m-%d}")


def _known(server: Server, told: InstanceAuthority, file: str) -> Finding:
    try:
        thumbprints = _thumbprints(Path(file))
    except (OSError, ValueError) as error:
        return BUNDLE.failed(f"The certificates in {file} can't be read: {error}", "Name another file as ca.")
    if (told.thumbprint or "").replace(":", "").lower() in thumbprints:
        return BUNDLE.passed(f"{file} holds {told.identifier}")
    text = f"{file} does not hold {told.identifier}, which the instance uses"
    remedy = f"Get the newest bundle: {_BUNDLE}"
    # An authority that another one of the file vouches for is good, too: what counts is the connection.
    return BUNDLE.warned(text, remedy) if _connects(server) else BUNDLE.failed(text, remedy)


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
