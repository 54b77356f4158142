"""From a file to a ``Plan``: runs the stages, collects what each finds, and builds the values."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from planrunner.errors import PlanInvalid
from planrunner.loading import codes
from planrunner.loading.checks import faults
from planrunner.loading.codes import coded
from planrunner.loading.contradictions import contradictions
from planrunner.loading.flow import flow, in_order, needs_of, notifications
from planrunner.loading.flow_checks import plan_files
from planrunner.loading.ignored import ignoring_faults
from planrunner.loading.ingress import authorized
from planrunner.loading.order import misplaced
from planrunner.loading.overlays import assembled
from planrunner.loading.pool import pool
from planrunner.loading.render import render, sealed
from planrunner.loading.sensitive import hush_parts, sensitive_faults
from planrunner.loading.seren import cloud
from planrunner.loading.validate import violations
from planrunner.loading.variables import Given, Value
from planrunner.loading.variables import resolve as resolve_variables
from planrunner.model import (
    Approval,
    DialAddress,
    Endpoint,
    Plan,
    Problem,
    ReplicationLogin,
    Side,
    StepSpec,
)
from planrunner.references import access, reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from planrunner.loading.document import Document
    from planrunner.loading.render import Rendered
    from planrunner.loading.variables import Variables
    from planrunner.model import Json, Secret, SecretRef

_NOTHING: Mapping[str, str] = MappingProxyType({})


def load(
    path: Path,
    *,
    variables: Mapping[str, str] = _NOTHING,
    var_files: Sequence[Path] = (),
    environ: Mapping[str, str] = _NOTHING,
    resolve: Callable[[SecretRef], Secret] | None = None,
) -> Plan:
    """Load a plan, its base merged and its templates resolved; changes nothing.

    ``variables`` are --var's, ``environ`` may hold PLANRUNNER_VAR_NAME. ``resolve`` looks up what sensitive
    variables refer to; without it nothing is looked up, and such values are ``***``. PlanInvalid carries every
    problem in source order; UsageError when a file can't be read; what ``resolve`` raises.
    """
    given = Given(variables=variables, var_files=var_files, environ=environ)
    found = examined(path, given)
    values, rendered = found.variables, found.rendered
    if resolve is not None and values.pending:
        values = values.fetched(resolve)
        rendered = render(found.document, values)
        _refuse(path, [*values.problems, *_problems(found.document, rendered)])
    hush_parts(found.sealed, rendered.tree)
    return _plan(path, rendered.tree, found.sealed.tree, values.values)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A plan without a problem, nothing looked up; ``sealed`` has ``***`` for every sensitive value."""

    document: Document
    variables: Variables
    rendered: Rendered
    sealed: Rendered


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A plan's file and everything that keeps it from loading; ``found`` is there once it can be read."""

    document: Document
    problems: tuple[Problem, ...]
    found: Examined | None = None

    @property
    def tree(self) -> Json:
        """What the plan says, its templates resolved and ``***`` for what is sensitive; None where it can't be read."""
        return self.found.sealed.tree if self.found is not None else None


def examined(path: Path, given: Given) -> Examined:
    """The stages of loading; PlanInvalid with everything that any of them finds."""
    result = examine(assembled(path), path, given)
    if result.problems or result.found is None:
        raise PlanInvalid(result.problems)
    return result.found


def examine(document: Document, path: Path, given: Given) -> Examination:
    """Hold a plan against every rule; UsageError when a variable file can't be read."""
    if document.tree is None and document.problems:
        return Examination(document=document, problems=document.problems)
    values = resolve_variables(document, given)
    rendered = render(document, values)
    hidden = sealed(document, values, rendered)
    told = document.told | rendered.told
    problems = [
        *document.problems,
        *values.problems,
        *_problems(document, rendered),
        *sensitive_faults(document, hidden, told, values.sensitive),
    ]
    ordered = tuple(_in_source_order(coded(problems, codes.VARIABLE), str(path)))
    found = Examined(document=document, variables=values, rendered=rendered, sealed=hidden)
    return Examination(document=document, problems=ordered, found=found)


