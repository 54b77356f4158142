"""IAM roles that are assumed: credentials that renew themselves for as long as the run lasts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import NoCredentialsError

from planrunner.aws.tokens import discreet

if TYPE_CHECKING:
    from planrunner.model import RdsInstance

_kept: dict[tuple[object, ...], DeferredRefreshableCredentials] = {}
_lock = threading.Lock()


def assumed(base: boto3.Session, access: RdsInstance) -> boto3.Session:
    """A session with the rights of the role that ``access`` names, in the region of ``base``.

    The credentials are kept for this process and renewed some minutes before they expire; STS is asked by the
    first call that needs them.
    """
    wrapped = botocore.session.Session()
    # botocore has no public way in for credentials that renew themselves; its own shared-config provider does this.
    wrapped._credentials = credentials(base, access)  # type: ignore[attr-defined]  # noqa: SLF001
    return boto3.Session(botocore_session=wrapped, region_name=base.region_name)


def credentials(
    base: boto3.Session, access: RdsInstance, *, seconds: int | None = None
) -> DeferredRefreshableCredentials:
    """The role's credentials, good for ``seconds`` each time (the role's own default when None)."""
    role = access.assume_role
    assert role is not None
    key = (access.profile, access.region, access.endpoint_url, role, seconds)
    with _lock:
        if key not in _kept:
            _kept[key] = DeferredRefreshableCredentials(
                refresh_using=_fetcher(base, access, seconds).fetch_credentials, method="assume-role"
            )
        return _kept[key]


def _fetcher(base: boto3.Session, access: RdsInstance, seconds: int | None) -> AssumeRoleCredentialFetcher:
    role = access.assume_role
    assert role is not None
    url = role.endpoint_url or access.endpoint_url
    own = base.get_credentials()
    if own is None:
        raise NoCredentialsError

    def client(service: Any, **given: Any) -> Any:
        make: Any = base.client
        return discreet(make(service, endpoint_url=url, **given))

    wishes: dict[str, Any] = {"RoleSessionName": role.session_name}
    wishes |= {"ExternalId": role.external_id} if role.external_id else {}
    wishes |= {"DurationSeconds": seconds} if seconds else {}
    return AssumeRoleCredentialFetcher(
        client_creator=client,
        source_credentials=own,
        role_arn=role.arn,
        extra_args=wishes,
    )
