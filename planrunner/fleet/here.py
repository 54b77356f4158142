"""The pool of a fleet that names none: threads of its own process, each of which waits for one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.fleet.errand import perform
from planrunner.pools.likeness import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from planrunner.fleet.errand import MemberTask, Outcome

# They are made as they are needed; how many runs there are at a time is for the fleet to say.
_MOST = 64


class Here:
    """A pool that starts the runs on this machine."""

    def __init__(self) -> None:
        self.code = digest()
        self._executor = ThreadPoolExecutor(_MOST, thread_name_prefix="member")

    def open(self) -> str | None:
        """Nobody has to be waited for."""

    def submit(self, task: MemberTask) -> Future[Outcome]:
        """Begin it at once."""
        return self._executor.submit(perform, task)

    def look(self) -> None:
        """It is as there as whoever asks."""

    def everywhere(self, function: Callable[..., None], *words: Any) -> None:
        """Here is all there is."""
        function(*words)

    def failure(self, error: BaseException) -> BaseException:
        """What kept the run from being started."""
        if isinstance(error, PlanrunnerError):
            return error
        return StepFailed(
            f"its run could not be started: {error}", remedy="See to this machine, then run again."
        )

    def close(self) -> None:
        """Wait for what is at work."""
        self._executor.shutdown()
