"""Turns what stands on the command line into what the engine works with."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.cli.homes import home_of, is_remote
from planrunner.clock import SystemClock
from planrunner.cloud_place import settled
from planrunner.engine.files import run_files
from planrunner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from planrunner.engine.context import Connect, Tell, World
    from planrunner.engine.events import Event, Listener
    from planrunner.engine.files import RunFiles
    from planrunner.engine.launch import Parts
    from planrunner.engine.looking import View
    from planrunner.loading.variables import Given
    from planrunner.model import Plan
    from planrunner.ports import StateHome
    from planrunner.state.record import State


@dataclass(frozen=True, kw_only=True)
class OpenedPlan:
    """A loaded plan with its files; ``flags`` are the options that lead to the same plan and state.

    ``place`` is what --state says, None for the file beside the plan.
    """

    plan: Plan
    files: RunFiles
    flags: tuple[str, ...]
    place: str | None = None

    def parts(self, *listeners: Listener, take_over: bool = False) -> Parts:
        """What the engine is plugged into; ``take_over`` the state's lock, too, where it is not a file's."""
        from planrunner.engine.launch import Parts

        return Parts(
            connect=connector(),
            clock=SystemClock(),
            listeners=listeners,
            flags=self.flags,
            home=self.home(take_over=take_over),
        )

    def with_pool(self, address: str) -> OpenedPlan:
        """The same with the workers of another scheduler; UsageError for an address that can't be one.

        The plan's own certificates are shown there, too, where it names some.
        """
        from planrunner.loading.pool import refused_address
        from planrunner.model import DaskPool

        refused = refused_address(address)
        if refused is not None:
            raise UsageError(f"--pool: {refused[0]}", remedy=refused[1])
        named = replace(self.plan.pool or DaskPool(address=address), address=address)
        return replace(self, plan=replace(self.plan, pool=named))

    def home(self, *, take_over: bool = False) -> StateHome:
        """Where the state is kept; each call reads it for itself."""
        return home_of(self.plan, self.place, self.files.state, take_over=take_over)

    def events(self) -> tuple[Event, ...]:
        """Every event of the plan's runs, on whatever machine they ran."""
        from planrunner.engine.events import parsed, read_events

        shared = self.home().events()
        return read_events(self.files.events) if shared is None else tuple(parsed(shared.splitlines()))

    def state(self) -> State | None:
        """The saved state, None when the plan never ran."""
        return self.home().load()

    def looking(
        self, tell: Tell | None = None, connect: Connect | None = None
    ) -> AbstractContextManager[View]:
        """Open the servers for reading; ``tell`` hears what the steps say meanwhile."""
        from planrunner.engine.looking import looking_at

        return looking_at(
            self.plan, self.state(), connect=connect or connector(), clock=SystemClock(), tell=tell
        )


def open_plan(
    path: Path,
    state: str | None,
    variables: Sequence[str] | None,
    var_files: Sequence[Path] | None,
    *,
    looking_up: bool = True,
    local: bool = False,
) -> OpenedPlan:
    """Load the plan; PlanInvalid with all its problems, UsageError for a malformed option.

    Without ``looking_up`` no secret is read: sensitive variables that are kept elsewhere are ``***``. ``local``:
    nothing is left to SerenAI's cloud.
    """
    loaded = load_plan(path, variables, var_files, looking_up=looking_up)
    plan = settled(loaded, os.environ, local=local)
    flags = [f"--state={state}"] if state else []
    flags += [f"--var={given}" for given in variables or ()]
    flags += [f"--var-file={given}" for given in var_files or ()]
    flags += ["--local"] if local else []
    elsewhere = is_remote(state)
    if state is not None and not elsewhere and not Path(state).name:
        raise UsageError(f"--state {state!r} names no file", remedy="For example: --state orders.state.json")
    files = run_files(path, None if state is None or elsewhere else Path(state))
    opened = OpenedPlan(plan=plan, files=files, flags=tuple(map(shlex.quote, flags)), place=state)
    return replace(opened, files=replace(files, elsewhere=opened.home().place)) if elsewhere else opened


def load_plan(
    path: Path,
    variables: Sequence[str] | None,
    var_files: Sequence[Path] | None,
    *,
    looking_up: bool = False,
) -> Plan:
    """Load the plan alone."""
    from planrunner.loading import load

    resolve = None
    if looking_up:
        from planrunner.secrets import SecretResolver

        resolve = SecretResolver(os.environ).resolve_ref
    outside = given(variables, var_files)
    return load(
        path,
        variables=outside.variables,
        var_files=outside.var_files,
        environ=outside.environ,
        resolve=resolve,
    )


def given(variables: Sequence[str] | None, var_files: Sequence[Path] | None) -> Given:
    """What this process gives to the variables of a plan."""
    from planrunner.loading.variables import Given

    return Given(variables=pairs(variables or ()), var_files=tuple(var_files or ()), environ=dict(os.environ))


def pairs(given: Sequence[str], what: str = "--var") -> dict[str, str]:
    """``NAME=VALUE`` words as a mapping; ``what`` takes them. The message repeats no word: it may be a secret."""
    split = [entry.partition("=") for entry in given]
    if not all(name and equals for name, equals, _ in split):
        raise UsageError(f"{what}: expected NAME=VALUE", remedy="For example: region=eu-central-1 or jobs=4")
    return {name: value for name, _, value in split}


def connector() -> Connect:
    """How a plan's servers are reached from here: psycopg, boto3 where the plan names RDS, our secrets."""
    from planrunner.authorities import Authorities
    from planrunner.engine.context import World
    from planrunner.postgres.connection import Server
    from planrunner.postgres.heartbeat import watched
    from planrunner.reachability import Explainer
    from planrunner.secrets import SecretResolver

    clock = SystemClock()
    secrets = SecretResolver(os.environ)
    resolve = secrets.resolve
    authority = Authorities(os.environ, clock).file

    def connect(plan: Plan, label: str) -> World:
        cloud = explain = None
        if plan.source.rds is not None:
            from planrunner.aws.rds import Rds

            cloud, explain = Rds(plan.source.rds, clock), Explainer(plan.source, clock).explained
        return World(
            source=Server(
                plan.source, clock=clock, resolve=resolve, label=label, authority=authority, explain=explain
            ),
            target=Server(plan.target, clock=clock, resolve=resolve, label=label, authority=authority),
            cloud=cloud,
            replica=None
            if plan.replica is None
            else Server(plan.replica, clock=clock, resolve=resolve, label=label, authority=authority),
            resolve=secrets.resolve_ref,
            watch=watched,
        )

    return connect


def onlooker() -> Connect:
    """The same under a name of its own: a runner ends the sessions that seem to be a former runner's."""
    connect = connector()

    def connected(plan: Plan, label: str) -> World:
        return connect(plan, label.replace("planrunner/", "planrunner-watch/", 1))

    return connected


def person() -> str:
    """Who sits here: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
