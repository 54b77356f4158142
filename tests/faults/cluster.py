"""A scheduler of dask.distributed and its workers, each a process of its own, on loopback; with or without TLS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.faults.hosts import Host

HOST = "127.0.0.1"
CLOCK = SystemClock()
_PATIENCE_SECONDS = 60.0


@dataclass
class Cluster:
    """Where it is and what it consists of; ``tls`` are options that a scheduler and a worker take alike."""

    folder: Path
    tls: Sequence[str] = ()
    host: str = HOST
    scheduler: subprocess.Popen[bytes] | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0

    @property
    def address(self) -> str:
        return f"{'tls' if self.tls else 'tcp'}://{self.host}:{self.port}"

    def start(self) -> None:
        """The scheduler, at the port where it was before."""
        told = self.folder / "scheduler.json"
        told.unlink(missing_ok=True)
        options = [
            "--host",
            self.host,
            "--port",
            str(self.port),
            "--no-dashboard",
            "--scheduler-file",
            str(told),
        ]
        self.scheduler = self._child("dask_scheduler", [*options, *self._protocol()], {}, "scheduler")
        give_up = CLOCK.monotonic() + _PATIENCE_SECONDS
        while not (told.exists() and told.read_text()):
            assert self.scheduler.poll() is None, (self.folder / "scheduler.log").read_text()
            assert CLOCK.monotonic() < give_up
            CLOCK.sleep(0.05)
        self.port = int(json.loads(told.read_text())["address"].rpartition(":")[2])

    def add(
        self, name: str, environment: Mapping[str, str], *, threads: int = 1, at: Host | None = None
    ) -> None:
        """One more worker, ``at`` a host of its own; without a nanny, so that what is killed stays dead."""
        options = [self.address, "--name", name, "--nthreads", str(threads), "--no-nanny", "--no-dashboard"]
        options += [
            "--host",
            HOST if at is None else at.address,
            "--local-directory",
            str(self.folder),
            *self._protocol(),
        ]
        self.workers[name] = self._child("dask_worker", [*options, *self._protocol()], environment, name, at)

    def wait_for(self, count: int) -> None:
        """Until so many have introduced themselves."""
        give_up = CLOCK.monotonic() + _PATIENCE_SECONDS
        while self.log("scheduler").count("Register worker") < count:
            assert CLOCK.monotonic() < give_up, self.log("scheduler")
            CLOCK.sleep(0.05)

    def kill(self, name: str) -> None:
        self.workers[name].send_signal(signal.SIGKILL)
        self.workers[name].wait()

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        children = [*self.workers.values(), *([self.scheduler] if self.scheduler is not None else [])]
        self.workers, self.scheduler = {}, None
        for child in children:
            child.kill()
            child.wait()

    def _protocol(self) -> list[str]:
        return ["--protocol", "tls", *self.tls] if self.tls else []

    def _child(
        self,
        program: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        name: str,
        at: Host | None = None,
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", f"distributed.cli.{program}", *options]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                words if at is None else at.command(*words),
                # Not the tests' own folder: what a worker imports is what its environment says.
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@contextmanager
def cluster(folder: Path, *, tls: Sequence[str] = (), host: str = HOST) -> Iterator[Cluster]:
    """A scheduler without a worker yet; all of it is gone at the end of the block."""
    folder.mkdir()
    made = Cluster(folder=folder, tls=tls, host=host)
    try:
        made.start()
        yield made
    finally:
        made.close()
