"""Which certificate authority an RDS instance uses, and until when it and the instance's own certificate are good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.aws.failures import translated

if TYPE_CHECKING:
    from datetime import datetime

    from mypy_boto3_rds.client import RDSClient

    from planrunner.model import RdsInstance


@dataclass(frozen=True, kw_only=True)
class InstanceAuthority:
    """The authority of an instance as AWS tells of it; ``thumbprint`` is the SHA-1 of its certificate.

    ``until`` is the last moment of the authority, ``server_until`` that of the instance's own certificate; None where
    AWS does not say.
    """

    identifier: str
    thumbprint: str | None
    until: datetime | None
    server_until: datetime | None


def instance_authority(service: RDSClient, instance: RdsInstance) -> InstanceAuthority:
    """Ask which authority the instance uses; two calls. CloudError when one of them is refused."""
    with translated("rds", instance):
        found = service.describe_db_instances(DBInstanceIdentifier=instance.instance)["DBInstances"]
        told = found[0] if found else {}
        name = told.get("CACertificateIdentifier", "")
        listed = service.describe_certificates(CertificateIdentifier=name)["Certificates"] if name else []
    certificate = listed[0] if listed else {}
    return InstanceAuthority(
        identifier=name,
        thumbprint=certificate.get("Thumbprint"),
        until=certificate.get("ValidTill"),
        server_until=told.get("CertificateDetails", {}).get("ValidTill"),
    )
