"""Handing a task to the pool and waiting for it; a worker that is lost with one costs it once."""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from planrunner.errors import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from planrunner.replication.tasks import Task
    from planrunner.replication.workspace import Workspace

_LOOK_SECONDS = 1.0


class Errands:
    """Has tasks performed by the workspace's pool; ``check`` raises to stop waiting for those of other processes."""

    def __init__(self, workspace: Workspace, check: Callable[[], None]) -> None:
        self._workspace = workspace
        self._check = check
        self._begun: set[Future[Any]] = set()

    def done(self, task: Task) -> Any:
        """What its performer returns, or raises. PoolLost when nobody is there; WorkerLost when a second one is lost."""
        try:
            return self._awaited(task)
        except WorkerLost as error:
            self._workspace.tell(f"{error.message}: it is given to another", {})
        return self._awaited(task)

    def settle(self) -> None:
        """Wait for what this process does: a signal may have called whoever waited away."""
        wait(self._begun)

    def _awaited(self, task: Task) -> Any:
        future: Future[Any] = self._workspace.pool.submit(task)
        self._begun.add(future)
        try:
            # In this process the task itself asks whether to stop.
            while not wait([future], timeout=_LOOK_SECONDS).done:
                if self._workspace.pool.away:
                    self._check()
                    self._workspace.pool.look()
        except BaseException:
            future.cancel()
            raise
        self._begun.discard(future)
        try:
            return future.result()
        except Exception as error:
            told = self._workspace.pool.failure(error)
            if told is error:
                raise
            raise told from error
