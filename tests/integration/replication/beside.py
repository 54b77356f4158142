"""Workers that are threads of this process, and a workspace whose tasks they perform."""

from __future__ import annotations

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planrunner.errors import WorkerLost
from planrunner.model import SecretKind, SecretRef
from planrunner.pools import worker
from planrunner.pools.likeness import digest
from planrunner.replication import generations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.tasks import Task
    from planrunner.replication.workspace import Workspace
    from tests.integration.replication.stage import Pair


class Beside:
    """A pool of workers that are threads of this process, each reaching the servers as on a machine of its own."""

    def __init__(self) -> None:
        self.away = True
        self.code = digest()
        self.performed: list[Task] = []
        self._executor = ThreadPoolExecutor(4)

    def rouse(self) -> None:
        pass

    def open(self) -> str | None:
        return "beside"

    def submit(self, task: Any) -> Future[Any]:
        self.performed.append(task)
        return self._executor.submit(worker.perform, task)

    def look(self) -> None:
        pass

    def failure(self, error: BaseException) -> BaseException:
        return error

    def close(self) -> None:
        self._executor.shutdown()


class Losing(Beside):
    """The first tasks never come back."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self._to_lose = itertools.repeat(None, lost)

    def submit(self, task: Any) -> Future[Any]:
        future = super().submit(task)
        if next(self._to_lose, future) is future:
            return future
        gone: Future[Any] = Future()
        gone.set_exception(WorkerLost("a worker ended"))
        return gone


@contextmanager
def workspace(pair: Pair) -> Iterator[Workspace]:
    """One whose endpoints name the passwords, with a pool of workers."""
    with pair.workspace() as space:
        for server, name in ((space.source, "SOURCE_WORD"), (space.target, "TARGET_WORD")):
            reference = SecretRef(kind=SecretKind.ENV, locator=name)
            server.endpoint = replace(server.endpoint, password=reference)
        space.pool = Beside()
        yield space
        generations.clear_all(space)
