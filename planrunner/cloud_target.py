"""The check that a target which is named by project and branch is there, and the one that the plan dials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import cloud_requests
from planrunner.errors import PlanrunnerError
from planrunner.postgres.preflight_section import SEREN, Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding
    from planrunner.seren.client import Console, Listing
    from planrunner.step import Run

NAMED = Check(
    code="PR1407",
    section=SEREN,
    title="The project and the branch of the target are there, and are what the plan dials",
    why="A job that is given a project and a branch fills the database there, whatever the plan's DSN says; planrunner"
    " looks for the rows where the DSN leads.",
    mend="Write the ids of the project and the branch whose host is the one in connections.target.dsn, or leave both"
    " out: then the cloud dials the DSN, too.",
)
_POOLER = "-pooler"


def findings(run: Run) -> Iterator[Finding]:
    """What the console says of the target; nothing where the plan names no branch."""
    seren = cloud_requests.seren_of(run.plan)
    if seren.project is None or seren.branch is None:
        return
    try:
        yield _named(run, cloud_requests.console(run), seren.project, seren.branch)
    except PlanrunnerError as error:
        yield NAMED.failed(error.message, error.remedy)


def _named(run: Run, console: Console, project_id: str, branch_id: str) -> Finding:
    project = console.project(project_id)
    branches = console.branches(project_id)
    if branch_id not in branches.names:
        return _absent(f"Project {project.name} has no branch {branch_id}", branches)
    dialled = run.target.parameters()
    databases = console.databases(project_id, branch_id)
    database = dialled.get("dbname", "")
    if database not in databases.names.values():
        return _absent(f"Branch {branches.names[branch_id]} has no database {database}", databases)
    there, ours = console.host(project_id, branch_id), dialled.get("host", "")
    place = f"branch {branches.names[branch_id]} of project {project.name}"
    if _direct(there) != _direct(ours):
        return NAMED.failed(f"The job would fill {there} ({place}), and the plan looks at {ours}", NAMED.mend)
    return NAMED.passed(f"The target is {place}, database {database}")


def _absent(text: str, there: Listing) -> Finding:
    if there.more:
        return NAMED.warned(f"{text} among those that the console lists; {there}", NAMED.mend)
    return NAMED.failed(f"{text}; {there}", NAMED.mend)


def _direct(host: str) -> str:
    """The host without the part that leads through a pooler."""
    first, dot, rest = host.lower().partition(".")
    return first.removesuffix(_POOLER) + dot + rest
