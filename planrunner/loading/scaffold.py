"""Writes a first plan for two databases: commented, ready to lint, without a password in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.loading import proposal
from planrunner.loading.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.survey import Survey

_HEAD = """\
# yaml-language-server: $schema={schema}
#
# A migration by planrunner. Look at what it would do:  planrunner preview {file}
# All keys:  planrunner schema      One step:  planrunner explain snapshot
{found}apiVersion: planrunner/v1
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
_NO_REFERENCE = "    # Without this libpq looks in ~/.pgpass.\n    # password: {secret: {env: %s}}\n"
SCHEMA_FILE = "plan.schema.json"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A first plan.

    ``environment`` names the variables that must hold the passwords before it runs, ``warnings`` what else has
    to be done before it can work.
    """

    text: str
    environment: tuple[str, ...]
    warnings: tuple[str, ...] = ()


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
        Wishes(source=source, target=target, rds_instance=rds_instance, rds_region=rds_region, name=name)
    ).text


def draft(
    wishes: Wishes, found: Survey | None = None, *, file: str = "plan.yaml", schema: str = SCHEMA_FILE
) -> Draft:
    """A first plan: by what was ``found`` on the servers, else with all six steps.

    UsageError for wishes that no plan can hold.
    A password in a DSN is left out; the plan refers to SOURCE_PASSWORD or TARGET_PASSWORD instead, where the
    wishes name no other place. ``schema`` is where an editor finds the plan's JSON Schema.
    """
    wishes.check()
    warnings = proposal.warnings(wishes, found)
    remarks = [
        *(() if found is None else proposal.figures(found)),
        *(
            f"# Before it can work: {line}" if n == 0 else f"#   {line}"
            for w in warnings
            for n, line in enumerate(proposal.folded(w))
        ),
    ]
    text = _HEAD.format(
        schema=schema,
        file=file,
        found="".join(f"{line}\n" for line in ["#", *remarks] if remarks),
        name=_quoted(wishes.plan_name()),
        source=_quoted(wishes.written_dsn("source")),
        target=_quoted(wishes.written_dsn("target")),
        source_password=_password(wishes, "source"),
        target_password=_password(wishes, "target"),
        rds="".join(_rds(*wishes.rds())),
    )
    kept = [wishes.keeping(side) for side in ("source", "target")]
    return Draft(
        text=text + "".join(f"{line}\n" for line in proposal.steps(wishes, found)),
        environment=tuple(one.locator for one in kept if one is not None and one.kind == "env"),
        warnings=warnings,
    )


def _password(wishes: Wishes, side: str) -> str:
    kept = wishes.keeping(side)
    if kept is None or kept.is_pgpass:
        return _NO_REFERENCE % f"{side.upper()}_PASSWORD"
    return kept.line()


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
