"""DescribeCertificates as RDS answers it, which moto does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class CertificateAuthority:
    """An authority that instances may use; ``thumbprint`` is the SHA-1 of its certificate."""

    identifier: str
    thumbprint: str
    since: datetime
    until: datetime


def described(authorities: Iterable[CertificateAuthority], xmlns: str) -> str:
    """The answer to DescribeCertificates."""
    listed = "".join(
        f"<Certificate><CertificateIdentifier>{escape(each.identifier)}</CertificateIdentifier>"
        f"<CertificateType>CA</CertificateType><Thumbprint>{escape(each.thumbprint)}</Thumbprint>"
        f"<ValidFrom>{each.since:%Y-%m-%dT%H:%M:%SZ}</ValidFrom><ValidTill>{each.until:%Y-%m-%dT%H:%M:%SZ}</ValidTill>"
        "</Certificate>"
        for each in authorities
    )
    return (
        f"<DescribeCertificatesResponse {xmlns}><DescribeCertificatesResult><Certificates>{listed}</Certificates>"
        "</DescribeCertificatesResult></DescribeCertificatesResponse>"
    )
