"""A job of SerenAI's API as values: what is asked for, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json

SCHEMA_VERSION = "1.0"


class Command(Enum):
    """What a job does."""

    INIT = "init"
    SYNC = "sync"


class Stage(Enum):
    """How far a job is; UNKNOWN for a word that the API's description does not have."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, word: str) -> Stage:
        """The stage of that name."""
        return next((stage for stage in cls if stage.value == word), cls.UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The project, branch and database of a target that is named instead of dialled."""

    project: str
    branch: str
    database: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for. ``target`` is a URL, or a place in the console; ``filter`` as the API has it."""

    command: Command
    source_url: str
    target: str | Place
    filter: Mapping[str, Sequence[str]]
    options: Mapping[str, Json] = field(default_factory=dict)

    def body(self, key: str) -> dict[str, Json]:
        """The request's JSON; ``key`` is in it where the API has to look the target's address up."""
        target: dict[str, Json] = (
            {"target_url": self.target}
            if isinstance(self.target, str)
            else {
                "target_project_id": self.target.project,
                "target_branch_id": self.target.branch,
                "target_databases": [self.target.database],
                "seren_api_key": key,
            }
        )
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command.value,
            "source_url": self.source_url,
            **target,
            "filter": dict(self.filter),
            "options": dict(self.options),
        }


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a job is, as the API told. ``word`` is its status as it was written."""

    job_id: str
    word: str
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    database: str | None = None
    databases: tuple[int, int] | None = None
    message: str | None = None
    error: str | None = None
    logs: tuple[str, ...] = ()
    exit_code: int | None = None

    @property
    def stage(self) -> Stage:
        """The status as one of those that are known."""
        return Stage.of(self.word)

    def line(self) -> str:
        """How far it is, for people."""
        done = f"{self.databases[0]} of {self.databases[1]} databases" if self.databases else ""
        parts = [done, self.database or "", self.message or ""]
        more = ", ".join(part for part in parts if part)
        return f"{self.word}: {more}" if more else self.word


def standing(job_id: str, told: Mapping[str, Any]) -> Standing | None:
    """What an answer says of the job; None where it says no status."""
    word = _text(told.get("status"))
    if word is None:
        return None
    progress = told.get("progress")
    found: Mapping[str, Any] = progress if isinstance(progress, dict) else {}
    done, total = found.get("databases_completed"), found.get("databases_total")
    exit_code = told.get("exit_code")
    return Standing(
        job_id=job_id,
        word=word,
        created_at=_text(told.get("created_at")),
        started_at=_text(told.get("started_at")),
        completed_at=_text(told.get("completed_at")),
        database=_text(found.get("current_database")),
        databases=(done, total) if isinstance(done, int) and isinstance(total, int) else None,
        message=_text(found.get("message")),
        error=_text(told.get("error")),
        logs=_lines(told.get("logs")),
        exit_code=exit_code if isinstance(exit_code, int) else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _lines(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.splitlines())
    return tuple(str(line) for line in value) if isinstance(value, list) else ()
