"""The client of SerenAI's public API: make a job, ask how far it is; the console's projects, branches and settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import stamina
from stamina.instrumentation import set_on_retry_hooks

from planrunner.errors import CloudError
from planrunner.failpoints import failpoint
from planrunner.seren.job import standing
from planrunner.seren.line import TOO_MANY, UNANSWERED, UNREADABLE, UNSENT, Line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Secret
    from planrunner.seren.job import Job, Standing

_ATTEMPTS = 5
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
# A made-up job by which a key is tried: the API looks at the key first.
_NOBODY = "planrunner-asks-whether-this-key-is-taken"
_GONE = "HTTP 404"
_LISTED = 8


def is_job_id(text: str) -> bool:
    """Whether a job could be called so."""
    return _JOB_ID.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The API of jobs."""

    line: Line
    key: Secret

    @classmethod
    def at(cls, base: str, key: Secret, hidden: Sequence[Secret] = ()) -> Jobs:
        """The API at ``base``; ``hidden`` are passwords that its words may repeat and ours never do."""
        headers = {"x-api-key": key.reveal()}
        return cls(line=Line(base=base, headers=headers, hidden=(key, *hidden)), key=key)

    def submit(self, job: Job) -> Standing:
        """Make the job, at most once: nothing that may have arrived is sent again.

        CloudError; where it is ``settled`` no job was made, else nobody knows.
        """
        failpoint("seren.before_post")
        told = self.line.ask("POST", "/jobs", job.body(self.key.reveal()))
        failpoint("seren.posted")
        name = told.get("job_id")
        if not isinstance(name, str) or not is_job_id(name):
            raise CloudError(
                f"seren: POST {self.line.base}/jobs: the answer names no job_id",
                remedy="Look in SerenAI's console whether the job was made.",
                code=UNREADABLE,
            )
        found = standing(name, {"status": "provisioning", **told})
        assert found is not None
        return found

    def look(self, job_id: str) -> Standing:
        """How far the job is; asked again for a while where no answer comes. CloudError."""
        told = _again(self.line, "GET", f"/jobs/{quote(job_id, safe='')}")
        found = standing(job_id, told)
        if found is None:
            raise CloudError(
                f"seren: GET {self.line.base}/jobs/{job_id}: the answer says no status",
                remedy="Look at the job in SerenAI's console.",
                code=UNREADABLE,
            )
        return found

    def try_key(self) -> None:
        """Ask for a job that there is not; CloudError when the API is away or refuses the key."""
        try:
            _again(self.line, "GET", f"/jobs/{_NOBODY}", attempts=3)
        except CloudError as error:
            if error.code != _GONE:
                raise


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project of the console and whether its servers may publish."""

    id: str
    name: str
    logical: bool


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the console lists, its names by their ids. ``more`` are those that it did not tell of."""

    what: str
    names: Mapping[str, str]
    more: int

    def __str__(self) -> str:
        """For people: which there are."""
        shown = [name if name == id_ else f"{name} ({id_})" for id_, name in self.names.items()]
        rest = self.more + len(shown[_LISTED:])
        words = [*shown[:_LISTED], *([f"{rest} more"] if rest else [])]
        return f"{self.what} there are: {', '.join(words)}" if words else f"there are no {self.what}"


@dataclass(frozen=True, kw_only=True)
class Console:
    """The console's API of projects, their branches, and the databases of these."""

    line: Line

    @classmethod
    def at(cls, console: str, key: Secret) -> Console:
        """The API at ``console``."""
        headers = {"Authorization": f"Bearer {key.reveal()}"}
        return cls(line=Line(base=console, headers=headers, hidden=(key,)))

    def project(self, project_id: str) -> Project:
        """The project; CloudError, which names those that the key sees where it does not see this one."""
        try:
            told = _again(self.line, "GET", _path(project_id))
        except CloudError as error:
            if error.code != _GONE:
                raise
            raise CloudError(
                f"seren: the key sees no project {project_id}; {self.projects()}",
                remedy="Write the id of the target's project as connections.target.seren.project.",
                code=_GONE,
            ) from error
        return self._read(project_id, told)

    def projects(self) -> Listing:
        """The projects that the key sees; CloudError."""
        return self._listed("projects", "/api/projects")

    def branches(self, project_id: str) -> Listing:
        """The branches of a project; CloudError."""
        return self._listed("branches", f"{_path(project_id)}/branches")

    def databases(self, project_id: str, branch_id: str) -> Listing:
        """The databases of a branch; CloudError."""
        return self._listed("databases", f"{_branch(project_id, branch_id)}/databases")

    def host(self, project_id: str, branch_id: str) -> str:
        """The host by which the console's users dial a branch; CloudError."""
        path = f"{_branch(project_id, branch_id)}/connection-string?pooled=false"
        told = _again(self.line, "GET", path).get("connection_string")
        host = urlsplit(told).hostname if isinstance(told, str) else None
        if not host:
            # Not what it said: a password is in there.
            raise self._unreadable(path, "names no host")
        return host

    def enable_logical(self, project_id: str) -> Project:
        """Turn logical replication on, for good; a second time changes nothing. CloudError."""
        failpoint("seren.before_patch")
        told = _again(self.line, "PATCH", _path(project_id), {"enable_logical_replication": True})
        failpoint("seren.patched")
        return self._read(project_id, told)

    def _read(self, project_id: str, told: Mapping[str, Any]) -> Project:
        data = told.get("data", told)
        logical = data.get("enable_logical_replication") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(logical, bool):
            raise self._unreadable(_path(project_id), "does not say enable_logical_replication")
        return Project(id=project_id, name=str(data.get("name", project_id)), logical=logical)

    def _listed(self, what: str, path: str) -> Listing:
        told = _again(self.line, "GET", path)
        data, pages = told.get("data"), told.get("pagination")
        if not isinstance(data, list) or not all(isinstance(e, dict) and "id" in e for e in data):
            raise self._unreadable(path, f"lists no {what}")
        total = pages.get("total") if isinstance(pages, dict) else None
        return Listing(
            what=what,
            names={str(each["id"]): str(each.get("name", each["id"])) for each in data},
            more=max(total - len(data), 0) if isinstance(total, int) else 0,
        )

    def _unreadable(self, path: str, what: str) -> CloudError:
        return CloudError(
            f"seren: {self.line.base}{path}: the answer {what}",
            remedy="Look at the project in SerenDB's console.",
            code=UNREADABLE,
        )


def _path(project_id: str) -> str:
    return f"/api/projects/{quote(project_id, safe='')}"


def _branch(project_id: str, branch_id: str) -> str:
    return f"{_path(project_id)}/branches/{quote(branch_id, safe='')}"


def _again(
    line: Line, method: str, path: str, body: Mapping[str, Any] | None = None, *, attempts: int = _ATTEMPTS
) -> Mapping[str, Any]:
    """Ask what may be asked twice, and ask again where the answer may be another next time."""
    # Nobody wants to hear of it but in the last error.
    set_on_retry_hooks(())
    for attempt in stamina.retry_context(
        on=_passing, attempts=attempts, timeout=None, wait_initial=0.5, wait_max=8.0, wait_jitter=0.5
    ):
        with attempt:
            return line.ask(method, path, body)
    raise AssertionError("stamina gives an answer or raises")


def _passing(error: Exception) -> bool:
    if not isinstance(error, CloudError):
        return False
    code = error.code or ""
    return code in {UNSENT, UNANSWERED, UNREADABLE, TOO_MANY, "HTTP 408"} or code.startswith("HTTP 5")
