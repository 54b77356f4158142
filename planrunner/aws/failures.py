"""Translates botocore's errors into CloudError, each with its cause and what to do about it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore import exceptions

from planrunner.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import RdsInstance

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_INVALID = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "AuthFailure",
        "InvalidSignatureException",
    }
)
_AGAIN = "AWS limits the rate of calls; run again in a minute."
_NO_NAME = "Check the name in the plan, and that it is in the right region: {where}."
# By the error's code without its ending "Fault".
_REMEDIES = {
    "DBInstanceNotFound": "Check connections.source.rds in the plan: {where}; list what there is with:"
    " aws rds describe-db-instances --query 'DBInstances[].DBInstanceIdentifier'",
    "DBClusterNotFound": "It is gone, or was renamed; list what there is with: aws rds describe-db-clusters",
    "InvalidDBInstanceState": "Wait until the instance is available, then run again.",
    "InvalidDBClusterState": "Wait until the cluster and its instances are available, then run again.",
    "InvalidDBParameterGroupState": "AWS is still at work on the parameter group, or something uses it; run again in"
    " a few minutes.",
    "DBParameterGroupQuotaExceeded": "Delete a parameter group that nothing uses, or name one that exists as the"
    " step's parameter_group: aws rds describe-db-parameter-groups",
    **dict.fromkeys(("Throttling", "ThrottlingException", "RequestLimitExceeded"), _AGAIN),
    **dict.fromkeys(("ResourceNotFoundException", "ParameterNotFound", "NoSuchHostedZone"), _NO_NAME),
}
_MISSING_ACTION = re.compile(r"not authorized to perform: (\S+)")
_CREDENTIALS_REMEDY = (
    "Give AWS credentials as its own tools take them (AWS_PROFILE, AWS_ACCESS_KEY_ID with"
    " AWS_SECRET_ACCESS_KEY, aws sso login, an instance role) and check them with:"
    " aws sts get-caller-identity"
)


@contextmanager
def translated(service: str, instance: RdsInstance | None = None) -> Iterator[None]:
    """Turn botocore's errors inside the block into CloudError with cause and remedy."""
    try:
        yield
    except exceptions.ClientError as error:
        raise _refused(error, service, instance) from error
    except (exceptions.BotoCoreError, exceptions.HTTPClientError) as error:
        raise _unreached(error, service, instance) from error


def _refused(error: exceptions.ClientError, service: str, instance: RdsInstance | None) -> CloudError:
    told = error.response.get("Error", {})
    code, words = told.get("Code", ""), told.get("Message", "")
    operation = error.operation_name
    if code in _DENIED:
        match = _MISSING_ACTION.search(words)
        action = match[1] if match else f"{service}:{operation}"
        return CloudError(
            f"aws: IAM does not allow {action}",
            remedy=f"Allow the action {action} in a policy of the identity that runs this. AWS says: {words}",
            code=code,
        )
    if code in _EXPIRED:
        return CloudError(
            f"aws: the credentials have expired ({operation})",
            remedy=f"Renew them, then run again: what was finished stays finished. {_CREDENTIALS_REMEDY}",
            code=code,
        )
    if code in _INVALID:
        return CloudError(
            f"aws: the credentials are not valid ({operation}: {words})",
            remedy=_CREDENTIALS_REMEDY,
            code=code,
        )
    return CloudError(f"aws: {operation}: {words or code}", remedy=_remedy(code, instance), code=code)


def _remedy(code: str, instance: RdsInstance | None) -> str | None:
    # AWS calls the same error by two names, depending on the service's age.
    text = _REMEDIES.get(code.removesuffix("Fault"))
    return None if text is None else text.format(where=_where(instance))


def _where(instance: RdsInstance | None) -> str:
    if instance is None:
        return "the region of AWS's own configuration"
    region = f"region {instance.region}" if instance.region else "the region of AWS's own configuration"
    return f"instance {instance.instance} in {region}"


def _unreached(error: Exception, service: str, instance: RdsInstance | None) -> CloudError:
    match error:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return CloudError("aws: no credentials were found", remedy=_CREDENTIALS_REMEDY)
        case exceptions.ProfileNotFound():
            return CloudError(
                f"aws: {error}",
                remedy="Check connections.source.rds.profile and AWS_PROFILE: aws configure list-profiles",
            )
        case exceptions.NoRegionError():
            return CloudError(
                f"aws: no region is known for {service}",
                remedy="Name it in the plan as connections.source.rds.region, or set AWS_DEFAULT_REGION.",
            )
        case exceptions.SSOError() | exceptions.TokenRetrievalError() | exceptions.CredentialRetrievalError():
            return CloudError(f"aws: no credentials could be got: {error}", remedy=_CREDENTIALS_REMEDY)
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            return CloudError(
                f"aws: the API of {service} does not answer: {error}",
                remedy="Check the network and the region, and rds.endpoint_url if it is set:"
                f" {_where(instance)}.",
            )
        case _:
            return CloudError(f"aws: {service}: {error}", remedy=None)
