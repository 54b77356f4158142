"""Resolves secret references at the moment they are needed; nothing is kept and nothing is echoed."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from planrunner.errors import SecretUnavailable
from planrunner.failpoints import failpoint
from planrunner.loading.dsn import parse
from planrunner.masking import hush_secret
from planrunner.model import RdsInstance, Secret, SecretKind, SecretRef
from planrunner.reading import bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Endpoint

_COMMAND_SECONDS = 30.0
_LARGEST = 65_536
_RDS_HOST = re.compile(r"(?P<instance>[^.]+)\.[^.]+\.(?P<region>[a-z0-9-]+)\.rds\.amazonaws\.com(?:\.cn)?")


class SecretResolver:
    """Looks references up; ``environ`` is where ``env`` looks and what a ``command`` is given."""

    def __init__(self, environ: Mapping[str, str], *, command_seconds: float = _COMMAND_SECONDS) -> None:
        self._environ = environ
        self._command_seconds = command_seconds

    def resolve(self, endpoint: Endpoint) -> Secret | None:
        """The endpoint's password, None when its plan names none; SecretUnavailable with the remedy."""
        if endpoint.rds_iam:
            return _login_token(endpoint)
        if endpoint.password is None:
            return None
        secret = self.resolve_ref(endpoint.password, endpoint.rds)
        if "\n" in secret.reveal() or "\r" in secret.reveal():
            # Neither a file of passwords nor a service can hold one, and all else shows it to other processes.
            raise SecretUnavailable(
                f"{endpoint.password} holds a line break, which PostgreSQL's programs can't be given",
                remedy="Look whether a line too many was stored; else choose another password.",
            )
        return secret

    def resolve_ref(self, ref: SecretRef, instance: RdsInstance | None = None) -> Secret:
        """What the reference leads to; ``instance`` says how AWS is reached where it does not itself. Never empty."""
        instance = ref.access or instance
        if ref.kind is SecretKind.AWS_SECRETSMANAGER:
            # Imported late: only plans that keep secrets with AWS wait for boto3.
            from planrunner.aws.secrets import secretsmanager_value  # noqa: PLC0415

            value = secretsmanager_value(ref.locator, ref.key, instance).reveal()
        else:
            value = self._text(ref, instance)
            value = value if ref.key is None else _member(ref, value)
        if not value:
            raise SecretUnavailable(f"{ref} is empty", remedy="Put the password there.")
        if "\0" in value:
            raise SecretUnavailable(f"{ref} holds a zero byte", remedy="No password of PostgreSQL has one.")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise SecretUnavailable(f"{ref} is not UTF-8", remedy="Store the password as UTF-8.")
        hush_secret(value)
        return Secret(value)

    def _text(self, ref: SecretRef, instance: RdsInstance | None) -> str:
        match ref.kind:
            case SecretKind.ENV:
                return self._variable(ref)
            case SecretKind.FILE:
                return _file(ref)
            case SecretKind.COMMAND:
                return self._command(ref)
            case SecretKind.AWS_SSM:
                from planrunner.aws.secrets import ssm_value  # noqa: PLC0415  # as above

                return ssm_value(ref.locator, instance).reveal()
            case SecretKind.AWS_SECRETSMANAGER:
                raise AssertionError("it picks its member itself")
            case _:
                assert_never(ref.kind)

    def _variable(self, ref: SecretRef) -> str:
        if ref.locator not in self._environ:
            raise SecretUnavailable(f"{ref} is not set", remedy=f"Set it: export {ref.locator}=…")
        return self._environ[ref.locator]

    def _command(self, ref: SecretRef) -> str:
        failpoint("secret.before_command")
        try:
            child = subprocess.Popen(
                shlex.split(ref.locator),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # What it says of its failure may hold the secret.
                stderr=subprocess.DEVNULL,
                env=dict(self._environ),
                start_new_session=True,
            )
        except (OSError, ValueError, IndexError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SecretUnavailable(
                f"{ref} could not be started: {reason}", remedy="Check the command's name and its quotes."
            ) from error
        return _decoded(ref, self._output(ref, child))

    def _output(self, ref: SecretRef, child: subprocess.Popen[bytes]) -> bytes:
        try:
            output = _bounded_output(child, self._command_seconds)
        except TimeoutError as error:
            raise SecretUnavailable(
                f"{ref} has not answered within {self._command_seconds:g} s",
                remedy="Run it yourself; it must not ask for anything.",
            ) from error
        finally:
            _end(child)
        if len(output) > _LARGEST:
            raise SecretUnavailable(
                f"{ref} printed too much for a secret", remedy="Run it yourself to see what."
            )
        if child.returncode != 0:
            raise SecretUnavailable(
                f"{ref} ended with exit code {child.returncode}", remedy="Run it yourself to see why."
            )
        return output


def _bounded_output(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    """What a child prints until it ends, a little more than is allowed at most; TimeoutError when it lasts too long."""
    assert child.stdout is not None
    deadline, output = time.monotonic() + seconds, b""
    while len(output) <= _LARGEST:
        readable, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(child.stdout.fileno(), _LARGEST) if readable else None
        if part is None:
            raise TimeoutError
        if not part:
            break
        output += part
    else:
        return output
    try:
        child.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return output


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    # The whole group: a grandchild that holds the pipe open would be waited for.
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _file(ref: SecretRef) -> str:
    try:
        data = bounded(Path(ref.locator), _LARGEST)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SecretUnavailable(
            f"{ref} cannot be read: {reason}", remedy="Put the password into this file, mode 0600."
        ) from error
    if len(data) > _LARGEST:
        raise SecretUnavailable(f"{ref} is too large for a secret", remedy="Name another file.")
    return _decoded(ref, data)


def _decoded(ref: SecretRef, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        # Not chained: the error carries the bytes.
        raise SecretUnavailable(f"{ref} is not UTF-8", remedy="Store the password as UTF-8.") from None
    return text.removesuffix("\n").removesuffix("\r")


def _member(ref: SecretRef, text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # Not chained: the error carries the text.
        value = None
    member = value.get(ref.key) if isinstance(value, dict) else None
    if not isinstance(member, str):
        found = f"has no text under {ref.key}" if isinstance(value, dict) else "is no JSON object"
        raise SecretUnavailable(f"{ref} {found}", remedy="Correct the key of the reference, or leave it out.")
    return member


def _login_token(endpoint: Endpoint) -> Secret:
    from planrunner.aws.secrets import rds_iam_token  # noqa: PLC0415  # only such plans wait for boto3

    parameters = parse(endpoint.dsn).parameters
    host, port, user = (parameters.get(name, "") for name in ("host", "port", "user"))
    if not host or not user:
        raise SecretUnavailable(
            f"{endpoint.side.value}: rds_iam needs the host and the user in the DSN",
            remedy="Write postgresql://USER@HOST:PORT/DATABASE.",
        )
    return rds_iam_token(host, int(port or "5432"), user, endpoint.rds or _instance_of(host))


def _instance_of(host: str) -> RdsInstance:
    match = _RDS_HOST.fullmatch(host)
    return (
        RdsInstance(instance=match["instance"], region=match["region"])
        if match
        else RdsInstance(instance=host)
    )
