"""Writes a first plan for two databases: commented, ready to lint, without a password in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import UsageError
from planrunner.loading import dsn
from planrunner.loading.outline import PLAN_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# A migration by planrunner. Look at what it would do:  planrunner preview {file}
# All keys:  planrunner schema      One step:  planrunner explain snapshot
apiVersion: planrunner/v1
kind: MigrationPlan
metadata:
  name: {name}

connections:
  source:
    dsn: {source}
{source_password}{rds}  target:
    dsn: {target}
{target_password}    # The subscription runs on the target and dials the source; say how, where it has to dial
    # another address than this machine.
    # source_as_seen_from_target: {{host: 10.0.3.7, port: 5432}}

"""
_STEPS = """\
steps:
  # Brings the source to wal_level=logical. On RDS that needs a reboot: allow, ask or never.
  - id: logical
    uses: enable_logical
    with:
      reboot: ask

  # Gives the source's login the replication right and SELECT, where it lacks them.
  - id: grant
    uses: grant

  # Checks both sides and reports every problem at once; changes nothing.
  - id: check
    uses: validate

  # Copies schema and rows as of one moment, in parallel.
  - id: copy
    uses: snapshot
    with:
      jobs: 4
      # owners: login                     # when the source's roles do not exist on the target
      # grants: skip
      # without_replica_identity: full    # when there are tables without a primary key

  # Follows every change from that moment on.
  - id: follow
    uses: sync
    with:
      max_lag: 16MB
      # max_wal_retained: 50GB            # give up before the source keeps more WAL than this

  # Stops writes, compares both sides, carries the sequences over. Waits for: planrunner approve
  - id: cutover
    uses: cutover_verify
    approval: manual
    with:
      write_pause_budget: 5s              # past it everything is rolled back
"""
_REFERENCE = "    password: {secret: {env: %s}}\n"
_NO_REFERENCE = "    # Without this libpq looks in ~/.pgpass.\n    # password: {secret: {env: %s}}\n"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A first plan, and the environment variables that must hold the passwords before it runs."""

    text: str
    environment: tuple[str, ...]


def scaffold(
    *,
    source: str,
    target: str,
    rds_instance: str | None = None,
    rds_region: str | None = None,
    name: str | None = None,
) -> str:
    """The text of a first plan; see ``draft``."""
    return draft(
        source=source, target=target, rds_instance=rds_instance, rds_region=rds_region, name=name
    ).text


def draft(
    *,
    source: str,
    target: str,
    rds_instance: str | None = None,
    rds_region: str | None = None,
    name: str | None = None,
) -> Draft:
    """A first plan with all six steps. UsageError for a DSN or a name that can't be used.

    A password in a DSN is left out; the plan refers to SOURCE_PASSWORD or TARGET_PASSWORD instead.
    ``name`` is by default the source's database.
    """
    given = {"source": _usable("source", source), "target": _usable("target", target)}
    passwords = {side: bool(parsed.parameters.get("password")) for side, parsed in given.items()}
    if given["source"].place == given["target"].place:
        raise UsageError("source and target are the same database", remedy="Name the new one as --target.")
    text = _HEAD.format(
        file="plan.yaml",
        name=_quoted(_name(name, given["source"])),
        source=_quoted(dsn.without_password(source)),
        target=_quoted(dsn.without_password(target)),
        source_password=(_REFERENCE if passwords["source"] else _NO_REFERENCE) % "SOURCE_PASSWORD",
        target_password=(_REFERENCE if passwords["target"] else _NO_REFERENCE) % "TARGET_PASSWORD",
        rds="".join(_rds(rds_instance, rds_region)),
    )
    needed = tuple(f"{side.upper()}_PASSWORD" for side, is_set in passwords.items() if is_set)
    return Draft(text=text + _STEPS, environment=needed)


def _usable(side: str, text: str) -> dsn.Dsn:
    parsed = dsn.parse(text)
    faults = [fault for fault in parsed.faults if not fault.is_password]
    if faults:
        raise UsageError(f"--{side}: {faults[0].message}", remedy=faults[0].remedy)
    if re.search(r"\{[{%#]", text) or not text.isprintable():
        raise UsageError(
            f"--{side}: the DSN holds characters that no plan can", remedy="Percent-encode them."
        )
    return parsed


def _name(name: str | None, source: dsn.Dsn) -> str:
    if name is None:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.parameters.get("dbname", "")).strip("-._")
        return plain[:63] or "migration"
    if not re.fullmatch(PLAN_NAME, name):
        raise UsageError(
            "--name: expected letters, digits, dots, - and _, at most 63, beginning with a letter or digit",
            remedy="For example: --name orders",
        )
    return name


def _rds(instance: str | None, region: str | None) -> Iterator[str]:
    if instance is None:
        yield "    # The RDS instance behind it, if it is one; enable_logical needs it.\n"
        yield "    # rds: {instance: orders-prod, region: us-east-1}\n"
        return
    yield f"    rds:\n      instance: {_quoted(instance)}\n"
    if region is not None:
        yield f"      region: {_quoted(region)}\n"


def _quoted(text: str) -> str:
    # Every JSON string is a YAML string of the same value.
    return (
        text
        if re.fullmatch(r"[a-z][a-z0-9_-]{3,}", text) and text not in {"null", "true", "false"}
        else json.dumps(text)
    )
