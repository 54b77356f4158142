"""Secrets that AWS keeps or makes: Secrets Manager, Parameter Store, and RDS's login tokens."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.aws.failures import translated
from planrunner.aws.session import client
from planrunner.errors import CloudError, SecretUnavailable
from planrunner.model import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import RdsInstance

# Where the secrets that RDS itself writes keep the password.
_RDS_MEMBER = "password"


def secretsmanager_value(locator: str, key: str | None, instance: RdsInstance | None) -> Secret:
    """The secret of that name or ARN; ``key`` picks a member of a JSON secret.

    Without a key that is ``password``, where RDS writes it.
    An ARN's region wins over the instance's. SecretUnavailable when there is none, it can't be read,
    or it has no such member.
    """
    with _unavailable(f"aws_secretsmanager:{locator}"):
        service = client("secretsmanager", instance, region=_region(locator))
        with translated("secretsmanager", instance):
            text = service.get_secret_value(SecretId=locator).get("SecretString")
    if text is None:
        raise SecretUnavailable(
            f"aws_secretsmanager:{locator} is binary", remedy="Store the password as text or as JSON."
        )
    return Secret(_member(locator, text, key))


def secretsmanager_members(locator: str, instance: RdsInstance | None) -> dict[str, object]:
    """All members of a JSON secret, the secret ones too: not to be shown. SecretUnavailable when it is none."""
    with _unavailable(f"aws_secretsmanager:{locator}"):
        service = client("secretsmanager", instance, region=_region(locator))
        with translated("secretsmanager", instance):
            text = service.get_secret_value(SecretId=locator).get("SecretString")
    members = _json_object(text or "")
    if members is None:
        raise SecretUnavailable(
            f"aws_secretsmanager:{locator} is no JSON object",
            remedy="Store host and port as members of a JSON object, as RDS does.",
        )
    return members


def replace_members(locator: str, members: Mapping[str, object], instance: RdsInstance | None) -> None:
    """A new current version of a JSON secret; the former one stays as AWSPREVIOUS. CloudError when refused."""
    service = client("secretsmanager", instance, region=_region(locator))
    with translated("secretsmanager", instance):
        service.put_secret_value(SecretId=locator, SecretString=json.dumps(members))


def ssm_value(locator: str, instance: RdsInstance | None) -> Secret:
    """The parameter of that name or ARN from the Parameter Store, decrypted.

    SecretUnavailable when there is none or it can't be read.
    """
    with _unavailable(f"aws_ssm:{locator}"):
        service = client("ssm", instance, region=_region(locator))
        with translated("ssm", instance):
            value = service.get_parameter(Name=locator, WithDecryption=True)["Parameter"].get("Value")
    if not value:
        raise SecretUnavailable(f"aws_ssm:{locator} has no value", remedy="Store the password in it.")
    return Secret(_without_line_end(value))


def _without_line_end(text: str) -> str:
    # put-parameter --value file://… stores the file's last line end, too.
    return text.removesuffix("\n").removesuffix("\r")


def rds_iam_token(host: str, port: int, user: str, instance: RdsInstance) -> Secret:
    """A login token for that user; PostgreSQL takes it as the password for 15 minutes.

    ``host`` and ``port`` are those that will be dialled: the token is signed for them. It is made
    here, without a call to AWS. SecretUnavailable when there are no credentials or no region.
    """
    with _unavailable(f"rds_iam:{user}@{host}"):
        service = client("rds", instance)
        with translated("rds", instance):
            return Secret(service.generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user))


def _region(locator: str) -> str | None:
    # arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE
    parts = locator.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 5 else None


def _member(locator: str, text: str, key: str | None) -> str:
    members = _json_object(text)
    if key is None and members is None:
        return _without_line_end(text)
    value = (members or {}).get(key or _RDS_MEMBER)
    if key is None and value is None:
        raise SecretUnavailable(
            f"aws_secretsmanager:{locator} is a JSON object",
            remedy=f"Say which member is the password, with key: {', '.join(sorted(members or {}))}",
        )
    if not isinstance(value, str):
        found = ", ".join(sorted(members)) if members is not None else "no JSON object"
        raise SecretUnavailable(
            f"aws_secretsmanager:{locator} has no text under {key or _RDS_MEMBER}",
            remedy=f"It holds: {found}.",
        )
    return value


def _json_object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def _unavailable(reference: str) -> Iterator[None]:
    try:
        yield
    except CloudError as error:
        raise SecretUnavailable(
            f"{reference} could not be read: {error.message}", remedy=error.remedy
        ) from error
