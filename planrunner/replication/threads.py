"""The pool of this process: threads, as many as tasks are submitted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from planrunner.replication import tasks

if TYPE_CHECKING:
    from concurrent.futures import Future

# They are made as they are needed; how many tasks there are at a time is decided by whoever submits them.
_MOST = 1024


class Threads:
    """A pool that works in this process, where ``tasks.present`` says."""

    def __init__(self) -> None:
        self.away = False
        self.code = ""
        self._executor: ThreadPoolExecutor | None = None

    def rouse(self) -> None:
        """They have all they need."""

    def open(self) -> str | None:
        """Nobody has to be waited for."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_MOST, thread_name_prefix="task")
        return None

    def submit(self, task: Any) -> Future[Any]:
        """Begin it at once."""
        assert self._executor is not None
        return self._executor.submit(tasks.perform, task)

    def look(self) -> None:
        """They are as there as whoever asks."""

    def failure(self, error: BaseException) -> BaseException:
        """The task's own: nothing lies between."""
        return error

    def close(self) -> None:
        """Wait for what is at work; the threads end."""
        if self._executor is not None:
            self._executor.shutdown()
        self._executor = None
