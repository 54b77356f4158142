"""Turns what stands on the command line into what the engine works with."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.clock import SystemClock
from planrunner.engine.files import run_files
from planrunner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from planrunner.engine.context import Connect, Tell, World
    from planrunner.engine.events import Listener
    from planrunner.engine.files import RunFiles
    from planrunner.engine.launch import Parts
    from planrunner.engine.looking import View
    from planrunner.model import Plan
    from planrunner.state.record import State


@dataclass(frozen=True, kw_only=True)
class OpenedPlan:
    """A loaded plan with its files; ``flags`` are the options that lead to the same plan and state."""

    plan: Plan
    files: RunFiles
    flags: tuple[str, ...]

    def parts(self, *listeners: Listener) -> Parts:
        """What the engine is plugged into."""
        from planrunner.engine.launch import Parts

        return Parts(connect=connector(), clock=SystemClock(), listeners=listeners, flags=self.flags)

    def state(self) -> State | None:
        """The saved state, None when the plan never ran."""
        from planrunner.state.file import FileStore

        return FileStore(self.files.state).load()

    def looking(self, tell: Tell | None = None) -> AbstractContextManager[View]:
        """Open the servers for reading; ``tell`` hears what the steps say meanwhile."""
        from planrunner.engine.looking import looking_at

        return looking_at(self.plan, self.state(), connect=connector(), clock=SystemClock(), tell=tell)


def open_plan(
    path: Path, state: Path | None, variables: Sequence[str] | None, var_files: Sequence[Path] | None
) -> OpenedPlan:
    """Load the plan; PlanInvalid with all its problems, UsageError for a malformed option."""
    plan = load_plan(path, variables, var_files)
    flags = [f"--state={state}"] if state else []
    flags += [f"--var={given}" for given in variables or ()]
    flags += [f"--var-file={given}" for given in var_files or ()]
    return OpenedPlan(plan=plan, files=run_files(path, state), flags=tuple(map(shlex.quote, flags)))


def load_plan(path: Path, variables: Sequence[str] | None, var_files: Sequence[Path] | None) -> Plan:
    """Load the plan alone."""
    from planrunner.loading import load

    return load(path, variables=pairs(variables or ()), var_files=tuple(var_files or ()), environ=os.environ)


def pairs(given: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    split = [entry.partition("=") for entry in given]
    for (name, equals, _), entry in zip(split, given, strict=True):
        if not equals or not name:
            raise UsageError(f"--var {entry}: expected NAME=VALUE")
    return {name: value for name, _, value in split}


def connector() -> Connect:
    """How a plan's servers are reached from here: psycopg, boto3 where the plan names RDS, our secrets."""
    from planrunner.authorities import Authorities
    from planrunner.engine.context import World
    from planrunner.postgres.connection import Server
    from planrunner.secrets import SecretResolver

    clock = SystemClock()
    secrets = SecretResolver(os.environ)
    resolve = secrets.resolve
    authority = Authorities(os.environ, clock).file

    def connect(plan: Plan, label: str) -> World:
        cloud = None
        if plan.source.rds is not None:
            from planrunner.aws.rds import Rds

            cloud = Rds(plan.source.rds, clock)
        return World(
            source=Server(plan.source, clock=clock, resolve=resolve, label=label, authority=authority),
            target=Server(plan.target, clock=clock, resolve=resolve, label=label, authority=authority),
            cloud=cloud,
            resolve=secrets.resolve_ref,
        )

    return connect


def person() -> str:
    """Who sits here: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
