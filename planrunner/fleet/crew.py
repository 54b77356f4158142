"""The processes that work on members: each a ``planrunner run`` of its own, so that none can pull another down."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from planrunner.errors import PlanrunnerError, PoolLost, StepFailed
from planrunner.failpoints import failpoint
from planrunner.fleet import errand
from planrunner.fleet.errand import MEMBER
from planrunner.fleet.homes import place
from planrunner.fleet.log import append, error_in, opened
from planrunner.shipped import own_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from planrunner.fleet.errand import MemberTask, Outcome
    from planrunner.fleet.folder import Folder
    from planrunner.fleet.homes import HomeOf
    from planrunner.fleet.model import Fleet, Member
    from planrunner.ports import Clock

# A state elsewhere is asked over the line, and a worker may come that has not heard what is to stop.
_AGAIN_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended: its exit code, negative for a signal, and its error as it was told; both None where unknown."""

    code: int | None
    told: str | None


class Hand:
    """A run that is ours: ``planrunner run`` of one member, its words in the member's log."""

    def __init__(
        self, fleet: Fleet, member: Member, folder: Folder, words: tuple[str, ...], environ: Mapping[str, str]
    ) -> None:
        self.member = member
        self._log = folder.log(member.name)
        command = [*own_command(), "run", *arguments(fleet, member, folder), "--no-input", *words]
        descriptor = opened(self._log)
        try:
            self._begin = os.fstat(descriptor).st_size
            failpoint("fleet.before_start")
            # A group of its own: Ctrl-C at the terminal comes to the fleet, which passes it on once.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={**environ, MEMBER: member.name},
                process_group=0,
            )
            failpoint("fleet.started")
        finally:
            os.close(descriptor)

    def poll(self) -> Ended | None:
        """How it ended; None while it works."""
        code = self._child.poll()
        return (
            None
            if code is None
            else Ended(code=code, told=error_in(self._log, self._begin) if code else None)
        )

    def stop(self) -> None:
        """Ask it to stop where it can go on later."""
        failpoint("fleet.before_signal")
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)


class Runners(Protocol):
    """Who performs members' runs as tasks; see ``fleet.here`` and ``pools.cluster``."""

    @property
    def code(self) -> str:
        """The digest of the program whose tasks they are."""
        ...

    def open(self) -> str | None:
        """Be ready for tasks, and say of whom it consists; PoolLost when nobody is there."""
        ...

    def submit(self, task: Any) -> Future[Any]:
        """Begin ``task`` when somebody is free, and let its outcome come."""
        ...

    def look(self) -> None:
        """PoolLost when nobody is there any more, so that what was submitted may never come."""
        ...

    def everywhere(self, function: Callable[..., None], *words: Any) -> None:
        """Let each process that performs tasks call ``function``."""
        ...

    def failure(self, error: BaseException) -> BaseException:
        """What an error of a future means: PoolLost, or that of one task."""
        ...

    def close(self) -> None:
        """Give it back; safe to call twice."""
        ...


class Errand:
    """A run that is ours, wherever it is performed; its log and its page come when it has ended."""

    def __init__(
        self, member: Member, task: MemberTask, runners: Runners, folder: Folder, clock: Clock
    ) -> None:
        self.member = member
        self._key = task.key
        self._runners = runners
        self._folder = folder
        self._clock = clock
        self._stops = 0
        self._told_at = 0.0
        self._future: Future[Outcome] = runners.submit(task)

    def poll(self) -> Ended | None:
        """How it ended; None while it works. PoolLost when nobody knows any more."""
        if not self._future.done():
            self._runners.look()
            if self._stops and self._clock.monotonic() - self._told_at > _AGAIN_SECONDS:
                self._tell()
            return None
        try:
            outcome = self._future.result()
        except Exception as error:  # noqa: BLE001  # whatever it is, the pool says what it means
            return self._failed(error)
        append(self._folder.log(self.member.name), outcome.tail)
        if outcome.page is not None:
            self._folder.put(self._folder.report(self.member.name), outcome.page)
        return Ended(code=outcome.code, told=outcome.told)

    def _failed(self, error: Exception) -> Ended:
        cause = self._runners.failure(error)
        if isinstance(cause, PoolLost):
            raise cause from error
        code = cause.exit_code if isinstance(cause, PlanrunnerError) else StepFailed.exit_code
        return Ended(code=code, told=str(cause))

    def stop(self) -> None:
        """Ask it to stop where it can go on later."""
        self._stops += 1
        self._tell()

    def _tell(self) -> None:
        self._told_at = self._clock.monotonic()
        # Nobody to tell: the next look says so.
        with suppress(PlanrunnerError):
            self._runners.everywhere(errand.stop, self._key, self._stops)


class Stranger:
    """A run of a member that somebody else began, such as a fleet that was killed: it is waited for."""

    def __init__(self, member: Member, homes: HomeOf, clock: Clock) -> None:
        self.member = member
        self._homes = homes
        self._clock = clock
        self._looked_at = clock.monotonic()

    def poll(self) -> Ended | None:
        """Nothing is known of how it ended; None while it works."""
        if self._clock.monotonic() - self._looked_at < _AGAIN_SECONDS:
            return None
        self._looked_at = self._clock.monotonic()
        return None if is_held(self.member, self._homes) else Ended(code=None, told=None)

    def stop(self) -> None:
        """It is not ours to stop."""


def is_held(member: Member, homes: HomeOf) -> bool:
    """Whether a run is at work on the member; where that can't be told, one that is begun will be refused."""
    try:
        with homes(member) as home:
            return home.holder() is not None
    except PlanrunnerError:
        return False


def arguments(fleet: Fleet, member: Member, folder: Folder) -> tuple[str, ...]:
    """The plan and the options that lead to a member's plan and state."""
    variables = [word for name, text in member.variables.items() for word in ("--var", f"{name}={text}")]
    return (str(member.plan), "--state", place(fleet, folder, member.name), *variables)