def _problems(document: Document, rendered: Rendered) -> list[Problem]:
    told = document.told | rendered.told
    folder = Path(document.path).parent
    return [
        *coded(rendered.problems, codes.TEMPLATE),
        *violations(document, rendered.tree, told),
        *coded(faults(document, rendered.tree, told, folder), codes.INCONSISTENT),
        *ignoring_faults(document, rendered.tree),
        *misplaced(document, rendered.tree),
        *contradictions(document, rendered.tree, told),
    ]


def _refuse(path: Path, problems: list[Problem]) -> None:
    if problems:
        raise PlanInvalid(_in_source_order(problems, str(path)))


def _in_source_order(problems: Iterable[Problem], plan: str) -> list[Problem]:
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda p: (p.path != plan, p.path, p.line, p.column, p.message))


def _plan(path: Path, tree: Any, hidden: Any, variables: Mapping[str, Value]) -> Plan:
    connections = tree["connections"]
    pairs = zip(_steps(path, tree, variables), _steps(path, hidden, variables), strict=True)
    steps = tuple(_recorded(step, shown) for step, shown in pairs)
    return Plan(
        name=tree["metadata"]["name"],
        path=path,
        digest=digest_of(path, hidden, variables),
        source=_endpoint(Side.SOURCE, connections, path),
        target=_endpoint(Side.TARGET, connections, path),
        steps=steps,
        notifications=notifications(tree.get("notifications", ()), path.parent),
        replica=_endpoint(Side.REPLICA, connections, path) if "replica" in connections else None,
        pool=pool(tree, path.parent),
    )


def digest_of(path: Path, hidden: Any, variables: Mapping[str, Value]) -> str:
    """The digest of a plan: over its resolved form, with ``***`` for sensitive values and secrets as references."""
    steps = [_canonical(step) for step in _steps(path, hidden, variables)]
    name = hidden["metadata"]["name"]
    return _digest({"name": name, "connections": hidden["connections"], "steps": steps})


def _recorded(step: StepSpec, hidden: StepSpec) -> StepSpec:
    # A digest of a sensitive value could be guessed from: what is recorded is made of the hidden one.
    return replace(step, digest=hidden.digest, recorded=hidden.fields())


def _canonical(step: StepSpec) -> dict[str, str]:
    return {"id": step.id, "approval": step.approval.value, "digest": step.digest}


def _steps(path: Path, tree: Any, variables: Mapping[str, Value]) -> tuple[StepSpec, ...]:
    """The steps in the order in which they run."""
    made = [_step(path, tree, index, variables) for index in range(len(tree["steps"]))]
    needs = needs_of([step.id for step in made], [step.flow.needs for step in made])
    by_id = {step.id: replace(step, flow=replace(step.flow, needs=needs[step.id])) for step in made}
    return tuple(by_id[step_id] for step_id in in_order(needs))


def _step(path: Path, tree: Any, index: int, variables: Mapping[str, Value]) -> StepSpec:
    entry = tree["steps"][index]
    return StepSpec(
        id=entry["id"],
        uses=entry["uses"],
        options=entry.get("with", {}),
        approval=Approval(entry.get("approval", Approval.AUTO.value)),
        digest=_digest(_work(path, tree, index)),
        flow=flow(entry, path.parent, variables),
    )


def _work(path: Path, tree: Any, index: int) -> Mapping[str, object]:
    """What decides the work of a step: an edit of it makes what was done stale, an edit of the rest does not."""
    entry = tree["steps"][index]
    hooks = {phase: entry[phase] for phase in ("before", "after") if phase in entry}
    files = {name: _file_digest(path.parent / name) for _, name in plan_files(tree, index)}
    return {
        "uses": entry["uses"],
        "with": entry.get("with", {}),
        **hooks,
        **({"files": files} if files else {}),
    }


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
        authorize_ingress=authorized(given),
        replication=_replication(given.get("replication"), path),
        seren=cloud(given, path.parent) if side is Side.TARGET else None,
    )


def _replication(given: Any, path: Path) -> ReplicationLogin | None:
    if given is None:
        return None
    return ReplicationLogin(
        login=given["login"], password=reference(given["password"]["secret"], path.parent)
    )


def _authority(ca: str | None, folder: Path) -> str | None:
    return ca if ca is None or ca in {"rds", "system"} else os.path.realpath(folder / ca)


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
