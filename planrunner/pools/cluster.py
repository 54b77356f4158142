"""The workers of a dask.distributed scheduler as a pool; imported only when it is used: an extra."""

from __future__ import annotations

import importlib
import logging
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from planrunner.errors import PlanrunnerError, PoolLost, PoolUnfit, UsageError, WorkerLost
from planrunner.failpoints import failpoint
from planrunner.pools import likeness, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from planrunner.model import DaskPool

_DIAL_SECONDS = 10.0
_WORKERS_SECONDS = 120.0


class Cluster:
    """A pool over ``Client.get_executor``; the client is made by ``open``. A worker calls ``perform`` with a task."""

    def __init__(self, pool: DaskPool, perform: Callable[[Any], Any] = worker.perform) -> None:
        self.away = True
        self._perform = perform
        self._pool = pool
        self._client: Any = None
        self._executor: Any = None
        self._rousing: threading.Thread | None = None

    @property
    def code(self) -> str:
        """Of this process: a worker must have the same."""
        return likeness.digest()

    def rouse(self) -> None:
        """Dial the scheduler and let its workers load what they need, in a thread."""
        if self._client is None and self._rousing is None:
            self._rousing = threading.Thread(target=self._roused, name="rouse", daemon=True)
            self._rousing.start()

    def _roused(self) -> None:
        # Whatever fails does so again when it is opened.
        with suppress(Exception):
            self._client = self._dialled()
            self._met()

    def _met(self) -> Mapping[str, Any]:
        met: Mapping[str, Any] = self._client.run(likeness.introduction, self._perform, on_error="return")
        return met

    def open(self) -> str | None:
        """Dial the scheduler, wait up to two minutes for a worker, and look whether all are fit."""
        self._rest()
        running = self._client is not None and self._client.status == "running"
        if running and self._executor is not None:
            return None
        if not running:
            self.close()
            self._client = self._dialled()
        client: Any = self._client
        try:
            client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
            met = self._met()
            threads = sum(client.nthreads().values())
        except PlanrunnerError:
            raise
        except TimeoutError as error:
            raise PoolLost(
                f"pool: the scheduler at {self._pool.address} has no worker, after {_WORKERS_SECONDS:.0f} s",
                remedy="Start some, then run again.",
            ) from error
        except Exception as error:
            raise self._gone(error) from error
        _refuse_unfit(met)
        self._executor = client.get_executor(pure=False)
        return f"pool: {len(met)} workers with {threads} threads at {self._pool.address}"

    def _dialled(self) -> Any:
        distributed = _distributed()
        secure = self._pool.address.startswith("tls://")
        files = {
            "tls_ca_file": self._pool.ca,
            "tls_client_cert": self._pool.cert,
            "tls_client_key": self._pool.key,
        }
        try:
            security = distributed.Security(
                require_encryption=secure, **{name: file for name, file in files.items() if file is not None}
            )
            return distributed.Client(
                self._pool.address,
                security=security,
                timeout=_DIAL_SECONDS,
                set_as_default=False,
                name="planrunner",
            )
        except Exception as error:
            raise self._gone(error) from error

    def submit(self, task: Any) -> Future[Any]:
        """Hand it to the scheduler, which gives it to a worker that has a thread free."""
        try:
            future: Future[Any] = self._executor.submit(self._perform, task)
        except Exception as error:
            raise self._gone(error) from error
        failpoint("pool.submitted")
        return future

    def look(self) -> None:
        """A future that was made while the line to the scheduler broke is not always cancelled by its client."""
        if self._client is None or self._client.status != "running":
            raise self._gone(CancelledError())

    def everywhere(self, function: Callable[..., None], *words: Any) -> None:
        """Let each worker's process call ``function``, whatever it has in hand; PoolLost when nobody can be told."""
        try:
            self._client.run(function, *words, on_error="ignore")
        except Exception as error:
            raise self._gone(error) from error

    def failure(self, error: BaseException) -> BaseException:
        """Cancelled by nobody here: its scheduler is gone. Killed: so are the workers that had it."""
        if isinstance(error, CancelledError):
            return self._gone(error)
        if type(error).__name__ == "KilledWorker":
            return WorkerLost("pool: every worker that had a task in hand ended with it")
        if isinstance(error, PlanrunnerError):
            return error
        return PoolUnfit(
            f"pool: a worker failed: {type(error).__name__}: {error}",
            remedy="Its own log tells more.",
        )

    def _gone(self, error: BaseException) -> PoolLost:
        told = str(error).partition("\n")[0] or "the line to it broke"
        return PoolLost(
            f"pool: the scheduler at {self._pool.address} is not there: {told}",
            remedy="What was copied stays copied, a comparison begins anew. Look at the scheduler, then run again; or run"
            " without the pool.",
        )

    def _rest(self) -> None:
        """Wait for whom was roused."""
        rousing, self._rousing = self._rousing, None
        if rousing is not None:
            rousing.join(2 * _DIAL_SECONDS)

    def close(self) -> None:
        """Leave the scheduler, which forgets what has not begun."""
        self._rest()
        client, self._client, self._executor = self._client, None, None
        if client is not None:
            with suppress(Exception):
                client.close(timeout=5)


def _distributed() -> Any:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError(
            "pool: dask.distributed is not installed",
            remedy="Install it here and on every worker: pip install 'planrunner[dask]'",
        ) from error
    # They tell at length, on stderr, what we tell in our own words; some have a level of their own.
    for name in ("tornado", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"distributed", "tornado", "asyncio"}:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return distributed


def _refuse_unfit(met: Mapping[str, Any]) -> None:
    ours = likeness.introduction()
    found = []
    for address, told in sorted(met.items()):
        if isinstance(told, BaseException):
            found.append(f"{address} has no planrunner that can be used ({type(told).__name__}: {told})")
        elif tuple(told) != ours:
            version, code = told
            found.append(f"{address} has planrunner {version} ({code})")
    if found:
        raise PoolUnfit(
            f"pool: {'; '.join(found)}: needed is {ours[0]} ({ours[1]}), as here",
            remedy="Install the same planrunner on every worker as here, and start them again.",
        )
