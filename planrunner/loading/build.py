"""From a file to a ``Plan``: runs the stages, collects what each finds, and builds the values."""

from __future__ import annotations

import hashlib
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from planrunner.errors import PlanInvalid
from planrunner.loading.checks import faults
from planrunner.loading.render import render
from planrunner.loading.source import read
from planrunner.loading.validate import violations
from planrunner.loading.variables import Given, resolve
from planrunner.model import (
    Approval,
    DialAddress,
    Endpoint,
    Plan,
    Problem,
    Side,
    StepSpec,
)
from planrunner.references import access, reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_NOTHING: Mapping[str, str] = MappingProxyType({})


def load(
    path: Path,
    *,
    variables: Mapping[str, str] = _NOTHING,
    var_files: Sequence[Path] = (),
    environ: Mapping[str, str] = _NOTHING,
) -> Plan:
    """Load a plan, its templates resolved; changes nothing and looks up no secret.

    ``variables`` are --var's, ``environ`` may hold PLANRUNNER_VAR_NAME. PlanInvalid carries every
    problem in source order; UsageError when a file can't be read.
    """
    document = read(path)
    if document.tree is None and document.problems:
        raise PlanInvalid(document.problems)
    values = resolve(document, Given(variables=variables, var_files=var_files, environ=environ))
    rendered = render(document, values)
    told = document.told | rendered.told
    problems = [
        *document.problems,
        *values.problems,
        *rendered.problems,
        *violations(document, rendered.tree, told),
        *faults(document, rendered.tree, told, path.parent),
    ]
    if problems:
        raise PlanInvalid(_in_source_order(problems, str(path)))
    return _plan(path, rendered.tree)


def _in_source_order(problems: Iterable[Problem], plan: str) -> list[Problem]:
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda p: (p.path != plan, p.path, p.line, p.column, p.message))


def _plan(path: Path, tree: Any) -> Plan:
    connections = tree["connections"]
    steps = tuple(_step(entry) for entry in tree["steps"])
    name = tree["metadata"]["name"]
    return Plan(
        name=name,
        path=path,
        digest=_digest({"name": name, "connections": connections, "steps": [_canonical(s) for s in steps]}),
        source=_endpoint(Side.SOURCE, connections, path),
        target=_endpoint(Side.TARGET, connections, path),
        steps=steps,
    )


def _canonical(step: StepSpec) -> dict[str, str]:
    return {"id": step.id, "approval": step.approval.value, "digest": step.digest}


def _step(entry: Any) -> StepSpec:
    options = entry.get("with", {})
    return StepSpec(
        id=entry["id"],
        uses=entry["uses"],
        options=options,
        approval=Approval(entry.get("approval", Approval.AUTO.value)),
        digest=_digest({"uses": entry["uses"], "with": options}),
    )


def _endpoint(side: Side, connections: Any, path: Path) -> Endpoint:
    given = connections[side.value]
    password = given.get("password", {})
    # The side that dials tells it, but it is a property of the one that is dialled.
    other = Side.TARGET if side is Side.SOURCE else Side.SOURCE
    seen = connections[other.value].get(f"{side.value}_as_seen_from_{other.value}")
    return Endpoint(
        side=side,
        dsn=given["dsn"],
        password=reference(password["secret"], path.parent) if "secret" in password else None,
        rds_iam=password.get("rds_iam", False),
        rds=access(given["rds"]["instance"], given["rds"]) if "rds" in given else None,
        seen_from_other=DialAddress(**seen) if seen else None,
        self_signed=given.get("allow_self_signed_certs", False),
        ca=_authority(given.get("ca"), path.parent),
        ca_fingerprint=given.get("ca_fingerprint"),
    )


def _authority(ca: str | None, folder: Path) -> str | None:
    return ca if ca is None or ca in {"rds", "system"} else str((folder / ca).resolve())


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
