"""What a person says about the migration before there is a plan, by flags or to the wizard."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import UsageError
from planrunner.loading import dsn
from planrunner.loading.hosts import Host, recognized
from planrunner.loading.outline import PLAN_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

_IAM = "rds_iam"
_PGPASS = "pgpass"
KINDS = ("env", "file", "command", "aws_secretsmanager", "aws_ssm", _IAM, _PGPASS)
_EXAMPLE = (
    "For example: env:SOURCE_PASSWORD, file:./source.password, command:'op read op://infra/orders/password',"
)
_MORE = " aws_secretsmanager:prod/orders, aws_ssm:/prod/orders, rds_iam, or pgpass for ~/.pgpass"


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where a password is kept; ``locator`` is empty for an IAM token and for ~/.pgpass."""

    kind: str
    locator: str = ""

    @classmethod
    def of(cls, text: str) -> Keeping:
        """What ``KIND:WHERE`` means; UsageError for a text that means nothing."""
        kind, _, locator = text.partition(":")
        if kind not in KINDS or (kind in {_IAM, _PGPASS}) == bool(locator):
            raise UsageError(
                f"expected KIND:WHERE with a kind of {', '.join(KINDS)}", remedy=_EXAMPLE + _MORE
            )
        if not _writable(locator) or (kind == "command" and not _splits(locator)):
            raise UsageError(f"what stands after {kind}: can't stand in a plan", remedy=_EXAMPLE + _MORE)
        if kind == "env" and "=" in locator:
            raise UsageError("a variable's name has no =", remedy="Name the variable, not its value.")
        return cls(kind=kind, locator=locator)

    @property
    def is_token(self) -> bool:
        """True for RDS IAM authentication."""
        return self.kind == _IAM

    @property
    def is_pgpass(self) -> bool:
        """True where libpq looks in ~/.pgpass and the plan says nothing."""
        return self.kind == _PGPASS

    def line(self) -> str:
        """The plan's line for it."""
        if self.is_token:
            return "    password: {rds_iam: true}\n"
        value = json.dumps(shlex.split(self.locator) if self.kind == "command" else self.locator)
        if self.kind == "env" and re.fullmatch(r"[A-Z_][A-Z0-9_]{3,}", self.locator):
            value = self.locator
        return f"    password: {{secret: {{{self.kind}: {value}}}}}\n"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the first plan is to say; None is what nobody has said, and is decided by what is found.

    ``source`` and ``target`` are DSNs, maybe with a password, which no plan will hold. ``source_tls`` and
    ``target_tls`` are the parameters that the servers were found to offer, for DSNs that say nothing of TLS.
    """

    source: str
    target: str
    name: str | None = None
    rds_instance: str | None = None
    rds_region: str | None = None
    source_password: Keeping | None = None
    target_password: Keeping | None = None
    reverse: bool | None = None
    approval: str = "manual"
    reboot: str = "ask"
    source_tls: Mapping[str, str] | None = None
    target_tls: Mapping[str, str] | None = None

    def keeping(self, side: str) -> Keeping | None:
        """Where the side's password is kept: as was said, else in a variable when the DSN holds one."""
        said = self.source_password if side == "source" else self.target_password
        if said is None and dsn.parse(self.dsn(side)).parameters.get("password"):
            return Keeping(kind="env", locator=f"{side.upper()}_PASSWORD")
        return said

    def dsn(self, side: str) -> str:
        """The side's connection string as it was given."""
        return self.source if side == "source" else self.target

    def written_dsn(self, side: str) -> str:
        """The side's connection string as the plan has it: no password, TLS as the server offers it."""
        given = self.dsn(side)
        plain = dsn.without_password(given)
        tls = self.source_tls if side == "source" else self.target_tls
        if not tls or "sslmode" in dsn.parse(given).parameters:
            return plain
        if "://" in plain.split("=", 1)[0]:
            words = "&".join(f"{key}={value}" for key, value in tls.items())
            return f"{plain}{'&' if '?' in plain else '?'}{words}"
        return " ".join([plain, *(f"{key}={value}" for key, value in tls.items())])

    def host(self, side: str) -> Host:
        """What the side's host and port tell."""
        host, port, _ = dsn.parse(self.dsn(side)).place
        return recognized(host, port)

    def rds(self) -> tuple[str | None, str | None]:
        """The RDS instance and its region: as was said, else as the source's host tells."""
        told = self.host("source")
        return self.rds_instance or told.instance, self.rds_region or told.region

    def plan_name(self) -> str:
        """The plan's name: as was said, else the source's database."""
        if self.name is not None:
            return self.name
        database = dsn.parse(self.source).parameters.get("dbname", "")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", database).strip("-._")[:63] or "migration"

    def check(self) -> None:
        """UsageError for what no plan could hold."""
        for side in ("source", "target"):
            usable_dsn(side, self.dsn(side))
        if dsn.parse(self.source).place == dsn.parse(self.target).place:
            raise UsageError(
                "source and target are the same database", remedy="Name the new one as --target."
            )
        usable_name(self.plan_name())
        for word, value in (("--rds-instance", self.rds_instance), ("--rds-region", self.rds_region)):
            if value is not None and not _writable(value):
                raise UsageError(f"{word}: holds characters that no plan can", remedy="See the RDS console.")
        for side in ("source", "target"):
            said, given = self.keeping(side), dsn.parse(self.dsn(side)).parameters
            if said is not None and said.is_token and not (given.get("host") and given.get("user")):
                raise UsageError(
                    f"--{side}: a token of rds_iam is signed for host and user, and the DSN does not name both",
                    remedy="Write postgresql://USER@HOST:PORT/DATABASE.",
                )


def usable_dsn(side: str, text: str) -> None:
    """UsageError for a connection string that no plan could hold."""
    faults = [fault for fault in dsn.parse(text).faults if not fault.is_password]
    if faults:
        raise UsageError(f"--{side}: {faults[0].message}", remedy=faults[0].remedy)
    if not _writable(text):
        raise UsageError(
            f"--{side}: the DSN holds characters that no plan can", remedy="Percent-encode them."
        )


def usable_name(name: str) -> None:
    """UsageError for a name that no plan could have."""
    if not re.fullmatch(PLAN_NAME, name):
        raise UsageError(
            "--name: expected letters, digits, dots, - and _, at most 63, beginning with a letter or digit",
            remedy="For example: --name orders",
        )


def _writable(text: str) -> bool:
    """Whether it can stand in a plan as it is: no template, nothing unprintable."""
    return not re.search(r"\{[{%#]", text) and text.isprintable()


def _splits(command: str) -> bool:
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False
