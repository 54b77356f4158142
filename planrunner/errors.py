"""Every error planrunner raises on purpose, with the exit code each one means.

    PlanrunnerError                 3   a bug, when nothing more precise was said
    ├── UsageError                  2   the command line, a file that is not there
    │   └── PlanInvalid             2   the plan does not load; carries every problem
    ├── StepFailed                  1   a step could not do what it wished; state is resumable
    │   ├── StepBlocked             1   something outside planrunner has to happen first
    │   ├── StepConflict            1   something of our name differs from the wish
    │   ├── SnapshotLost            1   the copy's snapshot is gone; the rest needs another generation
    │   │   └── SnapshotOutdated    1   it lives, and does not show a table's rows any more
    │   ├── PoolUnfit               1   a worker can't be given this program's tasks
    │   ├── PoolLost                1   the scheduler or its workers are not there
    │   ├── WorkerLost              1   a worker ended with a task in hand
    │   ├── StepTimedOut            1   a step took longer than its timeout and was stopped
    │   └── ChecksFailed            1   the preflight found problems; carries the findings
    ├── ServerError                 1   a PostgreSQL server refused or was not there
    │   ├── ConnectionFailed        1   no session could be opened
    │   ├── QueryFailed             1   a statement was refused
    │   ├── ServerReplaced          6   another cluster answers at the address; it was not touched
    │   └── LeaseLost               1   another runner took over; this one may not write
    ├── CloudError                  1   the cloud's API refused or was not there
    ├── ToolFailed                  1   pg_dump or another child process failed
    ├── MachineExhausted            1   memory, descriptors or room on this machine are used up
    ├── SecretUnavailable           1   a secret reference could not be resolved
    ├── AuthorityUnavailable        1   the certificates to check a server by can't be had
    ├── DecisionNeeded              4   waits for an approval or an answer
    ├── LockedByAnother             5   another run works on this plan
    ├── StateUnfit                  6   the state file belongs to another plan or a newer format
    ├── DifferencesFound            7   verification found differences
    ├── PreviewStale                8   the world changed since the preview was saved
    └── Interrupted               130   a signal stopped the run; resumable

A message says what was found and where; a remedy says what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.model import Finding, Problem


class PlanrunnerError(Exception):
    """What went wrong (``message``) and what to do about it (``remedy``); neither holds a secret."""

    exit_code: ClassVar[int] = 3
    # True when an action that can't be observed is known to have had no effect: nobody has to be asked about it.
    settled: bool = False

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n{self.remedy}"


class UsageError(PlanrunnerError):
    """The command line asked for something that can't be."""

    exit_code = 2


class PlanInvalid(UsageError):
    """The plan does not load. ``problems`` holds all of them in source order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(problem.render() for problem in problems))
        self.problems = tuple(problems)


class StepFailed(PlanrunnerError):
    """A step could not bring the servers to its wish; what it finished stays finished."""

    exit_code = 1


class StepBlocked(StepFailed):
    """Something outside planrunner's reach has to happen first; the remedy says what."""


class StepConflict(StepFailed):
    """Something that carries our name differs from what the plan wishes; it is left as it is."""


class SnapshotLost(StepFailed):
    """The sessions that held a generation's snapshot are gone; what was copied under it stays copied."""


class SnapshotOutdated(SnapshotLost):
    """A table was rewritten or replaced under the snapshot, which does not show its rows any more."""


class PoolUnfit(StepFailed):
    """A worker can't be given tasks: it lacks planrunner, or has another one."""


class PoolLost(StepFailed):
    """The scheduler of the pool, or every worker of it, is not there; what is in the ledger is done."""


class WorkerLost(StepFailed):
    """A worker ended, or was cut off, with a task in hand; nothing half of it is kept."""


class StepTimedOut(StepFailed):
    """A step took longer than the plan allows; it was stopped as a signal would have stopped it."""


class ChecksFailed(StepFailed):
    """The preflight failed. ``findings`` holds every check, passed ones too."""

    def __init__(self, message: str, *, findings: Sequence[Finding], remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.findings = tuple(findings)


class ServerError(PlanrunnerError):
    """A PostgreSQL server said no, or nothing. ``sqlstate`` is its code where it gave one."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.sqlstate = sqlstate


class ConnectionFailed(ServerError):
    """No session could be opened."""


class QueryFailed(ServerError):
    """A statement was refused or its session broke; the transaction around it is rolled back."""


class ServerReplaced(ServerError):
    """The address leads to another cluster than before; nothing was done there, and waiting mends nothing."""

    # As for a state that belongs to other servers: it is the same thing, met later.
    exit_code = 6


class LeaseLost(ServerError):
    """Another runner raised the epoch; nothing of this one's open transactions is kept."""


class CloudError(PlanrunnerError):
    """The cloud's API refused a call or did not answer. ``code`` is the API's own word."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None, code: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class ToolFailed(PlanrunnerError):
    """A child process (pg_dump, pg_restore) is missing or ended with an error. ``told`` are its own words."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None, told: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.told = told


class MachineExhausted(PlanrunnerError):
    """This machine, or a limit of this process, leaves no memory, descriptors, threads or room on a disk."""

    exit_code = 1


class SecretUnavailable(PlanrunnerError):
    """A secret reference could not be resolved; the message names the reference, never a value."""

    exit_code = 1


class AuthorityUnavailable(PlanrunnerError):
    """The certificates by which a server is to prove who it is can't be had, or are not those that are pinned."""

    exit_code = 1


class DecisionNeeded(PlanrunnerError):
    """The run waits for an approval or an answer; nothing is half done."""

    exit_code = 4


class LockedByAnother(PlanrunnerError):
    """Another process works on this plan; the message names it."""

    exit_code = 5


class StateUnfit(PlanrunnerError):
    """The state file can't be used for this plan; it is left untouched."""

    exit_code = 6


class DifferencesFound(PlanrunnerError):
    """Verification found differences; the message names the tables."""

    exit_code = 7


class PreviewStale(PlanrunnerError):
    """The servers are no longer what the saved preview saw."""

    exit_code = 8


class Interrupted(PlanrunnerError):
    """A signal stopped the run; the state is resumable."""

    exit_code = 130
