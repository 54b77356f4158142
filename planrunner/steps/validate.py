"""The step ``validate``: the report of everything that would stop the migration, or slow it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from planrunner import cloud_checks, cloud_jobs, prospects
from planrunner.errors import PlanrunnerError
from planrunner.model import Mark, Upkeep
from planrunner.postgres import preflight_source
from planrunner.postgres.preflight import preflight
from planrunner.postgres.preflight_authority import AUTHORITY_TOLD, authority
from planrunner.postgres.preflight_section import Needs
from planrunner.postgres.tls import encrypted
from planrunner.reachability import network_findings
from planrunner.replication import logins, relations, roles, subscriptions, upkeep
from planrunner.replication.names import Names
from planrunner.workspace import chosen, polls, selected, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Finding, Json
    from planrunner.postgres.connection import Server
    from planrunner.step import Action, Draft, Run


class Validate:
    """Checks both servers, the line between them and this machine; changes nothing."""

    uses: ClassVar[str] = "validate"
    upkeep: ClassVar[tuple[Upkeep, ...]] = (upkeep.DIALS,)

    def actions(self, run: Run) -> Sequence[Action]:  # noqa: ARG002  # every step has this shape
        """Nothing is ever missing: what the checks find is told by ``findings``."""
        return ()

    def outline(self, draft: Draft) -> Sequence[Action]:  # noqa: ARG002  # every step has this shape
        """It changes nothing."""
        return ()

    def findings(self, run: Run) -> Sequence[Finding]:
        """Every check with its verdict; with ``warnings_fail`` a warning counts as a failure."""
        checks = _mended(run, preflight(run.source, run.target, _needs(run)))
        found = (
            *(cloud_checks.eased(checks) if cloud_jobs.drafted(run) else checks),
            *_authority(run),
            *network_findings(run.plan, run.source),
            *prospects.findings(run),
            *cloud_checks.placed(run.plan),
        )
        if not run.option("warnings_fail", False):  # noqa: FBT003  # the option's default
            return found
        return tuple(_stricter(finding) for finding in found)


def _mended(run: Run, found: Sequence[Finding]) -> Sequence[Finding]:
    """Where an administrator makes the grants, what the login lacks is mended by that, whatever the login may itself."""
    if "administrator" not in _options_of(run, "grant"):
        return found
    return [
        replace(f, mended_by="grant") if f.code in preflight_source.GRANTABLE and f.mark is Mark.FAIL else f
        for f in found
    ]


def _authority(run: Run) -> Sequence[Finding]:
    """What AWS tells of the instance's certificates."""
    if run.cloud is None:
        return ()
    try:
        if not encrypted(run.source.parameters()):
            return ()
        return tuple(authority(run.source, run.cloud.authority(), run.clock.now()))
    except PlanrunnerError as error:
        text = f"Source's certificate authority can't be told: {error.message}"
        return (AUTHORITY_TOLD.warned(text, error.remedy),)


def _stricter(finding: Finding) -> Finding:
    return replace(finding, mark=Mark.FAIL) if finding.mark is Mark.WARN else finding


def _needs(run: Run) -> Needs:
    options, granting = _options_of(run, "snapshot"), _options_of(run, "grant")
    jobs = options.get("jobs", 4)
    choices = chosen(run.plan)
    return Needs(
        plan_id=run.plan_id,
        owned=Names(plan_id=run.plan_id).prefix,
        dial=subscriptions.dial_parameters(run.source),
        jobs=jobs if isinstance(jobs, int) else 4,
        memberships=granting.get("memberships", True) is True,
        keep_owners="keep" in (options.get("owners", "keep"), options.get("grants", "keep")),
        roles=_role_names,
        identity=lambda table: choices.choice(table).way.value,
        unlogged=str(options.get("unlogged", "refuse")),
        large_objects=str(options.get("large_objects", "refuse")),
        carried=selected(run.plan).carried,
        left_out=lambda source: relations.left_out(source, selected(run.plan)),
        login=lambda: logins.chosen(workspace(run), run.source).user,
        borrowed=lambda: logins.borrowed(workspace(run), run.source),
        streams=_streams(options),
        failover=_options_of(run, "sync").get("failover") is True,
        folder=run.plan.path.parent,
        polled=polls(run.plan),
    )


def _streams(options: Mapping[str, Json]) -> int:
    wanted = options.get("streams", 1)
    return wanted if isinstance(wanted, int) else 1


def _options_of(run: Run, uses: str) -> Mapping[str, Json]:
    """What the plan says of another step; a step knows the others only by the plan."""
    return next((spec.options for spec in run.plan.steps if spec.uses == uses), {})


def _role_names(source: Server) -> tuple[str, ...]:
    return tuple(role.name for role in roles.named(source))
